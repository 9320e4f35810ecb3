"""Draw one picture for one text: the image, the text, a legend, and each word over the heat map of where it looked.

All is drawn on one pair of axes in inches from the upper left corner, so the page grows with its words. The colours
rise steadily in brightness, so they can be read without colour vision and in gray.
"""

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, Rectangle
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from medcap_core.attention.explained import enlarge_map
from medcap_core.attention.pointing import Box
from medcap_core.runtime.cache import replacing

WIDTH, DPI = 16.0, 100
MARGIN, GAP, COLUMNS = 0.4, 0.2, 6
CELL = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
PLAIN_WIDTH = 2 * CELL
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE, SMALLEST_SIZE = 20.0, 18.0, 15.0, 11.0
"""Points; a page shows a sheet at two thirds of its width."""
_POINT = 1 / 72
INK, FAINT, TRUTH_COLOUR = "#191919", "#555555", "#00e5ff"
_COLOURS, _MOST_HEAT = "inferno", 0.75  # how much of the colour lies over the image where attention is strongest


@dataclass(frozen=True)
class View:
    """One image, uint8 (H, W) or (H, W, 3), under a map `heat` (R, C) of any scale where there is one.

    The truth is outlined where it is known: a `box` in shares of the image, or a `mask` (H, W) of bool. `ring` is a
    point (x, y) in such shares.
    """

    image: NDArray[np.uint8]
    heat: NDArray[np.float32] | None = None
    box: Box | None = None
    mask: NDArray[np.bool_] | None = None
    ring: tuple[float, float] | None = None

    @property
    def ratio(self) -> float:
        """Height by width, kept within 1 : 2 so that no row becomes a strip or a tower."""
        height, width = self.image.shape[:2]
        return float(min(max(height / width, 0.5), 2.0))


@dataclass(frozen=True)
class Panel:
    """A word or a query above its map in one view or three planes; `share` of the attention lies on one patch."""

    label: str
    views: Sequence[View]
    share: float
    is_bold: bool = False


@dataclass(frozen=True)
class Sheet:
    """What one picture shows; `texts` are pairs of a heading and what stands under it, `sections` have headings too."""

    title: str
    plain: View
    texts: Sequence[tuple[str, str]]
    legend: Sequence[str]
    sections: Sequence[tuple[str, Sequence[Panel]]]


def save_sheet(sheet: Sheet, path: Path) -> None:
    """Draw a sheet as PNG, WIDTH x DPI pixels wide and as high as its panels need; the file is whole or not there."""
    with warnings.catch_warnings(), style.context("default"):
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box stands for it
        page = _Page()
        y = page.draw_top(sheet)
        for heading, panels in sheet.sections:
            if panels:
                y = page.draw_panels(heading, panels, y)
        with replacing(path) as file:
            page.save(file, y + MARGIN)


