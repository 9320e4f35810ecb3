"""The scores of every run, as pycocoevalcap computes them of its PTB tokens.

BLEU-1..4, METEOR and ROUGE-L run from 0 to 1, CIDEr from 0 to 10. Every score is of a whole corpus: CIDEr weights
n-grams by document frequency, BLEU and METEOR pool their counts.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_test
from pycocoevalcap.rouge.rouge import Rouge

from medcap_core.scoring.corpus_statistics import FloatArray, collect_bleu, collect_meteor, score_bleu, score_meteor
from medcap_core.scoring.meteor import load_meteor
from medcap_core.scoring.ptb_tokenizer import tokenize_captions
from medcap_core.scoring.registry import Score, ScoreInput, ScoreValues


class _DocumentFrequency(dict[tuple[str, ...], float]):
    """Images per n-gram; 0 for unknown ones, which pycocoevalcap's defaultdict would keep."""

    def __missing__(self, ngram: tuple[str, ...]) -> float:
        return 0.0


def build_cider_scorer(references: Sequence[Sequence[str]]) -> CiderScorer:
    """Count the n-grams of tokenised references; predictions are set as `ctest`."""
    scorer = CiderScorer(n=4, sigma=6.0)
    for texts in references:
        scorer.cook_append(None, texts)
    scorer.compute_doc_freq()
    scorer.document_frequency = _DocumentFrequency(scorer.document_frequency)
    return scorer


@dataclass(frozen=True)
class CountedReferences:
    """References of images as PTB tokens, and their n-grams counted for CIDEr."""

    tokens: list[list[str]]
    cider: CiderScorer


@lru_cache(maxsize=4)
def count_references(references: tuple[tuple[str, ...], ...]) -> CountedReferences:
    """Tokenize and count references, once for equal content."""
    tokens = iter(tokenize_captions([caption for group in references for caption in group]))
    groups = [[next(tokens) for _ in group] for group in references]
    return CountedReferences(groups, build_cider_scorer(groups))


def _find_references(captions: ScoreInput) -> CountedReferences:
    return count_references(tuple(map(tuple, captions.references)))


@lru_cache(maxsize=2)
def _tokenize(captions: ScoreInput) -> list[str]:
    return tokenize_captions(captions.predictions)


@lru_cache(maxsize=2)
def _count_bleu(captions: ScoreInput) -> tuple[list[float], FloatArray]:
    scorer = BleuScorer(n=4)
    for text, references in zip(_tokenize(captions), _find_references(captions).tokens, strict=True):
        scorer += (text, references)
    scores, _ = scorer.compute_score(option="closest", verbose=0)
    return scores, collect_bleu(scorer.ctest)


def _build_bleu(order: int) -> Score:
    def pool(sums: FloatArray) -> FloatArray:
        return score_bleu(sums)[..., order]

    def compute(captions: ScoreInput) -> ScoreValues:
        scores, counts = _count_bleu(captions)
        return ScoreValues(pool(counts), scores[order], counts, pool, is_for_images=False)

    return Score(f"BLEU-{order + 1}", compute)


def _compute_meteor(captions: ScoreInput) -> ScoreValues:
    corpus, _, lines = load_meteor().compute_scores(_find_references(captions).tokens, _tokenize(captions))
    counts = collect_meteor(lines)
    return ScoreValues(score_meteor(counts), corpus, counts, score_meteor)


def _compute_rouge(captions: ScoreInput) -> ScoreValues:
    candidates = {image: [text] for image, text in enumerate(_tokenize(captions))}
    _, each = Rouge().compute_score(dict(enumerate(_find_references(captions).tokens)), candidates)
    return ScoreValues(np.asarray(each))


def _compute_cider(captions: ScoreInput) -> ScoreValues:
    scorer = copy.copy(_find_references(captions).cider)  # shallow: calls of several threads share only constant state
    scorer.ctest = [cook_test(text) for text in _tokenize(captions)]
    return ScoreValues(np.array(scorer.compute_cider()))


BLEU_1, BLEU_2, BLEU_3, BLEU_4 = map(_build_bleu, range(4))
METEOR = Score("METEOR", _compute_meteor)
ROUGE_L = Score("ROUGE-L", _compute_rouge)
CIDER = Score("CIDEr", _compute_cider, scale="0 to 10")
