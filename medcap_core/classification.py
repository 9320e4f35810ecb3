"""Scores of a classification: each image has one true class and one predicted, or none where a text named none."""

from collections.abc import Sequence

import numpy as np


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
