"""A report as one HTML page that needs nothing else: style, script, plotly.js, figures and pictures are in it."""

import math
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

from markupsafe import Markup

from sweep.tables.blocks import Captions, Code, Column, Gallery, Plot, Report, Table, Text
from sweep.tables.formats import UNKNOWN, Cell, Estimate, format_uncertainty, format_value

if TYPE_CHECKING:
    from jinja2 import Template


def render_page(report: Report, refresh_seconds: int | None = None) -> str:
    """Render `report.html`, which loads itself anew every `refresh_seconds`.

    Everything that comes from a run is escaped; the page forbids itself the network.
    """
    from plotly.offline import get_plotlyjs

    has_plots = any(isinstance(block, Plot) for section in report.sections for block in section.blocks)
    has_captions = any(isinstance(block, Captions) for section in report.sections for block in section.blocks)
    return str(
        _load_template().render(
            report=report,
            refresh_seconds=refresh_seconds,
            style=Markup(_read_asset("report.css")),
            script=Markup(_read_asset("report.js") + _read_asset("side_by_side.js") * has_captions),
            plotly=Markup(get_plotlyjs()) if has_plots else "",
        )
    )


def embed_json(text: str) -> Markup:
    """Escape JSON for a script element, which no `<` in it can end then."""
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def sort_key(value: Cell) -> str:
    """Build what a cell is sorted by; empty sorts last."""
    if isinstance(value, Estimate):
        value = value.value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _set_type(text: str, column: Column) -> str:
    """Set a real minus, and a dash for what is unknown, in place of hyphens."""
    if text == UNKNOWN:
        return "–"
    return text.replace("-", "−") if column.kind in ("score", "difference") else text


@lru_cache(maxsize=1)
def _load_template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {
        "show_value": lambda cell, column: _set_type(format_value(cell, column.kind), column),
        "show_spread": lambda cell, column: _set_type(format_uncertainty(cell, column.kind), column),
        "sort_key": sort_key,
        "embed_json": embed_json,
    }
    environment.tests |= {
        kind.__name__.lower(): lambda block, kind=kind: isinstance(block, kind)
        for kind in (Text, Code, Table, Plot, Gallery, Captions)
    }
    return environment.from_string(_read_asset("report.html.jinja"))


def _read_asset(name: str) -> str:
    return (files("sweep.report") / "assets" / name).read_text(encoding="utf-8")
