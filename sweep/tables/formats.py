"""Figures as readers see them: one rule for each kind, in ASCII wherever they are shown."""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from medcap_core.runtime.cache import format_size

Kind = Literal["text", "score", "difference", "number", "count", "seconds", "bytes", "p", "share"]
"""What a figure is: a score has three decimals, a number four digits, a share is a percentage."""

UNKNOWN = "-"


@dataclass(frozen=True)
class Estimate:
    """A figure with what is known of its uncertainty: a 95% interval, or the standard deviation over seeds."""

    value: float | None
    low: float | None = None
    high: float | None = None
    std: float | None = None


@dataclass(frozen=True)
class Label:
    """A name, and a shorter one for the terminal."""

    text: str
    short: str

    def __str__(self) -> str:
        return self.text


def summarise(values: Iterable[float | None]) -> Estimate | None:
    """Build the mean of the known values with their sample standard deviation; None where none is known."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Estimate(statistics.fmean(known), std=statistics.stdev(known) if len(known) > 1 else None)


Cell = str | int | float | Estimate | Label | None


def format_value(value: Cell, kind: Kind) -> str:
    """Format a cell without its uncertainty; `UNKNOWN` for None, NaN and infinities."""
    if isinstance(value, Estimate):
        value = value.value
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return UNKNOWN
    if kind == "text" or isinstance(value, str | bool | Label):
        return str(value)
    return _FORMATS[kind](value)


def format_uncertainty(value: Cell, kind: Kind) -> str:
    """Format the uncertainty of a cell, such as `0.550 to 0.590` or `± 0.012`; empty where there is none."""
    if not isinstance(value, Estimate) or value.value is None:
        return ""
    if value.low is not None and value.high is not None:
        return f"{format_value(value.low, kind)} to {format_value(value.high, kind)}"
    return "" if value.std is None else f"± {value.std:.3f}"


def format_cell(value: Cell, kind: Kind) -> str:
    """Format a cell with its uncertainty, such as `0.570 (0.550 to 0.590)` or `0.570 ± 0.012`."""
    text, spread = format_value(value, kind), format_uncertainty(value, kind)
    if not spread:
        return text
    return f"{text} {spread}" if spread.startswith("±") else f"{text} ({spread})"


def describe_score(score: Estimate) -> str:
    """Format a score within a sentence, such as `0.570 (95% interval 0.550 to 0.590)`."""
    interval = format_uncertainty(score, "score")
    return format_value(score, "score") + (f" (95% interval {interval})" if interval else "")


def format_score(score: float | None) -> str:
    """Format a score by the rule of tables."""
    return format_value(score, "score")


def format_seconds(seconds: float) -> str:
    """Format whole seconds as m:ss or h:mm:ss; negative ones count as none."""
    whole = max(0, round(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


_FORMATS: dict[Kind, Callable[[float], str]] = {
    "score": "{:z.3f}".format,
    "difference": "{:+z.3f}".format,
    "number": "{:.4g}".format,
    "count": "{:,.0f}".format,
    "seconds": lambda seconds: f"{seconds:.1f} s" if seconds < 60 else format_seconds(seconds),
    "bytes": format_size,
    "p": lambda p_value: "<0.001" if p_value < 0.001 else f"{p_value:.3f}",
    "share": "{:.0%}".format,
}
