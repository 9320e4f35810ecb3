"""ROUGE-1, as Google's rouge-score computes it without stemming, which is what ImageCLEFmedical Caption 2025 uses.

Written out because it is a count of words: that package was last released in 2022 and would bring NLTK with it.
"""

import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[a-z0-9]+")


def compute_rouge1(prediction: str, references: Sequence[str]) -> float:
    """F1 of shared words, 0 to 1, each counted as often as both have it; the best over several references.

    Words are runs of ASCII letters and digits in lower case; a text without any scores 0.
    """
    predicted = Counter(_WORD.findall(prediction.lower()))
    scores = []
    for reference in references:
        expected = Counter(_WORD.findall(reference.lower()))
        num_shared = (predicted & expected).total()
        scores.append(2 * num_shared / max(1, predicted.total() + expected.total()))
    return max(scores)
