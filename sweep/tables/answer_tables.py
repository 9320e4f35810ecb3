"""The tables on answers: diagnosis by row, setting, cohort and class; questions by kind and by trial."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from medcap_core.scoring.classification import ClassificationScore
from sweep.study.results import RunResults, choose_rows
from sweep.study.test_results import (
    ANSWER_ROWS,
    TEXT_ONLY_ROWS,
    AnswerRow,
    AnswerScore,
    ClassificationRow,
    ClassificationScores,
    Scope,
)
from sweep.tables.blocks import Column, Row, Table
from sweep.tables.caption_tables import build_tables, describe_row, estimate, fill_comparison, label_columns, mark_rows
from sweep.tables.formats import Cell, Estimate, Label, summarise

SCOPES: dict[Scope, str] = {"unseen": "unseen cohorts", "all": "all test scans"}

_Scored = TypeVar("_Scored", AnswerRow, ClassificationRow)
_ACCURACIES = ("balanced_accuracy", "macro_f1")
_MATCHES = ("exact_match", "f1")


def build_answer_tables(results: RunResults) -> list[Table]:
    """Build the tables on answers that the terminal shows, of those that the run has scores for."""
    return build_tables(results, build_classification_table, build_classification_groups, build_question_table)


def build_diagnosis_tables(results: RunResults) -> list[Table]:
    """Build the tables on the diagnosis that the run has scores for."""
    built = (build_classification_table, build_classification_groups, build_cohort_table, build_confusion_table)
    return build_tables(results, *built)


def build_classification_table(results: RunResults) -> Table | None:
    """Build a row for each model and source of classes, with both scopes; None where no diagnosis is known."""
    classified = results.metrics.classification
    if not classified or not classified.rows:
        return None
    rows_of = _choose(classified.rows)
    scopes = [scope for scope in SCOPES if any(row.by_answer.of(scope) for row in rows_of.values())]
    columns = [*label_columns(), Column("way", "Class by")]
    for scope in scopes:
        rank = 3 if scope == scopes[0] else None
        columns += [*_build_accuracy_columns(scope, scopes), Column(f"num_scans_{scope}", "Scans", "count", rank=rank)]
    rows: list[dict[str, Cell]] = []
    for row, found in rows_of.items():
        for source, scores in _list_sources(found).items():
            rows.append({"row": row, "label": _describe_row(results, row), "way": source})
            for scope in scopes:
                if score := scores.of(scope):
                    rows[-1] |= {**_fill(score, _ACCURACIES, f"_{scope}"), f"num_scans_{scope}": score.num_scans}
    num_classes = len(classified.classes)
    notes = [
        "Balanced accuracy is the mean recall over the classes and macro F1 the mean of their F1, both 0 to 1; always "
        f"naming one of {num_classes} classes gives {1 / num_classes:.3f}.",
        "The class is what the generated answer names (one that names none, or several, is wrong), or whose words lie "
        "nearest to the scan.",
    ]
    if classified.unseen_cohorts:
        notes.append(f"Unseen cohorts, without any scan in training: {', '.join(classified.unseen_cohorts)}.")
    notes += _explain_intervals(results)
    title = "Diagnosis on the test split"
    return mark_rows(results, Table("classification", title, columns, rows, sortable=True, notes=notes))


def build_classification_groups(results: RunResults) -> Table | None:
    """Build mean and spread over seeds of settings whose trials all answered, best first; None where there are none."""
    classified = results.metrics.classification
    groups = {
        group.label: [classified.rows[trial] for trial in group.trials]
        for group in results.metrics.groups
        if classified and group.trials and classified.rows.keys() >= set(group.trials)
    }
    if not groups:
        return None
    scopes = [scope for scope in SCOPES if all(row.by_answer.of(scope) for rows in groups.values() for row in rows)]
    columns = [Column("label", "Setting"), Column("num_seeds", "Seeds", "count"), Column("way", "Class by")]
    columns += [column for scope in scopes for column in _build_accuracy_columns(scope, scopes)]

    def average(label: str) -> float:
        return fmean(score.balanced_accuracy for row in groups[label] if (score := row.by_answer.of(scopes[0])))

    cells: list[dict[str, Cell]] = []
    for label in sorted(groups, key=average, reverse=True):
        for source in _list_sources(groups[label][0]):
            cells.append({"label": label, "num_seeds": len(groups[label]), "way": source})
            for scope in scopes:
                scores = [_list_sources(row)[source].of(scope) for row in groups[label]]
                for name in _ACCURACIES:
                    cells[-1][f"{name}_{scope}"] = summarise(getattr(score, name) for score in scores if score)
    title = "Diagnosis: mean and standard deviation over seeds"
    return Table("classification_groups", title, columns, cells, sortable=True)


def build_cohort_table(results: RunResults) -> Table | None:
    """Build the best model's scores in each cohort, unseen ones first; None where no cohorts are known."""
    classified = results.metrics.classification
    best = classified.rows.get("best") if classified else None
    if not classified or not best or not best.by_answer.cohorts:
        return None
    unseen, near = classified.unseen_cohorts, best.by_similarity.cohorts if best.by_similarity else {}
    columns = (
        Column("cohort", "Cohort"),
        Column("training", "In training"),
        Column("num_scans", "Scans", "count"),
        Column("balanced_accuracy", "Balanced accuracy, generated answer", "score"),
        Column("macro_f1", "Macro F1, generated answer", "score"),
        Column("balanced_accuracy_by_similarity", "Balanced accuracy, similarity", "score"),
        *(Column(f"recall_{place}", f"Recall, {name}", "score") for place, name in enumerate(classified.classes)),
    )
    rows: list[Row] = [
        {
            "cohort": cohort,
            "training": "no" if cohort in unseen else "yes",
            "num_scans": score.num_scans,
            **_fill(score, _ACCURACIES),
            **_fill(near.get(cohort), _ACCURACIES[:1], "_by_similarity"),
            **{f"recall_{place}": _recall(score, name) for place, name in enumerate(classified.classes)},
        }
        for cohort, score in sorted(best.by_answer.cohorts.items(), key=lambda item: (item[0] not in unseen, item[0]))
    ]
    return Table("cohorts", "The best model in each cohort", columns, rows, sortable=True)


