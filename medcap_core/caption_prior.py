"""The best single caption: what a model scores that never looks at an image."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pycocoevalcap.cider.cider_scorer import precook

from medcap_core.data.records import fold_white_space
from medcap_core.ptb_tokenizer import tokenize_captions

_MAX_N = 4
_SIGMA = 6.0
_NUM_BLOCKS = 16

_Ngram = tuple[str, ...]


def choose_caption_prior(
    train_captions: Sequence[str], *, seed: int, num_candidates: int = 1000, num_judges: int = 2000
) -> str:
    """The training caption that scores best when given as the answer for every image; its white space is folded.

    Drawn by seed: up to `num_candidates` captions to choose from and up to `num_judges` others that serve as the
    references, one image each. The candidate with the highest CIDEr over the judges wins, the one drawn first where
    two are equal. Candidates come from every other sixteenth of the split and judges from those between: images of
    one case lie together and often share a caption word for word, which would vote for itself in train and be of no
    use on a test split of other cases. Frequent captions are drawn often, so they are not missed.

    The cost does not grow with the training split: about 1 s for 60,000 radiology captions. Raises ValueError if
    there is no caption.
    """
    candidates, judges = _draw(train_captions, seed, num_candidates, num_judges)
    tokens = tokenize_captions([*candidates, *judges])
    index = _CiderIndex(tokens[len(candidates) :])
    caption_of: dict[str, str] = {}
    for text, caption in zip(tokens, candidates, strict=False):  # candidates come first in tokens
        caption_of.setdefault(text, caption)
    return caption_of[max(caption_of, key=index.compute_mean_cider)]


def _draw(captions: Sequence[str], seed: int, num_candidates: int, num_judges: int) -> tuple[list[str], list[str]]:
    if not captions:
        raise ValueError("no training captions to choose a prior from")
    num_blocks = min(_NUM_BLOCKS, len(captions))
    order = np.random.default_rng(seed).permutation(len(captions))
    is_judge = (order * num_blocks // len(captions)) % 2 == 1
    candidates = order[~is_judge][:num_candidates]
    judges = order[is_judge][:num_judges] if len(captions) > 1 else order
    return [fold_white_space(captions[i]) for i in candidates], [captions[i] for i in judges]


class _CiderIndex:
    """CIDEr of one text against many single references at once, by looking up shared n-grams only.

    The formula of pycocoevalcap's CiderScorer (CIDEr-D: clipped weights, Gaussian length penalty with sigma 6), with
    the J references as the corpus: weight of an n-gram = count * (log J - log max(1, document frequency)).
    """

    def __init__(self, references: Sequence[str]) -> None:
        counts = [precook(text, _MAX_N) for text in references]
        found: dict[_Ngram, list[tuple[int, int]]] = defaultdict(list)
        for reference, ngrams in enumerate(counts):
            for ngram, count in ngrams.items():
                found[ngram].append((reference, count))
        self._log_size = np.log(len(references))
        self._lengths = np.array([_count_bigrams(ngrams) for ngrams in counts], dtype=float)
        # n-gram -> (idf, references that hold it, their weights)
        self._postings: dict[_Ngram, tuple[float, np.ndarray, np.ndarray]] = {}
        squares = np.zeros((_MAX_N, len(references)))
        for ngram, pairs in found.items():
            rows, tallies = np.array(pairs).T
            idf = self._log_size - np.log(len(pairs))
            self._postings[ngram] = idf, rows, tallies * idf
            squares[len(ngram) - 1, rows] += (tallies * idf) ** 2
        self._norms = np.sqrt(squares)
        self._unseen = self._log_size, np.zeros(0, dtype=int), np.zeros(0)

    def compute_mean_cider(self, tokens: str) -> float:
        """Mean CIDEr, 0 to 10, of `tokens` given as the prediction for every reference."""
        ngrams = precook(tokens, _MAX_N)
        overlap = np.zeros_like(self._norms)
        squares = np.zeros((_MAX_N, 1))
        for ngram, count in ngrams.items():
            idf, rows, weights = self._postings.get(ngram, self._unseen)
            overlap[len(ngram) - 1, rows] += np.minimum(count * idf, weights) * weights
            squares[len(ngram) - 1] += (count * idf) ** 2
        norms = np.sqrt(squares) * self._norms
        cosine = np.divide(overlap, norms, out=np.zeros_like(overlap), where=norms > 0)
        penalty = np.exp(-((_count_bigrams(ngrams) - self._lengths) ** 2) / (2 * _SIGMA**2))
        return float(10 * np.mean(cosine * penalty))


def _count_bigrams(ngrams: dict[_Ngram, int]) -> int:
    """The length that CIDEr compares: the number of bigrams."""
    return sum(count for ngram, count in ngrams.items() if len(ngram) == 2)
