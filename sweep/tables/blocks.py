"""What a report is made of: sections of texts, tables, plots and pictures. `Table` is what the terminal shows too."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sweep.tables.formats import Cell, Kind

Row = Mapping[str, Cell]
"""Cells by the name of their column; a missing or None one is empty."""


@dataclass(frozen=True)
class Column:
    """One column.

    `name` heads it in CSV, `title` where people read it; without a title it is in CSV alone. On a terminal it is headed
    `short`, and columns leave a narrow one by `rank`, the highest first: 0 always stays, None is never shown there.
    `with_spread` says whether the terminal shows the uncertainty of its cells.
    """

    name: str
    title: str
    kind: Kind = "text"
    short: str = ""
    rank: int | None = 0
    with_spread: bool = True

    @property
    def is_numeric(self) -> bool:
        """Whether its cells are sorted and aligned as numbers."""
        return self.kind != "text"


@dataclass(frozen=True)
class Table:
    """A table, built once for the terminal, HTML, Markdown and CSV.

    `name` is that of its CSV file, `short` its title on a terminal where that is another. Rows by position:
    `emphasised` ones stand out, `secondary` ones are left out on a terminal. `notes` are sentences that explain its
    figures.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    short: str = ""
    sortable: bool = False
    emphasised: Collection[int] = ()
    secondary: Collection[int] = ()
    notes: Sequence[str] = ()

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


@dataclass(frozen=True)
class Captions:
    """Captions of many images beside each other, as JSON; the page alone shows them."""

    name: str
    title: str
    content: str

    @property
    def columns(self) -> list[str]:
        """The rows of the test table whose captions stand there."""
        return list(json.loads(self.content)["columns"])


Block = Text | Code | Table | Plot | Gallery | Captions


@dataclass(frozen=True)
class Section:
    """A part of the report under one heading."""

    name: str
    title: str
    blocks: list[Block] = field(default_factory=list)


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
