"""Encoder hidden states computed once, in a memory-mapped file shared by all trials of all sweeps.

One folder for each (image store, encoder, dtype): a `RowStore` of `features` (N, tokens, width). Row i holds the
features of row i of the image store, whose key covers the content of every image. `encoding.json` holds the seconds
that encoding took and the number of rows it took them for.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcap_core.data.stores.images import ImageStore
from medcap_core.data.stores.rows import RowStore
from medcap_core.runtime.cache import cache_root
from medcap_core.runtime.files import replace_text
from medcap_core.runtime.progress import Progress
from medcap_core.runtime.transfer import prefetch

CPU = torch.device("cpu")

# Raise when the computation of features or the file's layout changes.
FORMAT_VERSION = 1

# NumPy has no bfloat16: its bits are stored as uint16.
_STORED_AS: dict[torch.dtype, type[np.generic]] = {
    torch.float32: np.float32,
    torch.bfloat16: np.uint16,
    torch.float16: np.float16,
}


class FeatureStore(RowStore):
    """The encoder's output for the images of one store: `token_shape` is (tokens, width)."""

    def __init__(self, images: ImageStore, encoder_hash: str, token_shape: tuple[int, int], dtype: torch.dtype) -> None:
        """Open the store; `encoder_hash` covers weights and settings of the encoder. Writes nothing."""
        self.images = images
        self.encoder_hash = encoder_hash
        self.token_shape = token_shape
        self.dtype = dtype
        described = [FORMAT_VERSION, images.key, encoder_hash, list(token_shape), str(dtype)]
        self.key = hashlib.sha256(json.dumps(described).encode()).hexdigest()
        super().__init__(features_folder() / self.key[:32], "features", len(images), token_shape, _STORED_AS[dtype])
        self._cost_file = self.folder / "encoding.json"

    def missing(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the `rows` that are not in the store now, sorted, each once."""
        self.read_status()
        return self.still_to_do(np.unique(np.asarray(rows, dtype=np.int64)))

    def ensure(
        self,
        rows: NDArray[np.int64],
        encode: Callable[[NDArray[np.uint8]], Tensor],
        batch_size: int,
        progress: Progress | None = None,
        what: str = "encoding images",
        device: torch.device = CPU,
    ) -> None:
        """Encode the `rows` that are not yet in the store; `encode` takes uint8 pixels (B, 3, S, S).

        On a GPU `device`, a second thread reads and encodes while features are written. An interrupted run resumes at
        its last chunk. Raises DataFault where the disk is full or the cache folder not writable.
        """

        def encode_batch(batch: NDArray[np.int64]) -> NDArray[np.generic]:
            features = encode(self.images.pixels(batch)).to(self.dtype).cpu().contiguous()
            return (features.view(torch.uint16) if self.dtype is torch.bfloat16 else features).numpy()

        def encode_rows(to_do: NDArray[np.int64]) -> Generator[NDArray[np.generic]]:
            started = time.monotonic()
            batches = (to_do[start : start + batch_size] for start in range(0, len(to_do), batch_size))
            with closing(prefetch(encode_batch, batches, device)) as encoded:
                yield from chain.from_iterable(encoded)
            known_rows, known_seconds = self._read_cost()
            cost = {"rows": known_rows + len(to_do), "seconds": known_seconds + time.monotonic() - started}
            replace_text(self._cost_file, json.dumps(cost))

        self.fill(rows, encode_rows, progress, what)

    def features(self, rows: NDArray[np.int64]) -> Tensor:
        """Read the features of images, (B, tokens, width) on the CPU. Raises ValueError for rows not in the store."""
        stored = torch.from_numpy(self.read(rows))
        return stored.view(torch.bfloat16) if self.dtype is torch.bfloat16 else stored

    def estimate_seconds(self, num_rows: int) -> float:
        """Estimate the time of encoding `num_rows` images by what it took when rows were stored; NaN if unknown."""
        num_measured, seconds = self._read_cost()
        return num_rows * seconds / num_measured if num_measured else math.nan

    def _read_cost(self) -> tuple[int, float]:
        try:
            cost = json.loads(self._cost_file.read_text(encoding="utf-8"))
            return int(cost["rows"]), float(cost["seconds"])
        except (OSError, ValueError, LookupError, TypeError):
            return 0, 0.0

    def discard(self) -> None:
        """Delete every row; processes that are reading keep their mapped file."""
        with self.locked(np.arange(0), None, "discarding features"):
            for path in (self._status_file, self._rows_file, self._cost_file):
                path.unlink(missing_ok=True)
        self.read_status()


def features_folder() -> Path:
    """Return the folder of all feature stores of this machine."""
    return cache_root() / "features"


def measure_stored_bytes() -> int:
    """Measure the disk space of all feature stores, by blocks since their files are sparse."""
    num_blocks = 0
    for path in features_folder().glob("*/features"):
        with suppress(FileNotFoundError):  # another process has just discarded it
            num_blocks += path.stat().st_blocks
    return num_blocks * 512
