"""The copy of a run directory under a URL, for runs of `--out s3://...` and the like.

The driver works in a folder of its own machine, whose files follow to the storage: a trial's record at once, before
anything rests on it, all others within seconds, by a thread. What trials write is theirs to upload
(`medcap_core.training.stored_checkpoints`). `driver.json` names the driver that a run belongs to: where it is this
machine's last one, its folder is at least as new as the storage; else the storage is what stands. A driver that finds
another in its place stops.
"""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import threading
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from medcap_core.errors import RunFault
from medcap_core.runtime.copies import copy_folder, notes_path
from medcap_core.runtime.files import Stamp, replace_text, stamp_file
from medcap_core.runtime.progress import ignore_progress
from medcap_core.runtime.storage import Storage, is_url, working_directory
from sweep.study.directory import check_new_directory, find_holder, take_lock
from sweep.study.paths import RunPaths

SECONDS_BETWEEN_UPLOADS = 5.0

DRIVER, _PROBE = "driver.json", ".probe"
_OF_THIS_MACHINE = ("run.lock", "ray", "best.partial")
_OF_TRIALS = ("checkpoints", "log.txt", "progress.json")
"""What lies in a trial's folder and is stored by the trial, or by nobody."""


class Mirror:
    """A run's folder on this machine, `directory`, and its copy under `url`; for whoever has the run's lock."""

    def __init__(self, url: str) -> None:
        self.storage = Storage(url)
        self.url = self.storage.url
        self.directory = working_directory(self.url).resolve()
        self._token = ""
        self._sent: dict[str, Stamp] = {}
        """Size and time of each local file when it was sent."""
        self._lock = threading.Lock()
        self._given_up: set[str] = set()
        self._ending = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._following: Future[None] | None = None
        self._fault: RunFault | None = None

    def check_new(self) -> None:
        """Raise RunFault where a run lies under the URL, or is left on this machine of one that did, or none can."""
        if self.url.startswith("memory://"):
            raise RunFault(
                f"--out {self.url}: each process has a memory of its own, so trials and driver would not meet there; "
                "give a folder, or a URL that other processes see."
            )
        if set(self.storage.list_files()) - {DRIVER, _PROBE}:
            raise RunFault(
                f"--out {self.url} is not empty; choose another, or go on with the run in it by --resume {self.url}."
            )
        self.storage.write(_PROBE, b"")  # what cannot be written is known before anything starts
        self.storage.remove(_PROBE)
        paths = RunPaths(self.directory)
        if not paths.trials.is_dir() and not find_holder(self.directory):
            shutil.rmtree(self.directory, ignore_errors=True)  # of a run that was killed before its first trial
        if paths.space.is_file():
            raise RunFault(
                f"--out {self.url} is empty, but {self.directory} still has the files of a run that was there; remove "
                f"that folder, or go on with its run by --resume {self.url}."
            )

    def fetch(self) -> None:
        """Get the run's files where another machine was the last to go on with it. Raises RunFault where is no run."""
        paths = RunPaths(self.directory)
        driver = self.storage.read(DRIVER)
        self._load_state()
        if driver is None and paths.space.is_file():
            self._sent = {}  # the storage was emptied: what this machine has is all there is
            return
        if driver is not None and json.loads(driver)["token"] == self._token:
            return
        files = {name: file for name, file in self.storage.list_files().items() if _is_kept(name)}
        if driver is None or paths.space.name not in files:
            raise RunFault(f"{self.url} holds no run; give the URL that one was begun with by --out.")
        self._token = ""  # until `begin` this folder is no driver's
        self._save_state()
        if not notes_path(self.directory).is_file():  # it was, and its files may be others than those it got
            for path in self.directory.iterdir():
                if path != paths.lock:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            copy_folder(self.storage, self.directory, files, ignore_progress, "fetching the run")
        except FileNotFoundError as error:
            raise RunFault(f"{self.url}: a file went away while it was copied ({error}); try again.") from error
        self._sent = {name: stamp_file(self.directory / name) for name in files}
        self._save_state()

    def begin(self) -> None:
        """Take the run over, once the storage has all that this folder has. Raises StorageFault."""
        has_trials = RunPaths(self.directory).trials.is_dir()
        if has_trials:
            self._upload(self._list_files(with_records=True))
        token = uuid.uuid4().hex
        self.storage.write(DRIVER, json.dumps({"token": token, "host": socket.gethostname()}).encode())
        notes_path(self.directory).unlink(missing_ok=True)
        self._token = token
        self._save_state()
        if has_trials:
            self._following = self._thread.submit(self._follow)

    def push(self, record: Path) -> None:
        """Upload a record now. Raises RunFault, also what was the matter with the files that follow."""
        try:
            self.check()
            if self._following is None:
                self._upload(self._list_files())  # the space file before the first record
                self._following = self._thread.submit(self._follow)
            self._upload({record.relative_to(self.directory).as_posix(): record})
        except RunFault as fault:
            self._fault = fault
            raise

    def check(self) -> None:
        """Raise RunFault where what is left to upload will not be."""
        if self._fault is not None:
            raise self._fault
        if self._following is not None and self._following.done():
            self._following.result()

    def give_up(self, name: str) -> None:
        """Let the thread remove what trials have stored under a name."""
        self._given_up.add(name)

    def close(self) -> None:
        """Upload what is left. Raises RunFault, unless `push` did."""
        self._ending.set()
        self._thread.shutdown()
        if self._following is None or self._fault is not None:
            return
        self._following.result()
        self._catch_up()
        left = self.storage.list_files()  # a trial that was stopped may have uploaded its last epoch just then
        for name in self._given_up:
            if any(file.startswith(f"{name}/") for file in left):
                self.storage.remove(name)

    def _follow(self) -> None:
        removed: set[str] = set()
        while not self._ending.wait(SECONDS_BETWEEN_UPLOADS):
            self._catch_up()
            for name in set(self._given_up) - removed:
                self.storage.remove(name)
                removed.add(name)

    def _catch_up(self) -> None:
        driver = self.storage.read(DRIVER)
        if driver is not None and json.loads(driver)["token"] != self._token:
            host = json.loads(driver)["host"]
            raise RunFault(f"{self.url}: a run on {host} has taken over, so this one stops; look there.")
        files = self._list_files()
        self._upload(files)
        for name in [name for name in list(self._sent) if name not in files and not (self.directory / name).exists()]:
            self.storage.remove(name)
            with self._lock:
                del self._sent[name]

    def _upload(self, files: dict[str, Path]) -> None:
        """Upload files that are not as when they were sent. A model's mark is away while the model is replaced."""
        mark = RunPaths(self.directory).best_model_trial.relative_to(self.directory).as_posix()
        changed: dict[str, Stamp] = {}
        for name, path in files.items():
            with contextlib.suppress(FileNotFoundError):  # replaced at this moment: next time
                if self._sent.get(name) != stamp_file(path):
                    changed[name] = stamp_file(path)
        if mark in changed:
            self.storage.remove(mark)
        with contextlib.ExitStack() as copies:
            sources = {name: _copy_if_database(files[name], copies) for name in changed}
            self.storage.put_all((sources[name], name) for name in changed if name != mark)
        if mark in changed:
            self.storage.put_all([(files[mark], mark)])
        if changed:
            with self._lock:
                self._sent |= changed
            self._save_state()

    def _list_files(self, *, with_records: bool = False) -> dict[str, Path]:
        records = set() if with_records else set(RunPaths(self.directory).trial_records)
        files: dict[str, Path] = {}
        for folder, folders, names in os.walk(self.directory):  # passes over what goes away meanwhile
            place = Path(folder).relative_to(self.directory)
            folders[:] = [name for name in folders if _is_kept((place / name).as_posix())]
            files |= {(place / name).as_posix(): Path(folder) / name for name in names}
        return {name: path for name, path in files.items() if _is_kept(name) and path not in records}

    def _load_state(self) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError):  # there may have been a power cut
            state = json.loads(RunPaths(self.directory).mirror.read_bytes())
            self._token = state["token"]
            self._sent = {name: (stamp[0], stamp[1]) for name, stamp in state["sent"].items()}

    def _save_state(self) -> None:
        with self._lock:
            state = {"url": self.url, "token": self._token, "sent": self._sent}
            replace_text(RunPaths(self.directory).mirror, json.dumps(state))


