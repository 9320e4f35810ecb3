"""Data sets of the Hugging Face Hub, parquet files of the same layout and WebDatasets, through the `datasets` library.

`datasets` is imported where it is used: most data sets are folders, and the import is slow in every process.
"""

import itertools
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medcap_core.data.arrow_images import ArrowImage, DistinctImages, list_contents, map_arrow_file
from medcap_core.data.records import SplitName
from medcap_core.data.sources import tables
from medcap_core.data.sources.reading import Reading, recognise_split
from medcap_core.data.sources.rows import decode_text
from medcap_core.data.sources.tables import USUAL_COLUMNS, TableColumns
from medcap_core.data.sources.text_files import check_tar
from medcap_core.errors import DataFault, first_line
from medcap_core.runtime.cache import cache_root, guard_cache_writes, write_atomically

HUB_ALIASES = {
    "rocov2": ("ROCOv2", "eltorio/ROCOv2-radiology"),
    "rocov2-mini": ("1,978 train and 327 test images of ROCOv2", "unsloth/Radiology_mini"),
    "roco": ("ROCO", "eltorio/ROCO-radiology"),
}
"""Name for `--data` -> what it is, and its name on the Hub."""

_ID_COLUMNS = ("image_id", "id", "__key__")  # the last is a WebDataset's
_WEB_CAPTION_COLUMNS = ("txt", "json")
_CONCEPT_COLUMNS = ("cui", "cuis")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SHARD = re.compile(r"-\d+-of-(\d+)\.parquet$")

ArrowFiles = dict[str, list[Path]]  # split as named by the source -> memory-mapped files, in order


def is_hub_name(name: str) -> bool:
    """Check for the form `owner/name`."""
    return _NAME.fullmatch(name) is not None


def read_hub(name: str, own: TableColumns = USUAL_COLUMNS) -> Reading:
    """Read the Hub data set `owner/name`, from the Hub or its local cache.

    The Hub is queried once: the resulting Arrow files are listed under the cache root, so that every process of a sweep
    reads the same revision without the network. Columns: `image` (or the only image column), `caption`, `text`
    or another usual name (findings and impression are joined), optionally `image_id` or `id`, a case column, and `cui`
    into `truth["concepts"]`. Rows of one image, or a list of captions, are several references. Raises DataFault.
    """
    listing = cache_root() / "hub" / f"{name.replace('/', '--')}.json"
    files = _read_listing(listing)
    if files is None:
        files = _list_arrow_files(_load_from_hub(name), name)
        with guard_cache_writes(listing.parent):
            listing.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(listing, json.dumps(files, default=str))
    return _read_arrow_files(files, name, own)


def read_parquet(path: Path, own: TableColumns = USUAL_COLUMNS) -> Reading:
    """Read parquet files in the Hub's layout (`data/train-00000-of-00013.parquet`, `train/0000.parquet`) or one file.

    They are converted once to memory-mapped Arrow files under the cache root. Columns as in `read_hub`. Raises
    DataFault.
    """
    return _read_shards(path, find_shards(path, ".parquet"), "parquet", own)


def read_webdataset(path: Path, own: TableColumns = USUAL_COLUMNS) -> Reading:
    """Read tar files of images, each with its caption under the same name: `.txt`, or `.json` with a caption.

    Shards are named and converted as in `read_parquet`; the common name is the record's id. Raises DataFault, also
    where files of a name are missing, and for pickles, which run code when they are read.
    """
    found = find_shards(path, ".tar")
    for file in found:
        check_tar(file)
    return _read_shards(path, found, "webdataset", own)


def _read_shards(path: Path, found: list[Path], builder: str, own: TableColumns) -> Reading:
    import datasets

    by_split: dict[str, list[str]] = {}
    named = [recognise_split(re.split(r"[-_.]", file.name)[0]) or recognise_split(file.parent.name) for file in found]
    for file, split in zip(found, named, strict=True):
        if split is None and any(named):
            raise DataFault(
                f"{file}: its name does not say which split it is: begin it with train, validation or test, or put it "
                "into a folder of that name."
            )
        by_split.setdefault(split or "train", []).append(str(file))
    cache = cache_root() / "arrow"
    with guard_cache_writes(cache):
        cache.mkdir(parents=True, exist_ok=True)
        try:
            # One by one: the splits may have different columns.
            loaded = {
                split: datasets.load_dataset(builder, data_files={split: files}, cache_dir=str(cache))[split]
                for split, files in by_split.items()
            }
        except (datasets.exceptions.DatasetGenerationError, ValueError, OSError, tarfile.TarError) as error:
            cause = error.__cause__ or error
            if isinstance(cause, OSError) and cause.errno is not None:
                raise cause from error
            is_cast = isinstance(cause, datasets.table.CastError)
            why = "the files of one split have different columns" if is_cast else first_line(cause).rstrip(".")
            raise DataFault(f"{path} cannot be read as {builder}: {why}.") from error
    reading = _read_arrow_files(_list_arrow_files(loaded, str(path)), str(path), own)
    shards = Counter((file.name[: match.start()], match[1]) for file in found if (match := _SHARD.search(file.name)))
    reading.notes += [
        f"Only {count} of the {int(total)} parquet files of {name} are there; the rest is left out."
        for (name, total), count in shards.items()
        if count < int(total)
    ]
    return reading


