"""The tables of a report, each from a run's results; the same for the page, for Markdown and for CSV."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.published import find_published
from sweep.fields import field_kind
from sweep.plan import short_label
from sweep.report_blocks import Column, Estimate, Kind, Table
from sweep.results import BASELINE_ROWS, RunResults, find_searched, group_over_seeds
from sweep.trial_record import TrialRecord, TrialState

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
    columns = [
        Column("rank", "Rank", "count"),
        Column("trial", "Trial"),
        Column("state", "State"),
        Column("cider", "CIDEr, validation", "score"),
        *_if_any(ranked, "whole_validation_cider", Column("cider_whole", "CIDEr, all of validation", "score")),
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
            "cider": record.best_cider,
            "cider_whole": record.whole_validation_cider,
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
    columns = (
        Column("trial", "Trial"),
        Column("epoch", "Epoch", "count"),
        Column("num_epochs", "of", "count"),
        Column("cider", "CIDEr, validation", "score"),
        Column("validation_loss", "Validation loss", "score"),
        Column("training_loss", "Training loss", "score"),
        Column("learning_rate", "Learning rate", "number"),
        Column("seconds", "Time", "seconds"),
        Column("training_seconds", "Training time", "seconds"),
        Column("images_per_second", "Images per second", "number"),
        Column("peak_memory_bytes", "Peak memory", "bytes"),
    )
    rows = [{"trial": record.name, **epoch} for record in results.records for epoch in record.epochs]
    return Table("learning_curves", "Every epoch", columns, tuple(rows))


def build_test_table(results: RunResults) -> Table:
    """Scores on the test split, each with its 95% interval, and the comparison with the named baseline."""
    intervals, comparisons = results.section("intervals"), results.section("comparisons")
    compared = comparisons.get("rows") or {}
    names = results.score_names
    columns = [
        Column("row", ""),
        Column("label", "Model or baseline"),
        *(Column(name, name, "score") for name in names),
    ]
    columns += _build_comparison_columns(results) if compared else []
    rows = []
    for row, scores in results.test_rows.items():
        cells: dict[str, Any] = {"row": row, "label": describe_row(results, row)}
        cells |= {name: _estimate(scores.get(name), (intervals.get(row) or {}).get(name)) for name in names}
        rows.append(cells | _compare(compared.get(row)))
    best = {"best", results.metrics.get("best_trial")}
    emphasised = frozenset(index for index, row in enumerate(rows) if row["row"] in best)
    return Table("test", "Scores on the test split", tuple(columns), tuple(rows), sortable=True, emphasised=emphasised)


def build_group_table(results: RunResults) -> Table | None:
    """Mean and spread over seeds of rows that were repeated, on the test split; None where none were."""
    groups = results.metrics.get("groups")
    if not isinstance(groups, list) or not groups:
        return None
    names = list(dict.fromkeys(name for group in groups for name in group["scores"]))
    has_comparison = any(group.get("comparison") for group in groups)
    columns = (
        Column("label", "Row"),
        Column("num_seeds", "Seeds", "count"),
        Column("trials", "Trials"),
        *(Column(name, name, "score") for name in names),
        Column("interval_low", "CIDEr, from", "score"),
        Column("interval_high", "to", "score"),
        *(_build_comparison_columns(results) if has_comparison else ()),
    )
    rows = []
    for group in groups:
        scores = {name: _estimate_spread(value) for name, value in group["scores"].items()}
        counts = [value.get("num_seeds", 0) for value in group["scores"].values()]
        low, high = (group.get("intervals") or {}).get("CIDEr") or (None, None)
        rows.append(
            {
                "label": group["label"],
                "num_seeds": max(counts, default=len(group["trials"])),
                "trials": " ".join(group["trials"]),
                **scores,
                "interval_low": low,
                "interval_high": high,
                **_compare(group.get("comparison")),
            }
        )
    return Table("groups", "Mean and standard deviation over seeds", columns, tuple(rows), sortable=True)


def build_published_table(results: RunResults) -> Table | None:
    """Figures that others have published on this data; None where there are none."""
    data = (results.provenance[-1].get("data") or {}) if results.provenance else {}
    figures = find_published(results.space.data, str(data.get("kind") or ""))
    if not figures:
        return None
    names = list(dict.fromkeys(name for figure in figures for name in figure.scores))
    columns = (
        Column("system", "Published system"),
        *(Column(name, name, "number") for name in names),
        Column("test_images", "Measured on"),
        Column("source", "Source"),
    )
    rows = tuple(
        {"system": item.system, **item.scores, "test_images": item.test_images, "source": item.source}
        for item in figures
    )
    return Table("published", "Published by others", columns, rows)


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
    num_tested = sum(any(record.name in test_scores for record in group) for group in groups)
    tested = names if num_tested > 1 else []
    columns = (
        Column("setting", "Setting"),
        Column("trials", "Trials"),
        Column("cider", "CIDEr, validation", "score"),
        *(Column(f"test_{name}", f"{name}, test", "score") for name in tested),
        *_COST_COLUMNS,
    )
    rows = [
        {
            "setting": _describe_setting(group[0], is_grid=is_grid),
            "trials": " ".join(record.name for record in group),
            "cider": _summarise(record.best_cider for record in group),
            **{
                f"test_{name}": _summarise((test_scores.get(record.name) or {}).get(name) for record in group)
                for name in tested
            },
            **{column.name: _mean(find_costs(record)[column.name] for record in group) for column in _COST_COLUMNS},
        }
        for group in groups
    ]
    return Table("ablation", "What each setting gives and costs", columns, tuple(rows), sortable=True)


def build_fact_table(results: RunResults) -> Table | None:
    """How often the captions name the true finding, side and level; None where the truth is not known."""
    rows_of = results.section("facts")
    if not rows_of:
        return None
    facts = list(dict.fromkeys(fact for row in rows_of.values() for fact in row))
    columns = (
        Column("row", ""),
        Column("label", "Model or baseline"),
        *(Column(fact, f"{fact.capitalize()}, accuracy", "score") for fact in facts),
        Column("num_images", "Images", "count"),
    )
    rows = [
        {
            "row": row,
            "label": describe_row(results, row),
            **{name: _estimate(fact.get("accuracy"), fact.get("interval")) for name, fact in told.items()},
            "num_images": max((fact.get("num_images") or 0 for fact in told.values()), default=None),
        }
        for row, told in rows_of.items()
    ]
    return Table("facts", "Facts named in the captions", columns, tuple(rows), sortable=True)


def build_concept_table(results: RunResults) -> Table | None:
    """Precision, recall and F1 of medical concepts found in captions; None where the data has none."""
    rows_of = results.section("concepts")
    if not rows_of:
        return None
    columns = (
        Column("row", ""),
        Column("label", "Model or baseline"),
        Column("f1", "F1", "score"),
        Column("precision", "Precision", "score"),
        Column("recall", "Recall", "score"),
        Column("num_images", "Images", "count"),
    )
    rows = [
        {"row": row, "label": describe_row(results, row), **told, "f1": _estimate(told.get("f1"), told.get("interval"))}
        for row, told in rows_of.items()
    ]
    return Table("concepts", "Medical concepts found in the captions", columns, tuple(rows), sortable=True)


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
        ("Base model", model.get("name")),
        *(
            (f"SHA-256 of the weights of {alias}", each.get("sha256"))
            for alias, each in (model.get("models") or {"it": model}).items()
        ),
        ("Code", commit),
        ("Machine", f"{newest.get('platform')}, {newest.get('num_cpus')} CPUs"),
        ("GPUs", ", ".join(newest.get("gpus") or []) or "none"),
        ("Python", newest.get("python")),
        ("Packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)),
    ]
    return Table("provenance", "Provenance", columns, tuple({"what": what, "value": value} for what, value in pairs))


def describe_row(results: RunResults, row: str) -> str:
    """How a row of the test table is called: a baseline's name, or a trial with its setting."""
    if row in BASELINE_ROWS:
        return BASELINE_ROWS[row]
    record = results.trial_of_row(row)
    label = row if record is None else short_label(record.point)
    if row == "best":
        return "best model" if record is None else f"best model ({record.name}, {label})"
    return f"{label} (best on validation)" if row == results.metrics.get("best_trial") else label


