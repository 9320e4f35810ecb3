"""The tables on answers: diagnosis by row, setting, cohort and class; questions by kind and by trial."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from sweep.study.results import RunResults, choose_rows
from sweep.study.scored_rows import ANSWER_ROWS, TEXT_ONLY_ROWS
from sweep.study.test_results import (
    AnswerComparison,
    AnswerRow,
    AnswerScore,
    Classification,
    ClassificationRow,
    ClassificationScore,
    ClassificationScores,
    QuestionAnswering,
    Scope,
)
from sweep.tables.blocks import Column, Row, Table
from sweep.tables.caption_tables import describe_row, estimate, label_columns, mark_rows
from sweep.tables.formats import Cell, Estimate, Label, summarise

_Scored = TypeVar("_Scored", AnswerRow, ClassificationRow)

SCOPES: dict[Scope, str] = {"unseen": "unseen cohorts", "all": "all test scans"}
_NONE_NAMED = "none of them"
_ABOUT_ROWS = (
    "Shuffled scans are the best model asked about other subjects' scans, most frequent answers those of the training "
    "split: what can be had without a look at the scan."
)


def build_answer_tables(results: RunResults) -> list[Table]:
    """The tables on answers that the terminal shows, as far as the run has scores for them."""
    built = (build_classification_table, build_classification_groups, build_question_table)
    return [table for build in built if (table := build(results)) is not None]


def build_classification_table(results: RunResults) -> Table | None:
    """Each row with classes by answer and by similarity, in each scope; None where no diagnosis is known."""
    classified = results.metrics.classification
    if not classified or not classified.rows:
        return None
    rows_of = _choose(classified.rows)
    scopes = [scope for scope in SCOPES if any(row.by_answer.of(scope) for row in rows_of.values())]
    columns = [*label_columns(), Column("way", "Class by")]
    for scope in scopes:
        rank = 3 if scope == scopes[0] else None
        columns += [*_score_columns(scope, scopes), Column(f"num_scans_{scope}", "Scans", "count", rank=rank)]
    rows: list[dict[str, Cell]] = []
    for row, found in rows_of.items():
        for source, scores in _list_sources(found).items():
            cells: dict[str, Cell] = {"row": row, "label": describe_answer_row(results, row), "way": source}
            for scope in scopes:
                cells |= {f"{name}_{scope}": cell for name, cell in _classification_cells(scores.of(scope)).items()}
            rows.append(cells)
    table = Table(
        "classification",
        "Diagnosis on the test split",
        tuple(columns),
        tuple(rows),
        sortable=True,
        notes=tuple(_explain_classification(classified, results)),
    )
    return mark_rows(results, table)


def build_classification_groups(results: RunResults) -> Table | None:
    """Mean and spread over seeds of settings whose trials all answered, the best first; None where there are none."""
    classified = results.metrics.classification
    found = []
    for group in results.metrics.groups:
        rows = [classified.rows[trial] for trial in group.trials if classified and trial in classified.rows]
        if rows and len(rows) == len(group.trials):
            found.append((group.label, rows))
    if not found:
        return None
    scopes = [scope for scope in SCOPES if all(row.by_answer.of(scope) for _, rows in found for row in rows)]
    columns = [Column("label", "Setting"), Column("num_seeds", "Seeds", "count"), Column("way", "Class by")]
    columns += [column for scope in scopes for column in _score_columns(scope, scopes)]
    cells: list[dict[str, Cell]] = []

    def rank(rows: Sequence[ClassificationRow]) -> float:
        return fmean(score.balanced_accuracy for row in rows if (score := row.by_answer.of(scopes[0])))

    for label, rows in sorted(found, key=lambda item: -rank(item[1])):
        for source in _list_sources(rows[0]):
            scores = [_list_sources(row)[source] for row in rows]
            own: dict[str, Cell] = {"label": label, "num_seeds": len(rows), "way": source}
            for scope in scopes:
                of_scope = [own_score for score in scores if (own_score := score.of(scope))]
                own[f"balanced_accuracy_{scope}"] = summarise(score.balanced_accuracy for score in of_scope)
                own[f"macro_f1_{scope}"] = summarise(score.macro_f1 for score in of_scope)
            cells.append(own)
    title = "Diagnosis: mean and standard deviation over seeds"
    return Table("classification_groups", title, tuple(columns), tuple(cells), sortable=True)


def build_cohort_table(results: RunResults) -> Table | None:
    """The best model in each cohort, those not in training first; None where no cohorts are known."""
    classified = results.metrics.classification
    best = _find_best_row(results)
    if not classified or best is None or not best.by_answer.cohorts:
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
    rows: tuple[Row, ...] = tuple(
        {
            "cohort": cohort,
            "training": "no" if cohort in unseen else "yes",
            **_classification_cells(score),
            "balanced_accuracy_by_similarity": _classification_cells(near.get(cohort)).get("balanced_accuracy"),
            **{f"recall_{place}": _estimate_recall(score, name) for place, name in enumerate(classified.classes)},
        }
        for cohort, score in sorted(best.by_answer.cohorts.items(), key=lambda item: (item[0] not in unseen, item[0]))
    )
    return Table("cohorts", "The best model in each cohort", columns, rows, sortable=True)


def build_confusion_table(results: RunResults) -> Table | None:
    """How often the best model's answers name each class, by true class; None where no diagnosis is known."""
    classified = results.metrics.classification
    best = _find_best_row(results)
    score = best.by_answer.of(best.by_answer.headline) if best else None
    if not classified or best is None or score is None:
        return None
    columns = (
        Column("truth", "True class"),
        *(Column(f"named_{place}", name, "count") for place, name in enumerate(classified.classes)),
        Column("other", _NONE_NAMED, "count"),
        Column("recall", "Recall", "score"),
    )
    rows: tuple[Row, ...] = tuple(
        {
            "truth": name,
            **{f"named_{place}": count for place, count in enumerate(counts[:-1])},
            "other": counts[-1],
            "recall": _estimate_recall(score, name),
        }
        for name, counts in zip(classified.classes, score.confusion, strict=True)
    )
    return Table("confusion", f"Classes named, {SCOPES[best.by_answer.headline]}", columns, rows)


