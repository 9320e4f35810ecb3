"""Baselines without an image or with the wrong one, which a captioner that uses its images must beat.

- The best single caption for all images (`choose_caption_prior`).
- The caption of the nearest training image (`find_nearest_captions`), a look-up without a model. The distance is by a
  small fixed descriptor: the decoded image in grey, averaged to 16 x 16 (a volume to 16 x 16 x 16), standardised, so
  that brightness and contrast do not count.
- The model's own captions of other images (`draw_wrong_images`).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pycocoevalcap.cider.cider_scorer import precook
from torch.nn import functional

from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.records import fold_white_space
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.scoring.ptb_tokenizer import tokenize_captions
from medcap_core.scoring.statistics import IntArray, number_units

_MAX_N = 4
_SIGMA = 6.0
_NUM_BLOCKS = 16

_Ngram = tuple[str, ...]


def choose_caption_prior(
    train_captions: Sequence[str], *, seed: int, num_candidates: int = 1000, num_judges: int = 2000
) -> str:
    """Choose the training caption that scores best as the prediction for every image; its white space is folded.

    By seed, up to `num_candidates` candidates and up to `num_judges` other captions as references, one image each, are
    drawn. The candidate with the highest mean CIDEr over the references wins, the first drawn of ties. Candidates and
    references come from alternate sixteenths of the split: images of one case are adjacent and often share a caption,
    which would otherwise match itself in train but not on a test split of other cases. Frequent captions are drawn
    often, so they are not missed.

    The cost does not grow with the training split: about 1 s for 60,000 radiology captions. Raises ValueError if
    there is no caption.
    """
    if not train_captions:
        raise ValueError("no training captions to choose a prior from")
    num_blocks = min(_NUM_BLOCKS, len(train_captions))
    order = np.random.default_rng(seed).permutation(len(train_captions))
    is_judge = (order * num_blocks // len(train_captions)) % 2 == 1
    candidates = [fold_white_space(train_captions[i]) for i in order[~is_judge][:num_candidates]]
    judges = [train_captions[i] for i in (order[is_judge][:num_judges] if len(train_captions) > 1 else order)]
    tokens = tokenize_captions([*candidates, *judges])
    index = _CiderIndex(tokens[len(candidates) :])
    texts = dict.fromkeys(tokens[: len(candidates)])
    return candidates[tokens.index(max(texts, key=index.compute_mean_cider))]


class _CiderIndex:
    """CIDEr of one text against many single references at once, by an inverted index of their n-grams.

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
        """Compute the mean CIDEr, 0 to 10, of `tokens` as the prediction for every reference."""
        ngrams = precook(tokens, _MAX_N)
        overlap = np.zeros_like(self._norms)
        squares = np.zeros((_MAX_N, 1))
        for ngram, count in ngrams.items():
            idf, rows, weights = self._postings.get(ngram, self._unseen)
            overlap[len(ngram) - 1, rows] += np.minimum(count * idf, weights) * weights
            squares[len(ngram) - 1] += (count * idf) ** 2
        norms = np.sqrt(squares) * self._norms
        cosine = np.divide(overlap, norms, out=np.zeros_like(norms), where=norms > 0)
        penalty = np.exp(-((_count_bigrams(ngrams) - self._lengths) ** 2) / (2 * _SIGMA**2))
        return float(10 * np.mean(cosine * penalty))


def _count_bigrams(ngrams: dict[_Ngram, int]) -> int:
    """Count the bigrams, the length in CIDEr's penalty."""
    return sum(count for ngram, count in ngrams.items() if len(ngram) == 2)


SIDE = 16
_CHUNK_IMAGES, _CHUNK_BYTES = 256, 128 * 2**20
_CHUNK_QUERIES, _CHUNK_CANDIDATES = 1024, 8192
_DECIMALS = 5  # correlations equal to these decimals are ties; the order of summation changes the seventh


def find_nearest_captions(
    images: PreparedSplit, training: PreparedSplit, progress: Progress = ignore_progress
) -> list[str]:
    """Find for each of `images` the caption of the nearest training image, the first of ties."""
    what = f"describing {images.store.geometry.noun}s to find the nearest"
    total = len(images) + len(training)
    candidates = compute_descriptors(training, lambda done: progress(what, done, total))
    queries = compute_descriptors(images, lambda done: progress(what, len(training) + done, total))
    return [training.records[position].caption for position in find_nearest(queries, candidates).tolist()]


def compute_descriptors(
    split: PreparedSplit, progress: Callable[[int], None] = lambda done: None
) -> NDArray[np.float32]:
    """Compute the descriptors of all images of a split, each of norm 1, or 0 for a plain image.

    float32 (N, 256), of volumes (N, 4096).
    """
    row_shape = split.store.geometry.row_shape
    descriptors = np.empty((len(split), SIDE ** (len(row_shape) - 1)), np.float32)
    step = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // math.prod(row_shape)))
    for start in range(0, len(split), step):
        stop = min(start + step, len(split))
        descriptors[start:stop] = describe_pixels(split.pixels(slice(start, stop)))
        progress(stop)
    return descriptors


def describe_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute descriptors (B, 256) of images uint8 (B, 3, S, S), or (B, 4096) of volumes uint8 (B, 1, S, S, S).

    Grey is the mean of the three colours.
    """
    grey = torch.from_numpy(np.ascontiguousarray(pixels)).float().mean(dim=1, keepdim=True)
    average = functional.adaptive_avg_pool2d if grey.ndim == 4 else functional.adaptive_avg_pool3d
    small = average(grey, SIDE).flatten(1)
    small = small - small.mean(dim=1, keepdim=True)
    length = small.norm(dim=1, keepdim=True)
    is_plain = length < 1e-3 * small.shape[1] ** 0.5
    return torch.where(is_plain, torch.zeros_like(small), small / length.clamp_min(1e-12)).numpy()


def find_nearest(queries: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.int64]:
    """Find for each of `queries` (Q, D) the row of `candidates` (C, D) with the greatest dot product, first of ties.

    In blocks: 60,000 candidates and 10,000 queries take some 20 s on two cores and 32 MB beside the descriptors.
    Raises ValueError where there is no candidate.
    """
    if not len(candidates):
        raise ValueError("no candidates to choose the nearest from")
    nearest = np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), _CHUNK_QUERIES):
        block = queries[start : start + _CHUNK_QUERIES]
        best = np.full(len(block), -np.inf, np.float32)
        rows = nearest[start : start + _CHUNK_QUERIES]  # a view
        for first in range(0, len(candidates), _CHUNK_CANDIDATES):
            similarity = np.round(block @ candidates[first : first + _CHUNK_CANDIDATES].T, _DECIMALS)
            index = similarity.argmax(axis=1)
            value = similarity[np.arange(len(block)), index]
            is_nearer = value > best
            rows[is_nearer] = first + index[is_nearer]
            best = np.maximum(best, value)
    return nearest


def draw_wrong_images(cases: Sequence[str | None], seed: int) -> IntArray:
    """Draw for each image the position of another image, each used once and of another case.

    Images are arranged in a circle in random order by `seed`, those of a case adjacent; each gets the image n places
    before it, n being the size of the largest case. If a case has more than half of all images, some of its images get
    one of their own case.
    """
    order = np.random.default_rng(seed).permutation(len(cases))
    units = number_units([cases[position] for position in order])  # in the order in which cases come up
    circle = order[np.argsort(units, kind="stable")]
    largest = int(np.bincount(units).max(initial=1))
    wrong = np.empty(len(cases), dtype=np.int64)
    wrong[circle] = np.roll(circle, min(largest, max(1, len(cases) - 1)))
    return wrong
