"""Scores of answers to questions, and the answers that need no image."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.scans.records import Question

ANSWER_METRICS = ("exact_match", "f1")

_PUNCTUATION = re.compile(r"[^\w\s]|_")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalise_answer(text: str) -> str:
    """In lower case, without punctuation and articles, words parted by single spaces, as for SQuAD (1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub("", text.casefold())).split())


def compute_exact_match(answer: str, truth: str) -> float:
    """1 where both read the same once normalised, else 0."""
    return float(normalise_answer(answer) == normalise_answer(truth))


def compute_token_f1(answer: str, truth: str) -> float:
    """F1 of the words of an answer against those of the truth, each as often as it stands there, once normalised.

    Where one of the two has no words at all it is their exact match.
    """
    given, wanted = normalise_answer(answer).split(), normalise_answer(truth).split()
    if not given or not wanted:
        return float(given == wanted)
    num_shared = sum((Counter(given) & Counter(wanted)).values())
    return 2 * num_shared / (len(given) + len(wanted))


def score_answers(answers: Sequence[str], truths: Sequence[str]) -> NDArray[np.float64]:
    """Exact match and F1 of each answer: (N, 2), columns as `ANSWER_METRICS`."""
    pairs = list(zip(answers, truths, strict=True))
    scores = [(compute_exact_match(*pair), compute_token_f1(*pair)) for pair in pairs]
    return np.array(scores, dtype=np.float64).reshape(-1, len(ANSWER_METRICS))


@dataclass(frozen=True)
class AnswerPrior:
    """The most frequent answers of some questions with answers: what can be said without a look at any image.

    `by_text` has them for each wording of a question, `by_kind` for each kind.
    """

    by_text: dict[str, str]
    by_kind: dict[str, str]

    def answer(self, question: Question) -> str:
        """That of the question's own wording, of one not seen before that of its kind; empty for an unknown kind."""
        return self.by_text.get(question.text, self.by_kind.get(question.kind, ""))


def choose_answer_prior(questions: Iterable[Question]) -> AnswerPrior:
    """Count answers; of equally frequent ones the first in alphabetical order is taken."""
    of_texts: dict[str, Counter[str]] = {}
    of_kinds: dict[str, Counter[str]] = {}
    for question in questions:
        of_texts.setdefault(question.text, Counter())[question.answer] += 1
        of_kinds.setdefault(question.kind, Counter())[question.answer] += 1
    return AnswerPrior(
        {text: _most_frequent(counts) for text, counts in of_texts.items()},
        {kind: _most_frequent(counts) for kind, counts in of_kinds.items()},
    )


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))