def find_place(name: Path | str) -> tuple[Path, Mirror | None]:
    """Return the folder in which a run of this path or URL works, and the mirror that takes it to the URL."""
    if not is_url(str(name)):
        return Path(name), None
    mirror = Mirror(str(name))
    return mirror.directory, mirror


def check_new_place(name: str) -> None:
    """Raise RunFault where no new run can lie at a path or URL."""
    directory, mirror = find_place(name)
    if mirror:
        mirror.check_new()
    check_new_directory(directory)


def find_run(name: str) -> Path:
    """Return the folder to read a run from, which goes by its path or URL.

    Of a URL it is that of this machine, brought up to date where no driver works in it. Raises RunFault where no run
    lies there.
    """
    if not is_url(name):
        try:
            Path(name).resolve()
        except (ValueError, RuntimeError):  # NUL in it; links in a circle
            raise RunFault(f"{name!r} is not a run directory; name one such as runs/lora-001.") from None
        return Path(name)
    mirror = Mirror(name)
    mirror.directory.mkdir(parents=True, exist_ok=True)
    if not find_holder(mirror.directory):
        lock = take_lock(mirror.directory)
        try:
            mirror.fetch()
        finally:
            lock.release()
    return mirror.directory


def _is_kept(name: str) -> bool:
    """Return whether a file or folder of a run directory is the driver's, and of use on another machine."""
    parts = name.split("/")
    if parts[0] == "trials" and len(parts) > 2 and parts[2] in _OF_TRIALS:
        return False
    is_temporary = any(part.startswith(".") for part in parts) or name.endswith(("-journal", "-wal", "-shm"))
    return not is_temporary and parts[0] not in _OF_THIS_MACHINE and name != DRIVER


def _copy_if_database(path: Path, copies: contextlib.ExitStack) -> Path:
    """Return a whole copy of an SQLite file, which may be written meanwhile; of others the file itself."""
    if path.suffix != ".db":
        return path
    copy = path.with_name(f".{path.name}.copy")
    copies.callback(copy.unlink, missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except sqlite3.Error:  # damaged or locked for long, and made anew from the records
        return path
    return copy
