"""The answers on the test split as printed at the end of a run: classification, and questions by kind."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweep.study.scored_rows import ALL, ANSWER_ROWS, TEXT_ONLY_ROWS, UNSEEN
from sweep.tables.console import TABLE_LOOK, print_table, show_interval, show_p

_Row = tuple[str, list[str | Text]]

ROW_LABELS = {"best": "best model", **ANSWER_ROWS}


def print_answer_tables(console: Console, test_metrics: Mapping[str, Any]) -> None:
    """Print what `test_metrics.json` tells of answers; nothing where no model answered any.

    The figures are those on unseen cohorts where there are some, else those on all test scans.
    """
    classified, answering = test_metrics.get("classification"), test_metrics.get("question_answering")
    if classified:
        _print_classification(console, test_metrics, classified)
    if answering:
        _print_questions(console, answering)


def find_headline(figures: Mapping[str, Any]) -> str:
    """The scope to look at first: unseen cohorts, where the test split has scans of some."""
    return UNSEEN if UNSEEN in figures else ALL


def describe_scope(scope: str, count: int, noun: str) -> str:
    """What figures are of, such as "180 scans of unseen cohorts"."""
    return f"{count:,} {noun} of unseen cohorts" if scope == UNSEEN else f"{count:,} test {noun}"


def _print_classification(console: Console, metrics: Mapping[str, Any], classified: Mapping[str, Any]) -> None:
    rows = classified["rows"]
    by_answer = rows["best"]["by_answer"]
    scope = find_headline(by_answer)
    title = describe_scope(scope, by_answer[scope]["num_scans"], "scans")
    columns = ["balanced accuracy", "95% interval", "macro F1", "by similarity"]
    columns += ["all test scans"] if scope == UNSEEN else []
    table = _start_table(f"diagnosis of {title}", columns)
    highest = max(ways["by_answer"][scope]["balanced_accuracy"] for ways in rows.values() if scope in ways["by_answer"])
    for label, cells in [*_list_group_rows(metrics, rows, scope), *_list_rows(rows, scope, highest)]:
        table.add_row(label, *cells[: len(columns)])
    console.print()
    print_table(console, table)
    chance = 1 / len(by_answer[scope]["recalls"])
    _say(console, f"balanced accuracy: mean recall over the classes, {chance:.3f} for one class named always")
    _say(console, "by similarity: balanced accuracy of the class whose words lie nearest to the scan, nothing written")


def _print_questions(console: Console, answering: Mapping[str, Any]) -> None:
    rows = answering["rows"]
    scope = find_headline(rows["best"])
    figures = {row: rows[row][scope] for row in ("best", *TEXT_ONLY_ROWS)}
    compared = answering.get("comparisons", {}).get(scope)
    columns = [ROW_LABELS[row] for row in figures] + (["gain", "95% interval", "p"] if compared else []) + ["F1"]
    title = describe_scope(scope, figures["best"]["overall"]["num_questions"], "questions")
    table = _start_table(f"exact match, {title}", columns)
    kinds = figures["best"]["kinds"]
    for kind in [None, *kinds] if len(kinds) > 1 else kinds:
        of_rows = [part["overall"] if kind is None else part["kinds"][kind] for part in figures.values()]
        cells = [f"{part['exact_match']:.3f}" for part in of_rows]
        if compared:
            told = compared["overall"] if kind is None else compared["kinds"].get(kind)
            cells += _show_gain(told["exact_match"]) if told else [""] * 3
        table.add_row("all questions" if kind is None else kind, *cells, f"{of_rows[0]['f1']:.3f}")
    console.print()
    print_table(console, table)
    drawn = answering["resampling"]
    if compared:
        _say(
            console,
            "gain: best model less the better of the two that do not see the scan; p: sign-flip test by "
            f"{drawn['unit']}s, kinds corrected by Holm",
        )
        _say(console, f"95% intervals: bootstrap over {drawn['unit']}s, {drawn['num_resamples']:,} resamples")


def _list_rows(rows: Mapping[str, Any], scope: str, highest: float) -> list[_Row]:
    """The best model and each baseline, the highest balanced accuracy in bold."""
    listed: list[_Row] = []
    for row in [row for row in ROW_LABELS if row in rows]:
        figures, near = rows[row]["by_answer"], rows[row].get("by_similarity")
        accuracy = figures[scope]["balanced_accuracy"]
        interval = figures[scope]["intervals"].get("balanced_accuracy")
        cells: list[str | Text] = [
            Text(f"{accuracy:.3f}", "bold" if accuracy == highest else ""),
            show_interval(interval) if interval else "",
            f"{figures[scope]['macro_f1']:.3f}",
            f"{near[scope]['balanced_accuracy']:.3f}" if near else "",
            f"{figures[ALL]['balanced_accuracy']:.3f}",
        ]
        listed.append((ROW_LABELS[row], cells))
    return listed


def _list_group_rows(metrics: Mapping[str, Any], rows: Mapping[str, Any], scope: str) -> list[_Row]:
    """Trials by setting as the table of captions has them, those with answers alone: means over the trials."""
    listed: list[tuple[float, _Row]] = []
    for group in metrics.get("groups", ()):
        of_group = [rows[trial] for trial in group["trials"] if trial in rows and scope in rows[trial]["by_answer"]]
        if len(of_group) < len(group["trials"]):
            continue

        def mean(way: str, where: str, metric: str, of_group: list[Any] = of_group) -> float:
            return fmean(ways[way][where][metric] for ways in of_group)

        accuracy = mean("by_answer", scope, "balanced_accuracy")
        cells: list[str | Text] = [
            f"{accuracy:.3f}",
            "",
            f"{mean('by_answer', scope, 'macro_f1'):.3f}",
            f"{mean('by_similarity', scope, 'balanced_accuracy'):.3f}",
            f"{mean('by_answer', ALL, 'balanced_accuracy'):.3f}",
        ]
        listed.append((accuracy, (str(group["label"]), cells)))
    return [row for _, row in sorted(listed, key=lambda item: -item[0])]


def _show_gain(told: Mapping[str, Any]) -> list[str]:
    difference = round(told["difference"], 3) + 0.0  # without a minus before nothing
    return [f"{difference:+.3f}", show_interval(told["interval"]), show_p(told["p_adjusted"])]


def _start_table(title: str, columns: list[str]) -> Table:
    table = Table(**TABLE_LOOK)
    table.add_column(title, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _say(console: Console, text: str) -> None:
    console.print(Text(text, "dim"), soft_wrap=True)
