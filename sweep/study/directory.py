"""The run directory: choosing a free one, locking it for one process, loading its space and records."""

import json
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from medcap_core.errors import ConfigFault, RunFault
from medcap_core.runtime.files import find_pipes, write_text_atomically
from sweep.space import SearchSpace, load_space
from sweep.study.paths import RunPaths
from sweep.study.record import TrialRecord


def next_run_directory(root: Path, name: str) -> Path:
    """Create the next free `<root>/<name>-NNN`, counting from 001; concurrent callers get different ones.

    Raises RunFault if `root` cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = [path.name.removeprefix(f"{name}-") for path in root.glob("*") if path.name.startswith(f"{name}-")]
        number = max((int(end) for end in taken if end.isascii() and end.isdigit()), default=0) + 1
        while True:
            directory = root / f"{name}-{number:03d}"
            with suppress(FileExistsError):
                directory.mkdir()
                return directory
            number += 1
    except OSError as error:
        raise RunFault(
            f"{root}: cannot make a run directory here ({error.strerror}); choose another with --out."
        ) from None


def show_path(path: Path) -> str:
    """Format a path relative to the working directory where possible."""
    absolute = path.resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def find_url(directory: Path) -> str | None:
    """Return the URL of the run of which `directory` is this machine's copy; None for a run that is a directory."""
    try:
        url: str = json.loads(RunPaths(directory).mirror.read_bytes())["url"]
    except (OSError, ValueError):
        return None
    return url


def show_run(directory: Path) -> str:
    """Return what the run in a directory goes by in commands: its URL, else its path."""
    return find_url(directory) or show_path(directory)


def check_new_directory(directory: Path) -> None:
    """Raise RunFault unless `directory` is free for a new run: absent, or a folder with at most a list of bad records.

    The list is what a run leaves that was refused for its data; the same command goes on once they are mended.
    """
    try:
        str(directory).encode()
        directory = directory.resolve()
    except (ValueError, RuntimeError) as error:  # not UTF-8 or with NUL; a circle
        why = "no file has such a name" if isinstance(error, ValueError) else "its links lead in a circle"
        raise RunFault(f"--out {str(directory)!r}: {why}; choose another.") from None
    if directory.exists() and not directory.is_dir():
        raise RunFault(f"--out {directory} is a file; choose a folder.")
    paths = RunPaths(directory)
    left_behind = (paths.lock, paths.skipped_records)
    if directory.is_dir() and any(path not in left_behind or path.is_dir() for path in directory.iterdir()):
        raise RunFault(
            f"--out {directory} is not empty; choose another, or go on with the run in it by --resume {directory}."
        )
    check_writable(directory, "--out ")


def check_run_directory(paths: RunPaths) -> None:
    """Raise RunFault unless the files of a run are there."""
    for path in (paths.space, paths.trials_table):  # a folder of space files has the former alone
        is_made_anew = path == paths.trials_table and paths.trials.is_dir()
        if not path.is_file() and not is_made_anew:
            raise RunFault(
                f"{paths.root} is not a run directory (it has no {path.name}); name one such as runs/lora-001."
            )


def check_writable(folder: Path, flag: str = "") -> None:
    """Raise RunFault unless `folder`, or the nearest one above it that is there, can hold a run: it is tried."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    where = f"{flag}{folder}" if there == folder else f"{flag}{folder}: {there}"
    if not there.is_dir():
        raise RunFault(f"{where} is a file; choose another folder with --out.")
    try:
        with tempfile.TemporaryDirectory(prefix=".medcap-", dir=there) as probe:
            write_text_atomically(Path(probe, "file"), "written")
            FileLock(Path(probe, "lock")).acquire(timeout=0)
    except (OSError, NotImplementedError) as error:  # the latter where no file can be locked
        why = getattr(error, "strerror", None) or error
        raise RunFault(f"{where} cannot be written ({why}); choose another folder with --out.") from None


def check_places(directory: Path) -> None:
    """Raise RunFault for each folder of a run where a file of it belongs, and the reverse, and for each pipe."""
    check_no_pipes(directory)
    paths = RunPaths(directory)
    temporary = [path.with_name(f".{path.name}.tmp") for path in paths.files]
    folders = [path for path in (*paths.files, *temporary) if path.is_dir()]
    files = [path for path in paths.folders if path.exists() and not path.is_dir()]
    if folders or files:
        faults = [f"{path} is a folder, but a file belongs there: move it away." for path in folders]
        raise RunFault([*faults, *(f"{path} is a file, but a folder belongs there: move it away." for path in files)])


def check_no_pipes(directory: Path) -> None:
    """Raise RunFault for each pipe or device in a run directory, on which reading would wait for ever."""
    if pipes := find_pipes(directory):
        raise RunFault(f"{path} is a pipe or device, but a file belongs there: remove it." for path in pipes)


def take_lock(directory: Path) -> FileLock:
    """Lock the run for this process; the system releases the lock however the process ends.

    Raises RunFault if another process holds it.
    """
    lock = FileLock(RunPaths(directory).lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunFault(f"{directory} is in use by another sweep.run; wait until it ends or stop it first.") from None
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or error
        raise RunFault(f"{directory}: cannot be locked ({why}); make it writable or choose another.") from None
    return lock


def find_holder(directory: Path) -> bool:
    """Check in `/proc/locks`, without touching the lock, whether a process of this machine has locked the run.

    False also without `/proc/locks`, or where the run is on another machine.
    """
    try:
        inode = str(RunPaths(directory).lock.stat().st_ino)
        held = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return False
    # Such as `1: FLOCK  ADVISORY  WRITE 8544 fe:00:2154512 0 EOF`.
    return re.search(rf"FLOCK\s+ADVISORY\s+WRITE\s+\S+\s+\w+:\w+:{inode}\s", held) is not None


def load_run_space(path: Path) -> SearchSpace:
    """Load a run's space.yaml. Raises RunFault if it is damaged."""
    try:
        return load_space(path)
    except ConfigFault as fault:
        raise RunFault(fault.faults) from None


def load_run_records(directory: Path) -> list[TrialRecord]:
    """Load all trial records, by number. Raises RunFault with every damaged or missing one."""
    paths = RunPaths(directory)
    records: list[TrialRecord] = []
    faults: list[str] = []
    for path in paths.trial_records:
        try:
            records.append(TrialRecord.load(path))
        except RunFault as fault:
            faults += fault.faults
    if not faults:
        missing = sorted(set(range(len(records))) - {record.number for record in records})
        missing_paths = [paths.trial(f"trial_{number:04d}").record for number in missing]
        faults = [f"{path} is missing; restore it from a copy." for path in missing_paths]
    if faults:
        raise RunFault(faults)
    return sorted(records, key=lambda record: record.number)
