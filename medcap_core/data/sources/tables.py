"""CSV, TSV and JSONL files: rows as text, and records of image paths and captions."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcap_core.data.records import ImageFile, Record, SplitName
from medcap_core.data.sources.json_cells import flatten_lists, parse_json
from medcap_core.data.sources.reading import Reading, recognise_split
from medcap_core.errors import DataFault

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")

IMAGE_COLUMNS = ("file_name", "image", "path", "image_path", "filename")
CAPTION_COLUMNS = ("caption", "text", "report")
CASE_COLUMNS = ("case", "case_id", "patient_id", "subject_id")
SPLIT_COLUMNS = ("split",)
ID_COLUMNS = ("id", "image_id")

_MAX_CELL_CHARACTERS = 2**20


@dataclass(frozen=True)
class Row:
    """One row; `line` is its number in the file, `fault` the reason it is unusable, empty if usable."""

    line: int
    cells: dict[str, Any]
    fault: str = ""

    def text(self, column: str) -> str:
        """Return the cell as text; empty for a missing cell or null."""
        value = self.cells.get(column)
        return "" if value is None else str(value)


@dataclass(frozen=True)
class Table:
    """All rows of one file."""

    path: Path
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def is_table(path: Path) -> bool:
    """Check for a CSV, TSV or JSONL file, by its suffix."""
    return path.is_file() and path.suffix.lower() in TABLE_SUFFIXES


def read_rows(path: Path, columns: Sequence[str] | None = None, max_rows: int | None = None) -> Table:
    """Read a CSV (standard quoting; `,` `;` or tab, by the header), TSV or JSONL file in UTF-8.

    With `columns` the file has no header and tab-separated cells. At most `max_rows` rows are read. A TSV with unpaired
    quotes is read with quotes as plain characters, and a note is added. Lists of images and of captions are made plain,
    see `flatten_lists`. Raises DataFault for another encoding, broken quoting or a line that is not a JSON object.
    """
    table = _read_rows(path, columns, max_rows)
    flatten_columns(table)
    return table


def flatten_columns(table: Table) -> None:
    """Make the lists in the named columns plain, in place; see `flatten_lists`."""
    flatten_lists(table, IMAGE_COLUMNS, CAPTION_COLUMNS, (*CASE_COLUMNS, *SPLIT_COLUMNS, *ID_COLUMNS))


def _read_rows(path: Path, columns: Sequence[str] | None, max_rows: int | None) -> Table:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFault(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    if path.suffix.lower() == ".jsonl":
        return _parse_jsonl(path, content, max_rows)
    header = content.partition("\n")[0]
    is_tsv = path.suffix.lower() == ".tsv" or columns is not None
    delimiter = "\t" if is_tsv else max((",", ";", "\t"), key=header.count)
    try:
        return _parse_delimited(path, content, delimiter, csv.QUOTE_MINIMAL, columns, max_rows)
    except csv.Error as error:
        if delimiter != "\t":
            raise DataFault(
                f"{path}: broken quoting ({error}): put '\"' around cells and double quotes inside."
            ) from error
    table = _parse_delimited(path, content, delimiter, csv.QUOTE_NONE, columns, max_rows)
    table.notes.append(f"The quotes in {path.name} do not pair, so they were read as plain characters.")
    return table


def find_column(columns: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Find the first of `wanted` among the columns, ignoring case."""
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in wanted if name in by_name), None)


