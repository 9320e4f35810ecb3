"""Replace files in one step: a reader, also after a crash, sees the whole old file or the whole new one."""

import json
import os
from pathlib import Path
from typing import Any


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
