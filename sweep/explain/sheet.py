"""One picture for one caption: the image, the caption, a legend, and the words in rows, each over its heat map.

Pillow draws, because each pixel's place is then known; the font (with Greek, dashes and accents) and the colours are
matplotlib's. The colours rise steadily in brightness, so they can be told apart without colour vision and in gray.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medcap_core.attention.maps import WordMap, enlarge_map

Box = tuple[float, float, float, float]

SHEET_WIDTH = 1400
"""Pixels; texts are large enough to be read at 400."""
MARGIN, GAP = 40, 20
COLUMNS = 6
CELL_WIDTH = (SHEET_WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS
_PLAIN_SIDE = 430
WORD_SIZE, _SMALLEST_WORD_SIZE, _TEXT_SIZE, _SMALL_SIZE, _NOTE_SIZE = 34, 20, 30, 26, 24
_LINE = 1.28
_MOST_HEAT = 0.75  # how much of the colour lies over the image where attention is strongest
INK, _FAINT, PAPER, BOX_COLOUR = (25, 25, 25), (85, 85, 85), (255, 255, 255), (0, 229, 255)
_COLOUR_MAP = "inferno"


@dataclass(frozen=True)
class Sheet:
    """What one picture shows; `box` is where a phantom's finding truly lies, as shares of the image."""

    image: Image.Image
    title: str
    texts: Sequence[tuple[str, str]]
    words: Sequence[WordMap]
    legend: Sequence[str]
    box: Box | None = None
    marked: frozenset[int] = frozenset()


def draw_sheet(sheet: Sheet) -> Image.Image:
    """The picture, RGB, SHEET_WIDTH pixels wide and as high as its words need."""
    top = draw_top(sheet)
    rows = _draw_words(sheet)
    picture = Image.new("RGB", (SHEET_WIDTH, top.height + rows.height + MARGIN), PAPER)
    picture.paste(top, (0, 0))
    picture.paste(rows, (0, top.height))
    return picture


