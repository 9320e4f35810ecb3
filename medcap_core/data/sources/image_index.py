"""Index by name of the images in folders and zip archives."""

import difflib
import functools
import io
import os
import re
import unicodedata
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from PIL import Image

from medcap_core.data.grouping import list_some
from medcap_core.data.records import ImageFile, ImageReference, SplitName
from medcap_core.data.sources.reading import recognise_split
from medcap_core.errors import DataFault
from medcap_core.runtime.files import walk_folders

IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "tif", "tiff", "bmp", "gif", "webp", "jp2", "ppm", "pgm", "dcm"}

_IS_ENCRYPTED = 1
"""Bit of a zip member's flags."""
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


def fold_name(name: str) -> str:
    """Compose accents (macOS stores them apart), and lower the case."""
    return unicodedata.normalize("NFC", name).casefold()


def _strip_name(name: str) -> str:
    """Take off what exports add to a name: quotes, scheme and query of a URL, percent codes, `.0` of a number."""
    path = re.split(r"[?#]", name.partition("://")[2] or name, maxsplit=1)[0]
    stripped = unquote(path).strip("'\" \u200b")
    return stripped[:-2] if re.fullmatch(r"[0-9]+\.0", stripped) else stripped


def cut_suffix(name: str) -> str:
    """Cut the suffix of an image off, and no other."""
    stem, _, suffix = name.rpartition(".")
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


class FolderImages:
    """The images of one folder, found by names as tables write them.

    They are the files in it and two levels below it; where no file fits, the members of the zip archives in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_nearest = 0

    def find(self, name: str, split: SplitName | None = None) -> ImageReference | str:
        """Find the image of `name`, else the reason that there is none.

        A name that is no path of a file may lack its suffix or have another one, differ in case, in the form of its
        accents, by back-slashes, or by leading folders that it has and the file lacks, or the reverse; it may be a URL,
        or have what `_strip_name` takes off. The image is found if it is the only one, or the only one in a folder
        named like `split`. Raises DataFault for an archive that is damaged.
        """
        plain = name.replace("\\", "/")
        spellings = dict.fromkeys(spelling for spelling in (name, plain, _strip_name(plain)) if spelling)
        for spelling in spellings:
            if (path := find_below(self._folder, spelling)) is not None:
                return ImageFile(path)
        folded = [fold_name(spelling) for spelling in spellings]
        known = (own for own in folded if self._files.match(own) or self._names_in_archives.match(own))
        wanted = next(known, fold_name(plain))
        found = self._files.match(wanted)
        in_split = [path for path in found if split and split in map(recognise_split, path.split("/"))]
        found = in_split if len(in_split) == 1 else found
        if len(found) == 1:
            return ImageFile(self._folder / found[0])
        if not found:
            found = self._names_in_archives.match(wanted)
            if len(found) == 1:
                return self._members[found[0]]
        if found:
            return f"image file '{name}' may be any of {list_some(found, 3)} in {self._folder}"
        return f"image file '{name}' not found in {self._folder}{self._describe_nearest(wanted)}"

    def _describe_nearest(self, wanted: str) -> str:
        # Each search looks at every file: a table whose images are all elsewhere should not take minutes.
        if self._num_nearest >= _MAX_NEAREST:
            return ""
        self._num_nearest += 1
        near = self._files.find_nearest(wanted) or self._names_in_archives.find_nearest(wanted)
        return f"; the nearest name is '{near}'" if near else ""

    @functools.cached_property
    def _files(self) -> "_PathIndex":
        # An unreadable folder hides its images, and their rows are reported as not found.
        paths: list[str] = []
        for parent, names in walk_folders(self._folder, _MAX_DEPTH):
            prefix = parent.relative_to(self._folder).as_posix()
            paths += [f"{prefix}/{name}".removeprefix("./") for name in names if _is_image_name(name)]
        return _PathIndex(paths)

    @functools.cached_property
    def _names_in_archives(self) -> "_PathIndex":
        return _PathIndex(self._members)

    @functools.cached_property
    def _members(self) -> dict[str, ZippedImage]:
        """The images in archives, by the name of the archive and their path in it."""
        archives = sorted(path for path in self._folder.glob("*.zip") if path.is_file())
        members = (image for archive in archives for image in list_members(archive))
        return {f"{image.archive.name}/{image.member}": image for image in members if _is_image_name(image.member)}


class _PathIndex:
    """Paths of images, found by their ends."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._by_stem: dict[str, list[tuple[str, str]]] = {}
        self._by_name: dict[str, str] = {}
        for path in paths:
            folded = fold_name(path)
            name = folded.rpartition("/")[2]
            self._by_name.setdefault(name, path)
            self._by_stem.setdefault(cut_suffix(name), []).append((folded, path))

    def match(self, wanted: str) -> list[str]:
        """List the paths that end with the wanted one, or the reverse, folder by folder; else those without suffix."""
        wanted = str(PurePosixPath(wanted))
        candidates = self._by_stem.get(cut_suffix(wanted.rpartition("/")[2]), [])
        exact = [path for known, path in candidates if _end_alike(known, wanted)]
        return exact or [path for known, path in candidates if _end_alike(cut_suffix(known), cut_suffix(wanted))]

    def find_nearest(self, wanted: str) -> str | None:
        """Find the path whose last part is most like that of the wanted one."""
        near = difflib.get_close_matches(wanted.rpartition("/")[2], self._by_name, n=1)
        return self._by_name[near[0]] if near else None


