"""Caption scores on pycocoevalcap's scale: BLEU-1..4, METEOR and ROUGE-L from 0 to 1, CIDEr from 0 to 10.

Optional scores are those of `medcap_core.scoring.extra`. Every score is of a whole corpus: CIDEr weights n-grams by
document frequency, BLEU and METEOR pool their counts. Gather all predictions and score them once; never average over
ranks, batches or subsets.
"""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_test
from pycocoevalcap.rouge.rouge import Rouge

from medcap_core.scoring.corpus_statistics import CaptionStatistics, collect_bleu, collect_meteor
from medcap_core.scoring.meteor import MeteorScorer
from medcap_core.scoring.options import DEFAULT_SCORING, ScoringOptions, preprocess_captions
from medcap_core.scoring.ptb_tokenizer import tokenize_captions
from medcap_core.scoring.registry import ScoreInput, compute_scores, load_scores

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


@dataclass(frozen=True)
class ScoredCaptions:
    """Scores of the corpus by name, METRICS first, and the statistics of each image."""

    scores: dict[str, float]
    statistics: CaptionStatistics = field(repr=False)


class CaptionScorer:
    """Scores predictions for one fixed list of images; references are tokenised and counted once.

    `references` holds, for each image, one caption or a list of several. Predictions are given in the same order, one
    per image; they may be empty. Scores equal those of pycocoevalcap's classes after its PTB tokenizer, on captions
    preprocessed by `options.preprocessing`.
    """

    def __init__(
        self,
        references: Sequence[str | Sequence[str]],
        options: ScoringOptions = DEFAULT_SCORING,
        meteor: MeteorScorer | None = None,
    ) -> None:
        groups = _group_references(references)
        self._options = options
        self._raw = groups
        self._texts = [preprocess_captions(group, options.preprocessing) for group in groups]
        tokens = iter(tokenize_captions([caption for group in self._texts for caption in group]))
        self._references = [[next(tokens) for _ in group] for group in groups]
        self._cider = _build_cider_scorer(self._references)
        self._meteor = meteor or MeteorScorer()

    @property
    def num_images(self) -> int:
        """Number of predictions of each call."""
        return len(self._references)

    def cider(self, predictions: Sequence[str]) -> float:
        """Compute the CIDEr of the corpus, 0 to 10; 0 by definition with a single image."""
        return float(np.mean(self.cider_per_image(predictions)))

    def cider_per_image(self, predictions: Sequence[str]) -> np.ndarray:
        """Compute the CIDEr of each image, (num_images,), with the document frequencies of the whole corpus."""
        return self._compute_cider(tokenize_captions(self._preprocess(predictions)))

    def compute(self, names: Collection[str], predictions: Sequence[str]) -> dict[str, float]:
        """Compute these scores of the corpus alone; METEOR's program and other models run only where named."""
        texts = self._preprocess(predictions)
        tokens = tokenize_captions(texts)
        scores: dict[str, float] = {}
        if "CIDEr" in names:
            scores["CIDEr"] = float(np.mean(self._compute_cider(tokens)))
        if "BLEU-4" in names:
            scores["BLEU-4"] = self._count_bleu(tokens).compute_score(option="closest", verbose=0)[0][3]
        if "ROUGE-L" in names:
            scores["ROUGE-L"] = float(self._compute_rouge(tokens)[0])
        if "METEOR" in names:
            scores["METEOR"] = self._meteor.compute_scores(self._references, tokens)[0]
        extra = {"bertscore" if name == "BERTScore" else name: name for name in names if name not in METRICS}
        captions = ScoreInput(texts, self._texts, predictions, self._raw, options=self._options)
        for key, name in extra.items():
            (score,) = load_scores(key)
            values = score.compute(captions)
            scores[name] = float(np.mean(values.each) if values.corpus is None else values.corpus)
        return scores

    def score(self, predictions: Sequence[str], images: Sequence[Image.Image] = ()) -> ScoredCaptions:
        """Compute the scores of METRICS, then the optional ones, and the statistics of each image for resamples.

        Optional scores that cannot be computed are left out, and so are those that need `images` where none are given.
        The first call also starts METEOR (about 5 s); later calls of the same scorer reuse it until `close()`.
        """
        texts = self._preprocess(predictions)
        tokens = tokenize_captions(texts)
        bleu_scorer = self._count_bleu(tokens)
        bleu, _ = bleu_scorer.compute_score(option="closest", verbose=0)
        meteor, _, meteor_counts = self._meteor.compute_scores(self._references, tokens)
        rouge, rouge_each = self._compute_rouge(tokens)
        cider_each = self._compute_cider(tokens)
        captions = ScoreInput(texts, self._texts, predictions, self._raw, images, self._options)
        extra, _ = compute_scores(self._options.extra_scores, captions)
        corpus = [*bleu, meteor, rouge, np.mean(cider_each)]
        scores = {name: float(value) for name, value in zip(METRICS, corpus, strict=True)}
        means = {"ROUGE-L": rouge_each, "CIDEr": cider_each}
        means |= {name: values.each for name, values in extra.items() if values.corpus is None}
        others = {name: values.each for name, values in extra.items() if values.corpus is not None}
        scores |= {
            name: float(np.mean(values.each) if values.corpus is None else values.corpus)
            for name, values in extra.items()
        }
        counts = collect_bleu(bleu_scorer.ctest), collect_meteor(meteor_counts)
        return ScoredCaptions(scores, CaptionStatistics(*counts, means, others))

    def close(self) -> None:
        """End the METEOR program and free its memory; the scorer stays usable."""
        self._meteor.close()

    def interrupt(self) -> None:
        """Make a running call of another thread raise ScoringFailure soon."""
        self._meteor.interrupt()

    def _preprocess(self, predictions: Sequence[str]) -> list[str]:
        if len(predictions) != self.num_images:
            raise ValueError(f"{len(predictions)} predictions for {self.num_images} images")
        return preprocess_captions(predictions, self._options.preprocessing)

    def _count_bleu(self, tokens: Sequence[str]) -> BleuScorer:
        scorer = BleuScorer(n=4)
        for text, references in zip(tokens, self._references, strict=True):
            scorer += (text, references)
        return scorer

    def _compute_rouge(self, tokens: Sequence[str]) -> tuple[float, np.ndarray]:
        candidates = {image: [text] for image, text in enumerate(tokens)}
        score, each = Rouge().compute_score(dict(enumerate(self._references)), candidates)
        return score, np.asarray(each)

    def _compute_cider(self, tokens: Sequence[str]) -> np.ndarray:
        scorer = copy.copy(self._cider)  # shallow: calls from several threads share only constant state
        scorer.ctest = [cook_test(text) for text in tokens]
        return np.array(scorer.compute_cider())