def draw_top(sheet: Sheet) -> Image.Image:
    """What stands above the words: title, plain image, texts, legend with the scale of colours."""
    left = MARGIN + _PLAIN_SIDE + MARGIN
    width = SHEET_WIDTH - left - MARGIN
    lines: list[tuple[str, int, tuple[int, int, int]]] = []
    for name, text in sheet.texts:
        lines.append((name, _SMALL_SIZE, _FAINT))
        lines += [(line, _TEXT_SIZE, INK) for line in _wrap(text or "(nothing)", _TEXT_SIZE, width)]
        lines.append(("", _SMALL_SIZE // 2, INK))
    notes = [line for note in sheet.legend for line in _wrap(note, _SMALL_SIZE, width)]
    title = _wrap(sheet.title, _TEXT_SIZE, SHEET_WIDTH - 2 * MARGIN)
    title_height = len(title) * line_height(_TEXT_SIZE) + GAP
    text_height = (
        sum(line_height(size) for _, size, _ in lines)
        + len(notes) * line_height(_SMALL_SIZE)
        + 2 * line_height(_SMALL_SIZE)
    )
    plain = fit_width(sheet.image, _PLAIN_SIDE)
    height = MARGIN + title_height + max(plain.height, text_height) + MARGIN
    canvas = Image.new("RGB", (SHEET_WIDTH, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    y = MARGIN
    for line in title:
        pen.text((MARGIN, y), line, INK, font_of(_TEXT_SIZE, bold=True))
        y += line_height(_TEXT_SIZE)
    y = MARGIN + title_height
    if sheet.box is not None:
        plain = _outline(plain, sheet.box)
    canvas.paste(plain, (MARGIN, y))
    for text, size, colour in lines:
        pen.text((left, y), text, colour, font_of(size))
        y += line_height(size)
    for note in notes:
        pen.text((left, y), note, _FAINT, font_of(_SMALL_SIZE))
        y += line_height(_SMALL_SIZE)
    _draw_scale(canvas, left, y + GAP // 2, width)
    return canvas


def _draw_scale(canvas: Image.Image, left: int, y: int, width: int) -> None:
    """A bar from no attention to the strongest patch of a word."""
    pen = ImageDraw.Draw(canvas)
    font = font_of(_SMALL_SIZE)
    low, high = "no attention", "strongest patch of a word"
    start = left + int(pen.textlength(low, font)) + 10
    stop = left + width - int(pen.textlength(high, font)) - 10
    bar = _paint(np.linspace(0, 1, max(stop - start, 40), dtype=np.float32)[None]).repeat(_SMALL_SIZE, axis=0)
    pen.text((left, y), low, _FAINT, font)
    canvas.paste(Image.fromarray(bar), (start, y + 4))
    pen.text((start + bar.shape[1] + 10, y), high, _FAINT, font)


def _draw_words(sheet: Sheet) -> Image.Image:
    """All words in rows of COLUMNS."""
    plain = fit_width(sheet.image, CELL_WIDTH)
    label_height = line_height(WORD_SIZE) + 4
    cell_height = label_height + plain.height + GAP
    num_rows = -(-len(sheet.words) // COLUMNS)
    canvas = Image.new("RGB", (SHEET_WIDTH, num_rows * cell_height), PAPER)
    pen = ImageDraw.Draw(canvas)
    for index, word in enumerate(sheet.words):
        row, column = divmod(index, COLUMNS)
        x, y = MARGIN + column * (CELL_WIDTH + GAP), row * cell_height
        is_marked = index in sheet.marked
        text, font = shrink(word.text, CELL_WIDTH, bold=is_marked)
        pen.text((x, y + label_height - 12), text, INK, font, anchor="ls")
        heat = _lay_over(plain, word.map)
        if is_marked:
            heat = mark_peak(heat if sheet.box is None else _outline(heat, sheet.box), word.peak)
        canvas.paste(note_share(heat, float(word.map.max())), (x, y + label_height))
    return canvas


def _lay_over(plain: Image.Image, values: NDArray[np.float32]) -> Image.Image:
    heat = enlarge_map(values, plain.size)
    return lay_heat_over(plain, heat / max(float(heat.max()), 1e-12))


def lay_heat_over(plain: Image.Image, share: NDArray[np.float32]) -> Image.Image:
    """An image in gray under the colours of its heat (height, width) from 0 to 1; where that is low the image shows."""
    gray = np.asarray(plain.convert("L").convert("RGB"), dtype=np.float32)
    weight = (_MOST_HEAT * share**0.7)[..., None]
    mixed = gray * (1 - weight) * 0.9 + _paint(share) * weight
    return Image.fromarray(np.clip(mixed + 0.5, 0, 255).astype(np.uint8))


def mark_peak(image: Image.Image, peak: tuple[float, float]) -> Image.Image:
    """Draw a ring around a point, given as shares of width and height."""
    x, y = peak[0] * image.width, peak[1] * image.height
    pen = ImageDraw.Draw(image)
    for radius, colour, width in ((9, (0, 0, 0), 5), (8, (255, 255, 255), 3)):
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline=colour, width=width)
    return image


def note_share(image: Image.Image, share: float) -> Image.Image:
    """How much of the word's attention its strongest patch has, in the lower right corner."""
    text = f"{share:.0%}" if share >= 0.095 else f"{share:.1%}"
    pen = ImageDraw.Draw(image)
    place = (image.width - 6, image.height - 6)
    pen.text(place, text, (255, 255, 255), font_of(_NOTE_SIZE), anchor="rs", stroke_width=2, stroke_fill=(0, 0, 0))
    return image


def _paint(shares: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Shares (H, W) from 0 to 1 in colours, uint8 (H, W, 3)."""
    colours: NDArray[np.uint8] = mpl.colormaps[_COLOUR_MAP](shares, bytes=True)[..., :3]
    return colours


def _outline(image: Image.Image, box: Box) -> Image.Image:
    outlined = image.copy()
    width, height = image.size
    corners = [box[0] * width, box[1] * height, box[2] * width - 1, box[3] * height - 1]
    pen = ImageDraw.Draw(outlined)
    pen.rectangle([corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1], outline=(0, 0, 0), width=1)
    pen.rectangle(corners, outline=BOX_COLOUR, width=max(2, width // 120))
    return outlined


def fit_width(image: Image.Image, side: int) -> Image.Image:
    """The image at this width, its shape kept within 1 : 2 so that no row becomes a strip or a tower."""
    ratio = min(max(image.height / image.width, 0.5), 2.0)
    return image.convert("RGB").resize((side, round(side * ratio)), Image.Resampling.BICUBIC)


def line_height(size: int) -> int:
    """Pixels from line to line of a text."""
    return round(size * _LINE)


@lru_cache(maxsize=32)
def font_of(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font in which sheets are written."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / name, size)


def _wrap(text: str, size: int, width: int) -> list[str]:
    """Lines that fit `width` pixels; a word too long for a line is broken."""
    font = font_of(size, bold=True)  # the wider of the two
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            most = max(1, int(len(word) * width / max(font.getlength(word), 1)))
            lines += [word] if font.getlength(word) <= width else textwrap.wrap(word, max(1, most - 1))
    return lines


def shrink(word: str, width: int, *, bold: bool) -> tuple[str, ImageFont.FreeTypeFont]:
    """The word in the largest size that fits; beyond the smallest size its end gives way."""
    for size in range(WORD_SIZE, _SMALLEST_WORD_SIZE - 1, -2):
        if font_of(size, bold).getlength(word) <= width:
            return word, font_of(size, bold)
    font = font_of(_SMALLEST_WORD_SIZE, bold)
    while word and font.getlength(word + "…") > width:
        word = word[:-1]
    return word + "…", font
