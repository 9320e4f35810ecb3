"""The tables of a report on trials, epochs, settings and provenance."""

from collections.abc import Sequence
from dataclasses import asdict

from medcap_core.config import FreezeMode, TrialConfig
from sweep.space import Value, field_kind, label_groups
from sweep.study.record import TrialRecord, TrialState
from sweep.study.results import RunResults, find_searched, group_over_seeds
from sweep.tables.blocks import Column, Table
from sweep.tables.formats import Cell, format_value, summarise

_COST_COLUMNS = (
    Column("training_seconds", "Training time", "seconds"),
    Column("encoding_seconds", "Encoding, once", "seconds"),
    Column("images_per_second", "Images per second", "number"),
    Column("peak_memory_bytes", "Peak memory", "bytes"),
    Column("trainable_parameters", "Trained parameters", "count"),
)
_OF_AN_EPOCH = ("training_seconds", "images_per_second", "peak_memory_bytes")


def build_leaderboard(results: RunResults) -> Table:
    """Build a row for every trial: the ranked ones, then the unfinished, then the failed."""
    ranked = results.ranked
    rest = [record for record in results.records if record not in ranked]
    rest.sort(key=lambda record: (record.state is TrialState.FAILED, record.number))
    searched = find_searched(results)
    objective, metric = results.space.objective, results.space.objective.column
    has_whole = any(record.whole_validation_score is not None for record in ranked)
    columns = [
        Column("rank", "Rank", "count"),
        Column("trial", "Trial"),
        Column("state", "State"),
        Column(metric, objective.validation_title, "score"),
        *([Column(f"{metric}_whole", f"{objective.title}, all of validation", "score")] if has_whole else []),
        Column("best_epoch", "Best epoch", "count"),
        Column("epochs_done", "Epochs done", "count"),
        *_variety_columns(results),
        *(Column(name, title_knob(name), "number" if is_numeric_knob(name) else "text") for name in searched),
        *_COST_COLUMNS,
        Column("total_parameters", "All parameters", "count"),
        *([Column("reason", "Reason")] if any(record.reason for record in results.records) else []),
    ]
    rows = [
        {
            "rank": rank,
            "trial": record.name,
            "state": record.state.value.lower(),
            metric: record.best_score,
            f"{metric}_whole": record.whole_validation_score,
            "best_epoch": record.best_epoch,
            "epochs_done": record.epochs_done,
            **asdict(record.figures),
            **{name: _plain(record.point.get(name)) for name in searched},
            "reason": record.reason,
        }
        for rank, record in [*enumerate(ranked, start=1), *((None, record) for record in rest)]
    ]
    emphasised = [index for index, row in enumerate(rows) if results.best and row["trial"] == results.best.name]
    notes = _describe_cache(results.records)
    return Table("leaderboard", "All trials", columns, rows, sortable=True, emphasised=emphasised, notes=notes)


def build_learning_curves(results: RunResults) -> Table:
    """Build a row for every epoch of every trial."""
    objective, metric = results.space.objective, results.space.objective.column
    parts = [score for score in objective.scores if objective.is_sum and score.name != "validation_loss"]
    columns = (
        Column("trial", "Trial"),
        Column("epoch", "Epoch", "count"),
        Column("num_epochs", "of", "count"),
        *([] if metric == "validation_loss" else [Column(metric, objective.validation_title, "score")]),
        *(Column(score.name, score.label, "score") for score in parts),
        Column("validation_loss", "Validation loss", "score"),
        Column("training_loss", "Training loss", "score"),
        *_variety_columns(results),
        *([Column("empty_share", "Empty", "share")] if objective.predictions else []),
        *([Column("cut_share", "Cut at max_new_tokens", "share")] if objective.predictions == "captions" else []),
        Column("learning_rate", "Learning rate", "number"),
        Column("seconds", "Time", "seconds"),
        *(column for column in _COST_COLUMNS if column.name in _OF_AN_EPOCH),
    )
    rows = [
        {"trial": record.name, metric: epoch.score, **epoch.model_dump(exclude={"parts"}), **epoch.parts}
        for record in results.records
        for epoch in record.epochs
    ]
    return Table("learning_curves", "Every epoch", columns, rows)


def _variety_columns(results: RunResults) -> tuple[Column, ...]:
    """Build the columns on how varied the texts on validation are; none where no trial generated any."""
    noun = results.space.objective.predictions
    if noun is None:
        return ()
    return Column("num_distinct", f"Distinct {noun}", "count"), Column("top_share", "Most frequent one", "share")