def build_question_table(results: RunResults) -> Table | None:
    """Questions by kind: the best model beside all baselines, and tested against the better text-only one.

    On a terminal the headline scope alone is shown. None where no question was asked.
    """
    answering = results.metrics.question_answering
    if not answering or not answering.rows:
        return None
    rows_of = _choose(answering.rows)
    best = answering.rows["best"]
    baselines = [row for row in ANSWER_ROWS if row in rows_of]
    scopes = _list_question_scopes(rows_of.values())
    compared = {scope: answering.comparisons.of(scope) if answering.comparisons else None for scope in scopes}
    columns = (
        Column("scans", "Scans" if len(scopes) > 1 else "", rank=None),
        Column("kind", "Kind of question", short="Kind"),
        Column("num_questions", "Questions", "count", rank=3),
        Column("exact_match", "Exact match, best model", "score", short="best model", with_spread=False),
        Column("f1", "F1, best model", "score", short="F1", rank=1, with_spread=False),
        *(
            Column(
                f"exact_match_{row}",
                f"Exact match, {ANSWER_ROWS[row]}",
                "score",
                short=ANSWER_ROWS[row],
                rank=0 if row in TEXT_ONLY_ROWS else 2,
                with_spread=False,
            )
            for row in baselines
        ),
        *(Column(f"f1_{row}", "", "score") for row in baselines),
        Column("difference", "Gain in exact match", "difference", short="gain"),
        Column("baseline", "over", rank=4),
        Column("p_value", "", "p"),
        Column("p_adjusted", "p, corrected", "p", short="p"),
        Column("f1_difference", "", "difference"),
        Column("f1_p_value", "", "p"),
        Column("f1_p_adjusted", "", "p"),
    )
    rows: list[dict[str, Cell]] = []
    for scope in scopes:
        own, found = best.of(scope), compared[scope]
        if own is None:
            continue
        for kind in (None, *own.kinds):
            by_metric = (found.overall if kind is None else found.kinds.get(kind, {})) if found else {}
            cells: dict[str, Cell] = {"scans": SCOPES[scope], "kind": "all" if kind is None else kind}
            cells |= _answer_cells(_pick(best, scope, kind))
            for row in baselines:
                of_row = _answer_cells(_pick(rows_of[row], scope, kind))
                cells |= {f"{name}_{row}": of_row.get(name) for name in ("exact_match", "f1")}
            cells |= _comparison_cells(by_metric.get("exact_match"), "")
            cells |= _comparison_cells(by_metric.get("f1"), "f1_")
            rows.append(cells)
    return Table(
        "questions",
        "Questions on the test split, by kind",
        columns,
        tuple(rows),
        short=f"Exact match on questions by kind, {SCOPES[best.headline]}",
        emphasised=frozenset(place for place, row in enumerate(rows) if row["kind"] == "all"),
        secondary=frozenset(place for place, row in enumerate(rows) if row["scans"] != SCOPES[best.headline]),
        notes=tuple(_explain_questions(answering, is_compared=any(compared.values()))),
    )


def build_question_rows(results: RunResults) -> Table | None:
    """All questions together for each trial that was scored; None where that is the best one alone."""
    answering = results.metrics.question_answering
    rows_of = _choose(answering.rows) if answering else {}
    if len([row for row in rows_of if row not in ANSWER_ROWS]) < 2:
        return None
    scopes = _list_question_scopes(rows_of.values())
    columns = list(label_columns())
    for scope in scopes:
        columns += [
            Column(f"exact_match_{scope}", f"Exact match, {SCOPES[scope]}", "score"),
            Column(f"f1_{scope}", f"F1, {SCOPES[scope]}", "score"),
        ]
    rows = []
    for row, found in rows_of.items():
        cells: dict[str, Cell] = {"row": row, "label": describe_answer_row(results, row)}
        for scope in scopes:
            score = _answer_cells(_pick(found, scope, None))
            cells |= {f"{name}_{scope}": score.get(name) for name in ("exact_match", "f1")}
        rows.append(cells)
    table = Table("question_rows", "All questions, by trial", tuple(columns), tuple(rows), sortable=True)
    return mark_rows(results, table)


