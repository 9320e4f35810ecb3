"""Scores of a classification, worked out by hand."""

import pytest

from medcap_core.classification import compute_balanced_accuracy


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
