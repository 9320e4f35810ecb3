"""Per-image statistics of corpus scores: their sums over a resample of images give its scores by one matrix product."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcap_core.scoring.registry import ScoreValues

FloatArray = NDArray[np.float64]

_TINY, _SMALL = 1e-15, 1e-9  # pycocoevalcap's constants against 0 / 0

# METEOR 1.5's parameters for English (its task "rank", the default).
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
NUM_METEOR = 23
"""The numbers of a SCORE line, in order: both lengths; both numbers of function words; for each of four stages the
matched content and function words of both sides; chunks; matched words of both sides."""


@dataclass(frozen=True)
class CaptionStatistics:
    """Statistics of one row of captions against its references, by score; N images in the references' order.

    A score that is a mean over images is taken as independent of their selection (CIDEr keeps the document frequencies
    of the corpus).
    """

    values: Mapping[str, ScoreValues]

    def stack(self) -> FloatArray:
        """Stack all statistics to (N, K), whose sums over images are the input of `score_sums`."""
        return np.column_stack(list({id(part): part for _, part in self._list_parts()}.values()))

    def score_sums(self, sums: FloatArray, num_images: FloatArray) -> dict[str, FloatArray]:
        """Score selections of images from their sums (..., K) and sizes (...); each score has shape (...)."""
        scores: dict[str, FloatArray] = {}
        places: dict[int, slice] = {}
        end = 0
        for name, part in self._list_parts():
            if id(part) not in places:
                start, end = end, end + (part.shape[1] if part.ndim > 1 else 1)
                places[id(part)] = slice(start, end)
            own, pool = sums[..., places[id(part)]], self.values[name].pool
            scores[name] = own[..., 0] / num_images if pool is None else pool(own)
        return scores

    def score_each(self) -> dict[str, FloatArray]:
        """Score single images, each (N,), by the scores that are meant for them."""
        return {name: values.each for name, values in self.values.items() if values.is_for_images}

    def _list_parts(self) -> list[tuple[str, FloatArray]]:
        """List what each score sums over images: counts, which several share, or figures whose mean it is."""
        parts = [(name, own.each if own.corpus is None else own.counts) for name, own in self.values.items()]
        return [(name, part) for name, part in parts if part is not None]


def collect_bleu(comparisons: Sequence[Mapping[str, Any]]) -> FloatArray:
    """Collect (N, 10) from `BleuScorer.ctest`: matching n-grams and n-grams for n = 1..4, length, reference length.

    The latter is of the reference nearest in length.
    """
    rows = []
    for item in comparisons:
        _, nearest = min((abs(other - item["testlen"]), other) for other in item["reflen"])
        rows.append([*item["correct"], *item["guess"], item["testlen"], nearest])
    return np.array(rows, dtype=np.float64)


def score_bleu(sums: FloatArray) -> FloatArray:
    """Compute BLEU-1 to BLEU-4 (..., 4) of pooled counts (..., 10), with the brevity penalty of the pooled lengths.

    The formula is pycocoevalcap's BleuScorer's, its small constants included.
    """
    correct, guessed = sums[..., :4], sums[..., 4:8]
    precision = np.cumprod((correct + _TINY) / (guessed + _SMALL), axis=-1)
    ratio = (sums[..., 8:9] + _TINY) / (sums[..., 9:10] + _SMALL)
    penalty = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return np.asarray(precision ** (1 / np.arange(1, 5)) * penalty)


def collect_meteor(lines: Sequence[str]) -> FloatArray:
    """Collect (N, 23) from METEOR's answers to SCORE. Raises ValueError for malformed lines.

    A caption equal to its reference is one chunk, but counts as none in a sum over images, as in the program.
    """
    counts = np.array([[float(number) for number in line.split()] for line in lines])
    if counts.shape != (len(lines), NUM_METEOR):
        raise ValueError(f"METEOR gave counts of shape {counts.shape}")
    is_perfect = (counts[:, 20] == 1) & (counts[:, 21] == counts[:, 0]) & (counts[:, 22] == counts[:, 1])
    counts[is_perfect, 20] = 0
    return counts


def score_meteor(sums: FloatArray) -> FloatArray:
    """Compute METEOR (...) of summed counts (..., 23): a harmonic mean of precision and recall less fragmentation.

    METEOR 1.5 for English (Denkowski and Lavie 2014) with the parameters of the program inside pycocoevalcap, which
    scores a corpus by these sums, not by a mean over its images.
    """
    stages = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4)
    matched = [(_STAGE_WEIGHTS * _weigh(stages[..., side], stages[..., 2 + side])).sum(axis=-1) for side in (0, 1)]
    lengths = [_weigh(sums[..., side] - sums[..., 2 + side], sums[..., 2 + side]) for side in (0, 1)]
    precision, recall = map(_divide, matched, lengths)
    f_mean = _divide(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    fragmentation = _divide(sums[..., 20], (sums[..., 21] + sums[..., 22]) / 2)
    return np.asarray(f_mean * (1 - _GAMMA * fragmentation**_BETA))


def _weigh(content_words: FloatArray, function_words: FloatArray) -> FloatArray:
    return _DELTA * content_words + (1 - _DELTA) * function_words


def _divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide; 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)
