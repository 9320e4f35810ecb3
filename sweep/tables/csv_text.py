"""A table as CSV, with every column and row at full precision."""

import csv
import io

from sweep.tables.blocks import Table
from sweep.tables.formats import Cell, Estimate

_PARTS = ("low", "high", "std")


def format_csv(table: Table) -> str:
    """Format a table; a column of estimates is followed by `<name>_low` and `<name>_high`, or by `<name>_std`."""
    parts = {column.name: _find_parts(table, column.name) for column in table.columns}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        name for column, found in parts.items() for name in (column, *(f"{column}_{part}" for part in found))
    )
    writer.writerows(
        [cell for name, found in parts.items() for cell in _split(row.get(name), found)] for row in table.rows
    )
    return text.getvalue()


def _find_parts(table: Table, name: str) -> list[str]:
    """Find the parts of an uncertainty that any cell of a column has."""
    cells = [row.get(name) for row in table.rows]
    estimates = [cell for cell in cells if isinstance(cell, Estimate)]
    return [part for part in _PARTS if any(getattr(estimate, part) is not None for estimate in estimates)]


def _split(value: Cell, parts: list[str]) -> list[Cell]:
    if isinstance(value, Estimate):
        return [value.value, *(getattr(value, part) for part in parts)]
    return [value, *[None] * len(parts)]
