"""Locate the caches of this machine, and report a full disk or a folder that cannot be written."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import platformdirs

from medcap_core.errors import ConfigFault, DataFault

CACHE_VARIABLE = "MEDCAP_CACHE"
_SPARE_BYTES = 64 * 2**20

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def cache_root() -> Path:
    """Return the folder of all caches, not yet created: the variable MEDCAP_CACHE, else the user's cache folder.

    Raises ConfigFault for a relative MEDCAP_CACHE, which would be another folder in every working directory.
    """
    given = os.environ.get(CACHE_VARIABLE)
    if not given:
        return Path(platformdirs.user_cache_dir("medcap-sweep", appauthor=False))
    root = Path(os.path.expanduser(given))  # noqa: PTH111 - Path's raises where a user is not known
    if not root.is_absolute():
        raise ConfigFault(f"{CACHE_VARIABLE} must be an absolute path, but it is '{given}'.")
    return root


@contextmanager
def guard_cache_writes(folder: Path) -> Iterator[None]:
    """Raise DataFault with the remedy for a full disk or a folder without write permission; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DataFault(
                f"The disk of the cache folder {folder} is full: free some space or set {CACHE_VARIABLE} to a folder "
                "on another disk; what was finished so far is kept."
            ) from error
        if error.errno in _CLOSED and _concerns(error, folder):
            raise DataFault(
                f"The cache folder {folder} cannot be written ({error.strerror}): set {CACHE_VARIABLE} to a folder "
                "of your own."
            ) from error
        raise


def _concerns(error: OSError, folder: Path) -> bool:
    """Return whether the file at fault lies in `folder` or above it, rather than among the files that are read."""
    if not isinstance(error.filename, str):
        return True
    path = Path(error.filename)
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def format_size(num_bytes: float) -> str:
    """Format as `512 B`, `3.4 MB`, `12 GB`; decimal units."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def check_free_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raise DataFault when the disk under the existing `folder` cannot hold `needed_bytes` more (and 64 MiB spare)."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes + _SPARE_BYTES > free_bytes:
        raise DataFault(
            f"{purpose} needs {format_size(needed_bytes)} in {folder}, where {format_size(_SPARE_BYTES)} are left to "
            f"others, but only {format_size(free_bytes)} are free: free some space, set {CACHE_VARIABLE} to a folder "
            "on another disk, or use fewer or smaller images."
        )


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that takes the place of `path` at the end; processes that write it too do not mix."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` (UTF-8) so that readers see the old file or the new one, see `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())
