"""The caption of the nearest training image: what a look-up achieves that has no model at all.

Nearness is that of a small fixed descriptor: the decoded image in grey, averaged to 16 x 16 (a volume to 16 x 16 x 16),
less its mean and divided by its standard deviation, so that brightness and contrast do not count. A captioner that has
understood more than what kind of picture it sees must beat it.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.row_store import Progress

SIDE = 16
_CHUNK_IMAGES, _CHUNK_BYTES = 256, 128 * 2**20
_CHUNK_QUERIES, _CHUNK_CANDIDATES = 1024, 8192
_DECIMALS = 5  # correlations that agree so far are ties; sums in another order differ in the seventh


def find_nearest_captions(
    images: PreparedSplit, training: PreparedSplit, progress: Progress | None = None
) -> list[str]:
    """For each of `images` the caption of the nearest training image; of equals the first in order."""
    total = len(images) + len(training)

    def tell(what: str, done: int, offset: int) -> None:
        if progress:
            progress(what, offset + done, total)

    what = f"describing {images.store.geometry.noun}s to find the nearest"
    candidates = compute_descriptors(training, lambda done: tell(what, done, 0))
    queries = compute_descriptors(images, lambda done: tell(what, done, len(training)))
    return [training.records[position].caption for position in find_nearest(queries, candidates).tolist()]


def compute_descriptors(split: PreparedSplit, progress: Callable[[int], None] | None = None) -> NDArray[np.float32]:
    """Descriptors of all images of a split in order, each of length 1, or 0 for a plain image.

    float32 (N, 256), of volumes (N, 4096).
    """
    row_shape = split.store.geometry.row_shape
    descriptors = np.empty((len(split), SIDE ** (len(row_shape) - 1)), np.float32)
    step = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // math.prod(row_shape)))
    for start in range(0, len(split), step):
        stop = min(start + step, len(split))
        descriptors[start:stop] = describe_pixels(split.pixels(slice(start, stop)))
        if progress:
            progress(stop)
    return descriptors


def describe_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The descriptors (B, 256) of images uint8 (B, 3, S, S), or (B, 4096) of volumes uint8 (B, 1, S, S, S).

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
    """For each of `queries` (Q, D) the row of `candidates` (C, D) with the greatest dot product, the first of equals.

    By blocks: 60,000 candidates and 10,000 queries take some 20 s on two cores and 32 MB beside the descriptors.
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
            place = similarity.argmax(axis=1)
            value = similarity[np.arange(len(block)), place]
            is_nearer = value > best
            rows[is_nearer] = first + place[is_nearer]
            best = np.maximum(best, value)
    return nearest
