"""Scores of a list of captions: those of every run (`medcap_core.scoring.standard`), then the extra ones.

Gather all predictions and score them once; never average over ranks, batches or subsets.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain

import numpy as np
from PIL import Image

from medcap_core.scoring.corpus_statistics import CaptionStatistics
from medcap_core.scoring.meteor import load_meteor
from medcap_core.scoring.options import DEFAULT_SCORING, ScoringOptions, preprocess_captions
from medcap_core.scoring.registry import RANKED, STANDARD, ScoreInput, compute_score, compute_scores, load_scores
from medcap_core.scoring.standard import CIDER


@cache
def _warn_once(fault: str) -> None:
    logging.getLogger(__name__).warning("A score is left out: %s", fault)


@dataclass(frozen=True)
class ScoredCaptions:
    """Scores of the corpus by name, those of every run first, and the statistics of each image."""

    scores: dict[str, float]
    statistics: CaptionStatistics = field(repr=False)


class CaptionScorer:
    """Scores predictions for one fixed list of images; equal references are tokenised and counted once a process.

    `references` holds, for each image, one caption or a list of several. Predictions are given in the same order, one
    per image; they may be empty. Both are preprocessed by `options.preprocessing`.
    """

    def __init__(self, references: Sequence[str | Sequence[str]], options: ScoringOptions = DEFAULT_SCORING) -> None:
        groups = [(group,) if isinstance(group, str) else tuple(group) for group in references]
        if not groups:
            raise ValueError("no images to score")
        if not all(groups):
            raise ValueError(f"image {groups.index(())} has no reference caption")
        self._options = options
        self._raw = groups
        self._texts = tuple(tuple(preprocess_captions(group, options.preprocessing)) for group in groups)

    def cider(self, predictions: Sequence[str]) -> float:
        """Compute the CIDEr of the corpus, 0 to 10; 0 by definition with a single image."""
        return float(np.mean(self.cider_per_image(predictions)))

    def cider_per_image(self, predictions: Sequence[str]) -> np.ndarray:
        """Compute the CIDEr of each image, (N,), with the document frequencies of the whole corpus."""
        return CIDER.compute(self._prepare(predictions)).each

    def compute(self, names: Collection[str], predictions: Sequence[str]) -> dict[str, float]:
        """Compute these scores of the corpus alone; METEOR's program and other models run only where named."""
        captions, keys = self._prepare(predictions), {name: RANKED.get(name, name) for name in names}
        return {name: compute_score(key, load_scores(key)[0], captions).value for name, key in keys.items()}

    def score(self, predictions: Sequence[str], images: Sequence[Image.Image] = ()) -> ScoredCaptions:
        """Compute the scores of every run, then the extra ones, and the statistics of each image for resamples.

        Extra scores that cannot be computed are left out, and so are those that need `images` where none are given.
        The first call also starts METEOR (about 5 s), which runs until `close()`.
        """
        values, missing = compute_scores([*STANDARD, *self._options.extra_scores], self._prepare(predictions, images))
        for fault in chain.from_iterable(missing.values()):
            _warn_once(fault)
        return ScoredCaptions({name: found.value for name, found in values.items()}, CaptionStatistics(values))

    def close(self) -> None:
        """End the process's METEOR program and free its memory; the scorer stays usable."""
        load_meteor().close()

    def interrupt(self) -> None:
        """Make a running call of another thread raise ScoringFailure soon."""
        load_meteor().interrupt()

    def _prepare(self, predictions: Sequence[str], images: Sequence[Image.Image] = ()) -> ScoreInput:
        if len(predictions) != len(self._raw):
            raise ValueError(f"{len(predictions)} predictions for {len(self._raw)} images")
        texts = preprocess_captions(predictions, self._options.preprocessing)
        return ScoreInput(texts, self._texts, predictions, self._raw, images, self._options)
