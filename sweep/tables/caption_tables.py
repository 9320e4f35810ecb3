"""The tables on the captions of the test split: scores, seeds, facts, concepts, subgroups, published figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

from medcap_core.scoring.published import NOTES, find_published
from medcap_core.scoring.registry import STANDARD, load_scores
from sweep.space import short_label
from sweep.study.results import RunResults, choose_rows
from sweep.study.test_results import ANSWER_ROWS, BASELINE_ROWS, Comparison, Interval, name_baseline
from sweep.tables.blocks import Column, Row, Table
from sweep.tables.formats import Cell, Estimate, Label, format_uncertainty, format_value

_RANKS = {
    name: rank for rank, name in enumerate(("BLEU-4", "ROUGE-L", "METEOR", "BLEU-1", "BLEU-3", "BLEU-2"), start=1)
}
"""Which scores leave a narrow terminal, the last one first."""
COLLAPSED_SHARE = 0.5
"""Share of images with one and the same caption from which a model is said to give one caption."""


def build_caption_tables(results: RunResults) -> list[Table]:
    """Build every table on the captions of the test split that the run has scores for."""
    builders = (
        build_test_table, build_variety_table, build_group_table, build_fact_table, build_concept_table,
        build_published_table,
    )  # fmt: skip
    return build_tables(results, *builders) if results.test_rows else []


def build_tables(results: RunResults, *builders: Callable[[RunResults], Table | None]) -> list[Table]:
    """Build those of some tables that the run has figures for."""
    return [table for build in builders if (table := build(results)) is not None]


def build_test_table(results: RunResults) -> Table:
    """Build the scores on the test split, each with its 95% interval, and the comparison with the named baseline.

    Trials beside the best one are secondary: their settings have rows in the table of groups.
    """
    metrics, names = results.metrics, results.score_names
    compared = metrics.comparisons.rows if metrics.comparisons else {}
    columns = [*map(_score_column, names), *(_build_comparison_columns(results) if compared else ())]
    cells: dict[str, Row] = {
        row: {
            **{name: estimate(scores.get(name), metrics.intervals.get(row, {}).get(name)) for name in names},
            **_compare(compared.get(row)),
        }
        for row, scores in results.test_rows.items()
    }
    count = metrics.num_images
    title = "Scores on the test split" if count is None else f"Scores on {count:,} test {results.noun}s"
    return replace(_build_by_row(results, "test", title, columns, cells), notes=_explain_statistics(results))


def build_variety_table(results: RunResults) -> Table | None:
    """Build how varied the captions of each row are; None where that was not counted."""
    variety = {row: found.model_dump() for row, found in results.metrics.variety.items()}
    columns = [
        Column("num_distinct", "Distinct captions", "count", short="Distinct"),
        Column("top_share", "Most frequent one", "share", short="Commonest"),
        Column("empty_share", "Empty", "share"),
    ]
    if any(found.get("cut_share") is not None for found in variety.values()):
        columns.append(Column("cut_share", "Cut at max_new_tokens", "share", short="Cut"))
    return _build_by_row(results, "variety", "How varied the captions are", columns, variety) if variety else None


def describe_blindness(results: RunResults) -> str:
    """Say where the best model does not clearly beat the rows that do not see its image; empty where it does.

    Clearly is by the interval of the paired difference.
    """
    found = results.metrics.blind_comparisons
    unbeaten = {row: _difference(compared) for row, compared in found.items() if compared.interval[0] <= 0}
    said = []
    if unbeaten:
        start = "has not learnt to see" if "shuffled_images" in unbeaten else "has not been shown to see"
        listed = ", ".join(
            f"{describe_row(results, row)} ({format_value(gain, 'difference')}, 95% interval "
            f"{format_uncertainty(gain, 'difference')})"
            for row, gain in unbeaten.items()
        )
        above = f"on the test split its CIDEr is not clearly above that of these rows: {listed}"
        said.append(f"This model {start}: {above}.")
    variety = results.metrics.variety.get("best")
    if variety and variety.top_share >= COLLAPSED_SHARE:
        share = format_value(variety.top_share, "share")
        said.append(f"It gives {share} of the {results.noun}s one caption ({variety.num_distinct:,} distinct in all).")
    return " ".join(said)


def build_group_table(results: RunResults) -> Table | None:
    """Build mean and spread over seeds of each setting, the highest CIDEr first; None where each has one seed."""
    groups = sorted(results.metrics.groups, key=lambda group: -group.scores["CIDEr"].mean)
    if all(score.std is None for group in groups for score in group.scores.values()):
        return None
    names = list(dict.fromkeys(name for group in groups for name in group.scores))
    columns = (
        Column("label", "Setting"),
        Column("num_seeds", "Seeds", "count", rank=0),
        Column("trials", "Trials", rank=None),
        *map(_score_column, names),
        Column("interval_low", "CIDEr, from", "score", short="from"),
        Column("interval_high", "to", "score"),
        *(_build_comparison_columns(results) if any(group.comparison for group in groups) else ()),
    )
    rows = []
    for group in groups:
        low, high = group.intervals.get("CIDEr", (None, None))
        rows.append(
            {
                "label": group.label,
                "num_seeds": max(score.num_seeds for score in group.scores.values()),
                "trials": " ".join(group.trials),
                **{name: Estimate(score.mean, std=score.std) for name, score in group.scores.items()},
                "interval_low": low,
                "interval_high": high,
                **_compare(group.comparison),
            }
        )
    notes = ("From and to: 95% bootstrap interval of the mean CIDEr.", "±: standard deviation over seeds.")
    return Table("groups", "Mean and standard deviation over seeds", columns, rows, sortable=True, notes=notes)


def build_fact_table(results: RunResults) -> Table | None:
    """Build how often captions name the true finding, side and level; None where the truth is not known."""
    facts: dict[str, dict[str, Cell]] = {}
    for row, found in results.metrics.facts.items():
        facts[row] = {name: Estimate(fact.accuracy, *fact.interval) for name, fact in found.items()}
        facts[row]["num_images"] = max(fact.num_images for fact in found.values())
    names = dict.fromkeys(name for row in facts.values() for name in row if name != "num_images")
    columns = [Column(name, f"{name.capitalize()}, accuracy", "score") for name in names]
    columns.append(Column("num_images", "Images", "count", rank=None))
    return _build_by_row(results, "facts", "Facts named in the captions", columns, facts) if facts else None


def build_concept_table(results: RunResults) -> Table | None:
    """Build precision, recall and F1 of medical concepts found in captions; None where the data has none."""
    names = {"f1": "F1", "precision": "Precision", "recall": "Recall"}
    columns = [Column(name, title, "score") for name, title in names.items()]
    columns.append(Column("num_images", "Images", "count", rank=None))
    found = results.metrics.concepts.items()
    cells = {row: score.model_dump() | {"f1": Estimate(score.f1, *score.interval)} for row, score in found}
    title = "Medical concepts found in the captions"
    return _build_by_row(results, "concepts", title, columns, cells) if cells else None


def _build_by_row(
    results: RunResults, name: str, title: str, columns: Sequence[Column], cells: Mapping[str, Row]
) -> Table:
    """Build a table with one row for each model and baseline that there are cells of."""
    chosen = choose_rows(cells, BASELINE_ROWS)
    rows = [{"row": row, "label": describe_row(results, row), **cells[row]} for row in chosen]
    return mark_rows(results, Table(name, title, (*label_columns(), *columns), rows, sortable=True))


def build_subgroup_table(results: RunResults) -> Table | None:
    """Build a row for each subgroup, the lowest CIDEr of a kind first; None where the data name no subgroup."""
    best = results.metrics.subgroups.get("best")
    if not best:
        return None
    base = results.metrics.subgroups.get("zero_shot", {})
    scored = {name for groups in best.values() for score in groups.values() for name in score.scores}
    names = sorted((name for name in results.score_names if name in scored), key=lambda name: name != "CIDEr")
    columns = (
        Column("kind", "Kind"),
        Column("value", "Subgroup"),
        Column("num_images", f"{results.noun.capitalize()}s", "count"),
        Column("CIDEr", "CIDEr", "score"),
        Column("zero_shot_CIDEr", "CIDEr, zero-shot", "score"),
        *(Column(name, name, "score") for name in names[1:]),
    )
    rows: list[dict[str, Cell]] = []
    for kind, groups in best.items():
        for value, score in sorted(groups.items(), key=lambda item: item[1].scores["CIDEr"]):
            rows.append({"kind": kind, "value": value, "num_images": score.num_images})
            rows[-1] |= {name: estimate(score.scores[name], score.intervals.get(name)) for name in names}
            if before := base.get(kind, {}).get(value):
                rows[-1]["zero_shot_CIDEr"] = estimate(before.scores["CIDEr"], before.intervals.get("CIDEr"))
    note = (
        "The best model's scores by subgroup, with 95% bootstrap intervals within it; CIDEr keeps the document "
        "frequencies of the whole test split. Subgroups were not chosen beforehand: of many some are low by chance."
    )
    return Table("subgroups", "Scores by subgroup", columns, rows, sortable=True, notes=(note,))


def build_published_table(results: RunResults) -> Table | None:
    """Build the figures that others have published on this data, below the run's own; None where there are none."""
    kind = results.provenance[-1].data.kind if results.provenance else ""
    figures = find_published(results.space.data, kind)
    if not figures:
        return None
    names = [name for name in STANDARD if any(name in figure.scores for figure in figures)]
    columns = (
        Column("system", "System"),
        *(Column(name, name, "number", rank=_RANKS.get(name, 0)) for name in names),
        Column("test_images", "Measured on"),
        Column("tokens", "Tokens", rank=None),
        Column("source", "Source", rank=None),
    )
    count = results.metrics.num_images
    test_images = "this run's test split" + ("" if count is None else f", {count:,} images")
    own: dict[str, Cell] = {"test_images": test_images, "tokens": "PTB", "source": "this run"}
    rows: list[Row] = [
        {"system": describe_row(results, row), **scores, **own} for row, scores in results.test_rows.items()
    ]
    rows += [{**asdict(figure), **figure.scores} for figure in figures]
    return Table("published", "Beside published figures", columns, rows, notes=NOTES)


