"""The sources of data: one table of layouts; the first that recognises a path reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medcap_core.data.records import Dataset
from medcap_core.data.sources.annotations import is_annotations, read_annotations
from medcap_core.data.sources.hub import (
    HUB_ALIASES,
    is_hub_name,
    is_parquet,
    is_webdataset,
    read_hub,
    read_parquet,
    read_webdataset,
)
from medcap_core.data.sources.image_folder import is_image_folder, read_image_folder
from medcap_core.data.sources.iu_xray import is_iu_xray, read_iu_xray
from medcap_core.data.sources.reading import Reading
from medcap_core.data.sources.roco import is_repacked_roco, is_roco, read_repacked_roco, read_roco
from medcap_core.data.sources.rocov2 import is_rocov2, read_rocov2
from medcap_core.data.sources.scan_tables import is_scan_table, read_scan_table
from medcap_core.data.sources.tables import is_table, read_table
from medcap_core.data.sources.text_files import has_text_files, read_text_files
from medcap_core.data.splits import cut_missing_splits
from medcap_core.errors import DataFault


@dataclass(frozen=True)
class PathSource:
    """One layout on disk; `kind` describes it to the user."""

    kind: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Reading]


# In this order: the repacked ROCO also holds the captions.txt of the original.
PATH_SOURCES: tuple[PathSource, ...] = (
    PathSource("IU X-Ray, two tables", is_iu_xray, read_iu_xray),
    PathSource("table of scans and reports", is_scan_table, read_scan_table),
    PathSource("table of image paths and captions", is_table, read_table),
    PathSource("ROCOv2, Zenodo folder", is_rocov2, read_rocov2),
    PathSource("ROCO v1, repacked with CSV files", is_repacked_roco, read_repacked_roco),
    PathSource("ROCO v1, original layout", is_roco, read_roco),
    PathSource("image folder with metadata files", is_image_folder, read_image_folder),
    PathSource("parquet files in the Hub's layout", is_parquet, read_parquet),
    PathSource("WebDataset", is_webdataset, read_webdataset),
    PathSource("JSON annotations", is_annotations, read_annotations),
    PathSource("images with a text file beside each", has_text_files, read_text_files),
)

_LAYOUTS = (
    "a CSV, TSV or JSONL file of image paths and captions, or of scans and reports; a ROCOv2 folder "
    "(train_captions.csv, train_images/); a ROCO v1 folder (data/train/radiology/captions.txt, or "
    "all_data/train/radiologytraindata.csv); an image folder (train/metadata.csv or .jsonl); parquet files "
    "(data/train-*.parquet); a JSON file of annotations (COCO captions, R2Gen, a list of records); IU X-Ray's "
    "two tables; a WebDataset (train-000.tar); a folder of images with a text file beside each"
)


def load_data(name_or_path: str, *, seed: int = 0) -> Dataset:
    """Recognise the source `name_or_path` and read its records; no image is opened.

    Names: `phantoms`, `phantoms-general`, `brain_phantoms` (scans), those of `HUB_ALIASES`, any Hub data set
    `owner/name`; else a path. Missing validation and test splits are cut by `seed` and noted in
    `Dataset.notes`. Raises DataFault.
    """
    if name_or_path in ("phantoms", "phantoms-general"):
        from medcap_core.data.phantoms import load_phantoms

        return load_phantoms("target" if name_or_path == "phantoms" else "general", seed=seed)
    if name_or_path == "brain_phantoms":
        from medcap_core.data.brain_phantoms import load_brain_phantoms

        return load_brain_phantoms(seed=seed)
    kind, reading = _read(name_or_path)
    if not any(reading.splits.values()):
        first = [f"{record.split} {record.id}: {record.reason}" for record in reading.skipped[:3]]
        raise DataFault(
            f"{name_or_path} (read as: {kind}) holds no usable record; {len(reading.skipped)} were left out"
            + (f", such as {'; '.join(first)}." if first else ".")
        )
    splits, notes = cut_missing_splits(reading.splits, seed=seed, where=name_or_path)
    notes = [*reading.notes, *reading.describe_repeated_ids(), *notes]
    return Dataset(name=name_or_path, kind=kind, splits=splits, skipped=reading.skipped, notes=notes)


def _read(name_or_path: str) -> tuple[str, Reading]:
    """Return the kind of source and its records."""
    if name_or_path in HUB_ALIASES:
        title, name = HUB_ALIASES[name_or_path]
        return f"{title}, Hub data set {name}", read_hub(name)
    path = Path(name_or_path).expanduser()
    if path.exists():
        for source in PATH_SOURCES:
            if source.recognises(path):
                try:
                    return source.kind, source.read(path.absolute())
                except PermissionError as error:
                    blocked = error.filename or path.absolute()
                    raise DataFault(f"{blocked} may not be read by this user: change its permissions.") from error
        raise DataFault(f"{path} is no data set in a known layout; looked for {_LAYOUTS}.")
    if is_hub_name(name_or_path):
        return f"Hub data set {name_or_path}", read_hub(name_or_path)
    raise DataFault(
        f"'{name_or_path}' does not exist and is no name of a data set: pass a path, phantoms, brain_phantoms, "
        f"{', '.join(HUB_ALIASES)} or a Hub data set as owner/name."
    )
