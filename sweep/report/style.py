"""The look that the plots of a report share.

Colours stand out from light and dark paper alike (contrast of at least 3); text and grid are coloured by the page.
"""

import html
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

from medcap_core.config import FreezeMode
from medcap_core.objective import Objective
from sweep.space import short_label
from sweep.study.record import TrialRecord
from sweep.study.results import RunResults
from sweep.tables.blocks import Block, Plot, Text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

P = ParamSpec("P")

PALETTE = ("#0077bb", "#d45500", "#008a66", "#b8568c", "#7a6fd0", "#a07010")
GREY = "#808080"
FREEZE_COLOURS = {
    FreezeMode.FULL: "#0077bb",
    FreezeMode.ENCODER_ONLY: "#d45500",
    FreezeMode.DECODER_ONLY: "#008a66",
    FreezeMode.LORA: "#b8568c",
    FreezeMode.BRIDGE_ONLY: "#7a6fd0",
    FreezeMode.PATCH_AND_BRIDGE: "#a07010",
    FreezeMode.PATCH_AND_BRIDGE_LORA: "#d0342c",
    FreezeMode.ZERO_SHOT: GREY,
}
"""A colour of its own for each mode."""
LOG_AXIS = {"type": "log", "dtick": "D2"}
MIN_TRIALS_TO_COMPARE = 2


class NothingToShow(Exception):
    """A part of the report would make no sense for this run; the message says why, as a sentence."""


def show_or_say(build: Callable[P, Block | list[Block]], *args: P.args, **kwargs: P.kwargs) -> list[Block]:
    """Build a part of a section, or the sentence on why there is none."""
    try:
        built = build(*args, **kwargs)
    except NothingToShow as reason:
        return [Text(str(reason), "note")]
    return built if isinstance(built, list) else [built]


def is_log(results: RunResults, knob: str) -> bool:
    """Say whether a knob belongs on a logarithmic axis."""
    branches = results.space.search.get(knob, ())
    return knob == "learning_rate" or any(branch.kind == "loguniform" for branch in branches)


def escape(text: str) -> str:
    """Escape a text for plotly, which reads a few HTML tags in texts; what a user wrote is no tag."""
    return html.escape(text, quote=False)


def add_trials(
    figure: "Figure",
    objective: Objective,
    points: Sequence[tuple[TrialRecord, Any]],
    name: str,
    colour: str,
    symbol: str | Sequence[str] = "circle",
) -> None:
    """Add trials to a scatter chart: the value that stands with each against its best score."""
    figure.add_scatter(
        x=[value for _, value in points],
        y=[record.best_score for record, _ in points],
        mode="markers",
        name=name,
        text=[escape(f"{record.name} {short_label(record.point)}") for record, _ in points],
        hovertemplate=f"%{{text}}<br>%{{x}}<br>{objective.title} %{{y:.3f}}<extra></extra>",
        marker={"color": colour, "size": 9, "symbol": symbol, "line": {"color": colour, "width": 2}},
    )


def begin() -> "Figure":
    """Build an empty figure; plotly takes long to import."""
    from plotly.graph_objects import Figure

    return Figure()


def finish(
    name: str, title: str, figure: "Figure", summary: str, *, height: int = 400, margin: int = 12, **data: Any
) -> Plot:
    """Build a plot of a figure in the shared look; `data` goes to `Plot`."""
    figure.update_layout(
        template="none",
        title=None,
        height=height,
        autosize=True,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": margin, "t": 24, "b": 50},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "bgcolor": "rgba(0,0,0,0)"},
        hoverlabel={"bgcolor": "#20242a", "font": {"color": "#ffffff"}},
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    figure.update_xaxes(automargin=True, title_standoff=8)
    figure.update_yaxes(automargin=True, title_standoff=8)  # titles keep off the labels
    return Plot(name, title, str(figure.to_json()), summary, **data)
