"""Images that two splits share: the same pixels, or nearly the same by a perceptual hash.

Near duplicates differ by compression, size, brightness or a small mark. The hash is `phash` of the `imagehash` package,
from Zauner's thesis ("Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), with 256 bits instead
of 64, since radiographs of one body part are alike. The package itself would add SciPy and PyWavelets and hashes one
image at a time.

Volumes are compared exactly only, by their decoded cubes: heads are alike, and no threshold for them was measured.
"""

import hashlib
import json
import math
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.records import SplitName
from medcap_core.data.stores.images import count_usable_cpus
from medcap_core.data.stores.rows import RowStore
from medcap_core.runtime.cache import guard_cache_writes, write_atomically
from medcap_core.runtime.files import write_csv_atomically
from medcap_core.runtime.progress import Progress

if TYPE_CHECKING:
    from medcap_core.data.prepare import PreparedSplit

HASH_VERSION = 1  # raise whenever a hash changes, so that stored hashes are recomputed
HASH_SIDE = 16
NUM_BITS = HASH_SIDE**2
MAX_NEAR_BITS = 10
"""Largest number of differing bits, of 256, between near duplicates.

On 1,829 real CT and MR images copies differed from their originals by at most 6 bits after JPEG compression at quality
40, halving or 20% less contrast, in 95% of cases by at most 8 after 15% more brightness; different images by 26 and
more. Synthetic phantoms, alike by design, differed by 12 and more. Crops and large marks are not recognised.
"""
MIN_CONTRAST = 4.0
"""Images with a lower standard deviation of gray values (0 to 255) are blank and have no near duplicates."""

_DIGEST_BYTES = 16
_ROW_BYTES = NUM_BITS // 8 + _DIGEST_BYTES + 1
_BATCH_BYTES = 16 * 2**20
_TABLE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class DuplicatePair:
    """An image and its duplicate in another split; `distance` counts differing bits of 256."""

    split: SplitName
    id: str
    other_split: SplitName
    other_id: str
    kind: Literal["exact", "near"]
    distance: int


@dataclass(frozen=True)
class DuplicateImages:
    """Train images that validation or test also hold; `num_blank` train images are blank, compared byte by byte only.

    `noun` is `Record.noun`.
    """

    pairs: list[DuplicatePair]
    num_blank: int
    noun: str = "image"

    def describe(self, *, dropped: bool) -> str:
        """Write one line on the duplicates, which may be `dropped` from train."""
        if self.pairs:
            compared = ("exact",) if self.noun == "scan" else ("exact", "near")
            kinds = ", ".join(f"{sum(pair.kind == kind for pair in self.pairs)} {kind}" for kind in compared)
            others = " or ".join(sorted({pair.other_split for pair in self.pairs}, reverse=True))
            num_images = len({pair.id for pair in self.pairs})
            text = f"Duplicate {self.noun}s: {num_images} train {self.noun}s are also in {others} ({kinds})"
            text += ", removed from train" if dropped else "; drop_duplicate_train_images: true would remove them"
        else:
            text = f"Duplicate {self.noun}s: none of train in validation or test"
        if self.noun == "scan":
            return f"{text}; scans are compared exactly only"
        return text + (f"; {self.num_blank} blank images were compared exactly only" if self.num_blank else "")


@dataclass(frozen=True)
class ImageHashes:
    """Hashes of N images: `bits` uint8 (N, 32) packed, `digests` uint8 (N, 16) of the pixels, `blank` bool (N,)."""

    bits: NDArray[np.uint8]
    digests: NDArray[np.uint8]
    blank: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.blank)


