"""Scores of answers, worked out by hand."""

import numpy as np
import pytest

from medcap_core.data.scans.records import Question
from medcap_core.scoring.question_answering import (
    choose_answer_prior,
    compute_exact_match,
    compute_token_f1,
    normalise_answer,
    score_answers,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Left  hippocampus.", "left hippocampus"),
        ("an MCI, a dementia", "mci dementia"),
        ("Alzheimer's disease!", "alzheimers disease"),
        ("theatre", "theatre"),
        ("¿mild_impairment?", "mildimpairment"),
        ("The", ""),
    ],
)
def test_case_punctuation_and_articles_do_not_count(text: str, expected: str) -> None:
    assert normalise_answer(text) == expected


@pytest.mark.parametrize(
    ("answer", "truth", "exact", "f1"),
    [
        ("the Left.", "left", 1, 1),
        ("left side", "left", 0, 2 * 1 / (2 + 1)),
        ("the left left one", "left left right", 0, 2 * 2 / (3 + 3)),
        ("severely enlarged", "mildly enlarged", 0, 2 * 1 / (2 + 2)),
        ("right", "left", 0, 0),
        ("", "left", 0, 0),
        ("The.", "a", 1, 1),  # neither has a word
    ],
)
def test_exact_match_and_f1(answer: str, truth: str, exact: float, f1: float) -> None:
    assert compute_exact_match(answer, truth) == exact
    assert compute_token_f1(answer, truth) == pytest.approx(f1, abs=1e-15)
    assert compute_token_f1(truth, answer) == compute_token_f1(answer, truth)


def test_each_answer_has_its_own_scores() -> None:
    scores = score_answers(["left", "mildly enlarged", "no"], ["left", "mildly", "yes"])
    np.testing.assert_allclose(scores, [[1, 1], [0, 2 / 3], [0, 0]])
    assert score_answers([], []).shape == (0, 2)
    with pytest.raises(ValueError, match="shorter"):
        score_answers(["left"], [])


def test_the_prior_knows_wordings_then_kinds() -> None:
    prior = choose_answer_prior(
        [
            Question("side", "which side?", "left"),
            Question("side", "which side?", "right"),
            Question("side", "which side?", "right"),
            Question("side", "left or right?", "left"),
            Question("side", "left or right?", "left"),
            Question("sex", "male?", "yes"),
            Question("sex", "male?", "no"),
        ]
    )
    asked = [("side", "which side?"), ("side", "left or right?"), ("side", "new?"), ("sex", "male?"), ("age", "old?")]
    answers = [prior.answer(Question(kind, text, "")) for kind, text in asked]
    assert answers == ["right", "left", "left", "no", ""]  # of two equally frequent ones the first by alphabet
    assert choose_answer_prior([]).answer(Question("side", "which side?", "left")) == ""
