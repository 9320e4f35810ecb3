"""What is drawn, by the pixels of the PNG."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sweep.explain.sheet import CELL, COLUMNS, DPI, GAP, MARGIN, WIDTH, Panel, Sheet, View, save_sheet

GREY, CYAN = 60, (0, 229, 255)
PLAIN = View(np.full((64, 64), GREY, dtype=np.uint8))
MAP = np.array([[0.1, 0.2], [0.3, 0.4]], dtype=np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sheet.png"


def draw(path: Path, panels: list[Panel], plain: View = PLAIN, text: str = "a caption", title: str = "t") -> np.ndarray:
    save_sheet(Sheet(title, plain, [("Caption", text)], ["legend"], [("Word by word", panels)]), path)
    with Image.open(path) as image:
        assert image.width == WIDTH * DPI
        return np.asarray(image.convert("RGB"))


def build_panels(words: list[str]) -> list[Panel]:
    return [Panel(word, [View(PLAIN.image, MAP)], 0.4) for word in words]


def cut_cell(pixels: np.ndarray, column: int = 0) -> np.ndarray:
    """The image of a panel in the last row, without its edges."""
    left, side = round((MARGIN + column * (CELL + GAP)) * DPI), round(CELL * DPI)
    column_of_pixels = pixels[:, left + side // 2].astype(int).sum(-1)
    bottom = max(np.flatnonzero(np.convolve(column_of_pixels != 765, np.ones(side // 2), "valid") == side // 2))
    bottom += side // 2
    return pixels[bottom - side + 4 : bottom - 4, left + 4 : left + side - 4].astype(float)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(96, 96), (384, 900), (900, 20)])
def test_long_captions_stay_on_the_sheet(path: Path, shape: tuple[int, int]) -> None:
    words = ["word", "pneumonoultramicroscopicsilicovolcanoconiosis-related", "WWWWWWWWWWWWWWWW", "µm²"] * 9
    plain = View(np.full((*shape, 3), GREY, dtype=np.uint8))
    pixels = draw(path, build_panels(words), plain, " ".join(words * 3), "x" * 300)
    for edge in (pixels[:, :35], pixels[:, -35:], pixels[-35:], pixels[:35]):
        assert (edge == 255).all()


@pytest.fixture(scope="module")
def num_dark_when_blank(tmp_path_factory: pytest.TempPathFactory) -> int:
    pixels = draw(tmp_path_factory.mktemp("blank") / "sheet.png", build_panels([""]), text=" ")
    return int((pixels < 128).sum())


@pytest.mark.parametrize(
    "text", ["costs $5 and $a_{3}", "右肺 上葉に", "صورة شعاعية", "🙂", "_id_ \\frac{a", "", "\x07"]
)
def test_any_text_can_be_drawn(
    path: Path, text: str, num_dark_when_blank: int, recwarn: pytest.WarningsRecorder
) -> None:
    pixels = draw(path, build_panels([text]), text=text, title=text)
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    assert text == "" or (pixels < 128).sum() > num_dark_when_blank


def test_words_fill_rows_of_six(path: Path) -> None:
    heights = [len(draw(path, build_panels(["word"] * count))) for count in (6, 7, 12, 13)]
    assert heights[1] == heights[2]
    assert heights[1] - heights[0] == heights[3] - heights[2] > CELL * DPI


def test_a_caption_without_words_still_has_its_sheet(path: Path) -> None:
    assert len(draw(path, [], text="")) > 2 * CELL * DPI
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("column", [0, 1])
def test_heat_lies_where_the_map_is(path: Path, row: int, column: int) -> None:
    values = np.zeros((2, 2), dtype=np.float32)
    values[row, column] = 1
    cell = cut_cell(draw(path, [Panel("word", [View(np.zeros((64, 64), np.uint8), values)], 1.0)])).sum(-1)
    seen = np.array([[part.mean() for part in np.array_split(half, 2, 1)] for half in np.array_split(cell, 2, 0)])
    assert np.unravel_index(seen.argmax(), seen.shape) == (row, column)


def find_middle(marked: np.ndarray) -> tuple[float, float]:
    """Middle of marked pixels as shares of width and height."""
    rows, columns = np.nonzero(marked)
    return (columns.min() + columns.max()) / 2 / marked.shape[1], (rows.min() + rows.max()) / 2 / marked.shape[0]


def test_ring_box_and_outline_are_where_they_belong(path: Path) -> None:
    mask = np.zeros((16, 16), dtype=bool)
    mask[10:14, 2:6] = True
    views = [
        View(PLAIN.image, MAP, ring=(0.25, 0.75)),
        View(PLAIN.image, MAP, box=(0.5, 0.125, 0.75, 0.375)),
        View(PLAIN.image, MAP, mask=mask),
    ]
    pixels = draw(path, [Panel("left", views, 0.5)])
    ring = (cut_cell(pixels, 0) > 240).all(-1)
    assert find_middle(ring) == pytest.approx((0.25, 0.75), abs=0.02)
    box = (np.abs(cut_cell(pixels, 1) - CYAN) < 30).all(-1)
    assert find_middle(box) == pytest.approx((0.625, 0.25), abs=0.02)
    outline = (np.abs(cut_cell(pixels, 2) - CYAN) < 30).all(-1)
    assert find_middle(outline) == pytest.approx((0.25, 0.75), abs=0.03)
    assert len(views) * 2 == COLUMNS


def test_bars_are_to_the_scale_of_the_highest_share(path: Path) -> None:
    panels = [Panel("a", [View(PLAIN.image, MAP)], 0.4), Panel("b", [View(PLAIN.image, MAP)], 0.1)]
    pixels = draw(path, panels)
    lengths = []
    for column in (0, 1):
        left = round((MARGIN + column * (CELL + GAP)) * DPI)
        below = pixels[-round(0.7 * DPI) :, left : left + round((CELL - 0.75) * DPI)]
        lengths.append((below.max(-1) < 60).any(0).sum())
    assert lengths[1] == pytest.approx(lengths[0] / 4, rel=0.1)
