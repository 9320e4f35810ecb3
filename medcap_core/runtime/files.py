"""Replace files in one step: a reader, also after a crash, sees the whole old file or the whole new one."""

import csv
import errno
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medcap_core.errors import RunFault

_REMEDIES = {
    errno.ENOENT: "it is gone or a link to nothing: give another path, or try again",
    errno.EACCES: "change its permissions or give another path",
    errno.EPERM: "change its permissions or give another path",
    errno.EROFS: "give a path that can be written",
    errno.EISDIR: "a file belongs there: move the folder away",
    errno.ENOTDIR: "a part of the path is a file: give another path",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "its links lead in a circle: give another path",
    errno.ENOTEMPTY: "move the folder away",
}
_LONGEST_SHOWN = 200
Stamp = tuple[int, int]
"""Time of the last change (ns) and size (bytes) of a file."""


def stamp_file(path: Path) -> Stamp:
    """Return what changes where a file is replaced. Raises FileNotFoundError."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@contextmanager
def name_refused_files() -> Iterator[None]:
    """Turn the system's refusal of a path, such as one without permission, into a RunFault; other errors pass."""
    try:
        yield
    except OSError as error:
        path = error.filename if error.filename2 is None else error.filename2
        if error.errno not in _REMEDIES or path is None:
            raise
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)
        if error.errno == errno.EACCES:  # perhaps of a folder above
            name = next((str(part) for part in reversed(Path(name).parents) if not os.access(part, os.X_OK)), name)
        shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..."
        raise RunFault(f"{shown}: {error.strerror}; {_REMEDIES[error.errno]}.") from error


def walk_folders(folder: Path, depth: int) -> Iterator[tuple[Path, list[str]]]:
    """Yield `folder` and those up to `depth` levels below it, each with its files, in order of names.

    What vanishes meanwhile or may not be read is passed over.
    """
    for parent, folders, names in os.walk(folder, followlinks=True):
        yield Path(parent), sorted(names)
        folders[:] = sorted(folders) if len(Path(parent).relative_to(folder).parts) < depth else []


def find_pipes(folder: Path) -> list[Path]:
    """List the pipes and devices in `folder` and below it, on which reading would wait for ever."""
    return [
        path
        for parent, _, names in os.walk(folder)
        for path in (Path(parent, name) for name in names)
        if path.is_fifo() or path.is_char_device()
    ]


def write_text_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step that survives `kill -9` and a power cut.

    The temporary file has a fixed name beside `path`: one process writes a run directory, and the next write replaces
    a file left behind by a kill.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="")
    replace_durably(temporary, path)


def replace_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step that survives `kill -9`; a power cut may damage the file."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="")
    temporary.replace(path)


def write_csv_atomically(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Replace `path` by a table of `rows`, the header among them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text_atomically(path, text.getvalue())


def write_json_atomically(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON. Raises ValueError for NaN and infinities, which JSON cannot hold."""
    write_text_atomically(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def replace_durably(temporary: Path, path: Path) -> None:
    """Rename the finished file `temporary` to `path`, once its content is on the disk."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; a power cut can undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