def _load_from_hub(name: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataFault(
            f"'{name}' is neither a path here nor a data set on the Hugging Face Hub that may be read "
            f"({first_line(error).rstrip('.')}): correct the name, or sign in with `hf auth login` if it is gated."
        ) from error
    except ConnectionError as error:
        raise DataFault(
            f"'{name}' is no path here, there is no copy of it in the Hub cache {datasets.config.HF_DATASETS_CACHE}, "
            "and the Hugging Face Hub cannot be reached: load it once while online, or pass the path of a local copy."
        ) from error
    except (datasets.exceptions.DatasetGenerationError, ValueError, RuntimeError, OSError) as error:
        cause = error.__cause__ or error
        raise DataFault(f"The Hub data set '{name}' cannot be loaded: {first_line(cause).rstrip('.')}.") from error


def _list_arrow_files(loaded: Mapping[str, Any], where: str) -> ArrowFiles:
    files = {split: [Path(file["filename"]) for file in part.cache_files] for split, part in loaded.items()}
    if not any(files.values()):
        raise DataFault(f"{where} holds no rows.")
    return files


def _read_listing(listing: Path) -> ArrowFiles | None:
    """Read the listed files; None unless all of them exist."""
    if not listing.is_file():
        return None
    try:
        listed = json.loads(listing.read_text("utf-8"))
        files = {split: [Path(path) for path in paths] for split, paths in listed.items()}
    except (ValueError, RecursionError, AttributeError, TypeError):
        return None  # damaged: it is written anew
    return files if all(path.is_file() for paths in files.values() for path in paths) else None


def _read_arrow_files(files: ArrowFiles, where: str, own: TableColumns) -> Reading:
    reading = Reading()
    for name, paths in files.items():
        split = recognise_split(name) or ("train" if len(files) == 1 else None)
        if split is None:
            reading.notes.append(f"The split '{name}' was not used: it is neither train, validation nor test.")
            continue
        reading.splits.setdefault(split, [])
        numbers, images = itertools.count(), DistinctImages()
        for file in paths:
            _read_arrow_file(reading, split, file, _find_columns(file, where, own), images, numbers)
    return reading


def _read_arrow_file(
    reading: Reading, split: SplitName, file: Path, columns: tuple[str, list[str]], images: DistinctImages,
    numbers: Iterator[int],
) -> None:  # fmt: skip
    """Add the rows of one file; `numbers` counts the rows of the split."""
    table, (image_column, caption_columns) = map_arrow_file(file), columns
    wanted = {"id": _ID_COLUMNS, "case": tables.CASE_COLUMNS, "concepts": _CONCEPT_COLUMNS, "image_id": ("image_id",)}
    others = {key: found for key, names in wanted.items() if (found := tables.find_column(table.column_names, names))}
    cells = table.select_columns(list(dict.fromkeys([*caption_columns, *others.values()])))[:]
    for (row, (name, num_bytes)), number in zip(enumerate(list_contents(table, image_column)), numbers, strict=False):
        own = {key: cells[column][row] for key, column in others.items()}
        case = _as_text(own.get("case"))
        image = ArrowImage(file, row, image_column)
        if name or num_bytes:
            image = images.find(image, (name, num_bytes, case, own.get("image_id")))
        record_id = _as_text(own.get("id")) or f"{split}_{number:06d}"
        truth = {} if own.get("concepts") is None else {"concepts": own["concepts"]}
        for caption in _list_captions([cells[column][row] for column in caption_columns]):
            reading.add_found(split, record_id, image, caption, case, truth)


def _find_columns(file: Path, where: str, own: TableColumns) -> tuple[str, list[str]]:
    """Find the column of images, by name or as the only one of that type, and those of captions. Raises DataFault."""
    import datasets

    table = map_arrow_file(file)
    image_column = tables.find_column(table.column_names, (own.image or "image",))
    if image_column is None and own.image is None:
        typed = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
        image_column = typed[0] if len(typed) == 1 else None
    if image_column and getattr(table.features[image_column], "dtype", "") in ("string", "large_string"):
        raise DataFault(
            f"{where}: column {image_column} names files; write all rows of a split into one table beside the images."
        )
    usual = (*tables.CAPTION_COLUMNS, *_WEB_CAPTION_COLUMNS)
    caption_column = tables.find_column(table.column_names, (own.caption,) if own.caption else usual)
    if image_column is None or caption_column is None:
        raise DataFault(
            f"{where} needs a column {own.image or 'image'} and a column {own.caption or 'caption or text'}; its "
            f"columns are {', '.join(table.column_names)}: name yours by image_column and caption_column."
        )
    return image_column, tables.join_columns(table.column_names, own, caption_column)


def find_shards(path: Path, suffix: str) -> list[Path]:
    """Find the file at `path`, or those in a folder: directly, in its `data/` or in folders named by split."""
    if path.is_file():
        return [path] if path.suffix.lower() == suffix else []
    for folder in (path, path / "data"):
        if folder.is_dir():
            folders = [folder, *(entry for entry in sorted(folder.iterdir()) if recognise_split(entry.name))]
            found = [file for searched in folders for file in sorted(searched.glob(f"*{suffix}")) if file.is_file()]
            if found:
                return found
    return []


def _list_captions(cells: list[Any]) -> list[str]:
    """List the captions of one row: the texts of a list, else the cells joined; of a `.json` file's content its own."""
    if len(cells) == 1 and isinstance(cells[0], dict):
        column = tables.find_column(list(cells[0]), tables.CAPTION_COLUMNS)
        names = tables.join_columns(list(cells[0]), USUAL_COLUMNS, column) if column else []
        cells = [cells[0][name] for name in names]
    if len(cells) == 1 and isinstance(cells[0], list):
        return [_as_text(caption) for caption in cells[0]] or [""]
    return [" ".join(filter(None, (_as_text(cell).strip() for cell in cells)))]


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):  # of a WebDataset's file of a suffix that `datasets` does not know
        return decode_text(value)[0]
    return "" if value is None else str(value)
