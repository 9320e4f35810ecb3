"""Data under a URL: copied once into this node's cache, and then read as a folder."""

from pathlib import Path

from filelock import FileLock

from medcap_core.config import expand_home
from medcap_core.errors import DataFault
from medcap_core.runtime.cache import guard_cache_writes
from medcap_core.runtime.copies import copy_folder
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.runtime.storage import Storage, data_directory, is_url

_WHOLE_SUFFIXES = (".parquet", ".tar", ".zip")
"""Files that need none beside them; the images of any other may lie in its folder."""
_fetched: dict[str, Path] = {}
"""What this process has compared with its source."""


def fetch_data(data: str, progress: Progress = ignore_progress) -> Path:
    """Copy the files under a URL into the cache, and return the path to read in its place; a path is returned as it is.

    Of a file the whole folder is copied, unless it holds its images itself. Files are compared by size and version once
    in a process, and only those that are missing or have changed are copied again. Raises DataFault where there is
    nothing or the disk is full, and StorageFault.
    """
    if not is_url(data):
        return expand_home(data)
    if data not in _fetched:
        _fetched[data] = _fetch(data, progress)
    return _fetched[data]


def _fetch(url: str, progress: Progress) -> Path:
    place, name = Storage(url), ""
    if place.is_file():
        folder_url, _, name = place.url.rpartition("/")
        place = Storage(folder_url)
    files = place.list_files()
    folder = data_directory(place.url)
    if name.lower().endswith(_WHOLE_SUFFIXES):
        files, folder = {name: files[name]}, data_directory(url)
    if not files:
        raise DataFault(f"{url}: no files lie there; give the URL of a data set's folder or table.")
    with guard_cache_writes(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            try:
                copy_folder(place, folder, files, progress, "fetching images and tables")
            except FileNotFoundError as error:
                raise DataFault(f"{url}: a file went away while it was copied ({error}); try again.") from error
    return folder / name