def describe_row(results: RunResults, row: str) -> Label:
    """Name a row of the test table: a baseline, or a trial by its setting."""
    if row in BASELINE_ROWS:
        name = name_baseline(row, results.noun)
        return Label(name, name)
    record = results.trial_of_row(row)
    label = row if record is None else short_label(record.point)
    if row == "best":
        return Label("best model" if record is None else f"best model ({record.name}, {label})", "best model")
    if row == results.metrics.best_trial:
        return Label(f"{label} (best on validation)", "best model")
    return Label(label, label)


def mark_rows(results: RunResults, table: Table) -> Table:
    """Let the best trial's rows stand out; those of other trials are secondary."""
    best = {"best", results.metrics.best_trial}
    shown = best | {*BASELINE_ROWS, *ANSWER_ROWS}
    emphasised = [place for place, row in enumerate(table.rows) if row["row"] in best]
    secondary = [place for place, row in enumerate(table.rows) if row["row"] not in shown]
    return replace(table, emphasised=emphasised, secondary=secondary)


def label_columns() -> tuple[Column, Column]:
    """Build the columns that name the row: as in `test_metrics.json`, and for readers."""
    return Column("row", ""), Column("label", "Model or baseline")


def _score_column(name: str) -> Column:
    """Build the column of a score; on a terminal only CIDEr has its uncertainty beside it."""
    return Column(name, name, "score", rank=_RANKS.get(name, 0), with_spread=name == "CIDEr")


