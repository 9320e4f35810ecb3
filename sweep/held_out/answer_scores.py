"""What is told of the answers of each row: classification and questions by kind, on unseen cohorts and on all scans.

All figures are plain numbers, lists and mappings, as `test_metrics.json` keeps them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medcap_core.data.scans.records import DIAGNOSIS_QUESTION, read_diagnosis
from medcap_core.scoring.classification import ClassificationResult, evaluate_classification
from medcap_core.scoring.question_answering import ANSWER_METRICS, score_answers
from medcap_core.scoring.statistics import (
    FloatArray,
    IntArray,
    PairedComparison,
    compare_paired,
    compute_interval,
    correct_by_holm,
    resample_sums,
)
from sweep.held_out.questions import CLASSES, AskedSplit, cohort_of
from sweep.study.scored_rows import ALL, TEXT_ONLY_ROWS, UNSEEN


def find_scopes(asked: AskedSplit, unseen_cohorts: Sequence[str]) -> dict[str, IntArray]:
    """The scans that figures are told of: those of unseen cohorts where there are some, and all."""
    unseen = [place for place, record in enumerate(asked.records) if cohort_of(record) in unseen_cohorts]
    scopes = {UNSEEN: np.array(unseen, dtype=np.int64)} if unseen else {}
    return scopes | {ALL: np.arange(len(asked.records))}


def describe_classification(
    asked: AskedSplit, named: Sequence[str | None], scopes: Mapping[str, IntArray], seed: int
) -> dict[str, Any]:
    """The classes named for the scans against their diagnoses: in each scope, and under `cohorts` in each cohort."""
    truth = asked.diagnoses
    cohorts: dict[str, list[int]] = {}
    for place, record in enumerate(asked.records):
        cohort = cohort_of(record)
        if cohort is not None:
            cohorts.setdefault(cohort, []).append(place)

    def describe(places: Sequence[int] | IntArray) -> dict[str, Any] | None:
        known = [int(place) for place in places if truth[place] is not None]
        if not known:
            return None
        return _describe_result(
            evaluate_classification(
                [str(truth[place]) for place in known],
                [named[place] for place in known],
                CLASSES,
                asked.number_units(known),
                seed,
            )
        )

    told: dict[str, Any] = {scope: describe(places) for scope, places in scopes.items()}
    told["cohorts"] = {cohort: describe(places) for cohort, places in sorted(cohorts.items())}
    told["cohorts"] = {cohort: figures for cohort, figures in told["cohorts"].items() if figures is not None}
    return {scope: figures for scope, figures in told.items() if figures is not None}


def name_by_answer(asked: AskedSplit, answers: Sequence[str]) -> list[str | None]:
    """The class that each scan's answer to the question for the diagnosis names, given the answers of all items."""
    named: list[str | None] = [None] * len(asked.records)
    table = asked.table
    for scan, question, answer in zip(table["scan"], table["question"], answers, strict=True):
        if question == DIAGNOSIS_QUESTION:
            named[scan] = read_diagnosis(answer)
    return named


def name_by_similarity(class_scores: Sequence[Sequence[float]]) -> list[str | None]:
    """The class that each scan lies nearest to, given the similarities (scans, classes)."""
    return [CLASSES[int(np.argmax(scores))] for scores in class_scores]


def describe_answers(
    asked: AskedSplit, answers: Sequence[str], scopes: Mapping[str, IntArray], seed: int
) -> dict[str, Any]:
    """Exact match and F1 with their intervals in each scope, over all questions and for each kind."""
    scores = score_answers(answers, asked.table["answer"].tolist())
    told: dict[str, Any] = {}
    for scope, kinds in _group_items(asked, scopes).items():
        figures = {kind: _describe_scores(asked, scores, items, seed) for kind, items in kinds.items()}
        told[scope] = {"overall": figures.pop(None), "kinds": figures}
    return told


