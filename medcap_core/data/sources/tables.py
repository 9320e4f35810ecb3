"""Tables of image paths and captions, alone or in folders: the names of their columns, and their records."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medcap_core.data.records import SplitName
from medcap_core.data.sources.image_index import FolderImages
from medcap_core.data.sources.json_cells import flatten_lists, take_answers
from medcap_core.data.sources.reading import Reading, recognise_split
from medcap_core.data.sources.rows import TABLE_SUFFIXES, Table, is_table, read_rows
from medcap_core.errors import DataFault

# Compared without regard to case and to what is no letter or digit.
PATH_COLUMNS = (
    "file_name", "image", "path", "image_path", "file", "file_path", "image_file", "image_file_name", "image_name",
    "image_index", "img", "img_path", "images",
)  # fmt: skip
IMAGE_COLUMNS = (*PATH_COLUMNS, "dicom_id", "image_id", "id")
CAPTION_COLUMNS = ("caption", "captions", "text", "report", "findings", "impression")
# The coarsest first: a patient has several studies.
CASE_COLUMNS = (
    "patient", "patient_id", "subject", "subject_id", "participant", "participant_id", "case", "case_id", "study",
    "study_id", "uid", "pmc", "pmc_id", "article", "article_id",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "data_split")
ID_COLUMNS = ("id", "image_id")

_CONVERSATION_COLUMNS = ("conversations", "messages")
_OWN_NAMES = ("image", "caption")
_JOINED_COLUMNS = ("findings", "impression")
_SEPARATORS_IN_NAMES = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class TableColumns:
    """The user's own names of the image and the caption column; None takes the usual names."""

    image: str | None = None
    caption: str | None = None

    @property
    def image_names(self) -> Sequence[str]:
        """The accepted names of the image column."""
        return [self.image] if self.image else IMAGE_COLUMNS

    @property
    def caption_names(self) -> Sequence[str]:
        """The accepted names of the caption column."""
        return [self.caption] if self.caption else CAPTION_COLUMNS


USUAL_COLUMNS = TableColumns()


