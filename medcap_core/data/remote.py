"""Data under a URL: copied once into this node's cache, and then read as a folder."""

import json
from pathlib import Path

from filelock import FileLock

from medcap_core.errors import DataFault
from medcap_core.runtime.cache import check_free_space, guard_cache_writes, write_atomically
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.runtime.storage import Storage, StoredFile, data_directory, is_url

_WHOLE_SUFFIXES = (".parquet", ".tar", ".zip")
"""Files that need none beside them; the images of any other may lie in its folder."""
_FILES_BETWEEN_NOTES = 1000
"""After so many files it is noted which are there, so that a kill loses no more."""
_fetched: dict[str, Path] = {}
"""What this process has compared with its source."""


def fetch_ahead(data: str, progress: Progress) -> None:
    """Copy the data now, with progress, where `data` is a URL."""
    if is_url(data):
        fetch_data(data, progress)


def fetch_data(url: str, progress: Progress = ignore_progress) -> Path:
    """Copy the files under a URL into the cache, and return the path to read in its place.

    Of a file the whole folder is copied, unless it holds its images itself. Files are compared by size and version once
    in a process, and only those that are missing or have changed are copied again. Raises DataFault where there is
    nothing or the disk is full, and StorageFault.
    """
    if url not in _fetched:
        _fetched[url] = _fetch(url, progress)
    return _fetched[url]


def _fetch(url: str, progress: Progress) -> Path:
    place, name = Storage(url), ""
    if place.is_file():
        folder_url, _, name = place.url.rpartition("/")
        place = Storage(folder_url)
    files = place.list_files()
    if name.lower().endswith(_WHOLE_SUFFIXES):
        files = {name: files[name]}
    if not files:
        raise DataFault(f"{url}: no files lie there; give the URL of a data set's folder or table.")
    folder = data_directory(place.url)
    with guard_cache_writes(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            _copy(place, files, folder, progress, is_all=not name.lower().endswith(_WHOLE_SUFFIXES))
    return folder / name


def _copy(place: Storage, files: dict[str, StoredFile], folder: Path, progress: Progress, *, is_all: bool) -> None:
    """Bring `folder` up to date with `files`, which are all that lie there or one of them."""
    notes = Path(f"{folder}.json")
    known = _read_notes(notes)
    for name in (known.keys() - files.keys()) if is_all else ():
        (folder / name).unlink(missing_ok=True)
        del known[name]
    wanted = [name for name, file in files.items() if known.get(name) != file or not (folder / name).is_file()]
    if not wanted:
        return
    check_free_space(folder, sum(files[name].num_bytes for name in wanted), f"the copy of {place.url}")
    done = 0

    def note(name: str) -> None:
        nonlocal done
        done += 1
        known[name] = files[name]
        progress("fetching images and tables", done, len(wanted))
        if done % _FILES_BETWEEN_NOTES == 0:
            _write_notes(notes, known)

    progress("fetching images and tables", 0, len(wanted))
    try:
        place.get_all([(name, folder / name) for name in wanted], note)
    except FileNotFoundError as error:
        raise DataFault(f"{place.url}: a file went away while it was copied ({error}); try again.") from error
    finally:
        _write_notes(notes, known)


def _read_notes(path: Path) -> dict[str, StoredFile]:
    try:
        return {name: StoredFile(*entry) for name, entry in json.loads(path.read_bytes()).items()}
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _write_notes(path: Path, known: dict[str, StoredFile]) -> None:
    write_atomically(path, json.dumps({name: (file.num_bytes, file.version) for name, file in known.items()}))
