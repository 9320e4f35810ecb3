"""The sources of data: one table of layouts; the first that recognises a path reads it."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medcap_core.data.grouping import describe_shared, drop_shared, find_shared, note_shared
from medcap_core.data.records import Dataset, SkippedRecord
from medcap_core.data.remote import fetch_data
from medcap_core.data.scans.files import holds_dicom
from medcap_core.data.sources import annotations, hub, iu_xray, roco, scan_tables, tables, text_files
from medcap_core.data.sources.reading import Reading
from medcap_core.data.sources.rows import is_table
from medcap_core.data.sources.tables import USUAL_COLUMNS, TableColumns
from medcap_core.data.splits import cut_missing_splits
from medcap_core.errors import DataFault
from medcap_core.runtime.files import walk_folders


@dataclass(frozen=True)
class PathSource:
    """One layout on disk; `kind` describes it to the user, `find` is what a path holds of it, empty for nothing.

    `takes_columns` says that it is read by the user's own names of columns.
    """

    kind: str
    find: Callable[[Path], object]
    read: Callable[..., Reading]
    takes_columns: bool = False


_MOST_FOLDERS = 50
_PACKED_SUFFIXES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")

# In this order: the repacked ROCO also holds the captions.txt of the original.
PATH_SOURCES: tuple[PathSource, ...] = (
    PathSource("IU X-Ray, two tables", iu_xray.is_iu_xray, iu_xray.read_iu_xray),
    PathSource("table of scans and reports", scan_tables.is_scan_table, scan_tables.read_scan_table),
    PathSource("table of image paths and captions", is_table, tables.read_table, True),
    PathSource("ROCOv2, Zenodo folder", roco.find_rocov2, roco.read_rocov2),
    PathSource("ROCO v1, repacked with CSV files", roco.find_tables, roco.read_repacked_roco),
    PathSource("ROCO v1, original layout", roco.find_captions, roco.read_roco),
    PathSource("image folder with metadata files", tables.find_metadata, tables.read_image_folder, True),
    PathSource("folder with a table for each split", tables.find_tables, tables.read_split_tables, True),
    PathSource(
        "parquet files in the Hub's layout", lambda path: hub.find_shards(path, ".parquet"), hub.read_parquet, True
    ),
    PathSource("WebDataset", lambda path: hub.find_shards(path, ".tar"), hub.read_webdataset, True),
    PathSource("JSON annotations", annotations.find_files, annotations.read_annotations, True),
    PathSource("images with a text file beside each", text_files.has_text_files, text_files.read_text_files),
)

_LAYOUTS = (
    "a CSV, TSV, JSONL or Excel file of image paths and captions, or of scans and reports; a ROCOv2 folder "
    "(train_captions.csv, train_images/); a ROCO v1 folder (data/train/radiology/captions.txt, or "
    "all_data/train/radiologytraindata.csv); an image folder (train/metadata.csv or .jsonl); a folder "
    "with a table for each split (train.csv, val.csv, test.csv); parquet files (data/train-*.parquet); a JSON file of "
    "annotations (COCO captions, R2Gen, a list of records); IU X-Ray's two tables; a WebDataset (train-000.tar); a "
    "folder of images with a text file beside each"
)


def load_data(
    name_or_path: str, *, seed: int = 0, own: TableColumns = USUAL_COLUMNS, drop_shared_cases: bool = False
) -> Dataset:
    """Recognise the source `name_or_path` and read its records; no image is opened.

    Names: `phantoms`, `phantoms-general`, `brain_phantoms` (scans), those of `HUB_ALIASES`, any Hub data set
    `owner/name`; else a path or URL. `own` names the columns of a table. Missing validation and test splits are cut by
    `seed` and noted in `Dataset.notes`. A case in two splits of the user's own making is a fault, in published splits a
    note; with `drop_shared_cases` it is dropped from train. Raises DataFault.
    """
    if name_or_path in ("phantoms", "phantoms-general", "brain_phantoms"):
        _refuse_columns(own, name_or_path)
    if name_or_path in ("phantoms", "phantoms-general"):
        from medcap_core.data.phantoms import load_phantoms

        return load_phantoms("target" if name_or_path == "phantoms" else "general", seed=seed)
    if name_or_path == "brain_phantoms":
        from medcap_core.data.brain_phantoms import load_brain_phantoms

        return load_brain_phantoms(seed=seed)
    kind, reading = _read(name_or_path, own)
    if not any(reading.splits.values()):
        first = [f"{record.split} {record.id}: {record.reason}" for record in reading.skipped[:3]]
        raise DataFault(
            f"{name_or_path} (read as: {kind}) holds no usable record; {len(reading.skipped)} were left out"
            + (f", such as {'; '.join(first)}." if first else ".")
        )
    notes = [*reading.notes, *reading.describe_further_captions()]
    splits = reading.splits
    dropped: list[SkippedRecord] = []
    if drop_shared_cases:
        splits, dropped = drop_shared(splits)
        emptied = [split for split, records in splits.items() if not records and reading.splits[split]]
        if emptied:
            raise DataFault(
                f"{name_or_path}: drop_shared_cases leaves no record in {' and '.join(emptied)}, since another split "
                "has all their cases: name no splits, and they are cut by whole cases."
            )
        if dropped:
            notes.append(f"{len(dropped):,} records were dropped, since another split has their case.")
    elif reading.splits_by_user and find_shared(splits):
        raise DataFault(describe_shared(splits, name_or_path))
    notes += [*note_shared(splits), *reading.describe_repeated_ids()]
    splits, notes_on_cuts = cut_missing_splits(splits, seed=seed, where=name_or_path)
    return Dataset(name_or_path, kind, splits, reading.skipped, [*notes, *notes_on_cuts], dropped)


def _read(name_or_path: str, own: TableColumns) -> tuple[str, Reading]:
    """Return the kind of source and its records."""
    if name_or_path in hub.HUB_ALIASES:
        title, name = hub.HUB_ALIASES[name_or_path]
        return f"{title}, Hub data set {name}", hub.read_hub(name, own)
    path = fetch_data(name_or_path)
    if path.exists():
        for source in PATH_SOURCES:
            if source.find(path):
                try:
                    if source.takes_columns:
                        return source.kind, source.read(path.absolute(), own)
                    _refuse_columns(own, f"{path.absolute()} (read as: {source.kind})")
                    return source.kind, source.read(path.absolute())
                except PermissionError as error:
                    blocked = error.filename or path.absolute()
                    raise DataFault(f"{blocked} may not be read by this user: change its permissions.") from error
        below = itertools.islice(walk_folders(path, 2), 1 + _MOST_FOLDERS)
        if any(holds_dicom(folder) for folder, _ in below):
            raise DataFault(
                f"{path} holds DICOM files but no captions: write a CSV file with the columns path and caption, a row "
                "for each radiograph, or path and report, a row for each folder of slices, and give that file."
            )
        items = path.iterdir() if path.is_dir() else ()
        inside = sorted(item.name for item in items if is_table(item) or item.suffix == ".json")
        hint = f"; it holds {', '.join(inside[:3])}: give such a file if it names the images" if inside else ""
        if path.is_file() and path.suffix.lower() in _PACKED_SUFFIXES:
            hint = ": unpack it and give the folder"
        raise DataFault(f"{path} is no data set in a known layout{hint}; looked for {_LAYOUTS}.")
    if hub.is_hub_name(name_or_path):
        return f"Hub data set {name_or_path}", hub.read_hub(name_or_path, own)
    raise DataFault(
        f"'{name_or_path}' does not exist and is no name of a data set: pass a path, phantoms, brain_phantoms, "
        f"{', '.join(hub.HUB_ALIASES)} or a Hub data set as owner/name."
    )


def _refuse_columns(own: TableColumns, what: str) -> None:
    """Raise DataFault where columns are named for data without columns of the user's own."""
    if own != USUAL_COLUMNS:
        raise DataFault(f"{what} has columns of known names: leave out image_column and caption_column.")
