"""Image folders by the Hub's convention: `metadata.csv` or `.jsonl` beside its images."""

from pathlib import Path

from medcap_core.data.sources.reading import Reading, recognise_split
from medcap_core.data.sources.tables import TABLE_SUFFIXES, add_table
from medcap_core.errors import DataFault


def is_image_folder(folder: Path) -> bool:
    """Check for a metadata file in `folder`, its split folders or the split folders of its `data/`."""
    return bool(_find_metadata(folder))


def read_image_folder(folder: Path) -> Reading:
    """Read the metadata file of each split folder, or of the root; paths are relative to the file's folder.

    Columns as in `medcap_core.data.sources.tables.add_table`, case columns included. Raises DataFault.
    """
    reading = Reading()
    for path in _find_metadata(folder):
        add_table(reading, path, None if path.parent == folder else recognise_split(path.parent.name))
    return reading


def _find_metadata(folder: Path) -> list[Path]:
    for root in (folder, folder / "data"):
        if not root.is_dir():
            continue
        splits = [entry for entry in sorted(root.iterdir()) if recognise_split(entry.name) and entry.is_dir()]
        found = [path for split in splits for path in _metadata_in(split)]
        if found:
            return found
    return _metadata_in(folder)


def _metadata_in(folder: Path) -> list[Path]:
    found = [folder / f"metadata{suffix}" for suffix in TABLE_SUFFIXES if (folder / f"metadata{suffix}").is_file()]
    if len(found) > 1:
        raise DataFault(f"{folder} holds {' and '.join(path.name for path in found)}: keep one of them.")
    return found
