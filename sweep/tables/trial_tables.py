"""The tables of a report on trials, epochs, settings and provenance; the same on the page, in Markdown and in CSV."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medcap_core.config import FreezeMode, TrialConfig
from sweep.space.fields import field_kind
from sweep.space.labels import label_groups
from sweep.study.record import TrialRecord, TrialState
from sweep.study.results import RunResults, find_searched, group_over_seeds
from sweep.tables.blocks import Column, Estimate, Kind, Table

_COST_COLUMNS = (
    Column("training_seconds", "Training time", "seconds"),
    Column("images_per_second", "Images per second", "number"),
    Column("peak_memory_bytes", "Peak memory", "bytes"),
    Column("trainable_parameters", "Trained parameters", "count"),
)


def build_leaderboard(results: RunResults) -> Table:
    """Every trial: the ranked ones, then the unfinished, then the failed."""
    ranked = results.ranked
    rest = [record for record in results.records if record not in ranked]
    rest.sort(key=lambda record: (record.state is TrialState.FAILED, record.number))
    searched = find_searched(results)
    objective, metric = results.space.objective, results.space.metric
    columns = [
        Column("rank", "Rank", "count"),
        Column("trial", "Trial"),
        Column("state", "State"),
        Column(metric, objective.validation_title, "score"),
        *_if_any(
            ranked,
            "whole_validation_score",
            Column(f"{metric}_whole", f"{objective.title}, all of validation", "score"),
        ),
        Column("best_epoch", "Best epoch", "count"),
        Column("epochs_done", "Epochs done", "count"),
        *(Column(name, _title(name), _knob_kind(name)) for name in searched),
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
            **{name: _plain(record.point.get(name)) for name in searched},
            **find_costs(record),
            "total_parameters": record.last_count("total_parameters"),
            "reason": record.reason,
        }
        for rank, record in [*enumerate(ranked, start=1), *((None, record) for record in rest)]
    ]
    best = results.best
    emphasised = frozenset(index for index, row in enumerate(rows) if best is not None and row["trial"] == best.name)
    return Table("leaderboard", "All trials", tuple(columns), tuple(rows), sortable=True, emphasised=emphasised)


def build_learning_curves(results: RunResults) -> Table:
    """Every epoch of every trial."""
    objective, metric = results.space.objective, results.space.metric
    columns = (
        Column("trial", "Trial"),
        Column("epoch", "Epoch", "count"),
        Column("num_epochs", "of", "count"),
        Column(metric, objective.validation_title, "score"),
        Column("validation_loss", "Validation loss", "score"),
        Column("training_loss", "Training loss", "score"),
        Column("learning_rate", "Learning rate", "number"),
        Column("seconds", "Time", "seconds"),
        Column("training_seconds", "Training time", "seconds"),
        Column("images_per_second", "Images per second", "number"),
        Column("peak_memory_bytes", "Peak memory", "bytes"),
    )
    rows = [
        {"trial": record.name, metric: epoch["score"], **epoch} for record in results.records for epoch in record.epochs
    ]
    return Table("learning_curves", "Every epoch", columns, tuple(rows))


def build_ablation_table(results: RunResults) -> Table | None:
    """What each setting costs and gives: one row a combination of a grid, else one a freeze mode.

    Of a search each freeze mode is represented by its best trial. None where there is one row only.
    """
    done = [record for record in results.records if record.state is TrialState.SUCCEEDED or record in results.ranked]
    is_grid = results.space.sampler == "grid"
    groups = group_over_seeds(done) if is_grid else _best_by_freeze(results)
    if len(groups) < 2:
        return None
    test_scores, names = results.section("trials"), results.score_names
    objective, metric = results.space.objective, results.space.metric
    num_tested = sum(any(record.name in test_scores for record in group) for group in groups)
    tested = names if num_tested > 1 else []
    columns = (
        Column("setting", "Setting"),
        Column("trials", "Trials"),
        Column(metric, objective.validation_title, "score"),
        *(Column(f"test_{name}", f"{name}, test", "score") for name in tested),
        *_COST_COLUMNS,
    )
    rows = [
        {
            "setting": label if is_grid or "freeze" in group[0].point else f"{group[0].config.freeze.value}: {label}",
            "trials": " ".join(record.name for record in group),
            metric: _summarise(record.best_score for record in group),
            **{
                f"test_{name}": _summarise((test_scores.get(record.name) or {}).get(name) for record in group)
                for name in tested
            },
            **{column.name: _mean(find_costs(record)[column.name] for record in group) for column in _COST_COLUMNS},
        }
        for label, group in zip(label_groups([group[0].point for group in groups]), groups, strict=True)
    ]
    return Table("ablation", "What each setting gives and costs", columns, tuple(rows), sortable=True)


def build_provenance_table(results: RunResults) -> Table:
    """Where the figures come from: the newest start of the driver, and when the first began."""
    columns = (Column("what", "What"), Column("value", "Value"))
    newest = results.provenance[-1]
    project, data, model = newest.get("project"), newest.get("data") or {}, newest.get("model") or {}
    sizes = ", ".join(f"{count:,} {split}" for split, count in (data.get("sizes") or {}).items())
    packages = newest.get("packages") or {}
    commit = f"{project['commit']}{' with changes' if project['dirty'] else ''}" if project else "not a checkout"
    pairs = [
        ("Started", results.provenance[0].get("started_at")),
        ("Starts", len(results.provenance)),
        ("Ended", newest.get("ended_at") or "not yet"),
        ("Data", f"{data.get('name')}: {data.get('kind')}"),
        ("Images", sizes),
        ("Records left out", data.get("skipped")),
        *(("Note on the data", note) for note in data.get("notes") or []),
        *_list_models(model),
        ("Code", commit),
        ("Machine", f"{newest.get('platform')}, {newest.get('num_cpus')} CPUs"),
        ("GPUs", ", ".join(newest.get("gpus") or []) or "none"),
        ("Python", newest.get("python")),
        ("Packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)),
    ]
    return Table("provenance", "Provenance", columns, tuple({"what": what, "value": value} for what, value in pairs))


def _list_models(model: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Name and weights of the base models: one, or several by their aliases, and other vision towers."""
    pairs = [("Base model", model.get("name"))]
    if model.get("sha256"):
        pairs.append(("SHA-256 of its weights", model["sha256"]))
    pairs += [(f"SHA-256 of {alias}", told.get("sha256")) for alias, told in (model.get("models") or {}).items()]
    return pairs + [(f"SHA-256 of {name}", told) for name, told in (model.get("vision_models") or {}).items()]


