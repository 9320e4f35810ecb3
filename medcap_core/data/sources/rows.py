"""Rows of CSV, TSV, JSONL, Excel and parquet files, whatever their separator and encoding."""

import csv
import gzip
import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from medcap_core.data.sources.json_cells import parse_json
from medcap_core.data.sources.reading import recognise_split
from medcap_core.errors import DataFault, first_line

_ARROW_SUFFIXES = (".parquet", ".feather")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".xlsx", ".parquet")
"""Suffixes of the tables that are sought in folders."""
_GIVEN_SUFFIXES = (".csv", ".tsv", ".jsonl", ".xlsx", ".txt", ".tab", ".ndjson", ".xlsm", ".xls")
"""Suffixes of the tables that are named themselves, `.gz` after them or not."""

_SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # as Excel writes and heeds it
_NUM_LINES_LOOKED_AT = 10
_MAX_CELL_CHARACTERS = 2**20
_ENCODING_MARKS = {
    b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
}  # fmt: skip
_EXCEL_SUFFIXES = (".xlsx", ".xlsm")
_ZIP_MARK, _OLE_MARK, _GZIP_MARK = b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x1f\x8b"
_DAMAGED_EXCEL = (
    OSError, ValueError, LookupError, TypeError, AttributeError, SyntaxError, EOFError, zlib.error, RuntimeError,
    zipfile.BadZipFile,
)  # fmt: skip
"""What openpyxl raises on damaged content."""


@dataclass(frozen=True)
class Row:
    """One row; `line` is its number in the file, `fault` the reason it is unusable, empty if usable."""

    line: int
    cells: dict[str, Any]
    fault: str = ""

    def text(self, column: str) -> str:
        """Return the cell as text; empty for a missing cell, null or NaN, as pandas writes it."""
        value = self.cells.get(column)
        return "" if value is None or str(value).strip().lower() == "nan" else str(value)


@dataclass(frozen=True)
class Table:
    """All rows of one file."""

    path: Path
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def is_table(path: Path) -> bool:
    """Check for a CSV, TSV, JSONL or Excel file, by its suffix, or a parquet or Feather file without images."""
    if not path.is_file():
        return False
    return _suffix_of(path) in _GIVEN_SUFFIXES or (_suffix_of(path) in _ARROW_SUFFIXES and _has_plain_cells(path))


