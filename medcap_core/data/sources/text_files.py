"""Folders and tar archives of images with a text file of the same name beside each: `a.png` and `a.txt`."""

import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from medcap_core.data.sources.image_index import IMAGE_SUFFIXES
from medcap_core.data.sources.reading import Reading
from medcap_core.data.sources.rows import Row, Table, decode_text
from medcap_core.data.sources.tables import add_rows
from medcap_core.errors import DataFault

_PICKLE_SUFFIXES = {"pkl", "pickle", "pyd", "pt", "pth"}


def has_text_files(folder: Path) -> bool:
    """Check for an image with a text file beside it, in `folder` or below."""
    return folder.is_dir() and any(text is not None for _, text in _walk_images(folder))


def read_text_files(folder: Path) -> Reading:
    """Read the images in `folder` and below; the text file (`a.txt`, else `a.png.txt`) is the caption.

    Text is UTF-8, UTF-16 or cp1252. Where all images lie in folders named by split, these are the splits.
    """
    rows = []
    encodings: dict[str, int] = {}
    for number, (image, text) in enumerate(_walk_images(folder), start=1):
        caption = fault = ""
        if text is None:
            fault = f"there is no {image.stem}.txt beside it"
        else:
            try:
                caption, encoding = decode_text(text.read_bytes())
                encodings[encoding] = encodings.get(encoding, 0) + 1
            except UnicodeDecodeError as error:
                fault = f"{text.name} is not UTF-8, UTF-16 or cp1252 (byte {error.start})"
        rows.append(Row(number, {"image": str(image.relative_to(folder)), "caption": caption}, fault))
    reading = Reading(splits_by_user=True)
    notes = [
        f"{count:,} text files are not UTF-8; they were read as {name}." for name, count in encodings.items() if name
    ]
    add_rows(reading, Table(folder / "*.txt", ["image", "caption"], rows, notes))
    return reading


def _walk_images(folder: Path) -> Iterator[tuple[Path, Path | None]]:
    """Yield each image, and the text file beside it, in any case."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        texts = {name.lower(): name for name in names if name.lower().endswith(".txt")}
        for name in sorted(names):
            if name.rpartition(".")[2].lower() in IMAGE_SUFFIXES:
                beside = (texts.get(f"{stem}.txt".lower()) for stem in (name.rpartition(".")[0], name))
                found = (Path(parent, text) for text in beside if text is not None)
                yield Path(parent, name), next((path for path in found if path.is_file()), None)


def check_tar(file: Path) -> None:
    """Raise DataFault where `datasets` would fail on a tar file, lose a part of it or load a pickle of it."""
    suffixes: dict[str, set[str]] = {}
    apart = False
    try:
        with tarfile.open(file) as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                apart |= f"{folder}/{stem}" in suffixes and f"{folder}/{stem}" != next(reversed(suffixes))
                suffixes.setdefault(f"{folder}/{stem}", set()).add(suffix.lower())
            tar.fileobj.seek(tar.offset)
            is_whole = tar.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataFault(f"{file} is not a whole tar archive: download it again.") from error
    if not is_whole:
        raise DataFault(f"{file} ends too early: it was cut off; download it again.")
    known = set.union(set(), *suffixes.values())
    if pickles := sorted(known & _PICKLE_SUFFIXES):
        raise DataFault(f"{file} holds .{pickles[0]} files, which run code when they are read: leave them out.")
    if apart:
        raise DataFault(f"{file}: the files of one sample do not follow each other: pack them sorted by name.")
    lacking = {stem: known - own for stem, own in suffixes.items() if own != known}
    if lacking:
        stem, missing = next(iter(lacking.items()))
        raise DataFault(
            f"{file}: {len(lacking):,} of its {len(suffixes):,} samples lack a file that others have, such as "
            f"{stem.lstrip('/')}.{min(missing)}: give all of them files of the same suffixes."
        )
