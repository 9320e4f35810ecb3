"""Scores of a classification, worked out by hand."""

import numpy as np
import pytest

from medcap_core.scoring.classification import (
    compute_balanced_accuracy,
    count_confusion,
    evaluate_classification,
    score_confusion,
)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        ("aab", "aab", 1.0),
        ("aab", "bba", 0.0),
        ("aaab", "aaaa", (1 + 0) / 2),  # always the common class: 1 / k, though 3 of 4 are right
        ("aaabbcc", "aacbbca", (2 / 3 + 2 / 2 + 1 / 2) / 3),
        ("aab", "axb", (1 / 2 + 1) / 2),  # a class that no image has
        ("a", "a", 1.0),
    ],
)
def test_every_class_counts_alike(truth: str, predicted: str, expected: float) -> None:
    assert compute_balanced_accuracy(list(truth), list(predicted)) == pytest.approx(expected, abs=1e-15)


def test_an_answer_that_names_no_class_is_wrong() -> None:
    assert compute_balanced_accuracy(["a", "a", "b", "b", "b"], ["a", None, None, "b", "b"]) == pytest.approx(
        (1 / 2 + 2 / 3) / 2
    )


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="no classes"):
        compute_balanced_accuracy([], [])
    with pytest.raises(ValueError, match="shorter"):
        compute_balanced_accuracy(["a", "b"], ["a"])


# Confusion


def test_a_confusion_matrix_and_its_scores() -> None:
    truth = list("aaaabbc")
    predicted = ["a", "a", "b", None, "b", "x", "a"]
    confusion = count_confusion(truth, predicted, "abc")
    assert confusion.tolist() == [[2, 1, 0, 1], [0, 1, 0, 1], [1, 0, 0, 0]]
    scores = score_confusion(confusion)
    assert scores.recalls.tolist() == [2 / 4, 1 / 2, 0]
    assert scores.balanced_accuracy == pytest.approx((2 / 4 + 1 / 2 + 0) / 3)
    assert scores.balanced_accuracy == pytest.approx(compute_balanced_accuracy(truth, predicted))
    # 2 TP / (2 TP + FP + FN): 4 / (4 + 1 + 2), 2 / (2 + 1 + 1), 0
    assert scores.macro_f1 == pytest.approx((4 / 7 + 2 / 4 + 0) / 3)


def test_a_class_that_does_not_occur_is_left_out_of_the_means() -> None:
    scores = score_confusion(count_confusion(list("aab"), list("abc"), "abc"))
    assert scores.recalls[:2].tolist() == [1 / 2, 0]
    assert np.isnan(scores.recalls[2])
    assert scores.balanced_accuracy == pytest.approx((1 / 2 + 0) / 2)
    assert scores.macro_f1 == pytest.approx((2 / (2 + 1) + 0) / 2)
    assert np.isnan(score_confusion(np.zeros((3, 4))).balanced_accuracy)


def test_subjects_are_drawn_whole() -> None:
    """Subject 0 is right in all its scans, subject 1 wrong: in a resample either both, or one of them twice."""
    units = np.array([0, 0, 0, 1, 1])
    result = evaluate_classification(list("aabab"), ["a", "a", "b", "b", None], "ab", units, seed=3)
    assert result.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result.recalls == {"a": pytest.approx(2 / 3), "b": 1 / 2}
    assert result.intervals == {"balanced_accuracy": (0, 1), "macro_f1": (0, 1)}
    assert result.recall_intervals == {"a": (0, 1), "b": (0, 1)}
    each_alone = evaluate_classification(list("aabab"), ["a", "a", "b", "b", None], "ab", np.arange(5), seed=3)
    assert each_alone.balanced_accuracy == result.balanced_accuracy
    assert 0 < each_alone.intervals["macro_f1"][1] <= 1


def test_a_resample_without_a_class_says_nothing_of_it() -> None:
    """Class b has one scan: in the resamples that hold it, it is right."""
    result = evaluate_classification(list("aab"), list("abb"), "abc", np.arange(3), seed=0)
    assert result.recall_intervals == {"a": (0, 1), "b": (1, 1)}
    assert "c" not in result.recalls


def test_one_subject_has_no_intervals() -> None:
    result = evaluate_classification(list("ab"), list("ab"), "ab", np.zeros(2, dtype=np.int64), seed=0)
    assert (result.balanced_accuracy, result.macro_f1) == (1, 1)
    assert result.intervals == result.recall_intervals == {}
    with pytest.raises(ValueError, match="no classes"):
        evaluate_classification([], [], "ab", np.zeros(0, dtype=np.int64), seed=0)