def _suffix_of(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _has_plain_cells(path: Path) -> bool:
    import pyarrow as pa

    try:
        types = [str(field.type) for field in _open_arrow(path).schema]
    except (OSError, pa.ArrowException):
        return False  # damaged
    return not any(word in kind for kind in types for word in ("binary", "struct"))


def _open_arrow(path: Path) -> Any:
    import pyarrow.dataset

    return pyarrow.dataset.dataset(path, format=_suffix_of(path)[1:])


def read_rows(path: Path, columns: Sequence[str] | None = None, max_rows: int | None = None) -> Table:
    """Read a CSV or TSV (standard quoting; comma, semicolon, tab or pipe), JSONL, Excel, parquet or Feather file.

    With `columns` the file has no header and tab-separated cells; else the header is the first line of several cells.
    After `max_rows` it stops. Text is UTF-8, UTF-16 or UTF-32, else cp1252, with a note. A tab-separated file
    with unpaired quotes is read with quotes as plain characters, and a note is added. Raises DataFault for text in none
    of these, broken quoting or a line that is not a JSON object.
    """
    suffix = _suffix_of(path)
    if suffix in _ARROW_SUFFIXES:
        return _read_arrow(path, max_rows)
    with path.open("rb") as file:
        mark = file.read(4)
    if mark == _OLE_MARK:
        raise DataFault(f"{path} is an Excel file of the old format or with a password: save it as .xlsx or CSV.")
    if mark == _ZIP_MARK or suffix in _EXCEL_SUFFIXES:
        return _read_excel(path)
    try:
        content, encoding = decode_text(read_content(path))
    except UnicodeDecodeError as error:
        raise DataFault(f"{path} is not UTF-8, UTF-16 or cp1252 (byte {error.start}): save it as UTF-8.") from error
    doubt = "; save it as UTF-8 if letters with accents come out wrong" if encoding.startswith("cp") else ""
    notes = [f"{path.name} is not UTF-8; it was read as {encoding}{doubt}."] if encoding else []
    if suffix in (".jsonl", ".ndjson"):
        return _parse_jsonl(path, content, max_rows, notes)
    separator = "\t" if columns is not None else None
    if columns is None and (line := _SEPARATOR_LINE.match(content)):
        separator, content = line[1], "\n" + content[line.end() :]
    separator = separator or _find_separator(path, content)
    try:
        rows = _parse_delimited(content, separator, csv.QUOTE_MINIMAL, max_rows)
    except csv.Error as error:
        if separator != "\t":
            raise DataFault(
                f"{path}: broken quoting ({error}): put '\"' around cells and double quotes inside."
            ) from error
        rows = _parse_delimited(content, separator, csv.QUOTE_NONE, max_rows)
        notes.append(f"The quotes in {path.name} do not pair, so they were read as plain characters.")
    return _build_table(path, rows, columns, notes)


def read_content(path: Path) -> bytes:
    """Return the content of a file, unpacked where it is a gzip archive. Raises DataFault where that is damaged."""
    content = path.read_bytes()
    if not content.startswith(_GZIP_MARK):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataFault(f"{path} is not a whole gzip archive ({first_line(error)}): get another copy.") from error


def decode_text(content: bytes) -> tuple[str, str]:
    """Return text, and the name of its encoding unless that is UTF-8. Raises UnicodeDecodeError."""
    encoding = next((encoding for mark, encoding in _ENCODING_MARKS.items() if content.startswith(mark)), "")
    if not encoding and _is_mostly_nul(content[1::2]):
        encoding = "utf-16-le"
    elif not encoding and _is_mostly_nul(content[::2]):
        encoding = "utf-16-be"
    if encoding:
        return content.decode(encoding), encoding[:6].upper()
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        return content.decode("cp1252"), "cp1252 (Western European Windows)"


def _is_mostly_nul(content: bytes) -> bool:
    head = content[:64]
    return 2 * head.count(0) > len(head)


def _find_separator(path: Path, content: str) -> str:
    """Find the separator that cuts most of the first lines into one number of cells, then into most cells.

    A `.tsv` has tabs where its first line has one.
    """
    lines = [line for line in content[:_MAX_CELL_CHARACTERS].splitlines()[:_NUM_LINES_LOOKED_AT] if line.strip()]
    if _suffix_of(path) in (".tsv", ".tab") and "\t" in "".join(lines[:1]):
        return "\t"

    def rate(separator: str) -> tuple[int, int]:
        counts = Counter(len(next(csv.reader([line], delimiter=separator), [])) for line in lines)
        return max(((num_lines, num_cells) for num_cells, num_lines in counts.items() if num_cells > 1), default=(0, 0))

    return max(_SEPARATORS, key=rate)


def _read_arrow(path: Path, max_rows: int | None) -> Table:
    import pyarrow as pa

    try:
        source = _open_arrow(path)
        cells = (source.to_table() if max_rows is None else source.head(max_rows)).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataFault(f"{path} cannot be read ({first_line(error).rstrip('.')}): get another copy.") from error
    return Table(path, source.schema.names, [Row(number, row) for number, row in enumerate(cells, start=1)])


def _read_excel(path: Path) -> Table:
    """Read the longest visible sheet, or the sheets named by split where all are, with a column `split`; all as text.

    Vertically merged cells all have the value. Raises DataFault where values of formulas are not saved.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise DataFault(
            f"{path} is an Excel file, which needs openpyxl: pip install 'medcap-sweep[excel]', or save it as CSV."
        ) from error
    try:
        content = io.BytesIO(path.read_bytes())
        book = openpyxl.load_workbook(content, data_only=True)
        visible = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
        sheets = {sheet.title: rows for sheet in visible if (rows := _read_cells(sheet))}
        unknown = []
        cells_of = (column for rows in sheets.values() for column in zip(*(cells for _, cells in rows), strict=True))
        if any(column[0] and not any(column[1:]) for column in cells_of):  # of which nothing but the header is known
            formulas = openpyxl.load_workbook(content)
            unknown = [name for name in sheets if any(cell.data_type == "f" for row in formulas[name] for cell in row)]
    except _DAMAGED_EXCEL as error:
        raise DataFault(
            f"{path} cannot be read as an Excel file ({first_line(error).rstrip('.')}): save it as CSV."
        ) from error
    if unknown:
        raise DataFault(f"{path}: sheet {unknown[0]} has formulas without saved values: save it in Excel, or as CSV.")
    if len(sheets) > 1 and all(recognise_split(title) for title in sheets):
        parts = [_build_table(path, rows) for rows in sheets.values()]
        for title, part in zip(sheets, parts, strict=True):
            for row in part.rows:
                row.cells["split"] = title
        columns = dict.fromkeys(column for part in parts for column in (*part.columns, "split"))
        return Table(path, list(columns), [row for part in parts for row in part.rows])
    longest = max(sheets, key=lambda title: len(sheets[title]), default="")
    others = [title for title in sheets if title != longest]
    notes = [f"Of {path.name} the sheet {longest} was read, and not {', '.join(others)}."] if others else []
    return _build_table(path, sheets.get(longest, []), notes=notes)


def _read_cells(sheet: Any) -> list[tuple[int, list[str]]]:
    """List the rows of a sheet that hold something, each with its number."""
    values = [[_show_cell(cell) for cell in row] for row in sheet.iter_rows()]
    for merged in sheet.merged_cells.ranges:
        for row in range(merged.min_row, merged.max_row):
            values[row][merged.min_col - 1] = values[merged.min_row - 1][merged.min_col - 1]
    return [(number, cells) for number, cells in enumerate(values, start=1) if any(cells)]


def _show_cell(cell: Any) -> str:
    value = cell.value
    if value is None or cell.data_type == "e":  # an error, such as #REF!
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _parse_delimited(content: str, separator: str, quoting: Any, max_rows: int | None) -> list[tuple[int, list[str]]]:
    # Strict: a stray quote would otherwise silently swallow the following rows.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CELL_CHARACTERS))
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, quoting=quoting, strict=True)
    return [(reader.line_num, cells) for cells in islice(reader, max_rows)]


def _build_table(
    path: Path, rows: Iterable[tuple[int, list[str]]], columns: Sequence[str] | None = None, notes: Sequence[str] = ()
) -> Table:
    """Build a table of numbered rows; without `columns` its header is the first row of several cells, or the first."""
    filled = [(number, cells) for number, cells in rows if any(cells)]
    if columns is None:
        head = filled[:_NUM_LINES_LOOKED_AT]
        start = next((n for n, (_, cells) in enumerate(head) if sum(map(bool, cells)) > 1), 0)
        columns = head[start][1] if head else []
        filled = filled[start + 1 :]
    header = [column.strip() for column in columns]
    found = []
    for number, cells in filled:
        too_many = f"line {number} has {len(cells)} cells, the header {len(header)}: quote the caption"
        fault = too_many if any(cells[len(header) :]) else ""
        found.append(Row(number, dict(zip(header, cells, strict=False)), fault))
    return Table(path, header, found, list(notes))


def _parse_jsonl(path: Path, content: str, max_rows: int | None, notes: list[str]) -> Table:
    rows: list[Row] = []
    remedy = "write one object a line"
    if content.lstrip().startswith("["):  # one list, whatever the suffix says
        objects: Iterable[tuple[int, Any]] = enumerate(parse_json(content, str(path), remedy), start=1)
    else:
        lines = ((number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip())
        objects = ((n, parse_json(line.rstrip().removesuffix(","), f"{path} line {n}", remedy)) for n, line in lines)
    for number, cells in islice(objects, max_rows):
        if not isinstance(cells, dict):
            raise DataFault(f"{path} line {number} is not a JSON object: {remedy}.")
        rows.append(Row(number, cells))
    return Table(path, list(dict.fromkeys(column for row in rows for column in row.cells)), rows, notes)
