"""Captions of a model nobody has trained, written once for each image and kept for every later run.

One file of JSON lines, `{"row": 3, "caption": "..."}`, for each (image store, everything that decides the captions).
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import filelock
import numpy as np
from numpy.typing import NDArray

from medcap_core.cache import cache_root, guard_cache_writes

# Raise when the way from images to captions changes.
FORMAT_VERSION = 1
_SAVED_EVERY = 1024


class CaptionStore:
    """The captions known so far; safe for several processes at once, which at worst write the same caption twice."""

    def __init__(self, images_key: str, settings: Mapping[str, object], root: Path | None = None) -> None:
        """`settings` names all that decides a caption beside the image; nothing is written yet."""
        described = json.dumps([FORMAT_VERSION, images_key, dict(settings)], sort_keys=True)
        folder = (root or cache_root()) / "captions"
        self.path = folder / f"{hashlib.sha256(described.encode()).hexdigest()[:32]}.jsonl"

    def complete(self, rows: NDArray[np.int64], caption: Callable[[NDArray[np.int64]], list[str]]) -> list[str]:
        """Captions of `rows`, those not known made by `caption(rows)`, some at a time, and kept at once."""
        known = self._read()
        missing = np.array([row for row in rows.tolist() if row not in known], dtype=np.int64)
        for start in range(0, len(missing), _SAVED_EVERY):
            part = missing[start : start + _SAVED_EVERY]
            new = dict(zip(part.tolist(), caption(part), strict=True))
            self._append(new)
            known |= new
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

    def _append(self, captions: Mapping[int, str]) -> None:
        lines = [json.dumps({"row": row, "caption": text}) for row, text in captions.items()]
        with guard_cache_writes(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.path.with_suffix(".lock")), self.path.open("a", encoding="utf-8") as file:
                # The leading line end closes a line that a killed process left half written.
                file.write("\n" + "\n".join(lines) + "\n")
