"""A report as Markdown, for a paper or a repository: its texts and tables, without plots and pictures."""

import re

from sweep.tables.blocks import Code, Gallery, Picture, Plot, Report, Section, Table, Text
from sweep.tables.formats import format_cell

_MARKUP = re.compile(r"([\\`*\[\]<>|#~]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9]))")
_MAX_ROWS = 60
_LONG_TABLES = ("learning_curves",)


def format_markdown(report: Report) -> str:
    """Format `report.md`; tables that are long go to `tables/` alone, and the text says so."""
    head = [f"# {escape(report.title)}", escape(report.status), escape(report.summary)]
    return "\n\n".join(head + [part for section in report.sections for part in format_section(section)]) + "\n"


def escape(text: str) -> str:
    """Escape what Markdown would read as markup, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def format_section(section: Section) -> list[str]:
    """Format one section as paragraphs."""
    parts = [f"## {escape(section.title)}"]
    for block in section.blocks:
        if isinstance(block, Text):
            parts.append(escape(block.text))
        elif isinstance(block, Code):
            ticks = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", block.text)), default=0))
            parts += [f"{escape(block.label)}:", f"{ticks}{block.language}\n{block.text.rstrip()}\n{ticks}"]
        elif isinstance(block, Table):
            parts += _format_table(block)
        elif isinstance(block, Plot):
            parts += [escape(f"{block.title} (plot in report.html). {block.summary}")]
            parts += _format_table(block.table) if block.table else []
        elif isinstance(block, Gallery):
            parts += [f"**{escape(block.title)}**", "\n".join(map(_format_picture, block.pictures))]
    return parts


def _format_table(table: Table) -> list[str]:
    heading = f"**{escape(table.title)}**" + (f" (`tables/{table.name}.csv`)" if table.name else "")
    if table.name in _LONG_TABLES:
        return [heading]
    lines = [_row([escape(column.title) for column in table.shown])]
    lines.append(_row(["---:" if column.is_numeric else "---" for column in table.shown]))
    for index, row in enumerate(table.rows[:_MAX_ROWS]):
        cells = [escape(format_cell(row.get(column.name), column.kind)) for column in table.shown]
        lines.append(_row([f"**{cell}**" for cell in cells] if index in table.emphasised else cells))
    parts = [heading, "\n".join(lines)]
    if len(table.rows) > _MAX_ROWS:
        parts.append(f"and {len(table.rows) - _MAX_ROWS} rows more in the CSV file.")
    return [*parts, escape(" ".join(table.notes))] if table.notes else parts


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _format_picture(picture: Picture) -> str:
    texts = "; ".join(f"{label}: {text}" for label, text in picture.texts)
    return f"- {escape(picture.title)}{': ' if texts else ''}{escape(texts)}"
