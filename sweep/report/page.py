"""A report as one HTML page that needs nothing else: style, script, plotly.js, figures and pictures are in it."""

from functools import lru_cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from sweep.tables.blocks import Code, Gallery, Plot, Report, Table, Text, format_uncertainty, format_value, sort_key


def render_page(report: Report) -> str:
    """The whole of `report.html`. Everything that comes from a run is escaped; the page forbids itself the network."""
    from plotly.offline import get_plotlyjs

    has_plots = any(isinstance(block, Plot) for section in report.sections for block in section.blocks)
    return str(
        _load_template().render(
            report=report,
            style=Markup(_read_asset("report.css")),
            script=Markup(_read_asset("report.js")),
            plotly=Markup(get_plotlyjs()) if has_plots else "",
        )
    )


def embed_json(text: str) -> Markup:
    """JSON that may stand in a script element: no `<` in it can end that element."""
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@lru_cache(maxsize=1)
def _load_template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {
        "format_value": format_value,
        "format_uncertainty": format_uncertainty,
        "sort_key": sort_key,
        "embed_json": embed_json,
    }
    environment.tests |= {
        kind.__name__.lower(): lambda block, kind=kind: isinstance(block, kind)
        for kind in (Text, Code, Table, Plot, Gallery)
    }
    return environment.from_string(_read_asset("report.html.jinja"))


def _read_asset(name: str) -> str:
    return (files("sweep.report") / "assets" / name).read_text(encoding="utf-8")
