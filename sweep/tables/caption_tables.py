"""The tables of a report on the test split: scores with their certainty, seeds, facts, concepts, published figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from medcap_core.scoring.published import find_published
from sweep.space.labels import short_label
from sweep.study.results import RunResults
from sweep.study.scored_rows import BASELINE_ROWS, name_baseline
from sweep.tables.blocks import Column, Estimate, Table


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


def describe_row(results: RunResults, row: str) -> str:
    """How a row of the test table is called: a baseline's name, or a trial with its setting."""
    if row in BASELINE_ROWS:
        return name_baseline(row, results.noun)
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


def _estimate(value: float | None, interval: Sequence[float] | None) -> Estimate:
    return Estimate(value, *(interval[:2] if interval else ()))


def _estimate_spread(value: Mapping[str, Any]) -> Estimate:
    return Estimate(value.get("mean"), std=value.get("std"))
