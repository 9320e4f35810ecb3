"""Captions of a model nobody has trained, written once for each image and kept for every later run.

One file of JSON lines, `{"row": 3, "caption": "..."}`, for each (image store, everything that decides the captions).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import filelock
import numpy as np
from numpy.typing import NDArray

from medcap_core.runtime.cache import cache_root, guard_cache_writes

# Raise when the way from images to captions changes.
FORMAT_VERSION = 1


class CaptionStore:
    """The captions known so far; safe for several processes at once, which at worst write the same caption twice."""

    def __init__(self, images_key: str, settings: Mapping[str, object], root: Path | None = None) -> None:
        """`settings` names all that decides a caption beside the image; nothing is written yet."""
        described = json.dumps([FORMAT_VERSION, images_key, dict(settings)], sort_keys=True)
        folder = (root or cache_root()) / "captions"
        self.path = folder / f"{hashlib.sha256(described.encode()).hexdigest()[:32]}.jsonl"

    def missing(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `rows` that have no caption yet."""
        known = self._read()
        return np.array([row for row in rows.tolist() if row not in known], dtype=np.int64)

    def captions(self, rows: NDArray[np.int64]) -> list[str]:
        """The captions of `rows`. Raises KeyError where one is missing."""
        known = self._read()
        return [known[row] for row in rows.tolist()]

    def _read(self) -> dict[int, str]:
        known: dict[int, str] = {}
        for line in self.path.read_text("utf-8").splitlines() if self.path.is_file() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # empty, or cut off when its writer died
            known[entry["row"]] = entry["caption"]
        return known

    def add(self, rows: NDArray[np.int64], captions: Sequence[str]) -> None:
        """Keep the captions of `rows`. Raises DataFault where the disk is full or closed to us."""
        lines = [json.dumps({"row": row, "caption": text}) for row, text in zip(rows.tolist(), captions, strict=True)]
        with guard_cache_writes(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.path.with_suffix(".lock")), self.path.open("a", encoding="utf-8") as file:
                # The leading line end closes a line that a killed process left half written.
                file.write("\n" + "\n".join(lines) + "\n")
