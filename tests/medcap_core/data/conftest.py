"""Fixtures of the data tests: a cache of their own, and images whose pixels tell them apart."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

DrawImage = Callable[[Path, int], Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh cache root for each test."""
    root = tmp_path / "cache"
    monkeypatch.setenv("MEDCAP_CACHE", str(root))
    return root


@pytest.fixture
def draw_image() -> DrawImage:
    """`draw_image(path, level)` writes a 6 x 4 gray PNG of one level, whatever the suffix, making its folder."""

    def draw(path: Path, level: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4), level).save(path, format="PNG")
        return path

    return draw