def describe_answer_row(results: RunResults, row: str) -> Label:
    """Name a row: a baseline, or a trial by its setting."""
    return Label(ANSWER_ROWS[row], ANSWER_ROWS[row]) if row in ANSWER_ROWS else describe_row(results, row)


def _choose(rows: Mapping[str, _Scored]) -> dict[str, _Scored]:
    """The rows to show: `best`, or each trial where several were scored; baselines."""
    return {row: rows[row] for row in choose_rows(rows, ANSWER_ROWS)}


def _find_best_row(results: RunResults) -> ClassificationRow | None:
    classified = results.metrics.classification
    return classified.rows.get("best") if classified else None


def _list_sources(row: ClassificationRow) -> dict[Label, ClassificationScores]:
    """The scores of a row by where its classes come from."""
    found = {Label("generated answer", "answer"): row.by_answer}
    if row.by_similarity is not None:
        found[Label("similarity to the classes' words", "similarity")] = row.by_similarity
    return found


def _list_question_scopes(rows: Iterable[AnswerRow]) -> list[Scope]:
    known = list(rows)
    return [scope for scope in SCOPES if any(row.of(scope) for row in known)]


def _score_columns(scope: Scope, scopes: Sequence[Scope]) -> tuple[Column, Column]:
    """The scores of one scope; on a terminal the first scope has intervals, the second balanced accuracy alone."""
    is_first, name = scope == scopes[0], SCOPES[scope]
    return (
        Column(
            f"balanced_accuracy_{scope}",
            f"Balanced accuracy, {name}",
            "score",
            rank=0 if is_first else 2,
            with_spread=is_first,
        ),
        Column(f"macro_f1_{scope}", f"Macro F1, {name}", "score", rank=1 if is_first else None, with_spread=False),
    )


def _classification_cells(score: ClassificationScore | None) -> dict[str, Cell]:
    if score is None:
        return {}
    return {
        "balanced_accuracy": estimate(score.balanced_accuracy, score.intervals.get("balanced_accuracy")),
        "macro_f1": estimate(score.macro_f1, score.intervals.get("macro_f1")),
        "num_scans": score.num_scans,
    }


def _estimate_recall(score: ClassificationScore, name: str) -> Estimate:
    return estimate(score.recalls.get(name), score.recall_intervals.get(name))


def _pick(row: AnswerRow, scope: Scope, kind: str | None) -> AnswerScore | None:
    """The score of one kind of question, or of all under None."""
    scores = row.of(scope)
    if scores is None:
        return None
    return scores.overall if kind is None else scores.kinds.get(kind)


def _answer_cells(score: AnswerScore | None) -> dict[str, Cell]:
    if score is None:
        return {}
    return {
        "exact_match": estimate(score.exact_match, score.intervals.get("exact_match")),
        "f1": estimate(score.f1, score.intervals.get("f1")),
        "num_questions": score.num_questions,
    }


def _comparison_cells(found: AnswerComparison | None, prefix: str) -> dict[str, Cell]:
    if found is None:
        return {}
    return {
        f"{prefix}difference": Estimate(found.difference, *found.interval),
        f"{prefix}baseline": ANSWER_ROWS.get(found.baseline, ""),
        f"{prefix}p_value": found.p_value,
        f"{prefix}p_adjusted": found.p_adjusted,
    }


def _explain_classification(classified: Classification, results: RunResults) -> list[str]:
    said = [
        "Balanced accuracy is the mean recall over the classes and macro F1 the mean of their F1, both 0 to 1; always "
        f"naming one of {len(classified.classes)} classes gives {1 / len(classified.classes):.3f}.",
        "The class is what the generated answer names (one that names none, or several, is wrong), or whose words lie "
        "nearest to the scan.",
    ]
    if classified.unseen_cohorts:
        said.append(f"Unseen cohorts, without any scan in training: {', '.join(classified.unseen_cohorts)}.")
    return [*said, *_explain_intervals(results.metrics.question_answering)]


def _explain_questions(answering: QuestionAnswering, *, is_compared: bool) -> list[str]:
    said = [
        "Exact match is the share of answers that read like the truth, case, punctuation and articles aside; F1 also "
        "counts single words."
    ]
    if is_compared:
        said.append(
            "The gain is over the better of the two rows that do not see the scan, found anew for each kind; p: paired "
            "sign-flip test, corrected by Holm for the number of kinds."
        )
    return [*said, _ABOUT_ROWS, *_explain_intervals(answering)]


def _explain_intervals(answering: QuestionAnswering | None) -> list[str]:
    drawn = answering.resampling if answering else None
    if drawn is None or drawn.num_units < 2:
        return []
    return [f"Ranges are 95% bootstrap intervals over {drawn.unit}s, {drawn.num_resamples:,} resamples."]
