"""Index by name of the images in folders and zip archives."""

import difflib
import functools
import io
import os
import unicodedata
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from medcap_core.data.records import ImageFile, ImageReference
from medcap_core.errors import DataFault

IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "tif", "tiff", "bmp", "gif", "webp", "jp2", "ppm", "pgm", "dcm"}

_MAX_DEPTH = 2
_MAX_NEAREST = 5


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
    """Images by file name and by name without suffix, ignoring case; a full name wins over a bare one."""

    def __init__(self) -> None:
        self._by_name: dict[str, ImageReference] = {}
        self._by_stem: dict[str, ImageReference] = {}

    def add(self, name: str, reference: ImageReference) -> None:
        """Add one image; the first image of a name is kept."""
        name = _fold(name)
        self._by_name.setdefault(name, reference)
        if (stem := cut_suffix(name)) != name:
            self._by_stem.setdefault(stem, reference)

    def find(self, *names: str) -> ImageReference | None:
        """Find the image of the first known name, with or without its suffix."""
        for name in map(_fold, names):
            found = self._by_name.get(name) or self._by_stem.get(name)
            if found is not None:
                return found
        return None


def _fold(name: str) -> str:
    """Compose accents (macOS stores them apart), and lower the case."""
    return unicodedata.normalize("NFC", name).casefold()


def cut_suffix(name: str) -> str:
    """Cut the suffix of an image off, and no other."""
    stem, _, suffix = name.rpartition(".")
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


class FolderImages:
    """The image files of one folder and two levels below it, found by names as tables write them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_nearest = 0

    def find(self, name: str) -> Path | str:
        """Find the file of `name`, else the reason that there is none.

        A name that is no path of a file may lack its suffix or have another one, differ in case, in the form of its
        accents, by back-slashes, or by leading folders that it has and the file lacks, or the reverse: the file is
        found if it is the only one.
        """
        for spelling in (name, name.replace("\\", "/")):
            if exists(self._folder / spelling):
                return self._folder / spelling
        wanted = _fold(name.replace("\\", "/"))
        for by_stem in (False, True):
            found = self._match(wanted, by_stem=by_stem)
            if len(found) == 1:
                return self._folder / found[0]
            if found:
                listed = ", ".join(found[:3]) + (" ..." if len(found) > 3 else "")
                return f"image file '{name}' may be any of {listed} in {self._folder}"
        return f"image file '{name}' not found in {self._folder}{self._describe_nearest(wanted)}"

    def _match(self, wanted: str, *, by_stem: bool) -> list[str]:
        """List the files whose path ends with the wanted one, or the reverse, folder by folder."""
        parts = _split_path(wanted, by_stem=by_stem)
        if not parts:
            return []
        candidates = self._by_stem if by_stem else self._by_name
        return [
            path
            for known, path in candidates.get(parts[-1], [])
            if all(one == other for one, other in zip(reversed(known), reversed(parts), strict=False))
        ]

    def _describe_nearest(self, wanted: str) -> str:
        # Each search looks at every file: a table whose images are all elsewhere should not take minutes.
        if self._num_nearest >= _MAX_NEAREST:
            return ""
        self._num_nearest += 1
        last = wanted.rpartition("/")[2]
        near = difflib.get_close_matches(last, self._by_name, n=1)
        return f"; the nearest name is '{self._by_name[near[0]][0][1]}'" if near else ""

    @functools.cached_property
    def _by_name(self) -> dict[str, list[tuple[list[str], str]]]:
        return self._index(by_stem=False)

    @functools.cached_property
    def _by_stem(self) -> dict[str, list[tuple[list[str], str]]]:
        return self._index(by_stem=True)

    def _index(self, *, by_stem: bool) -> dict[str, list[tuple[list[str], str]]]:
        index: dict[str, list[tuple[list[str], str]]] = {}
        for path in self._paths:
            parts = _split_path(_fold(path), by_stem=by_stem)
            index.setdefault(parts[-1], []).append((parts, path))
        return index

    @functools.cached_property
    def _paths(self) -> list[str]:
        """The paths of all image files, relative to the folder."""
        return sorted(_list_images(self._folder, "", _MAX_DEPTH))


def _split_path(path: str, *, by_stem: bool) -> list[str]:
    return [part for part in (cut_suffix(path) if by_stem else path).split("/") if part not in ("", ".")]


def _list_images(folder: Path, prefix: str, depth: int) -> Iterable[str]:
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError:
        return  # a folder that may not be read hides its images, and their rows are reported as not found
    for entry in entries:
        if _is_folder(entry):
            if depth:
                yield from _list_images(folder / entry.name, f"{prefix}{entry.name}/", depth - 1)
        elif cut_suffix(entry.name) != entry.name:
            yield prefix + entry.name


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle: its record is left out when it is decoded
        return False


def exists(path: Path) -> bool:
    """Check whether the path exists; False also for an impossible name."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long or with a zero byte: no file can have it
        return False


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
        if _is_folder(entry) and entry.name.rpartition(".")[2].lower() not in IMAGE_SUFFIXES:
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
