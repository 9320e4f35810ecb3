"""Image folders by the Hub's convention: `metadata.csv` or `.jsonl` beside the images it names."""

from pathlib import Path

from medcap_core.data.sources.reading import Reading, recognise_split
from medcap_core.data.sources.tables import TABLE_SUFFIXES, add_table
from medcap_core.errors import DataFault


def is_image_folder(folder: Path) -> bool:
    """Whether `folder`, its split folders or those in its `data/` hold a metadata file."""
    return bool(_find_metadata(folder))


def read_image_folder(folder: Path) -> Reading:
    """Read one metadata file for each split folder, or the one at the root; its paths are relative to its own folder.

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
        places = [place for place in sorted(root.iterdir()) if recognise_split(place.name) and place.is_dir()]
        found = [path for place in places for path in _metadata_in(place)]
        if found:
            return found
    return _metadata_in(folder)


def _metadata_in(folder: Path) -> list[Path]:
    found = [folder / f"metadata{suffix}" for suffix in TABLE_SUFFIXES if (folder / f"metadata{suffix}").is_file()]
    if len(found) > 1:
        raise DataFault(f"{folder} holds {' and '.join(path.name for path in found)}: keep one of them.")
    return found