def require_columns(table: Table, wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """Find a column for each need in `wanted` (need -> accepted names). Raises DataFault for missing ones."""
    found = [find_column(table.columns, names) for names in wanted.values()]
    missing = [need for need, column in zip(wanted, found, strict=True) if column is None]
    if missing:
        raise DataFault(
            f"{table.path} has no column for the {need} (accepted: {', '.join(wanted[need])}); its columns are "
            f"{', '.join(table.columns) or 'none'}."
            for need in missing
        )
    return [column for column in found if column is not None]


def read_table(path: Path) -> Reading:
    """Read the records of a file of image paths and captions; paths are relative to the file's folder."""
    reading = Reading()
    add_table(reading, path)
    return reading


def add_table(reading: Reading, path: Path, split: SplitName | None = None) -> None:
    """Add the records of one file of image paths and captions to `reading`, see `add_rows`. Raises DataFault."""
    add_rows(reading, read_rows(path), split)


def add_rows(reading: Reading, table: Table, split: SplitName | None = None, folder: Path | None = None) -> None:
    """Add the records of a table of image paths, relative to `folder` (else to the file's own), and captions.

    Required columns: an image and a caption; optional: `id` (else the path as written), a case and `split`; all other
    columns go into `truth`. Without `split` as argument or column, the first folder of each path (`train/x.jpg`) is the
    split if all paths begin with a split, else all records are train. Raises DataFault.
    """
    path, folder = table.path, folder or table.path.parent
    image_column, caption_column = require_columns(table, {"image": IMAGE_COLUMNS, "caption": CAPTION_COLUMNS})
    case_column = find_column(table.columns, CASE_COLUMNS)
    id_column = find_column(table.columns, ID_COLUMNS)
    split_column = None if split else find_column(table.columns, SPLIT_COLUMNS)
    used = {image_column, caption_column, case_column, id_column, split_column}
    extra_columns = [column for column in table.columns if column not in used]
    reading.notes.extend(table.notes)
    splits = [split] * len(table.rows) if split else find_splits(table, split_column, image_column)
    for row, row_split in zip(table.rows, splits, strict=True):
        name = row.text(image_column).strip()
        record_id = (row.text(id_column).strip() if id_column else "") or name or f"{path.name} line {row.line}"
        if row.fault:
            reading.skip(row_split, record_id, row.fault)
        elif not name or not exists(folder / name):
            reading.skip(
                row_split, record_id, f"image file '{name}' not found in {folder}" if name else "no image named"
            )
        else:
            case = row.text(case_column).strip() if case_column else ""
            truth = {column: row.cells.get(column) for column in extra_columns}
            image = ImageFile(folder / name)
            reading.add(row_split, Record(record_id, image, row.text(caption_column), case or None, truth))


def find_splits(table: Table, split_column: str | None, image_column: str) -> list[SplitName]:
    """Find the split of each row: by column, else by the path's first folder, else train. Raises DataFault."""
    if split_column is None:
        by_folder = [recognise_split(row.text(image_column).partition("/")[0]) for row in table.rows]
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


def exists(path: Path) -> bool:
    """Check whether the path exists; False also for an impossible name."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long or with a zero byte: no file can have it
        return False


def _parse_delimited(
    path: Path, content: str, delimiter: str, quoting: Any, columns: Sequence[str] | None, max_rows: int | None
) -> Table:
    # Strict: a stray quote would otherwise silently swallow the following rows.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CELL_CHARACTERS))
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    header = [column.strip() for column in columns or next(reader, [])]
    rows: list[Row] = []
    for cells in reader:
        if max_rows is not None and len(rows) >= max_rows:
            break
        if not any(cells):
            continue
        fault = ""
        if len(cells) > len(header):
            fault = f"line {reader.line_num} has {len(cells)} cells, the header {len(header)}: quote the caption"
        rows.append(Row(reader.line_num, dict(zip(header, cells, strict=False)), fault))
    return Table(path, header, rows)


def _parse_jsonl(path: Path, content: str, max_rows: int | None) -> Table:
    rows: list[Row] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(content.split("\n"), start=1):
        if max_rows is not None and len(rows) >= max_rows:
            break
        if not line.strip():
            continue
        cells = parse_json(line, f"{path} line {number}", "write one object a line")
        if not isinstance(cells, dict):
            raise DataFault(f"{path} line {number} is not a JSON object: write one object a line.")
        columns.update(dict.fromkeys(cells))
        rows.append(Row(number, cells))
    return Table(path, list(columns), rows)
