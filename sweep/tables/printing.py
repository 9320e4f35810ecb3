"""A table on a terminal: as many of its columns as fit."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from sweep.tables.blocks import Column, Row, Table
from sweep.tables.formats import UNKNOWN, Label, format_cell, format_value

TABLE_LOOK: dict[str, Any] = {
    "box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0), "header_style": "bold",
}  # fmt: skip

_ANY_WIDTH = 10_000
_MIN_HEADER_WIDTH = 8


def print_table(console: Console, table: Table) -> None:
    """Print a table after an empty line, its title above it and its notes below.

    Columns leave a narrow terminal by their rank, then the uncertainties do; what is still too wide is folded. Where
    there is no terminal, nothing is left out and the table is as wide as it is.
    """
    rows = {place: row for place, row in enumerate(table.rows) if place not in table.secondary}
    columns = [
        column
        for column in table.shown
        if column.rank is not None
        and any(format_value(row.get(column.name), column.kind) != UNKNOWN for row in rows.values())
    ]
    built = _build(columns, rows, table.emphasised)
    width = _measure(console, built)
    if console.is_terminal and width > console.width:
        for narrower in _narrow(columns):
            built = _build(narrower, rows, table.emphasised)
            if _measure(console, built) <= console.width:
                break
    elif not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, width), color_system=None)
    console.print()
    console.print(Text(table.short or table.title, "bold"), soft_wrap=True)
    console.print(built)
    for note in table.notes:
        console.print(Text(note, "dim"), soft_wrap=True)


def _narrow(columns: Sequence[Column]) -> list[list[Column]]:
    """List the columns with one rank less at a time, then the rest without uncertainties."""
    ranks = sorted({column.rank for column in columns if column.rank}, reverse=True)
    steps = [[column for column in columns if (column.rank or 0) < rank] for rank in ranks]
    return [*steps, [replace(column, with_spread=False) for column in (steps[-1] if steps else columns)]]


def _build(columns: Sequence[Column], rows: Mapping[int, Row], emphasised: Collection[int]) -> RichTable:
    built = RichTable(**TABLE_LOOK)
    for column in columns:
        header, is_numeric = column.short or column.title, column.is_numeric
        if is_numeric:
            width = max([_MIN_HEADER_WIDTH, *(len(_show(row, column)) for row in rows.values())])
            header = "\n".join(textwrap.wrap(header, width, break_long_words=False))
        justify: JustifyMethod = "right" if is_numeric else "left"
        built.add_column(Text(header), justify=justify, no_wrap=is_numeric, overflow="fold", vertical="bottom")
    for place, row in rows.items():
        cells = [Text(_show(row, column)) for column in columns]
        built.add_row(*cells, style="bold" if place in emphasised else "")
    return built


def _show(row: Row, column: Column) -> str:
    value = row.get(column.name)
    if isinstance(value, Label):
        return value.short
    text = format_cell(value, column.kind) if column.with_spread else format_value(value, column.kind)
    return "" if text == UNKNOWN and column.kind in ("text", "p", "difference") else text


def _measure(console: Console, table: RichTable) -> int:
    """Measure how many characters wide the table is unfolded."""
    return Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table).maximum