def build_confusion_table(results: RunResults) -> Table | None:
    """Build the confusion matrix of the best model's answers; None where no diagnosis is known."""
    classified = results.metrics.classification
    best = classified.rows.get("best") if classified else None
    score = best.by_answer.of(best.by_answer.headline) if best else None
    if not classified or not best or not score:
        return None
    columns = (
        Column("truth", "True class"),
        *(Column(f"named_{place}", name, "count") for place, name in enumerate(classified.classes)),
        Column("other", "none of them", "count"),
        Column("recall", "Recall", "score"),
    )
    rows: list[Row] = [
        {
            "truth": name,
            **{f"named_{place}": count for place, count in enumerate(counts[:-1])},
            "other": counts[-1],
            "recall": _recall(score, name),
        }
        for name, counts in zip(classified.classes, score.confusion, strict=True)
    ]
    return Table("confusion", f"Classes named, {SCOPES[best.by_answer.headline]}", columns, rows)


def _recall(score: ClassificationScore, name: str) -> Estimate:
    return estimate(score.recalls.get(name), score.recall_intervals.get(name))


def build_question_table(results: RunResults) -> Table | None:
    """Build the scores by kind of question: the best model, the baselines, and the test against a text-only one.

    A terminal shows the headline scope alone. None where no question was asked.
    """
    answering = results.metrics.question_answering
    if not answering or not answering.rows:
        return None
    rows_of, best = _choose(answering.rows), answering.rows["best"]
    baselines = {row: name for row, name in ANSWER_ROWS.items() if row in rows_of}
    scopes = [scope for scope in SCOPES if any(row.of(scope) for row in rows_of.values())]
    columns = (
        Column("scans", "Scans" if len(scopes) > 1 else "", rank=None),
        Column("kind", "Kind of question", short="Kind"),
        Column("num_questions", "Questions", "count", rank=3),
        Column("exact_match", "Exact match, best model", "score", short="best model", with_spread=False),
        Column("f1", "F1, best model", "score", short="F1", rank=1, with_spread=False),
        *(_build_baseline_column(row, name) for row, name in baselines.items()),
        *(Column(f"f1_{row}", "", "score") for row in baselines),
        Column("difference", "Gain in exact match", "difference", short="gain"),
        Column("baseline", "over", rank=4),
        Column("p_value", "", "p"),
        Column("p_adjusted", "p, corrected", "p", short="p"),
        *(Column(f"f1_{name}", "", "p") for name in ("difference", "p_value", "p_adjusted")),
    )
    rows: list[dict[str, Cell]] = []
    for scope in scopes:
        own, compared = best.of(scope), answering.comparisons.of(scope) if answering.comparisons else None
        for kind in (None, *own.kinds) if own else ():
            score = _pick(best, scope, kind)
            rows.append({"scans": SCOPES[scope], "kind": kind or "all", **_fill(score, _MATCHES)})
            rows[-1]["num_questions"] = score.num_questions if score else None
            for row in baselines:
                rows[-1] |= _fill(_pick(rows_of[row], scope, kind), _MATCHES, f"_{row}")
            if compared and (found := compared.kinds.get(kind) if kind else compared.overall):
                rows[-1] |= {"baseline": ANSWER_ROWS.get(found["exact_match"].baseline)}
                rows[-1] |= fill_comparison(found["exact_match"]) | fill_comparison(found["f1"], "f1_")
    notes = [
        "Exact match is the share of answers that read like the truth, case, punctuation and articles aside; F1 also "
        "counts single words.",
        "The gain is over the better of the two rows that do not see the scan, found anew for each kind; p: paired "
        "sign-flip test, corrected by Holm for the number of kinds.",
        "Shuffled scans are the best model asked about other subjects' scans, most frequent answers those of the "
        "training split: what can be had without a look at the scan.",
    ]
    if not any("p_value" in row for row in rows):
        del notes[1]
    headline = SCOPES[best.headline]
    return Table(
        "questions",
        "Questions on the test split, by kind",
        columns,
        rows,
        short=f"Exact match on questions by kind, {headline}",
        emphasised=[place for place, row in enumerate(rows) if row["kind"] == "all"],
        secondary=[place for place, row in enumerate(rows) if row["scans"] != headline],
        notes=(*notes, *_explain_intervals(results)),
    )


