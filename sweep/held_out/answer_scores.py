"""Scores of the answers of each row: classification and questions by kind, on unseen cohorts and on all scans."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from medcap_core.data.scans.records import DIAGNOSIS_QUESTION, read_diagnosis
from medcap_core.scoring.classification import ClassificationScore, evaluate_classification
from medcap_core.scoring.question_answering import ANSWER_METRICS, score_answers
from medcap_core.scoring.statistics import (
    FloatArray,
    IntArray,
    compare_paired,
    compute_interval,
    correct_by_holm,
    resample_sums,
)
from sweep.held_out.questions import CLASSES, AskedSplit, cohort_of
from sweep.study.test_results import (
    TEXT_ONLY_ROWS,
    AnswerComparison,
    AnswerComparisons,
    AnswerComparisonScopes,
    AnswerRow,
    AnswerScore,
    AnswerScores,
    ClassificationScores,
    Scope,
)


def find_scopes(asked: AskedSplit, unseen_cohorts: Sequence[str]) -> dict[Scope, IntArray]:
    """Find the scans of each scope: those of unseen cohorts where there are some, and all."""
    unseen = [scan for scan, record in enumerate(asked.records) if cohort_of(record) in unseen_cohorts]
    scopes: dict[Scope, IntArray] = {"unseen": np.array(unseen, dtype=np.int64)} if unseen else {}
    return scopes | {"all": np.arange(len(asked.records))}


def describe_classification(
    asked: AskedSplit, named: Sequence[str | None], scopes: Mapping[Scope, IntArray], seed: int
) -> ClassificationScores:
    """Score the classes named for the scans against their diagnoses, in each scope and in each cohort.

    Scopes and cohorts without a scan of known diagnosis are left out.
    """
    truth = asked.diagnoses
    cohorts = defaultdict[str, list[int]](list)
    for scan, record in enumerate(asked.records):
        if (cohort := cohort_of(record)) is not None:
            cohorts[cohort].append(scan)

    def describe(scans: Sequence[int] | IntArray) -> ClassificationScore | None:
        known = [int(scan) for scan in scans if truth[scan] is not None]
        if not known:
            return None
        true, found = [str(truth[scan]) for scan in known], [named[scan] for scan in known]
        return evaluate_classification(true, found, CLASSES, asked.number_units(known), seed)

    of_cohorts = {cohort: describe(scans) for cohort, scans in sorted(cohorts.items())}
    return ClassificationScores(
        **{scope: describe(scans) for scope, scans in scopes.items()},
        cohorts={cohort: score for cohort, score in of_cohorts.items() if score is not None},
    )


def name_by_answer(asked: AskedSplit, answers: Sequence[str]) -> list[str | None]:
    """Read the class that each scan's answer to the question for the diagnosis names, from the answers of all items."""
    named: list[str | None] = [None] * len(asked.records)
    for scan, question, answer in zip(asked.table["scan"], asked.table["question"], answers, strict=True):
        if question == DIAGNOSIS_QUESTION:
            named[scan] = read_diagnosis(answer)
    return named


def name_by_similarity(class_scores: Sequence[Sequence[float]]) -> list[str | None]:
    """Find the class that each scan lies nearest to, from the similarities (scans, classes)."""
    return [CLASSES[int(np.argmax(scores))] for scores in class_scores]


def describe_answers(
    asked: AskedSplit, answers: Sequence[str], scopes: Mapping[Scope, IntArray], seed: int
) -> AnswerRow:
    """Score answers by exact match and F1 in each scope, over all questions and for each kind."""
    scores = score_answers(answers, asked.table["answer"].tolist())
    row = AnswerRow()
    for scope, (items, kinds) in _group_items(asked, scopes).items():
        of_kinds = {kind: _describe_scores(asked, scores, own, seed) for kind, own in kinds.items()}
        setattr(row, scope, AnswerScores(overall=_describe_scores(asked, scores, items, seed), kinds=of_kinds))
    return row


def compare_with_text_only(
    asked: AskedSplit, answers: Mapping[str, Sequence[str]], scopes: Mapping[Scope, IntArray], seed: int
) -> AnswerComparisonScopes:
    """Compare the row `best` with the better of the two rows that see no right volume, overall and by kind.

    Which of them is the better one is asked anew for each kind and metric, which favours the baseline. The test is by
    subject; `p_adjusted` is corrected by Holm for the number of kinds. There are no comparisons where all scans are of
    one subject.
    """
    truth = asked.table["answer"].tolist()
    scores = {row: score_answers(answers[row], truth) for row in ("best", *TEXT_ONLY_ROWS)}
    compared = AnswerComparisonScopes()
    for scope, (items, kinds) in _group_items(asked, scopes).items():
        overall = _compare_items(asked, scores, items, seed)
        of_kinds = {kind: _compare_items(asked, scores, own, seed) for kind, own in kinds.items()}
        of_kinds = {kind: found for kind, found in of_kinds.items() if found}
        for metric in ANSWER_METRICS:
            p_values = {kind: found[metric].p_value for kind, found in of_kinds.items()}
            for kind, p_adjusted in correct_by_holm(p_values).items():
                of_kinds[kind][metric].p_adjusted = p_adjusted
        if overall:
            setattr(compared, scope, AnswerComparisons(overall=overall, kinds=of_kinds))
    return compared


def _group_items(
    asked: AskedSplit, scopes: Mapping[Scope, IntArray]
) -> dict[Scope, tuple[IntArray, dict[str, IntArray]]]:
    """Group the items of each scope: all of them, and those of each kind. Scopes without a question are left out.

    The kinds stand in the order in which they first come.
    """
    scans = asked.table["scan"].to_numpy(dtype=np.int64)
    kinds = asked.table["kind"].to_numpy(dtype=object)
    grouped: dict[Scope, tuple[IntArray, dict[str, IntArray]]] = {}
    for scope, of_scope in scopes.items():
        inside = np.isin(scans, of_scope)
        if inside.any():
            own = {kind: np.flatnonzero(inside & (kinds == kind)) for kind in dict.fromkeys(kinds[inside].tolist())}
            grouped[scope] = np.flatnonzero(inside), own
    return grouped


def _describe_scores(asked: AskedSplit, scores: FloatArray, items: IntArray, seed: int) -> AnswerScore:
    intervals, units = {}, asked.number_units(asked.table["scan"].iloc[items])
    if units.max() > 0:
        sums, num_items = resample_sums(scores[items], units, seed=seed)
        for column, name in enumerate(ANSWER_METRICS):
            intervals[name] = compute_interval(sums[:, column] / num_items)
    exact_match, f1 = scores[items].mean(axis=0).tolist()
    return AnswerScore(exact_match=exact_match, f1=f1, num_questions=len(items), intervals=intervals)


def _compare_items(
    asked: AskedSplit, scores: Mapping[str, FloatArray], items: IntArray, seed: int
) -> dict[str, AnswerComparison]:
    units = asked.number_units(asked.table["scan"].iloc[items])
    if units.max() == 0:
        return {}
    baselines, differences = {}, {}
    for column, metric in enumerate(ANSWER_METRICS):
        means = {row: float(scores[row][items, column].mean()) for row in TEXT_ONLY_ROWS}
        baselines[metric] = max(means, key=lambda row: means[row])
        differences[metric] = scores["best"][items, column] - scores[baselines[metric]][items, column]
    return {
        metric: AnswerComparison(baseline=baselines[metric], p_adjusted=found.p_value, **asdict(found))
        for metric, found in compare_paired(differences, units, seed=seed).items()
    }
