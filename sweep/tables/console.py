"""The results of the test split as printed at the end of a run: scores, facts, and what others have published.

Fed by the content of `test_metrics.json`, in which any key but the scores may be absent (older runs).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from medcap_core.data.records import Record
from medcap_core.scoring.published import PublishedFigure
from sweep.study.scored_rows import BASELINE_ROWS, name_baseline
from sweep.tables.formats import format_score

TABLE_LOOK: dict[str, Any] = {
    "box": box.SIMPLE_HEAD,
    "show_edge": False,
    "pad_edge": False,
    "padding": (0, 1, 0, 0),
    "header_style": "bold",
}

_METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
_FIRST_TO_GO = ("BLEU-2", "BLEU-3", "BLEU-1", "METEOR", "ROUGE-L", "BLEU-4")
"""Columns left out, in this order, until the table fits a terminal; all of them are in `test_metrics.json`."""

ROWS = ("best", *BASELINE_ROWS)
"""The rows that every run has, in the order in which they are shown."""

_ANY_WIDTH = 10_000

_Row = tuple[str, dict[str, Text]]


def print_test_table(
    console: Console, test_metrics: Mapping[str, Any], published: Sequence[PublishedFigure] = ()
) -> None:
    """Print the scores of `test_metrics.json`: a row for each group of trials, the best model and each baseline.

    CIDEr has its 95% interval and the corrected p of its difference from the baseline beside it. Scores that are not
    there are shown as a dash, columns that have nothing are left out; the highest of each column is bold.
    """
    rows = [*_build_group_rows(test_metrics), *_build_rows(test_metrics)]
    has = {column for _, cells in rows for column in cells}
    columns = [*_METRICS, *_list_extra(test_metrics)]
    columns += [column for column in ("95% interval", "p") if column in has]
    if "seeds" in has:
        columns.insert(0, "seeds")
    num_images = test_metrics.get("num_images")
    title = "test split" if num_images is None else f"{num_images:,} test {test_metrics.get('noun', Record.noun)}s"
    for dropped in ("", *_FIRST_TO_GO):
        columns = [column for column in columns if column != dropped]
        table = _build_table(title, columns, rows)
        if not console.is_terminal or _measure(console, table) <= console.width:
            break
    print_table(console, table)
    for line in _describe_statistics(test_metrics):
        console.print(Text(line, "dim"), soft_wrap=True)
    _print_facts(console, test_metrics)
    _print_published(console, published)


def _measure(console: Console, table: Table) -> int:
    """Columns that the table takes unfolded."""
    return Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table).maximum


def print_table(console: Console, table: Table) -> None:
    """Print a table; where there is no terminal, as wide as it is."""
    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, _measure(console, table)), color_system=None)
    console.print(table)


def _build_table(title: str, columns: Sequence[str], rows: Sequence[_Row]) -> Table:
    table = Table(**TABLE_LOOK)
    table.add_column(title, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for label, cells in rows:
        table.add_row(label, *(cells.get(column, Text("-" if column in _METRICS else "")) for column in columns))
    return table


def _build_rows(metrics: Mapping[str, Any]) -> list[_Row]:
    """The rows that every run has."""
    names = [name for name in ROWS if name in metrics]
    compared = metrics.get("comparisons", {}).get("rows", {})
    highest = _find_highest(metrics)
    rows = []
    for name in names:
        cells = {metric: _show_score(score, highest.get(metric)) for metric, score in metrics[name].items()}
        cells |= _show_confidence(metrics.get("intervals", {}).get(name, {}).get("CIDEr"), compared.get(name))
        rows.append((_name_row(name, metrics), cells))
    return rows


def _build_group_rows(metrics: Mapping[str, Any]) -> list[_Row]:
    """Trials by config, the best mean CIDEr first; CIDEr with its spread over seeds."""
    highest = _find_highest(metrics)
    rows = []
    for group in sorted(metrics.get("groups", ()), key=lambda group: -group["scores"]["CIDEr"]["mean"]):
        cells = {metric: _show_score(score["mean"], highest.get(metric)) for metric, score in group["scores"].items()}
        spread = group["scores"]["CIDEr"]
        if spread["std"] is not None:
            cells["CIDEr"] = Text.assemble(cells["CIDEr"], f" ±{spread['std']:.3f}")
            cells["seeds"] = Text(str(spread["num_seeds"]))
        cells |= _show_confidence(group.get("intervals", {}).get("CIDEr"), group.get("comparison"))
        rows.append((group["label"], cells))
    return rows


def _list_extra(metrics: Mapping[str, Any]) -> list[str]:
    """Names of scores beyond the usual ones."""
    names: dict[str, None] = {}
    for row in ROWS:
        names |= dict.fromkeys(metrics.get(row, {}))
    return [name for name in names if name not in _METRICS]


def _find_highest(metrics: Mapping[str, Any]) -> dict[str, float]:
    rows: list[Mapping[str, float]] = [metrics[name] for name in ROWS if name in metrics]
    for group in metrics.get("groups", ()):
        rows.append({metric: score["mean"] for metric, score in group["scores"].items()})
    names = {metric for row in rows for metric in row}
    return {metric: max(row.get(metric, 0.0) for row in rows) for metric in names}


def _show_score(score: float, highest: float | None) -> Text:
    return Text(format_score(score), "bold" if score == highest else "")


def _show_confidence(interval: Sequence[float] | None, comparison: Mapping[str, Any] | None) -> dict[str, Text]:
    cells = {}
    if interval:
        cells["95% interval"] = Text(show_interval(interval))
    if comparison and comparison["difference"] != 0:  # the baseline under another name is no test
        cells["p"] = Text(show_p(comparison["p_adjusted"]))
    return cells


def show_interval(interval: Sequence[float], decimals: int = 3) -> str:
    """Both ends in square brackets."""
    return f"[{interval[0]:.{decimals}f}, {interval[1]:.{decimals}f}]"


def show_p(p_value: float) -> str:
    """A p-value to three decimals, very small ones as a bound."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _describe_statistics(metrics: Mapping[str, Any]) -> list[str]:
    """What the intervals and p-values are, in two lines at most."""
    lines = []
    resampling = metrics.get("resampling")
    if resampling and any(metrics.get("intervals", {}).values()):
        drawn = f"{resampling['num_units']:,} {resampling['unit']}s, {resampling['num_resamples']:,} resamples"
        spread = any(group["scores"]["CIDEr"]["std"] is not None for group in metrics.get("groups", ()))
        lines.append(f"95% interval of CIDEr: bootstrap over {drawn}{'; ±: standard deviation over seeds' * spread}")
    comparisons = metrics.get("comparisons", {})
    if comparisons.get("rows"):
        baseline, missing = comparisons["baseline"], comparisons.get("missing_baseline")
        unit = resampling["unit"] if resampling else "image"
        instead = f" (as {missing} was not scored)" if missing else ""
        lines.append(
            f"p: CIDEr against {_name_row(baseline, metrics)}{instead}, sign-flip test by {unit}s, corrected by Holm"
        )
    if metrics.get("caption_preprocessing", "none") != "none":
        lines.append(f"captions and references preprocessed as {metrics['caption_preprocessing']}")
    return lines


