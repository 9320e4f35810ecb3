"""The checkpoints and log of one trial under a run's URL, and their copy on the disk of the node that needs them.

`history.json` is uploaded last: where it is the same on both sides, so are the weights beside it. A kill between two
uploads leaves what a kill between the writes of `CheckpointFolder` leaves, which `restore` expects.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from medcap_core.runtime.files import Stamp, stamp_file
from medcap_core.runtime.storage import Storage, working_directory

LARGE_BYTES = 64_000_000
"""Checkpoints above this size are uploaded beside training."""

_HISTORY = "checkpoints/history.json"
_EPOCHS = "checkpoints/epochs/"
"""What `checkpoint_every_epoch` keeps, from which no trial goes on."""
_LOG = "log.txt"


class StoredCheckpoints:
    """One trial's folder on this node, `folder`, and its files under `url`, the URL of the run."""

    def __init__(self, url: str, trial: str) -> None:
        self.folder = working_directory(url) / "trials" / trial
        self.checkpoints = self.folder / "checkpoints"
        self.best_weights = self.checkpoints / "best" / "weights.safetensors"
        self._remote = Storage(url) / f"trials/{trial}"
        self._links = self.folder / ".uploading"
        self._sent: dict[str, Stamp] = {}
        self._uploads = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._upload: Future[None] | None = None

    def fetch(self) -> None:
        """Get the trial's checkpoints, unless those on this disk are the same, or go on from the same epochs.

        Others on this disk are of another run, or of an attempt that was given up, and go. Safe for several workers on
        one node.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".fetch.lock"):
            local_path = self.folder / _HISTORY
            local = _read_epochs(local_path.read_bytes() if local_path.is_file() else None)
            stored = _read_epochs(self._remote.read(_HISTORY))
            goes_on = bool(stored) and local[: len(stored)] == stored
            if goes_on and len(local) > len(stored):
                return
            if not goes_on:
                shutil.rmtree(self.checkpoints, ignore_errors=True)
            if not stored:
                return
            names = [name for name in self._remote.list_files() if name.startswith("checkpoints/")]
            for name in [*_in_order(name for name in names if not name.startswith(_EPOCHS)), _LOG]:
                if not (self.folder / name).is_file():
                    with suppress(FileNotFoundError):  # freed meanwhile, or a trial without a log
                        self._remote.get(name, self.folder / name)
            self._sent = self._stamp_all()

    def fetch_best_weights(self) -> Path:
        """Get the checkpoints, and return the file of the best epoch's weights."""
        self.fetch()
        return self.best_weights

    def after_epoch(self, report: Callable[[], None], *, beside: bool) -> None:
        """Upload the files of an epoch, and report it.

        A checkpoint of at most LARGE_BYTES is there before the report. With `beside` a larger one is uploaded after
        it, while the trial goes on; the next epoch's waits for it.
        """
        if beside and sum(num_bytes for _, num_bytes in self._changed().values()) > LARGE_BYTES:
            report()  # returns when the run has it on record
            self._wait()
            try:
                changed = self._link_changed()
            except OSError:  # this file system has no second names
                self.push()
            else:
                self._upload = self._uploads.submit(self._push, self._links, changed)
            return
        self._wait()
        self.push()
        report()

    def push(self) -> None:
        """Upload what has changed since the last time."""
        self._push(self.folder, self._changed())

    def close(self) -> None:
        """Finish all uploads, and free this node's disk of the checkpoints, which are stored. Raises StorageFault."""
        try:
            self._wait()
            self.push()
        finally:
            self._uploads.shutdown()
        self.free()

    def free(self) -> None:
        """Free this node's disk of the checkpoints."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _wait(self) -> None:
        if self._upload is not None:
            upload, self._upload = self._upload, None
            upload.result()

    def _push(self, folder: Path, changed: dict[str, Stamp]) -> None:
        for name, stamp in changed.items():
            self._remote.put(folder / name, name)
            self._sent[name] = stamp
        shutil.rmtree(self._links, ignore_errors=True)

    def _changed(self) -> dict[str, Stamp]:
        stamps = self._stamp_all()
        return {name: stamps[name] for name in _in_order(stamps) if self._sent.get(name) != stamps[name]}

    def _stamp_all(self) -> dict[str, Stamp]:
        """List the size and time of each whole file of the trial that is stored, by name."""
        paths = [path for path in self.checkpoints.rglob("*") if path.is_file()] + [self.folder / _LOG]
        names = {path.relative_to(self.folder).as_posix(): path for path in paths if path.is_file()}
        return {name: stamp_file(path) for name, path in names.items() if "/." not in name}

    def _link_changed(self) -> dict[str, Stamp]:
        """Give the changed files second names, under which they stay as they are while the trial replaces them."""
        changed = self._changed()
        shutil.rmtree(self._links, ignore_errors=True)
        for name in changed:
            link = self._links / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(self.folder / name)
        return changed


def free_node(url: str) -> None:
    """Free this node's disk of what it got of the weights of a run at `url`, once nobody shows it images any more."""
    for folder in working_directory(url).glob("trials/*/checkpoints"):
        shutil.rmtree(folder, ignore_errors=True)


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort as `CheckpointFolder` writes: `last/` before `best/`, and the history at the end."""
    return sorted(names, key=lambda name: (name == _HISTORY, not name.startswith("checkpoints/last/"), name))


def _read_epochs(history: bytes | None) -> list[object]:
    """Read the reports of a `history.json`; none where it is damaged, whose checkpoints are then of no use."""
    try:
        epochs: list[object] = json.loads(history or b"[]")
    except ValueError:
        return []
    return epochs