def compare_with_text_only(
    asked: AskedSplit, answers: Mapping[str, Sequence[str]], scopes: Mapping[str, IntArray], seed: int
) -> dict[str, Any]:
    """The row `best` against the better of the two rows that see no right volume, in each scope, overall and by kind.

    Which of them is the better one is asked anew for each kind and metric, which favours the baseline. The test is by
    subject; `p_adjusted` is corrected by Holm for the number of kinds. Nothing is told where all scans are of one
    subject.
    """
    truth = asked.table["answer"].tolist()
    scores = {row: score_answers(answers[row], truth) for row in ("best", *TEXT_ONLY_ROWS)}
    told: dict[str, Any] = {}
    for scope, kinds in _group_items(asked, scopes).items():
        compared = {kind: _compare_items(asked, scores, items, seed) for kind, items in kinds.items()}
        compared = {kind: found for kind, found in compared.items() if found}
        for metric in ANSWER_METRICS:
            p_values = {str(kind): found[metric]["p_value"] for kind, found in compared.items() if kind is not None}
            for kind, p_adjusted in correct_by_holm(p_values).items():
                compared[kind][metric]["p_adjusted"] = p_adjusted
        if compared:
            told[scope] = {"overall": compared.pop(None), "kinds": compared}
    return told


def _group_items(asked: AskedSplit, scopes: Mapping[str, IntArray]) -> dict[str, dict[str | None, IntArray]]:
    """The items of each scope: under None all of them, then those of each kind. Scopes without a question are left out.

    The kinds stand in the order in which they first come.
    """
    scans = asked.table["scan"].to_numpy(dtype=np.int64)
    kinds = asked.table["kind"].to_numpy(dtype=object)
    grouped: dict[str, dict[str | None, IntArray]] = {}
    for scope, places in scopes.items():
        inside = np.isin(scans, places)
        if inside.any():
            own = {kind: np.flatnonzero(inside & (kinds == kind)) for kind in dict.fromkeys(kinds[inside].tolist())}
            grouped[scope] = {None: np.flatnonzero(inside), **own}
    return grouped


def _describe_scores(asked: AskedSplit, scores: FloatArray, items: IntArray, seed: int) -> dict[str, Any]:
    means = scores[items].mean(axis=0)
    told: dict[str, Any] = {name: float(mean) for name, mean in zip(ANSWER_METRICS, means, strict=True)}
    told |= {"num_questions": len(items), "intervals": {}}
    units = _number_items(asked, items)
    if units.max() > 0:
        sums, num_items = resample_sums(scores[items], units, seed=seed)
        for place, name in enumerate(ANSWER_METRICS):
            told["intervals"][name] = compute_interval(sums[:, place] / num_items)
    return told


def _compare_items(
    asked: AskedSplit, scores: Mapping[str, FloatArray], items: IntArray, seed: int
) -> dict[str, dict[str, Any]]:
    units = _number_items(asked, items)
    if units.max() == 0:
        return {}
    baselines = {}
    differences = {}
    for place, metric in enumerate(ANSWER_METRICS):
        means = {row: float(scores[row][items, place].mean()) for row in TEXT_ONLY_ROWS}
        baselines[metric] = max(means, key=lambda row: means[row])
        differences[metric] = scores["best"][items, place] - scores[baselines[metric]][items, place]
    compared = compare_paired(differences, units, seed=seed)
    return {metric: _describe_comparison(baselines[metric], found) for metric, found in compared.items()}


def _describe_comparison(baseline: str, found: PairedComparison) -> dict[str, Any]:
    return {
        "baseline": baseline,
        "difference": found.difference,
        "interval": found.interval,
        "p_value": found.p_value,
        "p_adjusted": found.p_value,
    }


def _number_items(asked: AskedSplit, items: IntArray) -> IntArray:
    return asked.number_units(asked.table["scan"].to_numpy(dtype=np.int64)[items].tolist())


def _describe_result(result: ClassificationResult) -> dict[str, Any]:
    """Rows of the confusion matrix are the true classes, its columns the classes named and, last, none of them."""
    return {
        "balanced_accuracy": result.balanced_accuracy,
        "macro_f1": result.macro_f1,
        "recalls": result.recalls,
        "intervals": result.intervals,
        "recall_intervals": result.recall_intervals,
        "confusion": result.confusion.tolist(),
        "num_scans": int(result.confusion.sum()),
    }
