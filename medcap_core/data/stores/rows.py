"""Rows of equal size in one memory-mapped file, each computed once and shared by all processes of a machine.

A folder holds the rows in one sparse file, `status.u8` with one byte a row, and `lock`. A row's status is written only
after its content has reached the disk, so a killed process leaves no row marked done without content.
"""

import mmap
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import filelock
import numpy as np
from numpy.typing import DTypeLike, NDArray

from medcap_core.errors import DataFault
from medcap_core.runtime.cache import check_free_space, guard_cache_writes
from medcap_core.runtime.progress import Progress

Rows = NDArray[np.int64]

TO_DO, DONE, UNUSABLE = 0, 1, 2
_CHUNK_BYTES = 64 * 2**20
_MAX_CHUNK_ROWS = 512
_PROGRESS_EVERY = 16
_LARGE_ROW_BYTES = 2**21  # such as a volume of 128 voxels a side, which takes long
_WAIT_SECONDS = 1.0


class RowStore:
    """`num_rows` rows of `row_shape` and `dtype`.

    Safe for several processes at once: one fills rows, the others wait and then read. Picklable; the copy maps the file
    itself.
    """

    def __init__(
        self, folder: Path, file_name: str, num_rows: int, row_shape: tuple[int, ...], dtype: DTypeLike
    ) -> None:
        """Open the store; writes nothing."""
        self.folder = folder
        self.row_shape = row_shape
        self.row_bytes = int(np.prod(row_shape)) * np.dtype(dtype).itemsize
        self.status: NDArray[np.uint8] = np.zeros(num_rows, np.uint8)
        self._dtype = np.dtype(dtype)
        self._rows_file = folder / file_name
        self._status_file = folder / "status.u8"
        self._sizes = {self._rows_file: num_rows * self.row_bytes, self._status_file: num_rows}
        self._map: NDArray[Any] | None = None
        self._mapped: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None, "_mapped": None}

    def __len__(self) -> int:
        return len(self.status)

    @property
    def chunk_rows(self) -> int:
        """Rows that are flushed and marked at once."""
        return max(1, min(_MAX_CHUNK_ROWS, _CHUNK_BYTES // self.row_bytes))

    def still_to_do(self, rows: Rows) -> Rows:
        """Return the `rows` that were neither done nor unusable when the status was last read."""
        to_do: Rows = rows[self.status[rows] == TO_DO]
        return to_do

    def read_status(self) -> None:
        """Read the status of all rows from disk."""
        if self._has_files():
            self.status = np.fromfile(self._status_file, np.uint8)
        else:  # not yet created, or deleted while this process runs
            self.status, self._map, self._mapped = np.zeros(len(self), np.uint8), None, None

    def read(self, rows: Rows) -> NDArray[Any]:
        """Read copies of rows, (len(rows), *row_shape).

        Raises ValueError for rows that are not done, DataFault where the file was truncated since it was opened.
        """
        was_cut = self._mapped is not None and self._mapped.size() < len(self) * self.row_bytes
        if was_cut:  # reading beyond the end of a mapped file kills the process
            self._map = self._mapped = None
            self.read_status()
        if not (self.status[rows] == DONE).all():
            self.read_status()
            absent = np.asarray(rows)[self.status[rows] != DONE]
            if absent.size and was_cut:
                raise DataFault(
                    f"{self._rows_file} was cut short while it was in use; go on by --resume, which makes it anew."
                )
            if absent.size:
                raise ValueError(f"rows {absent[:5].tolist()} are not in {self.folder}; fill them first")
        if self._map is None:
            with self._rows_file.open("rb") as file:
                self._mapped = mmap.mmap(file.fileno(), len(self) * self.row_bytes, access=mmap.ACCESS_READ)
            self._map = np.frombuffer(self._mapped, self._dtype).reshape(len(self), *self.row_shape)
        return np.asarray(self._map[rows])

    @contextmanager
    def locked(self, wanted: Rows, progress: Progress | None, what: str) -> Iterator[None]:
        """Lock the store and create its files; while another process holds it, report its progress on `wanted`."""
        with guard_cache_writes(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / "lock", timeout=_WAIT_SECONDS)
            while not lock.is_locked:
                try:
                    lock.acquire()
                except filelock.Timeout:
                    self.read_status()
                    if progress:
                        num_done = len(wanted) - self.still_to_do(wanted).size
                        progress(f"{what} (in another process)", num_done, len(wanted))
            try:
                if not self._has_files():  # absent, or of a wrong size
                    for path in reversed(self._sizes):  # status first: it must not mark content that is gone
                        path.unlink(missing_ok=True)  # not emptied: other processes may have it mapped
                    for path, num_bytes in self._sizes.items():
                        path.touch()
                        os.truncate(path, num_bytes)
                self.read_status()
                yield
            finally:
                lock.release()

    def fill(
        self,
        rows: Rows,
        make: Callable[[Rows], Generator[NDArray[Any] | None]],
        progress: Progress | None,
        what: str,
        settle_absent: Callable[[list[int]], list[int]] = lambda _: [],
    ) -> None:
        """Write those of `rows` that are neither done nor unusable, chunk by chunk; wait where another process does.

        `make` yields the contents of the rows that it is given in their order, None for a failed row. `settle_absent`
        takes the failed rows of a chunk and returns those that stay unusable; the others are retried next time. Raises
        DataFault where the disk is full or the cache folder not writable.
        """
        wanted = np.unique(np.asarray(rows, dtype=np.int64))
        self.read_status()
        if not self.still_to_do(wanted).size:
            return
        with self.locked(wanted, progress, what):
            to_do = self.still_to_do(wanted)
            if not to_do.size:  # the other process did all
                return
            check_free_space(self.folder, int(to_do.size) * self.row_bytes, what.capitalize())
            every = 1 if self.row_bytes >= _LARGE_ROW_BYTES else _PROGRESS_EVERY
            done, absent = [], []
            with (
                closing(make(to_do)) as contents,
                self._rows_file.open("r+b") as rows_file,
                self._status_file.open("r+b") as status_file,
            ):
                for number, (row, content) in enumerate(zip(to_do.tolist(), contents, strict=True), start=1):
                    # Plain writes raise on a full disk, where writing to a map kills the process.
                    if content is None:
                        absent.append(row)
                    else:
                        rows_file.seek(row * self.row_bytes)
                        rows_file.write(np.ascontiguousarray(content).data)
                        done.append(row)
                    if progress and (number % every == 0 or number == len(to_do)):
                        progress(what, number, len(to_do))
                    if number % self.chunk_rows == 0 or number == len(to_do):
                        flush(rows_file)
                        unusable = settle_absent(absent) if absent else []
                        self._mark(status_file, dict.fromkeys(done, DONE) | dict.fromkeys(unusable, UNUSABLE))
                        done, absent = [], []

    def _mark(self, status_file: BinaryIO, marks: dict[int, int]) -> None:
        """Mark rows whose content is on disk."""
        for row, mark in marks.items():
            self.status[row] = mark
            status_file.seek(row)
            status_file.write(bytes([mark]))
        flush(status_file)

    def _has_files(self) -> bool:
        return all(path.is_file() and path.stat().st_size == num_bytes for path, num_bytes in self._sizes.items())


def flush(file: IO[Any]) -> None:
    """Flush the file to disk."""
    file.flush()
    os.fsync(file.fileno())