def build_ablation_table(results: RunResults) -> Table | None:
    """Build what each setting gives and costs: one row a combination of a grid, else one a freeze mode.

    Of a search each freeze mode is represented by its best trial. Rows with a trial that was stopped early say so, and
    have no cost. None where there is one row only.
    """
    done = [record for record in results.records if record.state is TrialState.SUCCEEDED or record in results.ranked]
    is_grid = results.space.sampler == "grid"
    best: dict[FreezeMode, list[TrialRecord]] = {}
    for record in results.ranked:
        best.setdefault(record.config.freeze, [record])
    groups = group_over_seeds(done) if is_grid else list(best.values())
    if len(groups) < 2:
        return None
    test_scores = results.metrics.trials
    objective, metric = results.space.objective, results.space.objective.column
    num_tested = sum(any(record.name in test_scores for record in group) for group in groups)
    tested = results.score_names if num_tested > 1 else []
    columns = (
        Column("setting", "Setting"),
        Column("trials", "Trials"),
        Column(metric, objective.validation_title, "score"),
        *(Column(f"test_{name}", f"{name}, test", "score") for name in tested),
        *_COST_COLUMNS,
    )
    rows: list[dict[str, Cell]] = []
    for label, group in zip(label_groups([group[0].point for group in groups]), groups, strict=True):
        stop, names_mode = _describe_stop(group), is_grid or "freeze" in group[0].point
        setting = label if names_mode else f"{group[0].config.freeze.value}: {label}"
        rows.append({"setting": setting + stop, "trials": " ".join(record.name for record in group)})
        rows[-1][metric] = summarise(record.best_score for record in group)
        for name in tested:
            rows[-1][f"test_{name}"] = summarise(test_scores.get(record.name, {}).get(name) for record in group)
        for cost in () if stop else _COST_COLUMNS:
            mean = summarise(getattr(record.figures, cost.name) for record in group)
            rows[-1][cost.name] = mean and mean.value
    notes = _describe_cache(done)
    return Table("ablation", "What each setting gives and costs", columns, rows, sortable=True, notes=notes)


def _describe_cache(records: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Say what the cache of encoder outputs saved these trials in training, if anything."""
    saved = sum((record.figures.encoding_seconds or 0.0) * record.epochs_done for record in records)
    if not saved:
        return ()
    return (
        "Training time leaves out encoding, whose outputs are cached: without the cache (cache_features: false) every "
        f"epoch encodes its images, {format_value(saved, 'seconds')} in all of these trials.",
    )


def _describe_stop(group: list[TrialRecord]) -> str:
    """Say how far the trials of a row came, such as `, stopped after 1 of 4 epochs`; empty where all are whole."""
    stopped = [record for record in group if record.state is not TrialState.SUCCEEDED]
    if not stopped:
        return ""
    far = " and ".join(sorted({f"{record.epochs_done} of {record.num_epochs}" for record in stopped}))
    which = f"{len(stopped)} of {len(group)} " if len(group) > 1 else ""
    return f", {which}stopped after {far} epochs"


def build_provenance_table(results: RunResults) -> Table:
    """Build where the figures come from: the newest start of the driver, and when the first began."""
    columns = (Column("what", "What"), Column("value", "Value"))
    newest = results.provenance[-1]
    project, data = newest.project, newest.data
    pairs: list[tuple[str, Cell]] = [
        ("Started", results.provenance[0].started_at),
        ("Starts", len(results.provenance)),
        ("Ended", newest.ended_at or "not yet"),
        ("Data", f"{data.name}: {data.kind}"),
        ("Images", ", ".join(f"{count:,} {split}" for split, count in data.sizes.items())),
        ("Records left out", data.skipped),
        *(("Note on the data", note) for note in data.notes),
        ("Base model", newest.model.name),
        *([("SHA-256 of its weights", newest.model.sha256)] if newest.model.sha256 else []),
        *((f"SHA-256 of {alias}", weights.sha256) for alias, weights in newest.model.models.items()),
        *((f"SHA-256 of {name}", digest) for name, digest in newest.model.vision_models.items()),
        ("Code", f"{project.commit}{' with changes' * project.dirty}" if project else "not a checkout"),
        ("Machine", f"{newest.platform}, {newest.num_cpus} CPUs"),
        ("GPUs", ", ".join(newest.gpus) or "none"),
        ("Python", newest.python),
        ("Packages", ", ".join(f"{name} {version}" for name, version in newest.packages.items() if version)),
    ]
    return Table("provenance", "Provenance", columns, [{"what": what, "value": value} for what, value in pairs])


def title_knob(knob: str) -> str:
    """Title a knob as it heads a column or an axis, such as `Learning rate`."""
    title = {"num_epochs": "Number of epochs", "freeze": "Freeze mode"}.get(knob) or knob.replace("_", " ")
    return (title[0].upper() + title[1:]).replace("lora", "LoRA").replace("Lora", "LoRA")


def is_numeric_knob(knob: str) -> bool:
    """Say whether a knob's values are numbers."""
    return field_kind(TrialConfig, knob) in ("int", "float")


def _plain(value: Value) -> Cell:
    return ("yes" if value else "no") if isinstance(value, bool) else value