@lru_cache(maxsize=4)
def _cached_caption_scorer(references: tuple[tuple[str, ...], ...], options: ScoringOptions) -> CaptionScorer:
    return CaptionScorer(references, options, _load_meteor())


@lru_cache(maxsize=1)
def _load_meteor() -> MeteorScorer:
    """Return the process's METEOR program, shared by its scorers: each would hold half a gigabyte."""
    return MeteorScorer()


def load_caption_scorer(
    references: Sequence[str | Sequence[str]], options: ScoringOptions = DEFAULT_SCORING
) -> CaptionScorer:
    """Load the process's scorer for these references, built once for equal content."""
    return _cached_caption_scorer(tuple(_group_references(references)), options)


def _group_references(references: Sequence[str | Sequence[str]]) -> list[tuple[str, ...]]:
    groups = [(group,) if isinstance(group, str) else tuple(group) for group in references]
    if not groups:
        raise ValueError("no images to score")
    if not all(groups):
        raise ValueError(f"image {groups.index(())} has no reference caption")
    return groups


class _DocumentFrequency(dict[tuple[str, ...], float]):
    """Images per n-gram; 0 for unknown ones, which pycocoevalcap's defaultdict would keep."""

    def __missing__(self, ngram: tuple[str, ...]) -> float:
        return 0.0


def _build_cider_scorer(references: Sequence[Sequence[str]]) -> CiderScorer:
    scorer = CiderScorer(n=4, sigma=6.0)
    for texts in references:
        scorer.cook_append(None, texts)
    scorer.compute_doc_freq()
    scorer.document_frequency = _DocumentFrequency(scorer.document_frequency)
    return scorer
