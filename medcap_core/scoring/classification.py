"""Classification scores: each image has one true class, and one predicted or None where a text names none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from medcap_core.scoring.statistics import FloatArray, IntArray, compute_interval, resample_sums


def compute_balanced_accuracy(truth: Sequence[str], predicted: Sequence[str | None]) -> float:
    """Compute the mean recall over the classes present in `truth`, 0 to 1.

    None is wrong, and so is a class that no image has. Every class counts equally: a constant prediction of one of k
    classes scores 1 / k. Equals scikit-learn's `balanced_accuracy_score`. Raises ValueError where there is nothing to
    score or the lengths differ.
    """
    if not truth:
        raise ValueError("no classes to score")
    return float(score_confusion(count_confusion(truth, predicted, sorted(set(truth)))).balanced_accuracy)


def count_confusion(truth: Sequence[str], predicted: Sequence[str | None], classes: Sequence[str]) -> IntArray:
    """Count the images by true class (rows) and predicted class (columns): (K, K + 1).

    The last column counts the images without a predicted class.
    """
    indices: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    confusion = np.zeros((len(classes), len(classes) + 1), dtype=np.int64)
    for actual, named in zip(truth, predicted, strict=True):
        confusion[indices[actual], indices.get(named, len(classes))] += 1
    return confusion


@dataclass(frozen=True)
class ConfusionScores:
    """Scores of confusion matrices (..., K, K + 1): means over the classes that occur, and the recall of each class.

    `recalls` (..., K) is NaN for a class that does not occur; the means are NaN where none occurs.
    """

    balanced_accuracy: FloatArray
    macro_f1: FloatArray
    recalls: FloatArray


def score_confusion(confusion: IntArray | FloatArray) -> ConfusionScores:
    """Compute balanced accuracy, as `compute_balanced_accuracy`, and macro F1, the mean of 2 TP / (2 TP + FP + FN).

    An image without a predicted class is a false negative of its class and a false positive of none.
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


class ClassificationScore(BaseModel):
    """Scores of the classes named for records, with 95% bootstrap intervals; `recalls` has the classes that occur.

    Rows of `confusion` are the true classes, its columns the classes named and, last, none of them. `intervals` has
    `balanced_accuracy` and `macro_f1`; it and `recall_intervals` are empty where all records are of one unit.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    balanced_accuracy: float
    macro_f1: float
    recalls: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    recall_intervals: dict[str, tuple[float, float]]
    confusion: list[list[int]]
    num_scans: int


def evaluate_classification(
    truth: Sequence[str], predicted: Sequence[str | None], classes: Sequence[str], units: IntArray, seed: int
) -> ClassificationScore:
    """Score predicted classes, None for no class. Whole units (see `number_units`) are resampled for the intervals.

    A resample without an image of a class is left out of that class's recall interval, and its means are over the other
    classes. Raises ValueError where there is nothing to score.
    """
    if not len(truth):
        raise ValueError("no classes to score")
    confusion = count_confusion(truth, predicted, classes)
    scores = score_confusion(confusion)
    occurring = {classes[index]: index for index, count in enumerate(confusion.sum(1)) if count}
    intervals: dict[str, tuple[float, float]] = {}
    recall_intervals: dict[str, tuple[float, float]] = {}
    if units.max() > 0:
        pairs = zip(truth, predicted, strict=True)
        each = [count_confusion([actual], [named], classes).ravel() for actual, named in pairs]
        sums, _ = resample_sums(np.array(each, dtype=np.float64), units, seed=seed)
        resampled = score_confusion(sums.reshape(-1, *confusion.shape))
        intervals = {
            "balanced_accuracy": compute_interval(resampled.balanced_accuracy),
            "macro_f1": compute_interval(resampled.macro_f1),
        }
        known = {name: resampled.recalls[:, index] for name, index in occurring.items()}
        recall_intervals = {name: compute_interval(own[np.isfinite(own)]) for name, own in known.items()}
    return ClassificationScore(
        balanced_accuracy=float(scores.balanced_accuracy),
        macro_f1=float(scores.macro_f1),
        recalls={name: float(scores.recalls[index]) for name, index in occurring.items()},
        intervals=intervals,
        recall_intervals=recall_intervals,
        confusion=confusion.tolist(),
        num_scans=len(truth),
    )
