"""Conversion of images of any mode and depth to 8-bit RGB pixels of one size."""

import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from medcap_core.data.decoding import reading
from medcap_core.data.records import ImageFile, Record, Reference

if TYPE_CHECKING:
    from medcap_core.data.scans.volumes import VolumeGeometry

# The window of images with more than 8 bits, in percent of their own pixels.
LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5

_WHITE_IS_ZERO_TAG = 262  # TIFF PhotometricInterpretation; 0 means that the lowest value is white


@dataclass(frozen=True)
class ImageGeometry:
    """The pixels a model takes.

    `size` is the side of the square in pixels; `resample` a `PIL.Image.Resampling` value (BLIP: 3, bicubic).
    """

    noun: ClassVar[str] = "image"

    size: int
    resample: int = int(Image.Resampling.BICUBIC)

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """(3, size, size)."""
        return (3, self.size, self.size)

    @property
    def described(self) -> dict[str, int]:
        """Every number that changes the pixels of a file, for the key of a store."""
        return asdict(self)

    def decode(self, reference: Reference) -> NDArray[np.uint8]:
        """Decode the image to uint8 RGB (3, size, size). Raises as `decode_rgb`."""
        return resize(decode_rgb(reference), self.size, self.resample)

    def refer_to(self, path: Path) -> ImageFile:
        """Build a reference to the image file at `path`."""
        return ImageFile(path)


Geometry: TypeAlias = "ImageGeometry | VolumeGeometry"
"""The input a model takes: its noun and size, and how files are decoded to it."""


def decode_rgb(reference: Reference) -> Image.Image:
    """Decode the image to mode RGB at its own size. Raises UnreadableImage and DataFault, see `reading`."""
    with reading(reference):
        image = reference.open()
        if not isinstance(image, Image.Image):
            raise ValueError("a volume, where an image is needed")  # noqa: TRY004 - as of every unusable file
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert `image` to mode RGB, upright by its EXIF orientation.

    Gray, palette, 1-bit and CMYK images are converted by Pillow. Transparent images are laid on black; an alpha channel
    that is 0 everywhere is dropped as broken. Images with more than 8 bits a pixel (16-bit, 32-bit,
    float) are scaled linearly from the 0.5th to the 99.5th percentile of their own pixels to 0 .. 255, so that a few
    burnt-in marks or dead pixels do not darken the anatomy; where both percentiles agree, from minimum to maximum; a
    constant image becomes black. NaN becomes black. Raises ValueError for an
    image without pixels or of a mode Pillow cannot convert.
    """
    if 0 in image.size:
        raise ValueError("it has no pixels")
    try:
        upright = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        upright = image  # an EXIF block that cannot be parsed gives no orientation
    if upright.mode == "F" or upright.mode.startswith("I"):
        # Pillow inverts white-is-zero TIFFs of 8 bits, but leaves those of 16 as stored.
        tags = getattr(image, "tag_v2", None) or {}
        scaled = _scale_to_8_bits(np.asarray(upright), inverted=tags.get(_WHITE_IS_ZERO_TAG) == 0)
        return Image.fromarray(scaled).convert("RGB")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layered = upright.convert("RGBA")
    if layered.getchannel("A").getextrema() == (0, 0):
        return layered.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", layered.size, (0, 0, 0, 255)), layered).convert("RGB")


def resize(image: Image.Image, size: int, resample: int) -> NDArray[np.uint8]:
    """Stretch an RGB image to uint8 (3, size, size), exactly as BLIP's image processor does before normalisation."""
    resized = image.resize((size, size), Image.Resampling(resample))
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def _scale_to_8_bits(values: NDArray[np.generic], *, inverted: bool) -> NDArray[np.uint8]:
    """Window (H, W) values of any number type linearly to uint8 (H, W)."""
    pixels = values.astype(np.float64)
    finite = pixels[np.isfinite(pixels)]
    if finite.size == 0:
        return np.zeros(pixels.shape, np.uint8)
    low, high = np.percentile(finite, (LOW_PERCENTILE, HIGH_PERCENTILE))
    if low == high:
        low, high = finite.min(), finite.max()
    if low == high:
        return np.zeros(pixels.shape, np.uint8)
    # Halves keep high - low finite even for the widest floats.
    share = (pixels / 2 - low / 2) / (high / 2 - low / 2)
    share = np.nan_to_num(np.clip(share, 0.0, 1.0), nan=0.0)
    if inverted:
        share = 1.0 - share
    scaled: NDArray[np.uint8] = np.rint(share * 255).astype(np.uint8)
    return scaled


class RecordImages(Sequence[Image.Image]):
    """The images of records in RGB, each decoded as it is asked for. Raises UnreadableImage then."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> "RecordImages": ...
    def __getitem__(self, index: int | slice) -> "Image.Image | RecordImages":
        if isinstance(index, slice):
            return RecordImages(self._records[index])
        return decode_rgb(self._records[index].image)
