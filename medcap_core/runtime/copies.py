"""Copies of stored files in a folder of this machine, made anew where the storage has others."""

import json
from collections.abc import Mapping
from pathlib import Path

from medcap_core.runtime.cache import check_free_space, write_atomically
from medcap_core.runtime.progress import Progress
from medcap_core.runtime.storage import Storage, StoredFile, start_transfers

FILES_BETWEEN_NOTES = 1000
"""After so many copied files it is noted which are there, so that a kill loses no more."""


def copy_folder(place: Storage, folder: Path, files: Mapping[str, StoredFile], progress: Progress, what: str) -> None:
    """Bring the copies in `folder` up to date with `files` of `place`, by size and version; `what` names the step.

    Notes on what is there lie beside the folder. Files that an earlier call has copied, and `files` lacks, go.
    Raises FileNotFoundError where one goes away meanwhile.
    """
    notes = notes_path(folder)
    known = _read_notes(notes)
    for name in known.keys() - files.keys():
        (folder / name).unlink(missing_ok=True)
        del known[name]
    wanted = [name for name, file in files.items() if known.get(name) != file or not (folder / name).is_file()]
    if not wanted:
        return
    check_free_space(folder, sum(files[name].num_bytes for name in wanted), f"the copy of {place.url}")
    progress(what, 0, len(wanted))
    try:
        with start_transfers() as pool:
            transfers = [(name, pool.submit(place.get, name, folder / name)) for name in wanted]
            for num_done, (name, transfer) in enumerate(transfers, start=1):
                transfer.result()
                known[name] = files[name]
                progress(what, num_done, len(wanted))
                if num_done % FILES_BETWEEN_NOTES == 0:
                    _write_notes(notes, known)
    finally:
        _write_notes(notes, known)


def notes_path(folder: Path) -> Path:
    """Return the file with the versions of the copies in a folder; without it all are copied again."""
    return folder.with_name(f"{folder.name}.copied.json")


def _read_notes(path: Path) -> dict[str, StoredFile]:
    try:
        return {name: StoredFile(*entry) for name, entry in json.loads(path.read_bytes()).items()}
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _write_notes(path: Path, known: Mapping[str, StoredFile]) -> None:
    write_atomically(path, json.dumps({name: (file.num_bytes, file.version) for name, file in known.items()}))
