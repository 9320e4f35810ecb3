"""A table as CSV, with every column and row at full precision, and as LaTeX, to be read by its input command."""

import csv
import io

from sweep.tables.blocks import Table
from sweep.tables.formats import UNKNOWN, Cell, Estimate, Kind, format_uncertainty, format_value

_PARTS = ("low", "high", "std")
_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "×": r"$\times$"}
    | {"[": "{[}"}  # after the end of a row it would open that command's option
)
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
            cells.append(cell.value if isinstance(cell, Estimate) else cell)
            cells += [getattr(cell, part, None) for part in found]
        writer.writerow(cells)
    return text.getvalue()


def _find_parts(table: Table, name: str) -> list[str]:
    """Find the parts of an uncertainty that any cell of a column has."""
    return [part for part in _PARTS if any(getattr(row.get(name), part, None) is not None for row in table.rows)]


def format_latex(table: Table) -> str:
    """Format a table as readers see it, with title and notes as comments: the caption is the paper's own."""
    comments = [f"% {' '.join(line.split())}" for line in (table.title, *table.notes, r"Needs \usepackage{booktabs}.")]
    heads = [_escape(column.title) for column in table.shown]
    rows = []
    for place, row in enumerate(table.rows):
        cells = [_format_cell(row.get(column.name), column.kind) for column in table.shown]
        rows.append(_join([rf"\textbf{{{cell}}}" for cell in cells] if place in table.emphasised else cells))
    alignment = "".join("r" if column.is_numeric else "l" for column in table.shown)
    begin, end = f"\\begin{{tabular}}{{{alignment}}}", r"\end{tabular}"
    return "\n".join([*comments, begin, r"\toprule", _join(heads), r"\midrule", *rows, r"\bottomrule", end, ""])


def _format_cell(value: Cell, kind: Kind) -> str:
    text, spread = format_value(value, kind), format_uncertainty(value, kind)
    if text == UNKNOWN:
        return "--"
    shown = [_escape(part) for part in (text, spread and (spread if spread.startswith("±") else f"({spread})")) if part]
    if kind in _MATHS:
        shown = [part.replace("-", "$-$") for part in shown]
    return " ".join(shown)


def _escape(text: str) -> str:
    """Escape what LaTeX would read as markup, on one line and without control characters, which it refuses."""
    return "".join(filter(str.isprintable, " ".join(text.split()))).translate(_ESCAPES)


def _join(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
