"""Rows of CSV, TSV, JSONL and Excel files as text, whatever their separator and encoding."""

import csv
import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcap_core.data.sources.json_cells import parse_json
from medcap_core.errors import DataFault, first_line

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".xlsx")

_SEPARATORS = (",", ";", "\t", "|")
_MAX_CELL_CHARACTERS = 2**20
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


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

    def find_fault(self, *columns: str) -> str:
        """Return the reason the row is unusable, a list or an object in one of `columns` included; else empty."""
        nested = [name for name in columns if isinstance(self.cells.get(name), list | dict)]
        return self.fault or (f"line {self.line}: {nested[0]} is not text" if nested else "")


@dataclass(frozen=True)
class Table:
    """All rows of one file."""

    path: Path
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def is_table(path: Path) -> bool:
    """Check for a CSV, TSV, JSONL or Excel file, by its suffix."""
    return path.is_file() and path.suffix.lower() in TABLE_SUFFIXES


def read_rows(path: Path, columns: Sequence[str] | None = None, max_rows: int | None = None) -> Table:
    """Read a CSV or TSV (standard quoting; comma, semicolon, tab or pipe, by the header), JSONL or Excel file.

    With `columns` the file has no header and tab-separated cells. At most `max_rows` rows are read. Text is UTF-8 or
    UTF-16, else cp1252, with a note. A tab-separated file with unpaired quotes is read with quotes as plain characters,
    and a note is added. Raises DataFault for text in none of these, broken quoting or a line that is not a JSON object.
    """
    if path.suffix.lower() == ".xlsx":
        return _read_excel(path, max_rows)
    content, notes = _decode(path)
    if path.suffix.lower() == ".jsonl":
        return _parse_jsonl(path, content, max_rows, notes)
    separator = "\t" if columns is not None else _find_separator(path, re.split("[\r\n]", content, maxsplit=1)[0])
    try:
        return _parse_delimited(path, content, separator, csv.QUOTE_MINIMAL, columns, max_rows, notes)
    except csv.Error as error:
        if separator != "\t":
            raise DataFault(
                f"{path}: broken quoting ({error}): put '\"' around cells and double quotes inside."
            ) from error
    notes = [*notes, f"The quotes in {path.name} do not pair, so they were read as plain characters."]
    return _parse_delimited(path, content, separator, csv.QUOTE_NONE, columns, max_rows, notes)


def _decode(path: Path) -> tuple[str, list[str]]:
    """Return the text of the file, and a note unless it is UTF-8. Raises DataFault."""
    content = path.read_bytes()
    if content.startswith(_UTF16_MARKS):
        encoding, name = "utf-16", "UTF-16"
    elif _is_mostly_nul(content[1::2]):
        encoding, name = "utf-16-le", "UTF-16"
    elif _is_mostly_nul(content[::2]):
        encoding, name = "utf-16-be", "UTF-16"
    else:
        try:
            return content.decode("utf-8-sig"), []
        except UnicodeDecodeError:
            encoding, name = "cp1252", "cp1252 (Western European Windows)"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataFault(f"{path} is not UTF-8, UTF-16 or cp1252 (byte {error.start}): save it as UTF-8.") from error
    doubt = "; save it as UTF-8 if letters with accents come out wrong" if encoding == "cp1252" else ""
    return text, [f"{path.name} is not UTF-8; it was read as {name}{doubt}."]


def _is_mostly_nul(content: bytes) -> bool:
    head = content[:64]
    return 2 * head.count(0) > len(head)


def _find_separator(path: Path, header: str) -> str:
    """Find the separator that cuts the header into most columns; a `.tsv` has tabs where its header has one."""
    if path.suffix.lower() == ".tsv" and "\t" in header:
        return "\t"

    def count_columns(separator: str) -> int:
        return len(next(csv.reader([header], delimiter=separator), []))

    return max(_SEPARATORS, key=count_columns)


def _read_excel(path: Path, max_rows: int | None) -> Table:
    """Read the first sheet, all cells as text."""
    import pandas as pd

    try:
        sheet = pd.read_excel(path, engine="openpyxl", dtype=str, na_filter=False, nrows=max_rows)
    except ImportError as error:
        raise DataFault(
            f"{path} is an Excel file, which needs openpyxl: pip install 'medcap-sweep[excel]', or save it as CSV."
        ) from error
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise DataFault(
            f"{path} cannot be read as an Excel file ({first_line(error).rstrip('.')}): save it as CSV."
        ) from error
    columns = [str(column).strip() for column in sheet.columns]
    rows = [
        Row(number, dict(zip(columns, cells, strict=True)))
        for number, cells in enumerate(sheet.itertuples(index=False, name=None), start=2)
        if any(cells)
    ]
    return Table(path, columns, rows)


def _parse_delimited(
    path: Path,
    content: str,
    delimiter: str,
    quoting: Any,
    columns: Sequence[str] | None,
    max_rows: int | None,
    notes: list[str],
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
    return Table(path, header, rows, notes)


def _parse_jsonl(path: Path, content: str, max_rows: int | None, notes: list[str]) -> Table:
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
    return Table(path, list(columns), rows, notes)
