"""Images are found by the names that tables give them, where the answer is unique."""

import unicodedata
import zipfile
from pathlib import Path

import pytest

from medcap_core.data.records import ImageFile
from medcap_core.data.sources.image_index import FolderImages, ZippedImage
from medcap_core.errors import DataFault
from tests.medcap_core.data.conftest import DrawImage

FILES = (
    "a.JPG", "img/b.png", "img/c.jpg", "other/c.jpg", "d.png", "d.jpg", "7.png", "deep/er/still/e.png",
    unicodedata.normalize("NFD", "É.png"),
)  # fmt: skip


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
        ("https://example.org/data/img/b.png?size=large#top", "img/b.png"),
        ("file:///home/someone/img/b%2Epng", "img/b.png"),
        ('"a.JPG"', "a.JPG"),
        ("img/b.png#0", "img/b.png"),
        ("7.0", "7.png"),
        ("/home/someone/data/deep/er/still/e.png", "deep/er/still/e.png"),
        ("%C3%89.png", unicodedata.normalize("NFD", "É.png")),
        (unicodedata.normalize("NFC", "É.png"), unicodedata.normalize("NFD", "É.png")),
    ],
)
def test_a_unique_image_is_found(folder: Path, name: str, found: str) -> None:
    assert FolderImages(folder).find(name) == ImageFile(folder / found)


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("e.png", "pictures/e.png"),
        ("E", "pictures/e.png"),
        ("train/f.png", "train/f.png"),
        ("pictures.zip/pictures/e.png", "pictures/e.png"),
        ("b.png", None),  # there is a file of that name, too
    ],
)
def test_images_in_an_archive_beside_the_table(folder: Path, name: str, member: str | None) -> None:
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for inner in ("pictures/e.png", "train/f.png", "test/f.png", "x/b.png", "notes.txt", "__MACOSX/e.png"):
            archive.write(folder / "d.png", inner)
    images = FolderImages(folder)
    found = images.find(name)
    if member is None:
        assert found == ImageFile(folder / "img" / "b.png")
    else:
        assert isinstance(found, ZippedImage)
        assert (found.member, found.open().size) == (member, ImageFile(folder / "d.png").open().size)
    assert "may be any of pictures.zip/train/f.png, pictures.zip/test/f.png" in str(images.find("f.png"))
    (folder / "pictures.zip").rename(folder / "other" / "pictures.zip")
    assert "nearest name is 'pictures.zip/train/f.png'" in str(FolderImages(folder / "other").find("ff.png"))


def test_a_damaged_archive_is_named(folder: Path) -> None:
    (folder / "pictures.zip").write_bytes(b"no archive")
    assert FolderImages(folder).find("a.JPG") == ImageFile(folder / "a.JPG")
    with pytest.raises(DataFault, match=r"pictures\.zip is not a whole zip archive"):
        FolderImages(folder).find("elsewhere.png")
    (folder / "pictures.zip").unlink()
    with zipfile.ZipFile(folder / "locked.zip", "w") as archive:
        archive.writestr("elsewhere.png", b"")
    content = bytearray((folder / "locked.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # says that it is encrypted
    (folder / "locked.zip").write_bytes(content)
    with pytest.raises(DataFault, match=r"locked\.zip is protected by a password: unpack it"):
        FolderImages(folder).find("elsewhere.png")


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