class _Page:
    """A page that grows downward; places and sizes are in inches, `y` is the upper edge of what is drawn."""

    def __init__(self) -> None:
        self.figure = Figure((WIDTH, 1.0), dpi=DPI)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()

    def save(self, file: BinaryIO, height: float) -> None:
        self.figure.set_size_inches(WIDTH, height)
        self.axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        self.figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"compress_level": 4})

    def put(self, x: float, y: float, text: str, size: float, colour: str = INK, **options: Any) -> None:
        """Put a line of text on the line of that size; a dollar sign is a dollar sign."""
        font = options.pop("font", _build_font(size))
        options |= {"fontproperties": font, "color": colour, "va": "baseline", "parse_math": False}
        self.axes.text(x, y + 1.05 * size * _POINT, text, **options)

    def write(self, x: float, y: float, text: str, size: float, colour: str = INK, *, bold: bool = False) -> float:
        """Write a text, wrapped at the right margin; returns where the next may stand."""
        font = _build_font(size, bold=bold)
        for line in _wrap(text, font, WIDTH - MARGIN - x):
            self.put(x, y, line, size, colour, font=font)
            y += _height(size)
        return y

    def draw_top(self, sheet: Sheet) -> float:
        """Draw title, plain image, texts and legend."""
        top = self.write(MARGIN, MARGIN, sheet.title, TITLE_SIZE, bold=True) + GAP
        x = MARGIN + PLAIN_WIDTH + 2 * GAP
        y = top
        for heading, text in sheet.texts:
            y = self.write(x, y, heading, SMALL_SIZE, FAINT)
            y = self.write(x, y, text or "(nothing)", TEXT_SIZE) + GAP
        for note in sheet.legend:
            y = self.write(x, y, note, SMALL_SIZE, FAINT)
        y += GAP / 2
        low, high = "no attention", "strongest patch of a map"
        self.put(x, y, low, SMALL_SIZE, FAINT)
        self.put(WIDTH - MARGIN, y, high, SMALL_SIZE, FAINT, ha="right")
        left, right = (_measure(text, _build_font(SMALL_SIZE)) + GAP / 2 for text in (low, high))
        scale = (x + left, y + 0.05, WIDTH - MARGIN - right - x - left, 0.2)
        self.show(np.linspace(0, 1, 256)[None], scale, _COLOURS, 1)
        return max(top + self.draw_view(sheet.plain, MARGIN, top, PLAIN_WIDTH), y + _height(SMALL_SIZE))

    def draw_panels(self, heading: str, panels: Sequence[Panel], y: float) -> float:
        """Draw panels in rows under a heading, each with a bar for its strongest patch's share of attention."""
        y = self.write(MARGIN, y + 2 * GAP, heading, TEXT_SIZE, bold=True) + GAP / 2
        num_views, most = len(panels[0].views), max(panel.share for panel in panels)
        width, height = num_views * (CELL + GAP) - GAP, CELL * panels[0].views[0].ratio
        row_height = _height(TEXT_SIZE) + height + _height(SMALL_SIZE) + 1.5 * GAP
        for index, panel in enumerate(panels):
            row, column = divmod(index, COLUMNS // num_views)
            x, top = MARGIN + column * (width + GAP), y + row * row_height
            label, font = _fit(panel.label, width, bold=panel.is_bold)
            self.put(x, top, label, TEXT_SIZE, font=font)
            top += _height(TEXT_SIZE) + GAP / 4
            for plane, view in enumerate(panel.views):
                self.draw_view(view, x + plane * (CELL + GAP), top, CELL)
            top += height + GAP / 4
            share = f"{panel.share:.0%}" if panel.share >= 0.095 else f"{panel.share:.1%}"
            self.put(x + width, top, share, SMALL_SIZE, FAINT, ha="right")
            for length, colour in ((1.0, "#e4e4e4"), (panel.share / most, INK)):
                bar = Rectangle((x, top + 0.1), (width - 0.7) * length, 0.07, facecolor=colour, linewidth=0)
                self.axes.add_patch(bar)
        return y + (row + 1) * row_height - GAP

    def draw_view(self, view: View, x: float, y: float, width: float) -> float:
        """Draw an image with all that lies over it; returns its height."""
        height = width * view.ratio
        frame = (x, y, width, height)
        if view.heat is None:
            self.show(view.image, frame)
        else:
            gray = view.image if view.image.ndim == 2 else view.image @ np.array([0.299, 0.587, 0.114])
            share = enlarge_map(view.heat, (256, round(256 * view.ratio)))
            share = share / max(float(share.max()), 1e-12)
            colours = mpl.colormaps[_COLOURS](share)
            colours[..., 3] = _MOST_HEAT * share**0.7
            self.show(gray, frame, top=255 / 0.9)
            self.show(colours, frame)
        if view.box is not None:
            left, upper, right, lower = np.array(view.box) * ([width, height] * 2) + [x, y] * 2
            box = Rectangle((left, upper), right - left, lower - upper, fill=False, edgecolor=TRUTH_COLOUR, linewidth=2)
            self.axes.add_patch(box)
        if view.mask is not None and view.mask.any() and not view.mask.all():
            inside, extent = view.mask.astype(float), (x, x + width, y, y + height)
            self.axes.contour(inside, levels=[0.5], extent=extent, origin="lower", colors=TRUTH_COLOUR, linewidths=1.5)
        if view.ring is not None:
            centre = (x + view.ring[0] * width, y + view.ring[1] * height)
            for colour, line in (("black", 5.0), ("white", 2.5)):
                self.axes.add_patch(Circle(centre, 0.09, fill=False, edgecolor=colour, linewidth=line))
        return height

    def show(
        self, image: NDArray[Any], frame: tuple[float, float, float, float], colours: str = "gray", top: float = 255
    ) -> None:
        """Show an image in a frame (x, y, width, height): (H, W) in a colour map from 0 to `top`, or RGB."""
        x, y, width, height = frame
        extent = (x, x + width, y + height, y)
        self.axes.imshow(image, colours, vmin=0, vmax=top, extent=extent, aspect="auto", interpolation="bilinear")


def _build_font(size: float, *, bold: bool = False) -> FontProperties:
    return FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")


def _height(size: float) -> float:
    """Height of a line of text."""
    return size * _POINT * 1.3


def _measure(text: str, font: FontProperties) -> float:
    """Width of a line of text."""
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] * _POINT


def _wrap(text: str, font: FontProperties, width: float) -> list[str]:
    """Break a text into lines that fit; a word too long for a line is broken too."""
    most = len(text)
    while most > 1:
        lines = textwrap.wrap(text, most)
        widest = max((_measure(line, font) for line in lines), default=0.0)
        if widest <= width:
            return lines
        most = min(most - 1, round(1.1 * most * width / widest))
    return list(text)


def _fit(text: str, width: float, *, bold: bool) -> tuple[str, FontProperties]:
    """Find the largest font in which a label fits; in the smallest a longer one is cut short."""
    for size in np.arange(TEXT_SIZE, SMALLEST_SIZE - 1, -1):
        font = _build_font(float(size), bold=bold)
        if _measure(text, font) <= width:
            return text, font
    return _wrap(text, font, width - 0.2)[0] + "…", font