def compute_hashes(pixels: NDArray[np.uint8]) -> ImageHashes:
    """Hash images (B, 3, S, S), uint8 RGB; volumes (B, 1, S, S, S) get digests alone and count as blank.

    Gray values are averaged to at most 64 x 64, transformed by a cosine transform (DCT-II), and the 16 x 16 lowest
    frequencies are compared with their median. The mean brightness is excluded.
    """
    joined = b"".join(hashlib.blake2b(image.tobytes(), digest_size=_DIGEST_BYTES).digest() for image in pixels)
    digests = np.frombuffer(joined, np.uint8).reshape(-1, _DIGEST_BYTES)
    if pixels.ndim == 5:
        return ImageHashes(np.zeros((len(pixels), NUM_BITS // 8), np.uint8), digests, np.ones(len(pixels), np.bool_))
    # Luma in whole numbers: 77, 150 and 29 of 256.
    red, green, blue = pixels.astype(np.uint16).transpose(1, 0, 2, 3)
    gray = (77 * red + 150 * green + 29 * blue).astype(np.float32) / 256
    lowest = _build_transform(pixels.shape[-1])
    frequencies = (lowest @ gray @ lowest.T).reshape(len(pixels), NUM_BITS)
    frequencies[:, 0] = -np.inf  # the mean
    median = np.median(frequencies[:, 1:], axis=1, keepdims=True)
    blank = gray[:, ::2, ::2].std((1, 2)) < MIN_CONTRAST
    return ImageHashes(np.packbits(frequencies > median, axis=1), digests, blank)


@lru_cache(maxsize=4)
def _build_transform(size: int) -> NDArray[np.float32]:
    """Build the matrix (16, size) that averages to at most 64 pixels and applies the lowest rows of the DCT."""
    small = min(64, size)
    edges = np.linspace(0, size, small + 1)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    averages = np.clip(covered, 0, None) * small / size
    frequency, centre = np.arange(HASH_SIDE)[:, None], np.arange(small) + 0.5
    lowest: NDArray[np.float32] = (np.cos(math.pi / small * frequency * centre) @ averages).astype(np.float32)
    return lowest


def load_hashes(images: "PreparedSplit", progress: Progress | None = None) -> ImageHashes:
    """Load the hashes of the images in order; missing ones are computed and kept in the store's folder."""
    store = images.store
    kept = RowStore(store.folder / f"hashes-{HASH_VERSION}", "hashes.u8", len(store), (_ROW_BYTES,), np.uint8)
    batch_rows = max(1, _BATCH_BYTES // math.prod(store.geometry.row_shape))

    def hash_batch(batch: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = compute_hashes(store.pixels(batch))
        return np.hstack((found.bits, found.digests, found.blank[:, None]))

    def hash_rows(to_do: NDArray[np.int64]) -> Generator[NDArray[np.uint8]]:
        with ThreadPoolExecutor(count_usable_cpus()) as pool:
            for hashes in pool.map(hash_batch, np.split(to_do, range(batch_rows, len(to_do), batch_rows))):
                yield from hashes

    kept.fill(images.rows, hash_rows, progress, f"hashing {images.split} {store.geometry.noun}s")
    bits, digests, blank = np.split(kept.read(images.rows), (NUM_BITS // 8, _ROW_BYTES - 1), axis=1)
    return ImageHashes(bits, digests, blank[:, 0] != 0)


def find_duplicates(
    images: "PreparedSplit", others: Sequence["PreparedSplit"], progress: Progress | None = None
) -> list[DuplicatePair]:
    """Find each image's nearest duplicate in each of the other splits.

    An exact duplicate precedes a near one. Blank images are compared exactly only. The matches are cached in the folder
    of the store of `images`.
    """
    found: list[DuplicatePair] = []
    for other in others:
        described = json.dumps([HASH_VERSION, MAX_NEAR_BITS, images.store.key, other.store.key]).encode()
        key = hashlib.sha256(b"/".join((described, images.rows.tobytes(), other.rows.tobytes()))).hexdigest()
        path = images.store.folder / f"duplicates-{key[:32]}.json"
        matches = _read_matches(path)
        if matches is None:
            hashes, other_hashes = load_hashes(images, progress), load_hashes(other, progress)
            matches = match_hashes(hashes, other_hashes, progress, f"comparing {images.split} with {other.split}")
            with guard_cache_writes(path.parent):
                write_atomically(path, json.dumps(matches))
        for here, there, bits in matches:
            kind: Literal["exact", "near"] = "near" if bits >= 0 else "exact"
            pair = DuplicatePair(images.split, images.ids[here], other.split, other.ids[there], kind, max(bits, 0))
            found.append(pair)
    return found


def match_hashes(
    hashes: ImageHashes, others: ImageHashes, progress: Progress | None = None, what: str = "comparing images"
) -> list[tuple[int, int, int]]:
    """Match duplicates: (index, index in `others`, differing bits), with -1 bits for identical pixels."""
    by_digest = {digest.tobytes(): position for position, digest in reversed(list(enumerate(others.digests)))}
    exact = [by_digest.get(digest.tobytes(), -1) for digest in hashes.digests]
    with_content = np.flatnonzero(~others.blank)
    # As -1 and 1 in float32: the matrix product is the number of equal bits less the number of differing bits.
    signs = _unpack_signs(others.bits[with_content]).T
    step = max(1, _TABLE_BYTES // (4 * max(1, len(with_content))))
    nearest, distances = np.zeros(len(hashes), np.int64), np.full(len(hashes), np.inf)
    for start in range(0, len(hashes), step):
        part = slice(start, start + step)
        if len(with_content):
            differing = (NUM_BITS - _unpack_signs(hashes.bits[part]) @ signs) / 2
            nearest[part], distances[part] = with_content[differing.argmin(1)], differing.min(1)
        if progress:
            progress(what, min(start + step, len(hashes)), len(hashes))
    is_near = ~hashes.blank & (distances <= MAX_NEAR_BITS)
    return [
        (position, same, -1) if same >= 0 else (position, int(nearest[position]), int(distances[position]))
        for position, same in enumerate(exact)
        if same >= 0 or is_near[position]
    ]


def write_duplicates(pairs: Iterable[DuplicatePair], path: Path) -> None:
    """Write the pairs as CSV, `split,id,other_split,other_id,kind,distance`."""
    write_csv_atomically(path, [[own.name for own in fields(DuplicatePair)], *map(astuple, pairs)])


def _unpack_signs(bits: NDArray[np.uint8]) -> NDArray[np.float32]:
    signs: NDArray[np.float32] = np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1
    return signs


def _read_matches(path: Path) -> list[tuple[int, int, int]] | None:
    try:
        return [(int(here), int(there), int(distance)) for here, there, distance in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return None
