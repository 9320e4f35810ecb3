"""A table as CSV, with every column and row at full precision, and as LaTeX, to be read by its input command."""

import csv
import io
from collections.abc import Sequence
from textwrap import wrap

from sweep.tables.blocks import Column, Table
from sweep.tables.formats import UNKNOWN, Cell, Estimate, Kind, format_uncertainty, format_value

_PARTS = ("low", "high", "std")
_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "×": r"$\times$"}
    | {"[": "{[}"}  # after the end of a row it would open that command's option
)
_HEAD_CHARACTERS = 14
_FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"
_MATHS: tuple[Kind, ...] = ("score", "difference", "number")
"""Kinds of figures whose hyphen is a minus."""


def format_csv(table: Table) -> str:
    """Format a table; a column of estimates is followed by `<name>_low` and `<name>_high`, or by `<name>_std`."""
    parts = {column.name: _find_parts(table, column.name) for column in table.columns}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        name for column, found in parts.items() for name in (column, *(f"{column}_{part}" for part in found))
    )
    for row in table.rows:
        cells: list[Cell] = []
        for name, found in parts.items():
            cell = row.get(name)
            if isinstance(cell, Estimate):
                cells += [cell.value, *(getattr(cell, part) for part in found)]
            else:
                cells += [cell, *[None] * len(found)]
        writer.writerow(cells)
    return text.getvalue()


def _find_parts(table: Table, name: str) -> list[str]:
    """Find the parts of an uncertainty that any cell of a column has."""
    estimates = [cell for row in table.rows if isinstance(cell := row.get(name), Estimate)]
    return [part for part in _PARTS if any(getattr(cell, part) is not None for cell in estimates)]


def format_latex(table: Table) -> str:
    """Format a table as readers see it, with title and notes as comments: the caption is the paper's own.

    Uncertainties stand below their figures, and a table wider than the line is made as wide as the line.
    """
    needed = r"Needs \usepackage{booktabs,graphicx}."
    comments = [f"% {' '.join(line.split())}" for line in (table.title, *table.notes, needed)]
    lines = [_join([_format_head(column) for column in table.shown]), r"\midrule"]
    for place, row in enumerate(table.rows):
        cells = [_format_cell(row.get(column.name), column.kind) for column in table.shown]
        figures, below = zip(*cells, strict=True)
        lines.append(_join([rf"\textbf{{{cell}}}" for cell in figures] if place in table.emphasised else figures))
        if any(below):
            lines[-1] += "[-0.5ex]"
            lines.append(_join([cell and rf"{{\scriptsize {cell}}}" for cell in below]))
    alignment = "".join("r" if column.is_numeric else "l" for column in table.shown)
    begin, end = f"{_FITTED}\\begin{{tabular}}{{{alignment}}}", r"\end{tabular}}"
    return "\n".join([*comments, begin, r"\toprule", *lines, r"\bottomrule", end, ""])


def _format_head(column: Column) -> str:
    lines = r"\\".join(_escape(line) for line in wrap(column.title, _HEAD_CHARACTERS, break_long_words=False))
    return rf"\shortstack[{'r' if column.is_numeric else 'l'}]{{{lines}}}" if r"\\" in lines else lines


def _format_cell(value: Cell, kind: Kind) -> tuple[str, str]:
    """Format the figure of a cell, and its uncertainty."""
    text, spread = format_value(value, kind), format_uncertainty(value, kind)
    if text == UNKNOWN:
        return "--", ""
    shown = _escape(text), _escape(spread)
    return (shown[0].replace("-", "$-$"), shown[1].replace("-", "$-$")) if kind in _MATHS else shown


def _escape(text: str) -> str:
    """Escape what LaTeX would read as markup, on one line and without control characters, which it refuses."""
    return "".join(filter(str.isprintable, " ".join(text.split()))).translate(_ESCAPES)


def _join(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
