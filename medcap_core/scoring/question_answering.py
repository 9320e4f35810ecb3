"""Scores of answers to questions, and the most frequent answers as a baseline."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.scans.records import Question

ANSWER_METRICS = ("exact_match", "f1")

_PUNCTUATION = re.compile(r"[^\w\s]|_")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalise_answer(text: str) -> str:
    """Normalise to lower case without punctuation and articles, single-spaced, as for SQuAD (1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub("", text.casefold())).split())


def compute_exact_match(answer: str, truth: str) -> float:
    """Compute 1 if both are equal after normalisation, else 0."""
    return float(normalise_answer(answer) == normalise_answer(truth))


def compute_token_f1(answer: str, truth: str) -> float:
    """Compute the F1 of the words shared by answer and truth, with their counts, after normalisation.

    If either has no words, it is their exact match.
    """
    given, wanted = normalise_answer(answer).split(), normalise_answer(truth).split()
    if not given or not wanted:
        return float(given == wanted)
    num_shared = sum((Counter(given) & Counter(wanted)).values())
    return 2 * num_shared / (len(given) + len(wanted))


def score_answers(answers: Sequence[str], truths: Sequence[str]) -> NDArray[np.float64]:
    """Score exact match and F1 of each answer: (N, 2), columns as `ANSWER_METRICS`."""
    pairs = list(zip(answers, truths, strict=True))
    scores = [(compute_exact_match(*pair), compute_token_f1(*pair)) for pair in pairs]
    return np.array(scores, dtype=np.float64).reshape(-1, len(ANSWER_METRICS))


@dataclass(frozen=True)
class AnswerPrior:
    """The most frequent answers, a baseline without images: `by_text` of each question, `by_kind` of each kind."""

    by_text: dict[str, str]
    by_kind: dict[str, str]

    def answer(self, question: Question) -> str:
        """Return the answer by the question's text, else by its kind; empty for an unknown kind."""
        return self.by_text.get(question.text, self.by_kind.get(question.kind, ""))


def choose_answer_prior(questions: Iterable[Question]) -> AnswerPrior:
    """Choose the most frequent answers, the alphabetically first of ties."""
    known = list(questions)

    def choose(name: Callable[[Question], str]) -> dict[str, str]:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for question in known:
            counts[name(question)][question.answer] += 1
        return {key: min(own, key=lambda answer: (-own[answer], answer)) for key, own in counts.items()}

    return AnswerPrior(choose(lambda question: question.text), choose(lambda question: question.kind))
