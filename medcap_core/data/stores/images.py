"""Images or volumes decoded and resized once, in a memory-mapped file shared by all processes.

One folder for each (records of a split, geometry): a `RowStore` of `pixels.u8` (N, 3, S, S), for volumes
(N, 1, S, S, S), and `unreadable.jsonl` with the reason of each unreadable row.
"""

import hashlib
import json
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.decoding import UnreadableImage
from medcap_core.data.images import Geometry
from medcap_core.data.records import Record, Reference
from medcap_core.data.stores.rows import DONE, UNUSABLE, RowStore, flush
from medcap_core.runtime.cache import cache_root
from medcap_core.runtime.progress import Progress

# Raise when decoding, scaling or the files' layout changes, so that existing stores are not reused.
FORMAT_VERSION = 2


class ImageStore(RowStore):
    """The resized images, or volumes, of one list of records."""

    def __init__(self, records: Sequence[Record], geometry: Geometry, root: Path | None = None) -> None:
        """Open the store below `root`, by default `cache_root()`; writes nothing."""
        self.geometry = geometry
        self.key = compute_store_key(records, geometry)
        folder = (root or cache_root()) / "images" / self.key[:32]
        super().__init__(folder, "pixels.u8", len(records), geometry.row_shape, np.uint8)
        self._images: list[Reference] = [record.image for record in records]
        self._reasons_file = folder / "unreadable.jsonl"
        self._recorded: dict[int, str] = {}
        self._out_of_reach: dict[int, str] = {}

    @property
    def unreadable(self) -> dict[int, str]:
        """Row -> reason for every row that `ensure` could not decode."""
        reasons = {**self._recorded, **self._out_of_reach}
        return {row: reason for row, reason in reasons.items() if self.status[row] != DONE}

    def ensure(self, rows: NDArray[np.int64], progress: Progress | None = None, what: str = "decoding images") -> None:
        """Decode the `rows` that are not yet in the store.

        An interrupted run resumes at its last chunk. Raises DataFault where the disk is full, closed or failing.
        """

        def decode_row(row: int) -> NDArray[np.uint8] | None:
            self._out_of_reach.pop(row, None)
            try:
                return self.geometry.decode(self._images[row])
            except UnreadableImage as unreadable:
                (self._recorded if unreadable.lasting else self._out_of_reach)[row] = unreadable.reason
                return None

        def decode_rows(to_do: NDArray[np.int64]) -> Generator[NDArray[np.uint8] | None]:
            with ThreadPoolExecutor(count_usable_cpus()) as pool:
                for start in range(0, len(to_do), self.chunk_rows):
                    yield from pool.map(decode_row, to_do[start : start + self.chunk_rows].tolist())

        self.fill(rows, decode_rows, progress, what, self._note_unreadable)
        # Rows marked unusable by another process or an earlier run.
        bad_rows = np.flatnonzero(self.status == UNUSABLE).tolist()
        if bad_rows and not self._recorded.keys() >= set(bad_rows):
            reasons = _read_reasons(self._reasons_file)
            self._recorded = {row: reasons.get(row, "unreadable") for row in bad_rows}

    def readable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Check for each of `rows` whether its pixels are in the store; call `ensure` first."""
        return np.equal(self.status[rows], DONE)

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read copies of the images, uint8 RGB (B, 3, S, S), or of the volumes, uint8 (B, 1, S, S, S).

        Raises ValueError for rows that are not in the store.
        """
        return self.read(rows)

    def _note_unreadable(self, rows: list[int]) -> list[int]:
        """Append the reasons of unreadable rows to the file, and return the rows that stay unreadable."""
        lasting = [row for row in rows if row not in self._out_of_reach]
        if lasting:
            with self._reasons_file.open("a", encoding="utf-8") as file:
                # The leading line feed ends a line that a killed process left incomplete.
                lines = [json.dumps({"row": row, "reason": self._recorded[row]}) for row in lasting]
                file.write("\n" + "\n".join(lines) + "\n")
                flush(file)
        return lasting


def compute_store_key(records: Sequence[Record], geometry: Geometry) -> str:
    """Compute the SHA-256 (hex) over the format version, the geometry and each record's id and fingerprint."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, dict(geometry.described)], sort_keys=True).encode())
    for record in records:
        try:
            fingerprint = record.image.fingerprint()
        except OSError as error:
            fingerprint = f"unreachable:{error.errno}"
        digest.update(f"{record.id}\0{fingerprint}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def count_usable_cpus() -> int:
    """Count the cores this process may run on, at most 16 (decoding gains little beyond)."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(available or 1, 16)


def _read_reasons(path: Path) -> dict[int, str]:
    reasons = {}
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
            reasons[int(entry["row"])] = str(entry["reason"])
        except (ValueError, LookupError, TypeError):
            continue  # empty, or cut off by a killed process: such rows were not marked and are retried
    return reasons