def _build_comparison_columns(results: RunResults) -> list[Column]:
    comparisons = results.section("comparisons")
    metric, baseline = comparisons.get("metric", "CIDEr"), comparisons.get("baseline", "zero_shot")
    return [
        Column("difference", f"{metric} against {describe_row(results, baseline)}", "difference"),
        Column("p_value", "p", "p"),
        Column("p_adjusted", "p, corrected", "p"),
    ]


def _compare(told: Mapping[str, Any] | None) -> dict[str, Any]:
    """The cells of a comparison with the baseline."""
    told = told or {}
    difference = _estimate(told.get("difference"), told.get("interval"))
    return {"difference": difference, "p_value": told.get("p_value"), "p_adjusted": told.get("p_adjusted")}


def _best_by_freeze(results: RunResults) -> list[list[TrialRecord]]:
    best: dict[FreezeMode, list[TrialRecord]] = {}
    for record in results.ranked:
        best.setdefault(record.config.freeze, [record])
    return list(best.values())


def _describe_setting(record: TrialRecord, *, is_grid: bool) -> str:
    point = {name: value for name, value in record.point.items() if name != "seed"}
    label = short_label(point)
    return label if is_grid or "freeze" in point else f"{record.config.freeze.value}: {label}"


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


def _estimate(value: float | None, interval: Sequence[float] | None) -> Estimate:
    return Estimate(value, *(interval[:2] if interval else ()))


def _estimate_spread(value: Mapping[str, Any]) -> Estimate:
    return Estimate(value.get("mean"), std=value.get("std"))


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
