"""Caption scores on pycocoevalcap's scale: BLEU-1..4, METEOR and ROUGE-L from 0 to 1, CIDEr from 0 to 10.

Every score is a figure of a whole corpus: CIDEr weighs words by how many images' references hold them, BLEU pools its
counts. Gather all predictions first and score them once; never average over ranks, batches or subsets.
"""

import copy
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_test
from pycocoevalcap.rouge.rouge import Rouge

from medcap_core.caption_prior import choose_caption_prior
from medcap_core.java import ScoringFailure, java_executable
from medcap_core.meteor import MeteorScorer
from medcap_core.ptb_tokenizer import tokenize_captions

__all__ = [
    "METRICS",
    "CaptionScorer",
    "ScoringFailure",
    "choose_caption_prior",
    "java_executable",
    "load_caption_scorer",
    "tokenize_captions",
]

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


class CaptionScorer:
    """Scores predictions for one fixed list of images; references are tokenised and counted once.

    `references` holds, for each image, one caption or a list of several. Predictions are given in the same order, one
    per image; they may be empty. The numbers are those of pycocoevalcap's own classes after its PTB tokenizer.
    """

    def __init__(self, references: Sequence[str | Sequence[str]]) -> None:
        groups = _group_references(references)
        tokens = iter(tokenize_captions([caption for group in groups for caption in group]))
        self._references = [[next(tokens) for _ in group] for group in groups]
        self._cider = _build_cider_scorer(self._references)
        self._meteor = MeteorScorer()

    @property
    def num_images(self) -> int:
        """How many predictions each call takes."""
        return len(self._references)

    def cider(self, predictions: Sequence[str]) -> float:
        """CIDEr of the corpus, 0 to 10; with a single image it is 0 by its definition."""
        return float(np.mean(self.cider_per_image(predictions)))

    def cider_per_image(self, predictions: Sequence[str]) -> np.ndarray:
        """CIDEr of each image, shape (num_images,), with the document frequencies of the whole corpus."""
        return self._compute_cider(self._tokenize(predictions))

    def all_scores(self, predictions: Sequence[str]) -> dict[str, float]:
        """Every score named in METRICS, in that order.

        The first call also starts METEOR (about 5 s); later calls of the same scorer use it again until `close()`.
        """
        tokens = self._tokenize(predictions)
        references = dict(enumerate(self._references))
        candidates = {image: [text] for image, text in enumerate(tokens)}
        bleu, _ = Bleu(4).compute_score(references, candidates, verbose=0)
        meteor, _ = self._meteor.compute_scores(self._references, tokens)
        rouge, _ = Rouge().compute_score(references, candidates)
        values = [*bleu, meteor, rouge, np.mean(self._compute_cider(tokens))]
        return {name: float(value) for name, value in zip(METRICS, values, strict=True)}

    def close(self) -> None:
        """End the METEOR program and give back its memory; the scorer stays usable."""
        self._meteor.close()

    def _tokenize(self, predictions: Sequence[str]) -> list[str]:
        if len(predictions) != self.num_images:
            raise ValueError(f"{len(predictions)} predictions for {self.num_images} images")
        return tokenize_captions(predictions)

    def _compute_cider(self, tokens: Sequence[str]) -> np.ndarray:
        scorer = copy.copy(self._cider)  # shallow: calls from several threads share only what none changes
        scorer.ctest = [cook_test(text) for text in tokens]
        return np.array(scorer.compute_cider())


@lru_cache(maxsize=4)
def _cached_caption_scorer(references: tuple[tuple[str, ...], ...]) -> CaptionScorer:
    return CaptionScorer(references)


def load_caption_scorer(references: Sequence[str | Sequence[str]]) -> CaptionScorer:
    """The process's scorer for these references: built at the first call, shared by later ones with equal content."""
    return _cached_caption_scorer(tuple(_group_references(references)))


def _group_references(references: Sequence[str | Sequence[str]]) -> list[tuple[str, ...]]:
    groups = [(group,) if isinstance(group, str) else tuple(group) for group in references]
    if not groups:
        raise ValueError("no images to score")
    if not all(groups):
        raise ValueError(f"image {groups.index(())} has no reference caption")
    return groups


class _DocumentFrequency(dict[tuple[str, ...], float]):
    """Images per n-gram; 0 for unknown ones, which pycocoevalcap's defaultdict would store for ever."""

    def __missing__(self, ngram: tuple[str, ...]) -> float:
        return 0.0


def _build_cider_scorer(references: Sequence[Sequence[str]]) -> CiderScorer:
    scorer = CiderScorer(n=4, sigma=6.0)
    for texts in references:
        scorer.cook_append(None, texts)
    scorer.compute_doc_freq()
    scorer.document_frequency = _DocumentFrequency(scorer.document_frequency)
    return scorer