def _print_facts(console: Console, metrics: Mapping[str, Any]) -> None:
    """The share of captions that name each fact rightly (phantoms), or the concepts found in them (ROCOv2)."""
    facts, concepts = metrics.get("facts", {}), metrics.get("concepts", {})
    if not facts and not concepts:
        return
    table = Table(**TABLE_LOOK)
    if facts:
        names = list(dict.fromkeys(fact for row in facts.values() for fact in row))
        table.add_column("facts named rightly", overflow="fold")
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        for row, label in _list_rows(facts, metrics):
            cells = [facts[row].get(name) for name in names]
            table.add_row(
                label,
                *(f"{cell['accuracy']:.3f} {show_interval(cell['interval'], 2)}" if cell else "-" for cell in cells),
            )
    else:
        for name in ("concepts named", "precision", "recall", "F1"):
            table.add_column(name, justify="left" if name == "concepts named" else "right", no_wrap=True)
        for row, label in _list_rows(concepts, metrics):
            cell = concepts[row]
            table.add_row(
                label,
                *(f"{cell[name]:.3f}" for name in ("precision", "recall")),
                f"{cell['f1']:.3f} {show_interval(cell['interval'], 2)}",
            )
    console.print()
    print_table(console, table)


def _list_rows(table: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows of a table that every run has, with their labels."""
    return [(row, _name_row(row, metrics)) for row in ROWS if row in table]


def _name_row(row: str, metrics: Mapping[str, Any]) -> str:
    if row == "best":
        return "best model"
    return name_baseline(row, metrics.get("noun", Record.noun)) if row in BASELINE_ROWS else row


def _print_published(console: Console, published: Sequence[PublishedFigure]) -> None:
    if not published:
        return
    table = Table(**TABLE_LOOK)
    table.add_column("published by others", overflow="fold")
    table.add_column("CIDEr", justify="right", no_wrap=True)
    table.add_column("measured on", overflow="fold")
    for figure in published:
        table.add_row(figure.system, f"{figure.scores['CIDEr']:.4f}", figure.test_images)
    console.print()
    print_table(console, table)
