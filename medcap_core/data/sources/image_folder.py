"""Folders of tables: `metadata.csv` or `.jsonl` beside its images (the Hub's convention), or a table for each split."""

from pathlib import Path

from medcap_core.data.records import SplitName
from medcap_core.data.sources.reading import Reading, recognise_split
from medcap_core.data.sources.rows import TABLE_SUFFIXES, is_table
from medcap_core.data.sources.tables import USUAL_COLUMNS, TableColumns, add_table, list_split_tables
from medcap_core.errors import DataFault


def is_image_folder(folder: Path) -> bool:
    """Check for a metadata file in `folder`, its split folders or the split folders of its `data/`."""
    return bool(_find_metadata(folder))


def read_image_folder(folder: Path, own: TableColumns = USUAL_COLUMNS) -> Reading:
    """Read the metadata file of each split folder, or of the root; paths are relative to the file's folder.

    Columns as in `medcap_core.data.sources.tables.add_table`, case columns included. Raises DataFault.
    """
    reading = Reading(splits_by_user=True)
    for path in _find_metadata(folder):
        add_table(reading, path, None if path.parent == folder else recognise_split(path.parent.name), own=own)
    return reading


def is_split_tables(folder: Path) -> bool:
    """Check for a table named like a split (`train.csv`, `val.csv`) in `folder` or its `data/`."""
    return folder.is_dir() and bool(_find_tables(folder))


def read_split_tables(folder: Path, own: TableColumns = USUAL_COLUMNS) -> Reading:
    """Read the table of each split; paths are relative to the tables' folder. Raises DataFault."""
    reading = Reading(splits_by_user=True)
    for split, path in _find_tables(folder).items():
        add_table(reading, path, split, own=own)
    return reading


def _find_tables(folder: Path) -> dict[SplitName, Path]:
    for root in (folder, folder / "data"):
        found = list_split_tables(root) if root.is_dir() else {}
        several = [paths for paths in found.values() if len(paths) > 1]
        if several:
            raise DataFault(
                f"{root} holds {' and '.join(path.name for path in paths)}, tables of one split: keep one of them."
                for paths in several
            )
        if found:
            return {split: paths[0] for split, paths in found.items()}
    return {}


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
    found = [path for suffix in TABLE_SUFFIXES if is_table(path := folder / f"metadata{suffix}")]
    if len(found) > 1:
        raise DataFault(f"{folder} holds {' and '.join(path.name for path in found)}: keep one of them.")
    return found
