"""Records, references to images and volumes, and data sets: the output of every loader."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

# Unicode white space, C0/C1 controls, line and paragraph separators, zero-width and byte-order marks.
_FOLDED = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\ufeff]+")


def fold_white_space(text: str) -> str:
    r"""Fold every run of white space or line-like control characters to one space and strip the ends.

    One stray `\r`, `\x0b`, `\x0c` or U+2028 would shift all later captions by a line in the PTB tokenizer.
    """
    return _FOLDED.sub(" ", text).strip()


class ImageReference(Protocol):
    """A reference to one image: small, hashable and picklable, opened on demand."""

    def open(self) -> Image.Image:
        """Load the image as stored, not converted. Raises OSError or ValueError if it cannot be read."""

    def fingerprint(self) -> str:
        """Return a string that changes with the image's content; cheap, reads no pixels."""


@dataclass(frozen=True)
class ImageFile:
    """An image file on disk."""

    path: Path

    def open(self) -> Image.Image:
        """Load the image by its content, whatever its extension (JPEG bytes in a `.png` are common).

        Raises DataFault for a DICOM file where SimpleITK is not installed.
        """
        # By file object: Pillow maps an uncompressed TIFF opened by path into memory, and garbles a rotated one.
        with self.path.open("rb") as file:
            if not is_dicom(file):
                image = Image.open(file)
                image.load()
                return image
        from medcap_core.data.scans.dicom import read_dicom_image
        from medcap_core.data.scans.files import require_dicom_reader

        require_dicom_reader()
        return read_dicom_image(self.path)

    def fingerprint(self) -> str:
        """Join file name, size and modification time."""
        return fingerprint_file(self.path)


def is_dicom(file: BinaryIO) -> bool:
    """Check for DICOM's mark after its preamble."""
    has_mark = file.read(132)[128:] == b"DICM"
    file.seek(0)
    return has_mark


def fingerprint_file(path: Path) -> str:
    """Join file name, size in bytes and modification time in ns."""
    status = path.stat()
    return f"{path.name}:{status.st_size}:{status.st_mtime_ns}"


@dataclass(frozen=True)
class Volume:
    """A 3D scan in one orientation, RAS: x runs from left to right, y from posterior to anterior, z from inferior up.

    `voxels` float32 (X, Y, Z) holds intensities as stored; `voxel_size_mm` is a voxel's extent along x, y and z.
    """

    voxels: NDArray[np.float32]
    voxel_size_mm: tuple[float, float, float]


class VolumeReference(Protocol):
    """A reference to one volume: small, hashable and picklable, read on demand. Subclasses inherit `open`."""

    def read(self) -> Volume:
        """Load the volume, not scaled or resized. Raises OSError or ValueError with a message of one line."""

    def open(self) -> NDArray[np.float32]:
        """Load the voxels alone, (X, Y, Z) in RAS. Raises as `read`."""
        return self.read().voxels

    def fingerprint(self) -> str:
        """Return a string that changes with the volume's content; cheap, reads no voxels."""


Reference = ImageReference | VolumeReference


@dataclass(frozen=True)
class Record:
    """One image with its caption.

    `caption` has its white space folded; `other_captions` are further references of the same image. `case` groups
    images of one patient or case; None where the source has no such column. `truth` holds labels beside the caption
    (finding, side, level, concepts, ...), empty for most sources.
    """

    noun: ClassVar[str] = "image"
    """Noun for the image or scan in messages."""

    id: str
    image: Reference
    caption: str
    case: str | None = None
    truth: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)
    other_captions: tuple[str, ...] = ()

    @property
    def references(self) -> tuple[str, ...]:
        """All captions of the image, `caption` first."""
        return (self.caption, *self.other_captions)


@dataclass(frozen=True)
class SkippedRecord:
    """One record left out, with the reason."""

    split: SplitName
    id: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """All splits of one source.

    `kind` describes the recognised source; `notes` are sentences for the user (such as how a validation split was cut);
    `skipped` lists the records left out when the source was read, `dropped` those of cases that another split has too.
    """

    name: str
    kind: str
    splits: dict[SplitName, list[Record]]
    skipped: list[SkippedRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dropped: list[SkippedRecord] = field(default_factory=list)


def hash_records(records: Sequence[Record]) -> str:
    """Compute the SHA-256 (hex) of the records in order: every field but `image` and `truth`."""
    digest = hashlib.sha256()
    names = [own.name for own in fields(records[0]) if own.name not in ("image", "truth")] if records else []
    for record in records:
        digest.update(repr([getattr(record, name) for name in names]).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
