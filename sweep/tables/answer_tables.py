"""The tables of a report on answers: classification by row, by cohort and by class, and questions by kind."""

from collections.abc import Mapping, Sequence
from typing import Any

from sweep.study.results import RunResults
from sweep.study.scored_rows import ALL, ANSWER_ROWS, UNSEEN
from sweep.tables.answer_console import find_headline
from sweep.tables.blocks import Column, Estimate, Table
from sweep.tables.caption_tables import describe_row

_WAYS = {"by_answer": "generated answer", "by_similarity": "similarity to the classes' words"}
_SCOPES = {UNSEEN: "unseen cohorts", ALL: "all test scans"}
_NONE_NAMED = "none of them"


def build_classification_table(results: RunResults) -> Table:
    """Each row in both ways, on unseen cohorts where there are some and on all test scans."""
    rows_of = _list_rows(results, "classification")
    scopes = _list_scopes(rows_of)
    columns = [Column("row", ""), Column("label", "Model or baseline"), Column("way", "Class by")]
    for scope in scopes:
        name = _SCOPES[scope]
        columns += [
            Column(f"balanced_accuracy_{scope}", f"Balanced accuracy, {name}", "score"),
            Column(f"macro_f1_{scope}", f"Macro F1, {name}", "score"),
            Column(f"num_scans_{scope}", "Scans", "count"),
        ]
    rows = []
    for row, ways in rows_of.items():
        for way, figures in ways.items():
            cells: dict[str, Any] = {"row": row, "label": describe_answer_row(results, row), "way": _WAYS[way]}
            for scope in scopes:
                told = figures.get(scope) or {}
                cells |= {f"{name}_{scope}": cell for name, cell in _score_cells(told).items()}
            rows.append(cells)
    emphasised = _find_best(results, rows)
    title = "Diagnosis on the test split"
    return Table("classification", title, tuple(columns), tuple(rows), sortable=True, emphasised=emphasised)


def build_cohort_table(results: RunResults) -> Table | None:
    """The best model in each cohort; None where no cohorts are known."""
    ways = _list_rows(results, "classification")[_name_best_row(results)]
    cohorts = ways["by_answer"].get("cohorts") or {}
    if not cohorts:
        return None
    classified = results.section("classification")
    unseen, classes = classified.get("unseen_cohorts") or [], classified["classes"]
    columns = (
        Column("cohort", "Cohort"),
        Column("training", "In training"),
        Column("num_scans", "Scans", "count"),
        Column("balanced_accuracy", "Balanced accuracy, generated answer", "score"),
        Column("macro_f1", "Macro F1, generated answer", "score"),
        Column("balanced_accuracy_by_similarity", "Balanced accuracy, similarity", "score"),
        *(Column(f"recall_{place}", f"Recall, {name}", "score") for place, name in enumerate(classes)),
    )
    rows = []
    for cohort, told in sorted(cohorts.items(), key=lambda item: (item[0] not in unseen, item[0])):
        near = ((ways.get("by_similarity") or {}).get("cohorts") or {}).get(cohort) or {}
        rows.append(
            {
                "cohort": cohort,
                "training": "no" if cohort in unseen else "yes",
                **_score_cells(told),
                "balanced_accuracy_by_similarity": _score_cells(near).get("balanced_accuracy"),
                **{
                    f"recall_{place}": _estimate(told["recalls"].get(name), told["recall_intervals"].get(name))
                    for place, name in enumerate(classes)
                },
            }
        )
    return Table("cohorts", "The best model in each cohort", columns, tuple(rows), sortable=True)


def build_confusion_table(results: RunResults) -> Table:
    """How often the best model's answers name each class, by true class."""
    classes = results.section("classification")["classes"]
    figures = _list_rows(results, "classification")[_name_best_row(results)]["by_answer"]
    told = figures[find_headline(figures)]
    columns = (
        Column("truth", "True class"),
        *(Column(f"named_{place}", name, "count") for place, name in enumerate(classes)),
        Column("other", _NONE_NAMED, "count"),
        Column("recall", "Recall", "score"),
    )
    rows = tuple(
        {
            "truth": name,
            **{f"named_{place}": count for place, count in enumerate(counts[:-1])},
            "other": counts[-1],
            "recall": _estimate(told["recalls"].get(name), told["recall_intervals"].get(name)),
        }
        for name, counts in zip(classes, told["confusion"], strict=True)
    )
    return Table("confusion", f"Classes named, {_SCOPES[find_headline(figures)]}", columns, rows)