def _end_alike(one: str, other: str) -> bool:
    one, other = f"/{one.lstrip('/')}", f"/{other.lstrip('/')}"
    return one.endswith(other) or other.endswith(one)


def _is_image_name(name: str) -> bool:
    return cut_suffix(name) != name


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


def find_below(folder: Path, name: str) -> Path | None:
    """Find the file of a path from `folder`, or of its end with at least one folder, as a path of another machine has.

    None where there is no such file.
    """
    parts = name.split("/")
    starts = range(max(1, len(parts) - 1))
    return next((path for start in starts if exists(path := folder / "/".join(parts[start:]))), None)


def index_images(folders: Iterable[Path], archives: Iterable[Path] = ()) -> dict[str, ImageReference]:
    """Index the images in `folders` and their direct subfolders, then those in zip `archives`.

    Keys are names with and without suffix, by `fold_name`; the first image of a name is kept, and a full name wins over
    a bare one. Raises DataFault for an archive that is damaged.
    """
    by_name: dict[str, ImageReference] = {}
    for folder in folders:
        _index_folder(folder, by_name, depth=1)
    for archive in archives:
        for image in list_members(archive):
            by_name.setdefault(fold_name(PurePosixPath(image.member).name), image)
    return {cut_suffix(name): image for name, image in reversed(by_name.items())} | by_name


def _index_folder(folder: Path, by_name: dict[str, ImageReference], depth: int) -> None:
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        # A folder with an image's name is kept as an image, so that it is reported as unreadable.
        if _is_folder(entry) and not _is_image_name(entry.name):
            if depth:
                _index_folder(folder / entry.name, by_name, depth - 1)
        else:
            by_name.setdefault(fold_name(entry.name), ImageFile(folder / entry.name))


def list_members(archive: Path) -> list[ZippedImage]:
    """List the files in a zip archive. Raises DataFault where it is damaged."""
    try:
        members = _open_archive(archive, os.getpid()).infolist()
    except zipfile.BadZipFile as error:
        raise DataFault(f"{archive} is not a whole zip archive ({error}): download it again.") from error
    if any(member.flag_bits & _IS_ENCRYPTED for member in members):
        raise DataFault(f"{archive} is protected by a password: unpack it.")
    return [
        ZippedImage(archive, member.filename, member.CRC)
        for member in members
        if not member.is_dir() and "__MACOSX" not in PurePosixPath(member.filename).parts
    ]


@functools.lru_cache(maxsize=8)
def _open_archive(archive: Path, process_id: int) -> zipfile.ZipFile:
    """Open the archive once per process: a forked child must not share its parent's file offset."""
    return zipfile.ZipFile(archive)