def find_column(columns: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Find the first of `wanted` among the columns, by the same name, else by a like one.

    Like are names that differ in case, in the form of their letters, or in what is no letter or digit.
    """
    by_name = {_fold_name(column): column for column in reversed(columns)} | {column: column for column in columns}
    return next((by_name[key] for name in wanted for key in (name, _fold_name(name)) if key in by_name), None)


def _fold_name(column: str) -> str:
    return _SEPARATORS_IN_NAMES.sub("", unicodedata.normalize("NFKC", column)).casefold()


def require_columns(table: Table, wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """Find a column for each need in `wanted` (need -> accepted names). Raises DataFault for missing ones."""
    if not table.columns:
        raise DataFault(f"{table.path} is empty: it has no columns.")
    found = [find_column(table.columns, names) for names in wanted.values()]
    if twice := [column for column in found if column is not None and table.columns.count(column) > 1]:
        raise DataFault(f"{table.path} has several columns '{twice[0]}': rename all but one.")
    missing = [need for need, column in zip(wanted, found, strict=True) if column is None]
    if missing:
        raise DataFault(
            f"{table.path} has no column for the {need} (accepted: {', '.join(wanted[need])}); its columns are "
            f"{', '.join(table.columns) or 'none'}" + (f"; name yours by {need}_column." if need in _OWN_NAMES else ".")
            for need in missing
        )
    return [column for column in found if column is not None]


def read_table(path: Path, own: TableColumns = USUAL_COLUMNS) -> Reading:
    """Read the records of a file of image paths and captions; paths are relative to the file's folder."""
    reading = Reading(splits_by_user=True)
    add_table(reading, path, own=own)
    beside = [other for paths in list_split_tables(path.parent).values() for other in paths if other.name != path.name]
    if recognise_split(path.stem) and beside and list(reading.splits) == ["train"]:
        reading.notes.append(
            f"{path.name} was read alone, without {' and '.join(other.name for other in beside)} beside it: give the "
            f"folder {path.parent} to take its tables as splits."
        )
    return reading


def list_split_tables(folder: Path) -> dict[SplitName, list[Path]]:
    """List the tables of `folder` that are named like a split (`train.csv`, `val.tsv`)."""
    found: dict[SplitName, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        split = recognise_split(path.stem)
        if split and path.suffix.lower() in TABLE_SUFFIXES and is_table(path):
            found.setdefault(split, []).append(path)
    return found


def read_image_folder(folder: Path, own: TableColumns = USUAL_COLUMNS) -> Reading:
    """Read the metadata file of each split folder, or of the root; paths are relative to the file's folder.

    Columns as in `add_rows`, case columns included. Raises DataFault.
    """
    reading = Reading(splits_by_user=True)
    for path in find_metadata(folder):
        add_table(reading, path, None if path.parent == folder else recognise_split(path.parent.name), own=own)
    return reading


def read_split_tables(folder: Path, own: TableColumns = USUAL_COLUMNS) -> Reading:
    """Read the table of each split; paths are relative to the tables' folder. Raises DataFault."""
    reading = Reading(splits_by_user=True)
    for split, path in find_tables(folder).items():
        add_table(reading, path, split, own=own)
    return reading


def find_tables(folder: Path) -> dict[SplitName, Path]:
    """Find the tables named like a split (`train.csv`, `val.csv`) in `folder` or its `data/`."""
    for root in filter(Path.is_dir, (folder, folder / "data")):
        found = list_split_tables(root)
        if several := [paths for paths in found.values() if len(paths) > 1]:
            raise DataFault(
                f"{root} holds {' and '.join(path.name for path in paths)}, tables of one split: keep one of them."
                for paths in several
            )
        if found:
            return {split: paths[0] for split, paths in found.items()}
    return {}


def find_metadata(folder: Path) -> list[Path]:
    """Find the metadata files in the split folders of `folder` or of its `data/`, else the one in `folder`."""
    for root in filter(Path.is_dir, (folder, folder / "data")):
        splits = [entry for entry in sorted(root.iterdir()) if recognise_split(entry.name) and entry.is_dir()]
        if found := [path for split in splits for path in _metadata_in(split)]:
            return found
    return _metadata_in(folder)


def _metadata_in(folder: Path) -> list[Path]:
    found = [path for suffix in TABLE_SUFFIXES if is_table(path := folder / f"metadata{suffix}")]
    if len(found) > 1:
        raise DataFault(f"{folder} holds {' and '.join(path.name for path in found)}: keep one of them.")
    return found


def flatten_columns(table: Table, own: TableColumns = USUAL_COLUMNS) -> None:
    """Make lists in the columns that are read as images and captions plain, in place; see `flatten_lists`.

    Without a caption, the first answer in a conversation is it.
    """
    image, caption = (find_column(table.columns, names) for names in (own.image_names, own.caption_names))
    if caption is None and (conversations := find_column(table.columns, _CONVERSATION_COLUMNS)):
        caption = CAPTION_COLUMNS[0]
        take_answers(table, conversations, caption)
    others = (find_column(table.columns, names) for names in (CASE_COLUMNS, SPLIT_COLUMNS, ID_COLUMNS))
    captions = join_columns(table.columns, own, caption) if caption else []
    flatten_lists(table, image, captions, [column for column in others if column])


def add_table(
    reading: Reading, path: Path, split: SplitName | None = None, *, own: TableColumns = USUAL_COLUMNS
) -> None:
    """Add the records of one file of image paths and captions to `reading`, see `add_rows`. Raises DataFault."""
    table = read_rows(path)
    flatten_columns(table, own)
    add_rows(reading, table, split, own=own)


def add_rows(
    reading: Reading,
    table: Table,
    split: SplitName | None = None,
    folder: Path | None = None,
    *,
    own: TableColumns = USUAL_COLUMNS,
) -> None:
    """Add the records of a table of image paths, relative to `folder` (else to the file's own), and captions.

    Required columns: an image and a caption, by their usual names or those in `own`; findings and impression are joined
    where no other caption stands. Optional: `id` (else the path as written), a case and `split`; all other columns go
    into `truth`. Without `split` as argument or column, the first folder of each path (`train/x.jpg`) is the split if
    all paths begin with a split, else all records are train. Raises DataFault.
    """
    image_column, caption_columns = find_own_columns(table, own)
    case_column = find_column(table.columns, CASE_COLUMNS)
    id_column = find_column(table.columns, ID_COLUMNS)
    split_column = None if split else find_column(table.columns, SPLIT_COLUMNS)
    used = {image_column, *caption_columns, case_column, id_column, split_column}
    extra_columns = [column for column in table.columns if column not in used]
    reading.notes.extend(table.notes)
    images = FolderImages(folder or table.path.parent)
    splits = [split] * len(table.rows) if split else find_splits(table, split_column, image_column)
    for row, row_split in zip(table.rows, splits, strict=True):
        name = row.text(image_column).strip()
        record_id = (row.text(id_column).strip() if id_column else "") or name or f"{table.path.name} line {row.line}"
        found = row.fault or (images.find(name, row_split) if name else "no image named")
        case = row.text(case_column).strip() if case_column else ""
        truth = {column: row.cells.get(column) for column in extra_columns}
        caption = " ".join(row.text(column).strip() for column in caption_columns)
        reading.add_found(row_split, record_id, found, caption, case, truth)


def find_own_columns(table: Table, own: TableColumns) -> tuple[str, list[str]]:
    """Find the image column and the caption columns, by the names in `own` or the usual ones. Raises DataFault."""
    asked = {"image_column": own.image, "caption_column": own.caption}
    faults = [
        f"{key}: {table.path} has no column '{name}'; its columns are {', '.join(table.columns) or 'none'}."
        for key, name in asked.items()
        if name and find_column(table.columns, [name]) is None
    ]
    if faults:
        raise DataFault(faults)
    image, caption = require_columns(table, {"image": own.image_names, "caption": own.caption_names})
    return image, join_columns(table.columns, own, caption)


def join_columns(columns: Sequence[str], own: TableColumns, caption: str) -> list[str]:
    """Return the columns that are the caption: `caption`, or findings and impression if it is one of them."""
    joined = [column for name in _JOINED_COLUMNS if (column := find_column(columns, [name]))]
    return joined if caption in joined and not own.caption else [caption]


def find_splits(table: Table, split_column: str | None, image_column: str) -> list[SplitName]:
    """Find the split of each row: by column, else by the path's first folder, else train. Raises DataFault."""
    if split_column is None:
        by_folder = [recognise_split(row.text(image_column).replace("\\", "/").partition("/")[0]) for row in table.rows]
        named = [split for split in by_folder if split is not None]
        return named if len(named) == len(by_folder) else ["train"] * len(by_folder)
    splits = [recognise_split(row.text(split_column)) for row in table.rows]
    unknown = {row.text(split_column) for row, split in zip(table.rows, splits, strict=True) if split is None}
    if unknown:
        raise DataFault(
            f"{table.path}: column {split_column} holds {', '.join(repr(name) for name in sorted(unknown)[:5])}; write "
            "train, validation or test in every row."
        )
    return [split for split in splits if split is not None]
