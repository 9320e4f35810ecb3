"""ROUGE-1 as published for ImageCLEFmedical Caption: F1 of shared words."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from medcap_core.scoring.registry import Score, ScoreInput, ScoreValues

_WORD = re.compile(r"[a-z0-9]+")


def compute_rouge_n(prediction: str, references: Sequence[str], n: int) -> float:
    """Compute the F1 of shared runs of `n` words, 0 to 1, each counted as often as both have it.

    The best over several references. Words are runs of ASCII letters and digits in lower case; a text with fewer than
    `n` scores 0.
    """
    given = _count_word_runs(prediction, n)
    wanted = [_count_word_runs(reference, n) for reference in references]
    return max(2 * (given & own).total() / max(1, given.total() + own.total()) for own in wanted)


def _count_word_runs(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _compute_rouge_1(captions: ScoreInput) -> ScoreValues:
    pairs = zip(captions.predictions, captions.references, strict=True)
    return ScoreValues(np.array([compute_rouge_n(text, references, 1) for text, references in pairs]))


ROUGE_1 = Score("ROUGE-1", _compute_rouge_1, may_be_objective=True)
