"""Images are found by the names that tables give them, where the answer is unique."""

import unicodedata
from pathlib import Path

import pytest

from medcap_core.data.sources.image_index import FolderImages
from tests.medcap_core.data.conftest import DrawImage

FILES = ("a.JPG", "img/b.png", "img/c.jpg", "other/c.jpg", "d.png", "d.jpg", unicodedata.normalize("NFD", "É.png"))


@pytest.fixture
def folder(tmp_path: Path, draw_image: DrawImage) -> Path:
    for level, name in enumerate(FILES):
        draw_image(tmp_path / name, level)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.JPG", "a.JPG"),
        ("a.jpg", "a.JPG"),
        ("a", "a.JPG"),
        ("A.jpeg", "a.JPG"),
        ("b", "img/b.png"),
        ("img\\b.png", "img/b.png"),
        ("C:\\data\\img\\b.png", "img/b.png"),
        ("/home/someone/img/b.png", "img/b.png"),
        ("img/c", "img/c.jpg"),
        ("d.png", "d.png"),
        (unicodedata.normalize("NFC", "É.png"), unicodedata.normalize("NFD", "É.png")),
    ],
)
def test_a_unique_image_is_found(folder: Path, name: str, found: str) -> None:
    assert FolderImages(folder).find(name) == folder / found


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("c.jpg", "image file 'c.jpg' may be any of img/c.jpg, other/c.jpg in {folder}"),
        ("d", "image file 'd' may be any of d.jpg, d.png in {folder}"),
        ("third/b.png", "image file 'third/b.png' not found in {folder}; the nearest name is 'img/b.png'"),
        ("bb.png", "image file 'bb.png' not found in {folder}; the nearest name is 'img/b.png'"),
        ("nothing like it", "image file 'nothing like it' not found in {folder}"),
    ],
)
def test_any_other_name_is_refused(folder: Path, name: str, reason: str) -> None:
    assert FolderImages(folder).find(name) == reason.format(folder=folder)