def _best_by_freeze(results: RunResults) -> list[list[TrialRecord]]:
    best: dict[FreezeMode, list[TrialRecord]] = {}
    for record in results.ranked:
        best.setdefault(record.config.freeze, [record])
    return list(best.values())


def find_costs(record: TrialRecord) -> dict[str, float | int | None]:
    """What a trial cost, by the columns `training_seconds` (evaluation left out) to `trainable_parameters`."""
    seconds = [epoch["training_seconds"] for epoch in record.epochs if epoch["training_seconds"] is not None]
    return {
        "training_seconds": sum(seconds) if seconds else None,
        "images_per_second": record.images_per_second,
        "peak_memory_bytes": record.peak_memory_bytes,
        "trainable_parameters": record.last_count("trainable_parameters"),
    }


def _summarise(values: Iterable[float | None]) -> Estimate | None:
    """One value as it is; several as their mean and standard deviation (of the sample)."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Estimate(statistics.fmean(known), std=statistics.stdev(known) if len(known) > 1 else None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _if_any(records: Sequence[TrialRecord], attribute: str, column: Column) -> list[Column]:
    return [column] if any(getattr(record, attribute) is not None for record in records) else []


def _title(field: str) -> str:
    words = field.replace("_", " ").replace("lora", "LoRA").replace("num ", "")
    return words[0].upper() + words[1:]


def _knob_kind(field: str) -> Kind:
    return "number" if field_kind(TrialConfig, field) in ("int", "float") else "text"


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value