def build_question_rows(results: RunResults) -> Table | None:
    """Build all questions together for each trial that was scored; None where that is the best one alone."""
    answering = results.metrics.question_answering
    rows_of = _choose(answering.rows) if answering else {}
    if len(rows_of.keys() - ANSWER_ROWS.keys()) < 2:
        return None
    columns, scopes = [*label_columns()], [scope for scope in SCOPES if any(row.of(scope) for row in rows_of.values())]
    for scope in scopes:
        for name, title in zip(_MATCHES, ("Exact match", "F1"), strict=True):
            columns.append(Column(f"{name}_{scope}", f"{title}, {SCOPES[scope]}", "score"))
    rows: list[dict[str, Cell]] = []
    for row, found in rows_of.items():
        rows.append({"row": row, "label": _describe_row(results, row)})
        for scope in scopes:
            rows[-1] |= _fill(_pick(found, scope, None), _MATCHES, f"_{scope}")
    return mark_rows(results, Table("question_rows", "All questions, by trial", columns, rows, sortable=True))


def _describe_row(results: RunResults, row: str) -> Label:
    return Label(ANSWER_ROWS[row], ANSWER_ROWS[row]) if row in ANSWER_ROWS else describe_row(results, row)


def _choose(rows: Mapping[str, _Scored]) -> dict[str, _Scored]:
    return {row: rows[row] for row in choose_rows(rows, ANSWER_ROWS)}


def _list_sources(row: ClassificationRow) -> dict[Label, ClassificationScores]:
    """List the scores of a row by where its classes come from."""
    found = {Label("generated answer", "answer"): row.by_answer}
    if row.by_similarity is not None:
        found[Label("similarity to the classes' words", "similarity")] = row.by_similarity
    return found


def _build_accuracy_columns(scope: Scope, scopes: Sequence[Scope]) -> tuple[Column, Column]:
    """Build the scores of a scope; on a terminal the first has intervals, the second balanced accuracy alone."""
    is_first, name = scope == scopes[0], SCOPES[scope]
    rank, macro_rank = (0, 1) if is_first else (2, None)
    accuracy = Column(f"balanced_accuracy_{scope}", f"Balanced accuracy, {name}", "score", "", rank, is_first)
    return accuracy, Column(f"macro_f1_{scope}", f"Macro F1, {name}", "score", "", macro_rank, with_spread=False)


def _build_baseline_column(row: str, name: str) -> Column:
    rank = 0 if row in TEXT_ONLY_ROWS else 2
    return Column(f"exact_match_{row}", f"Exact match, {name}", "score", name, rank, with_spread=False)


def _fill(score: ClassificationScore | AnswerScore | None, names: Sequence[str], suffix: str = "") -> dict[str, Cell]:
    if score is None:
        return {}
    return {f"{name}{suffix}": estimate(getattr(score, name), score.intervals.get(name)) for name in names}


def _pick(row: AnswerRow, scope: Scope, kind: str | None) -> AnswerScore | None:
    """Pick the score of one kind of question, or of all under None."""
    scores = row.of(scope)
    if scores is None:
        return None
    return scores.overall if kind is None else scores.kinds.get(kind)


def _explain_intervals(results: RunResults) -> list[str]:
    drawn = results.metrics.question_answering and results.metrics.question_answering.resampling
    if not drawn or drawn.num_units < 2:
        return []
    return [f"Ranges are 95% bootstrap intervals over {drawn.unit}s, {drawn.num_resamples:,} resamples."]