def _explain_statistics(results: RunResults) -> list[str]:
    metrics, said = results.metrics, []
    drawn = metrics.resampling
    if any(metrics.intervals.values()):
        over = f" over {drawn.num_units:,} {drawn.unit}s, {drawn.num_resamples:,} resamples" if drawn else ""
        said.append(f"Ranges are 95% bootstrap intervals{over}.")
    compared = metrics.comparisons
    if compared and compared.rows:
        instead = f" (as {compared.missing_baseline} was not scored)" if compared.missing_baseline else ""
        by, baseline = f" by {drawn.unit}s" if drawn else "", describe_row(results, compared.baseline)
        difference = f"the difference in {compared.metric} to {baseline}{instead}"
        said.append(f"p: paired sign-flip test{by} of {difference}, corrected by Holm.")
    best = results.best
    if best and metrics.zero_shot and len({record.config.model for record in results.records}) > 1:
        said.append(f"Zero-shot is the untrained {best.point['model']}, the model of the best trial.")
    if metrics.caption_preprocessing != "none":
        said.append(f"Captions and references were preprocessed as {metrics.caption_preprocessing}.")
    extra = [score for key in results.space.extra_scores for score in load_scores(key)]
    said += [score.describe() for score in extra if score.describe()]
    missing = {
        score.name: f"needs {score.needs}" if score.needs else "the log says why"
        for score in extra
        if score.name not in results.score_names
    }
    if missing:
        said.append(f"Not computed: {'; '.join(f'{name} ({why})' for name, why in missing.items())}.")
    return said


def _build_comparison_columns(results: RunResults) -> tuple[Column, ...]:
    compared = results.metrics.comparisons
    metric, baseline = (compared.metric, compared.baseline) if compared else ("CIDEr", "zero_shot")
    return (
        Column("difference", f"{metric} against {describe_row(results, baseline)}", "difference", rank=None),
        Column("p_value", "p", "p", rank=None),
        Column("p_adjusted", "p, corrected", "p", short="p"),
    )


def fill_comparison(found: Comparison, prefix: str = "") -> dict[str, Cell]:
    """Fill the cells of a comparison with a baseline."""
    return {
        f"{prefix}difference": _difference(found),
        f"{prefix}p_value": found.p_value,
        f"{prefix}p_adjusted": found.p_adjusted,
    }


def _difference(found: Comparison) -> Estimate:
    return Estimate(found.difference, *found.interval)


def _compare(found: Comparison | None) -> dict[str, Cell]:
    """Fill the cells of a comparison; none where a row is the baseline under another name."""
    return fill_comparison(found) if found and found.difference else {}


def estimate(value: float | None, interval: Interval | None) -> Estimate:
    """Build a cell of a score and its interval, either of which may be unknown."""
    return Estimate(value, *(interval or ()))