def build_question_table(results: RunResults) -> Table:
    """Questions by kind: the best model beside all baselines, and tested against the better text-only one."""
    rows_of = _list_rows(results, "question_answering")
    best = rows_of[_name_best_row(results)]
    comparisons = results.section("question_answering").get("comparisons") or {}
    baselines = [row for row in ANSWER_ROWS if row in rows_of]
    scopes = _list_scopes(rows_of)
    columns = (
        Column("scans", "Scans" if len(scopes) > 1 else ""),
        Column("kind", "Kind of question"),
        Column("num_questions", "Questions", "count"),
        Column("exact_match", "Exact match, best model", "score"),
        Column("f1", "F1, best model", "score"),
        *(Column(f"exact_match_{row}", f"Exact match, {ANSWER_ROWS[row]}", "score") for row in baselines),
        *(Column(f"f1_{row}", "", "score") for row in baselines),
        Column("difference", "Gain in exact match", "difference"),
        Column("baseline", "over"),
        Column("p_value", "", "p"),
        Column("p_adjusted", "p, corrected", "p"),
        Column("f1_difference", "", "difference"),
        Column("f1_p_value", "", "p"),
        Column("f1_p_adjusted", "", "p"),
    )
    rows: list[dict[str, Any]] = []
    emphasised: list[int] = []
    for scope in scopes:
        for kind in [None, *best[scope]["kinds"]]:
            found = _pick(comparisons.get(scope), kind)
            exact, f1 = found.get("exact_match") or {}, found.get("f1") or {}
            cells: dict[str, Any] = {"scans": _SCOPES[scope], "kind": "all" if kind is None else kind}
            cells |= _answer_cells(_pick(best[scope], kind))
            for row in baselines:
                of_row = _answer_cells(_pick(rows_of[row].get(scope), kind))
                cells |= {f"{name}_{row}": of_row.get(name) for name in ("exact_match", "f1")}
            cells |= {
                "difference": _estimate(exact.get("difference"), exact.get("interval")),
                "baseline": ANSWER_ROWS.get(exact.get("baseline", ""), ""),
                "p_value": exact.get("p_value"),
                "p_adjusted": exact.get("p_adjusted"),
                "f1_difference": _estimate(f1.get("difference"), f1.get("interval")),
                "f1_p_value": f1.get("p_value"),
                "f1_p_adjusted": f1.get("p_adjusted"),
            }
            emphasised += [len(rows)] if kind is None else []
            rows.append(cells)
    title = "Questions on the test split, by kind"
    return Table("questions", title, columns, tuple(rows), emphasised=frozenset(emphasised))


def build_question_rows(results: RunResults) -> Table | None:
    """All questions together for each trial that was scored; None where that is the best one alone."""
    rows_of = _list_rows(results, "question_answering")
    if len([row for row in rows_of if row not in ANSWER_ROWS]) < 2:
        return None
    scopes = _list_scopes(rows_of)
    columns = [Column("row", ""), Column("label", "Model or baseline")]
    for scope in scopes:
        columns += [
            Column(f"exact_match_{scope}", f"Exact match, {_SCOPES[scope]}", "score"),
            Column(f"f1_{scope}", f"F1, {_SCOPES[scope]}", "score"),
        ]
    rows = []
    for row, figures in rows_of.items():
        cells: dict[str, Any] = {"row": row, "label": describe_answer_row(results, row)}
        for scope in scopes:
            told = _answer_cells(_pick(figures.get(scope), None))
            cells |= {f"{name}_{scope}": told.get(name) for name in ("exact_match", "f1")}
        rows.append(cells)
    emphasised = _find_best(results, rows)
    title = "All questions, by trial"
    return Table("question_rows", title, tuple(columns), tuple(rows), sortable=True, emphasised=emphasised)


def describe_answer_row(results: RunResults, row: str) -> str:
    """How a row is called: a baseline's name, or a trial with its setting."""
    return ANSWER_ROWS.get(row) or describe_row(results, row)


def _list_rows(results: RunResults, section: str) -> dict[str, Any]:
    """Figures by row: `best`, or each trial by number where several were scored; baselines."""
    rows: Mapping[str, Any] = results.section(section).get("rows") or {}
    trials = sorted(row for row in rows if row != "best" and row not in ANSWER_ROWS)
    chosen = trials if len(trials) > 1 else ["best"]
    return {row: rows[row] for row in (*chosen, *ANSWER_ROWS) if row in rows}


def _name_best_row(results: RunResults) -> str:
    rows = _list_rows(results, "question_answering")
    return "best" if "best" in rows else str(results.section("question_answering")["best_trial"])


def _list_scopes(rows_of: Mapping[str, Any]) -> list[str]:
    """The scopes that any row is told of, the headline first."""
    found = {scope for figures in rows_of.values() for part in (figures, *figures.values()) for scope in part}
    return [scope for scope in (UNSEEN, ALL) if scope in found]


def _find_best(results: RunResults, rows: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    best = _name_best_row(results)
    return frozenset(index for index, row in enumerate(rows) if row["row"] == best)


def _score_cells(told: Mapping[str, Any]) -> dict[str, Any]:
    intervals = told.get("intervals") or {}
    scores = {name: _estimate(told.get(name), intervals.get(name)) for name in ("balanced_accuracy", "macro_f1")}
    return {**scores, "num_scans": told.get("num_scans")}


def _answer_cells(told: Mapping[str, Any]) -> dict[str, Any]:
    intervals = told.get("intervals") or {}
    scores = {name: _estimate(told.get(name), intervals.get(name)) for name in ("exact_match", "f1")}
    return {**scores, "num_questions": told.get("num_questions")}


def _pick(told: Mapping[str, Any] | None, kind: str | None) -> Mapping[str, Any]:
    """What is told of one kind of question, or of all under None; empty where nothing is."""
    if not told:
        return {}
    found = told.get("overall") if kind is None else (told.get("kinds") or {}).get(kind)
    return found or {}


def _estimate(value: float | None, interval: Sequence[float] | None) -> Estimate:
    return Estimate(value, *(interval[:2] if interval else ()))
