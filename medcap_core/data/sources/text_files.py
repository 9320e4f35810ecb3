"""Folders of images with a text file of the same name beside each: `a.png` and `a.txt`."""

import os
from collections.abc import Iterator
from pathlib import Path

from medcap_core.data.sources.image_index import IMAGE_SUFFIXES
from medcap_core.data.sources.reading import Reading
from medcap_core.data.sources.rows import Row, Table
from medcap_core.data.sources.tables import add_rows


def has_text_files(folder: Path) -> bool:
    """Check for an image with a text file beside it, in `folder` or below."""
    return folder.is_dir() and any(image.with_suffix(".txt").is_file() for image in _walk_images(folder))


def read_text_files(folder: Path) -> Reading:
    """Read the images in `folder` and below; the text file in UTF-8 is the caption.

    Where all images lie in folders named by split, these are the splits.
    """
    rows = []
    for number, image in enumerate(_walk_images(folder), start=1):
        text, caption, fault = image.with_suffix(".txt"), "", ""
        try:
            caption = text.read_text("utf-8-sig") if text.is_file() else ""
        except UnicodeDecodeError as error:
            fault = f"{text.name} is not UTF-8 (byte {error.start})"
        if not text.is_file():
            fault = f"there is no {text.name} beside it"
        rows.append(Row(number, {"image": str(image.relative_to(folder)), "caption": caption}, fault))
    reading = Reading(splits_by_user=True)
    add_rows(reading, Table(folder / "*.txt", ["image", "caption"], rows))
    return reading


def _walk_images(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names) if name.rpartition(".")[2].lower() in IMAGE_SUFFIXES)
