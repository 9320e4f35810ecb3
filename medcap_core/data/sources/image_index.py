"""Index by name of the images in folders and zip archives."""

import functools
import io
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from medcap_core.data.records import ImageFile, ImageReference
from medcap_core.errors import DataFault

IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "tif", "tiff", "bmp", "gif", "webp", "jp2", "ppm", "pgm", "dcm"}


@dataclass(frozen=True)
class ZippedImage:
    """An image inside a zip archive, read in place. `crc` is the archive's checksum of the image."""

    archive: Path
    member: str
    crc: int

    def open(self) -> Image.Image:
        """Load the image by its content. Raises OSError, ValueError or zipfile.BadZipFile if it cannot be read."""
        image = Image.open(io.BytesIO(_open_archive(self.archive, os.getpid()).read(self.member)))
        image.load()
        return image

    def fingerprint(self) -> str:
        """Join member name and checksum."""
        return f"{self.member}:{self.crc:08x}"


class ImageIndex:
    """Images by file name and by name without suffix; a full name wins over a bare one."""

    def __init__(self) -> None:
        self._by_name: dict[str, ImageReference] = {}
        self._by_stem: dict[str, ImageReference] = {}

    def add(self, name: str, reference: ImageReference) -> None:
        """Add one image; the first image of a name is kept."""
        self._by_name.setdefault(name, reference)
        stem, _, suffix = name.rpartition(".")
        if suffix.lower() in IMAGE_SUFFIXES:
            self._by_stem.setdefault(stem, reference)

    def find(self, *names: str) -> ImageReference | None:
        """Find the image of the first known name, with or without its suffix."""
        for name in names:
            found = self._by_name.get(name) or self._by_stem.get(name)
            if found is not None:
                return found
        return None


def index_images(folders: Iterable[Path], archives: Iterable[Path] = ()) -> ImageIndex:
    """Index the images in `folders` and their direct subfolders, then those in zip `archives`.

    Raises DataFault for an archive that is damaged.
    """
    index = ImageIndex()
    for folder in folders:
        _index_folder(folder, index, depth=1)
    for archive in archives:
        _index_archive(archive, index)
    return index


def _index_folder(folder: Path, index: ImageIndex, depth: int) -> None:
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        # A folder with an image's name is kept as an image, so that it is reported as unreadable.
        if entry.is_dir() and entry.name.rpartition(".")[2].lower() not in IMAGE_SUFFIXES:
            if depth:
                _index_folder(folder / entry.name, index, depth - 1)
        else:
            index.add(entry.name, ImageFile(folder / entry.name))


def _index_archive(archive: Path, index: ImageIndex) -> None:
    try:
        members = _open_archive(archive, os.getpid()).infolist()
    except zipfile.BadZipFile as error:
        raise DataFault(f"{archive} is not a whole zip archive ({error}): download it again.") from error
    for member in members:
        path = PurePosixPath(member.filename)
        if not member.is_dir() and "__MACOSX" not in path.parts:
            index.add(path.name, ZippedImage(archive, member.filename, member.CRC))


@functools.lru_cache(maxsize=8)
def _open_archive(archive: Path, process_id: int) -> zipfile.ZipFile:
    """Open the archive once per process: a forked child must not share its parent's file offset."""
    return zipfile.ZipFile(archive)
