"""Scores of a classification: each image has one true class and one predicted, or none where a text named none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medcap_core.scoring.statistics import FloatArray, IntArray, compute_interval, resample_sums


def compute_balanced_accuracy(truth: Sequence[str], predicted: Sequence[str | None]) -> float:
    """Mean over the classes present in `truth` of the share of their images that were predicted right, 0 to 1.

    None is wrong, and so is a class that no image has. Every class counts alike however rare: always naming one of k
    classes gives 1 / k. The same figure as scikit-learn's `balanced_accuracy_score`. Raises ValueError where there is
    nothing to score or the lengths differ.
    """
    if not truth:
        raise ValueError("no classes to score")
    is_right = np.array([actual == named for actual, named in zip(truth, predicted, strict=True)])
    _, classes = np.unique(np.array(truth), return_inverse=True)
    recalls = np.bincount(classes, weights=is_right) / np.bincount(classes)
    return float(recalls.mean())


def count_confusion(truth: Sequence[str], predicted: Sequence[str | None], classes: Sequence[str]) -> IntArray:
    """How many images of each true class (rows) were taken for each class (columns): (K, K + 1).

    The last column counts those for which none of the classes was named.
    """
    places = {name: place for place, name in enumerate(classes)}
    confusion = np.zeros((len(classes), len(classes) + 1), dtype=np.int64)
    for actual, named in zip(truth, predicted, strict=True):
        confusion[places[actual], places.get(named, len(classes)) if named is not None else len(classes)] += 1
    return confusion


@dataclass(frozen=True)
class ConfusionScores:
    """Of confusion matrices (..., K, K + 1): means over the classes that occur, and each class's own recall.

    `recalls` (..., K) is NaN for a class that does not occur; the means are NaN where none does.
    """

    balanced_accuracy: FloatArray
    macro_f1: FloatArray
    recalls: FloatArray


def score_confusion(confusion: IntArray | FloatArray) -> ConfusionScores:
    """Balanced accuracy as `compute_balanced_accuracy`; macro F1 is the mean of 2 TP / (2 TP + FP + FN).

    An image for which no class was named is missed by its own class and counts against no other.
    """
    num_classes = confusion.shape[-2]
    hits = np.diagonal(confusion[..., :num_classes], axis1=-2, axis2=-1).astype(np.float64)
    num_true, num_named = confusion.sum(-1), confusion[..., :num_classes].sum(-2)
    occurs = num_true > 0
    recalls = np.divide(hits, num_true, out=np.full_like(hits, np.nan), where=occurs)
    f1 = np.divide(2 * hits, num_true + num_named, out=np.zeros_like(hits), where=occurs)
    count = occurs.sum(-1)
    num_occurring = np.where(count > 0, count, np.nan)
    return ConfusionScores(np.nansum(recalls, -1) / num_occurring, f1.sum(-1) / num_occurring, recalls)


@dataclass(frozen=True)
class ClassificationResult:
    """One row of predictions; `recalls` has the classes that occur.

    `intervals` has the 95% bootstrap intervals of `balanced_accuracy` and `macro_f1`, `recall_intervals` those of the
    recalls; both are empty where all images are of one unit.
    """

    classes: tuple[str, ...]
    confusion: IntArray
    balanced_accuracy: float
    macro_f1: float
    recalls: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    recall_intervals: dict[str, tuple[float, float]]


def evaluate_classification(
    truth: Sequence[str], predicted: Sequence[str | None], classes: Sequence[str], units: IntArray, seed: int
) -> ClassificationResult:
    """Score predicted classes; None names none. Whole units (see `number_units`) are drawn for the intervals.

    A resample that holds no image of a class says nothing of its recall, and its means are those over the others.
    Raises ValueError where there is nothing to score.
    """
    if not len(truth):
        raise ValueError("no classes to score")
    confusion = count_confusion(truth, predicted, classes)
    scores = score_confusion(confusion)
    occurring = [place for place, count in enumerate(confusion.sum(1)) if count]
    intervals: dict[str, tuple[float, float]] = {}
    recall_intervals: dict[str, tuple[float, float]] = {}
    if units.max() > 0:
        each = np.zeros((len(truth), *confusion.shape))
        for row, (actual, named) in enumerate(zip(truth, predicted, strict=True)):
            each[row] = count_confusion([actual], [named], classes)
        sums, _ = resample_sums(each.reshape(len(truth), -1), units, seed=seed)
        resampled = score_confusion(sums.reshape(-1, *confusion.shape))
        intervals = {
            "balanced_accuracy": compute_interval(resampled.balanced_accuracy),
            "macro_f1": compute_interval(resampled.macro_f1),
        }
        for place in occurring:
            known = resampled.recalls[:, place]
            recall_intervals[classes[place]] = compute_interval(known[np.isfinite(known)])
    return ClassificationResult(
        classes=tuple(classes),
        confusion=confusion,
        balanced_accuracy=float(scores.balanced_accuracy),
        macro_f1=float(scores.macro_f1),
        recalls={classes[place]: float(scores.recalls[place]) for place in occurring},
        intervals=intervals,
        recall_intervals=recall_intervals,
    )
