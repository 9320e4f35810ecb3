"""One picture for one answer on a scan: the scan, the texts, and heat maps in three slices of each word and query."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medcap_core.attention.volume_maps import find_peak
from medcap_core.data.scans.slices import cut_slices, find_in_slices, lay_out_slices
from sweep.explain.sheet import (
    BOX_COLOUR,
    CELL_WIDTH,
    COLUMNS,
    GAP,
    INK,
    MARGIN,
    PAPER,
    SHEET_WIDTH,
    Sheet,
    draw_top,
    font_of,
    lay_heat_over,
    line_height,
    mark_peak,
    note_share,
    shrink,
)

_LABEL_SIZE = 30
_NUM_PLANES = 3
_MAPS_A_ROW = COLUMNS // _NUM_PLANES
_MAP_WIDTH = _NUM_PLANES * CELL_WIDTH + (_NUM_PLANES - 1) * GAP

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelledMap:
    """A map (n, n, n) of a word or a query, and what stands above it."""

    label: str
    map: NDArray[np.float32]


@dataclass(frozen=True)
class VolumeSheet:
    """What one picture shows; `cube` is uint8 (S, S, S) and `mask`, of the same shape, what the question is about."""

    cube: NDArray[np.uint8]
    title: str
    texts: Sequence[tuple[str, str]]
    legend: Sequence[str]
    sections: Sequence[tuple[str, Sequence[LabelledMap]]]
    mask: Mask | None = None


def draw_volume_sheet(sheet: VolumeSheet) -> Image.Image:
    """The picture, RGB, SHEET_WIDTH pixels wide and as high as its maps need."""
    top = draw_top(Sheet(_draw_plain(sheet), sheet.title, sheet.texts, (), sheet.legend))
    parts = [top, *(_draw_section(sheet, title, maps) for title, maps in sheet.sections if maps)]
    picture = Image.new("RGB", (SHEET_WIDTH, sum(part.height for part in parts) + MARGIN), PAPER)
    y = 0
    for part in parts:
        picture.paste(part, (0, y))
        y += part.height
    return picture


def _draw_plain(sheet: VolumeSheet) -> Image.Image:
    """The scan in three slices, through the middle of the structure where it is known."""
    place = _find_middle(sheet.mask)
    plain = Image.fromarray(lay_out_slices(cut_slices(sheet.cube, place))).convert("RGB")
    side = 2 * CELL_WIDTH
    plain = plain.resize((side, side), Image.Resampling.BICUBIC)
    if sheet.mask is not None:
        outline = lay_out_slices(cut_slices(sheet.mask, place))
        plain = _outline_mask(plain, outline)
    return plain


def _find_middle(mask: Mask | None) -> tuple[int, int, int] | None:
    """A voxel amid a mask; None where there is none."""
    if mask is None or not mask.any():
        return None
    x, y, z = (round(float(places.mean())) for places in np.nonzero(mask))
    return x, y, z


def _draw_section(sheet: VolumeSheet, title: str, maps: Sequence[LabelledMap]) -> Image.Image:
    """A heading and the maps under it, two in a row."""
    heading = line_height(_LABEL_SIZE) + 2 * GAP
    label = line_height(_LABEL_SIZE)
    height = label + CELL_WIDTH + GAP
    canvas = Image.new("RGB", (SHEET_WIDTH, heading + -(-len(maps) // _MAPS_A_ROW) * height), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, GAP), title, INK, font_of(_LABEL_SIZE, bold=True))
    for index, shown in enumerate(maps):
        row, column = divmod(index, _MAPS_A_ROW)
        x, y = MARGIN + column * (_MAP_WIDTH + GAP), heading + row * height
        text, font = shrink(shown.label, _MAP_WIDTH, bold=False)
        pen.text((x, y + label - 8), text, INK, font, anchor="ls")
        for plane, cell in enumerate(_draw_map(sheet, shown.map)):
            canvas.paste(cell, (x + plane * (CELL_WIDTH + GAP), y + label))
    return canvas


def _draw_map(sheet: VolumeSheet, values: NDArray[np.float32]) -> list[Image.Image]:
    """A map over the sagittal, coronal and axial slices through its strongest patch."""
    size, num_patches = len(sheet.cube), len(values)
    middle = [(place + 0.5) / num_patches for place in find_peak(values)]
    x, y, z = (min(int(share * size), size - 1) for share in middle)
    heat = enlarge_volume(values, size)
    heat /= max(float(heat.max()), 1e-12)
    points = find_in_slices((middle[0], middle[1], middle[2]))
    outlines = [None] * _NUM_PLANES if sheet.mask is None else cut_slices(sheet.mask, (x, y, z))
    cells = []
    for plane, shares, outline, point in zip(
        cut_slices(sheet.cube, (x, y, z)), cut_slices(heat, (x, y, z)), outlines, points, strict=True
    ):
        plain = Image.fromarray(np.ascontiguousarray(plane)).resize((CELL_WIDTH, CELL_WIDTH), Image.Resampling.BICUBIC)
        smooth = Image.fromarray(np.ascontiguousarray(shares)).resize(plain.size, Image.Resampling.BILINEAR)
        cell = lay_heat_over(plain, np.clip(np.asarray(smooth), 0, 1))
        if outline is not None:
            cell = _outline_mask(cell, outline)
        cells.append(mark_peak(cell, point))
    note_share(cells[-1], float(values.max()))
    return cells


def enlarge_volume(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """A map (n, n, n) as it is drawn: trilinear, to (size, size, size) voxels."""
    batch = torch.from_numpy(np.ascontiguousarray(values))[None, None]
    smooth = torch.nn.functional.interpolate(batch, size=[size] * 3, mode="trilinear", align_corners=False)
    enlarged: NDArray[np.float32] = smooth[0, 0].numpy()
    return enlarged


def _outline_mask(image: Image.Image, inside: NDArray[np.bool_]) -> Image.Image:
    """The rim of a mask's slice, drawn on an image of its own size."""
    scaled = np.asarray(Image.fromarray(np.ascontiguousarray(inside)).convert("L").resize(image.size)) > 127
    padded = np.pad(scaled, 2)
    core = np.all([np.roll(padded, shift, (0, 1)) for shift in ((2, 0), (-2, 0), (0, 2), (0, -2))], axis=0)[2:-2, 2:-2]
    pixels = np.array(image.convert("RGB"))
    pixels[scaled & ~core] = BOX_COLOUR
    return Image.fromarray(pixels)
