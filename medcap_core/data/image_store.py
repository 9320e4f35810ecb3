"""Images decoded and resized once, kept in a memory-mapped file that all processes share.

One folder for each (records of a split, geometry): `pixels.u8`, a sparse uint8 file (N, 3, S, S); `status.u8`, one byte
a row; `unreadable.jsonl`, the reasons. A row's status is written only after its pixels have reached the disk, so a
process that dies at any moment leaves no row marked done without pixels.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
from numpy.typing import NDArray

from medcap_core.cache import cache_root, check_free_space, guard_cache_writes
from medcap_core.data.decoding import UnreadableImage, decode
from medcap_core.data.images import ImageGeometry
from medcap_core.data.records import ImageReference, Record

# Raise when decoding, scaling or the files' layout changes: older stores are then left alone.
FORMAT_VERSION = 1

Progress = Callable[[str, int, int], None]  # (what is being done, images done, images in total)

_TO_DO, _DONE, _UNREADABLE = 0, 1, 2
_CHUNK_BYTES = 64 * 2**20
_MAX_CHUNK_ROWS = 512
_PROGRESS_EVERY = 16
_WAIT_SECONDS = 1.0


class ImageStore:
    """The resized images of one list of records.

    Safe for several processes at once: one decodes, the others wait and then read. Picklable; the map is opened anew.
    """

    def __init__(self, records: Sequence[Record], geometry: ImageGeometry, root: Path | None = None) -> None:
        """`root` is the cache root, by default `medcap_core.cache.cache_root()`; nothing is written yet."""
        self.geometry = geometry
        self.key = compute_store_key(records, geometry)
        self.folder = (root or cache_root()) / "images" / self.key[:32]
        self._images: list[ImageReference] = [record.image for record in records]
        self._row_shape = (3, geometry.size, geometry.size)
        self._row_bytes = 3 * geometry.size**2
        self._status: NDArray[np.uint8] = np.zeros(len(records), np.uint8)
        self._recorded: dict[int, str] = {}
        self._out_of_reach: dict[int, str] = {}
        self._map: NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def __len__(self) -> int:
        """Rows, decoded or not."""
        return len(self._images)

    @property
    def unreadable(self) -> dict[int, str]:
        """Row -> reason for every row that `ensure` could not decode."""
        reasons = {**self._recorded, **self._out_of_reach}
        return {row: reason for row, reason in reasons.items() if self._status[row] != _DONE}

    def ensure(self, rows: NDArray[np.int64], progress: Progress | None = None, what: str = "decoding images") -> None:
        """Decode those of `rows` that are not yet in the store.

        Goes on where an interrupted run stopped. Raises DataFault where the disk is full or closed, or fails to read.
        """
        wanted = np.unique(np.asarray(rows, dtype=np.int64))
        self._read_status()
        if self._still_to_do(wanted).size == 0:
            return
        with guard_cache_writes(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / "lock")
            self._acquire(lock, wanted, progress, what)
            try:
                self._create_files()
                self._read_status()
                to_do = self._still_to_do(wanted)
                check_free_space(self.folder, int(to_do.size) * self._row_bytes, what.capitalize())
                self._decode(to_do, progress, what)
            finally:
                lock.release()

    def readable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For each of `rows`, whether its pixels are in the store; call `ensure` first."""
        readable: NDArray[np.bool_] = self._status[rows] == _DONE
        return readable

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copies of the images: uint8 (B, 3, S, S), RGB. Raises ValueError for rows that are not in the store."""
        if not self.readable(rows).all():
            self._read_status()
            absent = np.asarray(rows)[~self.readable(rows)]
            if absent.size:
                raise ValueError(f"rows {absent[:5].tolist()} are not in the image store {self.folder}; ensure() them")
        if self._map is None:
            self._map = np.memmap(self._pixels_file, np.uint8, mode="r", shape=(len(self), *self._row_shape))
        return np.asarray(self._map[rows])

    @property
    def _pixels_file(self) -> Path:
        return self.folder / "pixels.u8"

    @property
    def _status_file(self) -> Path:
        return self.folder / "status.u8"

    @property
    def _reasons_file(self) -> Path:
        return self.folder / "unreadable.jsonl"

    def _still_to_do(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        to_do: NDArray[np.int64] = rows[self._status[rows] == _TO_DO]
        return to_do

    def _acquire(
        self, lock: filelock.BaseFileLock, wanted: NDArray[np.int64], progress: Progress | None, what: str
    ) -> None:
        """Wait for the lock, showing how far the process that holds it has come."""
        while True:
            try:
                lock.acquire(timeout=_WAIT_SECONDS)
            except filelock.Timeout:
                self._read_status()
                if progress:
                    done = len(wanted) - self._still_to_do(wanted).size
                    progress(f"{what} (in another process)", done, len(wanted))
            else:
                return

    def _create_files(self) -> None:
        """Make the files where they are absent or of a wrong size; call with the lock held."""
        if self._has_files():
            return
        # Status first: it must never speak of pixels that are gone.
        for path in (self._status_file, self._reasons_file, self._pixels_file):
            path.unlink(missing_ok=True)
        for path, num_bytes in ((self._pixels_file, len(self) * self._row_bytes), (self._status_file, len(self))):
            with path.open("wb") as file:
                file.truncate(num_bytes)

    def _has_files(self) -> bool:
        return _has_size(self._pixels_file, len(self) * self._row_bytes) and _has_size(self._status_file, len(self))

    def _read_status(self) -> None:
        if not self._has_files():  # not yet created, or deleted while this process runs
            self._status, self._map = np.zeros(len(self), np.uint8), None
            return
        self._status = np.fromfile(self._status_file, np.uint8)
        bad_rows = np.flatnonzero(self._status == _UNREADABLE).tolist()
        if bad_rows and not self._recorded.keys() >= set(bad_rows):
            reasons = _read_reasons(self._reasons_file)
            self._recorded = {row: reasons.get(row, "unreadable") for row in bad_rows}

    def _decode(self, rows: NDArray[np.int64], progress: Progress | None, what: str) -> None:
        chunk_rows = max(1, min(_MAX_CHUNK_ROWS, _CHUNK_BYTES // self._row_bytes))
        done = 0
        with (
            ThreadPoolExecutor(max_workers=count_usable_cpus()) as pool,
            self._pixels_file.open("r+b") as pixels_file,
            self._status_file.open("r+b") as status_file,
        ):
            for start in range(0, len(rows), chunk_rows):
                chunk = rows[start : start + chunk_rows].tolist()
                reasons: dict[int, str] = {}
                for row, result in zip(chunk, pool.map(self._decode_row, chunk), strict=True):
                    # Plain writes, not the map: on a full disk they raise, where a map kills the process.
                    self._out_of_reach.pop(row, None)
                    if isinstance(result, UnreadableImage):
                        (reasons if result.lasting else self._out_of_reach)[row] = result.reason
                    else:
                        pixels_file.seek(row * self._row_bytes)
                        pixels_file.write(result.data)
                    done += 1
                    if progress and (done % _PROGRESS_EVERY == 0 or done == len(rows)):
                        progress(what, done, len(rows))
                _flush(pixels_file)
                self._mark(status_file, chunk, reasons)

    def _mark(self, status_file: BinaryIO, chunk: list[int], reasons: dict[int, str]) -> None:
        """Record a chunk whose pixels are on disk."""
        if reasons:
            with self._reasons_file.open("a", encoding="utf-8") as file:
                # The leading line end closes a line that a killed process left half written.
                lines = [json.dumps({"row": row, "reason": reason}) for row, reason in reasons.items()]
                file.write("\n" + "\n".join(lines) + "\n")
                file.flush()
                os.fsync(file.fileno())
        for row in chunk:
            if row in self._out_of_reach:
                continue
            self._status[row] = _UNREADABLE if row in reasons else _DONE
            status_file.seek(row)
            status_file.write(bytes([self._status[row]]))
        self._recorded.update(reasons)
        _flush(status_file)

    def _decode_row(self, row: int) -> NDArray[np.uint8] | UnreadableImage:
        try:
            return decode(self._images[row], self.geometry)
        except UnreadableImage as unreadable:
            return unreadable


def compute_store_key(records: Sequence[Record], geometry: ImageGeometry) -> str:
    """sha256 (hex) over the format version, the geometry and each record's id and fingerprint."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, asdict(geometry)], sort_keys=True).encode())
    for record in records:
        try:
            fingerprint = record.image.fingerprint()
        except OSError as error:
            fingerprint = f"unreachable:{error.errno}"
        digest.update(f"{record.id}\0{fingerprint}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def count_usable_cpus() -> int:
    """Cores this process may run on, at most 16 (decoding gains little beyond)."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(available or 1, 16)


def _read_reasons(path: Path) -> dict[int, str]:
    reasons = {}
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # empty, or cut off when its writer died: such rows were not marked and are tried again
        reasons[entry["row"]] = entry["reason"]
    return reasons


def _has_size(path: Path, num_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
