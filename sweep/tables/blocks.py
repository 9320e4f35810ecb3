"""What a report is made of, before it becomes HTML, Markdown or CSV: sections of texts, tables, plots and pictures."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from medcap_core.runtime.cache import format_size
from sweep.tables.formats import format_seconds

Kind = Literal["text", "score", "difference", "number", "count", "seconds", "bytes", "p"]

DASH = "–"
_MINUS = "−"


@dataclass(frozen=True)
class Estimate:
    """A score with what is known of its uncertainty: an interval, or mean and standard deviation over seeds."""

    value: float | None
    low: float | None = None
    high: float | None = None
    std: float | None = None


@dataclass(frozen=True)
class Column:
    """One column: `name` heads it in CSV, `title` where people read it; without a title it is in CSV alone."""

    name: str
    title: str
    kind: Kind = "text"

    @property
    def is_numeric(self) -> bool:
        """Whether its cells are sorted and aligned as numbers."""
        return self.kind != "text"


@dataclass(frozen=True)
class Table:
    """A table; `rows` map column names to plain values or `Estimate`s, a missing or None one is an empty cell.

    `emphasised` holds the positions of rows to stand out.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    sortable: bool = False
    emphasised: frozenset[int] = frozenset()

    @property
    def shown(self) -> list[Column]:
        """The columns that people read."""
        return [column for column in self.columns if column.title]


@dataclass(frozen=True)
class Text:
    """One paragraph."""

    text: str
    kind: Literal["plain", "note", "warning"] = "plain"


@dataclass(frozen=True)
class Code:
    """Lines to be copied; `language` as Markdown names it."""

    text: str
    label: str
    language: str = "console"


@dataclass(frozen=True)
class Plot:
    """A plotly figure as JSON. `summary` says what it shows, for who cannot see it; the numbers are in `table`.

    Where they are in another table of the report already, `data_in` is that table's name instead.
    """

    name: str
    title: str
    figure: str
    summary: str
    table: Table | None = None
    data_in: str = ""
    min_width: int = 0


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with the texts that stand under it as (label, text)."""

    title: str
    data_uri: str
    alternative: str
    texts: tuple[tuple[str, str], ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    title: str
    pictures: tuple[Picture, ...]


Block = Text | Code | Table | Plot | Gallery


@dataclass(frozen=True)
class Section:
    """A part of the report under one heading."""

    name: str
    title: str
    blocks: list[Block] = field(default_factory=list)


def format_value(value: Any, kind: Kind) -> str:
    """A cell as people read it, without its uncertainty; a dash for None, NaN and infinities."""
    if isinstance(value, Estimate):
        value = value.value
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if kind == "text" or isinstance(value, str | bool):
        return str(value)
    text = str(_FORMATS[kind](value))
    return text.replace("-", _MINUS) if kind in ("score", "difference") else text


def format_uncertainty(value: Any, kind: Kind) -> str:
    """The uncertainty of a cell, such as `0.550 to 0.590` or `± 0.012`; empty where there is none."""
    if not isinstance(value, Estimate) or value.value is None:
        return ""
    if value.low is not None and value.high is not None:
        return f"{format_value(value.low, kind)} to {format_value(value.high, kind)}"
    return "" if value.std is None else f"± {value.std:.3f}"


def sort_key(value: Any) -> str:
    """What a cell is sorted by; empty sorts last."""
    if isinstance(value, Estimate):
        value = value.value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def format_csv_table(table: Table) -> str:
    """The table at full precision; an uncertain column is followed by `<name>_low`, `<name>_high` or `<name>_std`."""
    parts = {column.name: _find_parts(table.rows, column.name) for column in table.columns}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name for column in table.columns for name in _csv_names(column.name, parts[column.name])])
    for row in table.rows:
        writer.writerow(
            [cell for column in table.columns for cell in _csv_cells(row.get(column.name), parts[column.name])]
        )
    return text.getvalue()


def _find_parts(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    estimates = [row[name] for row in rows if isinstance(row.get(name), Estimate)]
    return [part for part in ("low", "high", "std") if any(getattr(item, part) is not None for item in estimates)]


def _csv_names(name: str, parts: Sequence[str]) -> list[str]:
    return [name, *(f"{name}_{part}" for part in parts)]


def _csv_cells(value: Any, parts: Sequence[str]) -> list[Any]:
    if isinstance(value, Estimate):
        return [value.value, *(getattr(value, part) for part in parts)]
    return [value, *([None] * len(parts))]


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else format_seconds(seconds)


def _format_p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


_FORMATS: dict[str, Any] = {
    "score": lambda value: f"{value:.3f}",
    "difference": lambda value: f"{value:+.3f}",
    "number": lambda value: f"{value:.4g}",
    "count": lambda value: f"{int(value):,}",
    "seconds": _format_seconds,
    "bytes": format_size,
    "p": _format_p,
}


@dataclass(frozen=True)
class Report:
    """Everything the page and the text say."""

    title: str
    status: str
    summary: str
    sections: list[Section]

    @property
    def tables(self) -> list[Table]:
        """Every table, those of plots too; each goes to its own CSV."""
        blocks = [block for section in self.sections for block in section.blocks]
        inner = [block.table for block in blocks if isinstance(block, Plot) and block.table is not None]
        return [block for block in blocks if isinstance(block, Table)] + inner
