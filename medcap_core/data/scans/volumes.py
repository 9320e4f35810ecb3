"""Conversion of volumes of any shape and voxel size to 8-bit cubes."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from medcap_core.data.decoding import reading
from medcap_core.data.records import Reference, Volume, VolumeReference
from medcap_core.data.scans.files import find_volume

# Raise when reading, scaling or resizing of volumes changes, so that existing stores are not reused.
VOLUME_VERSION = 2


@dataclass(frozen=True)
class VolumeGeometry:
    """The voxels a model takes: a cube of `size` voxels a side, one channel, axes x, y, z in RAS."""

    noun: ClassVar[str] = "scan"

    size: int

    @property
    def row_shape(self) -> tuple[int, int, int, int]:
        """(1, size, size, size)."""
        return (1, self.size, self.size, self.size)

    @property
    def described(self) -> dict[str, int]:
        """Every number that changes the voxels of a file, for the key of a store."""
        return {"cube": self.size, "volume_version": VOLUME_VERSION}

    def decode(self, reference: Reference) -> NDArray[np.uint8]:
        """Decode the volume to uint8 (1, size, size, size), see `to_cube`.

        Raises UnreadableImage where it cannot be used, DataFault where the machine fails to read it.
        """
        with reading(reference):
            read = getattr(reference, "read", None)
            if read is None:
                raise ValueError("an image, where a volume is needed")
            return to_cube(read(), self.size)

    def refer_to(self, path: Path) -> VolumeReference:
        """Build a reference to the volume at `path` by its suffix. Raises ValueError for another suffix."""
        return find_volume(path)


def to_cube(volume: Volume, size: int) -> NDArray[np.uint8]:
    """Scale, resize and pad a volume to uint8 (1, size, size, size).

    Intensities are scaled from [minimum, maximum] of the finite voxels to [0, 1], rounded to 8 bits; NaN and infinities
    become 0. The side longest in millimetres gets `size` voxels, the others keep the proportions, at least 1 voxel; the
    cube is padded with zeros, half on each side. An axis that shrinks by more than 2 is first averaged to twice its
    final length, since trilinear interpolation reads only two neighbours an axis.

    MedBLIP (2305.10799) keeps proportions in voxels rather than millimetres, which shortens heads scanned in thick
    slices and so makes cohorts differ by shape; it also keeps the file's orientation and aligns corners.
    Raises ValueError for a volume that is not 3D, empty, flat, constant, without a finite voxel, or whose voxel size is
    not finite and positive.
    """
    batch = torch.from_numpy(_scale(volume.voxels))[None, None]
    target = compute_shape(volume, size)
    x, y, z = (min(length, 2 * final) for length, final in zip(batch.shape[2:], target, strict=True))
    if (x, y, z) != batch.shape[2:]:
        batch = functional.adaptive_avg_pool3d(batch, (x, y, z))
    resized = functional.interpolate(batch, size=target, mode="trilinear", align_corners=False)[0]
    cube = torch.zeros((1, size, size, size))
    x, y, z = ((size - length) // 2 for length in target)
    cube[0, x : x + target[0], y : y + target[1], z : z + target[2]] = resized
    cube_8_bit: NDArray[np.uint8] = (cube * 255).round().to(torch.uint8).numpy()
    return cube_8_bit


def compute_shape(volume: Volume, size: int) -> tuple[int, int, int]:
    """Compute the voxels along x, y, z when the side longest in millimetres gets `size`. Raises ValueError."""
    if not all(np.isfinite(length) and length > 0 for length in volume.voxel_size_mm):
        raise ValueError(f"its voxels measure {_join(volume.voxel_size_mm)} mm, which cannot be")
    extents = [count * length for count, length in zip(volume.voxels.shape, volume.voxel_size_mm, strict=True)]
    x, y, z = (max(1, round(size * extent / max(extents))) for extent in extents)
    return x, y, z


def _scale(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale finite values from [minimum, maximum] to [0, 1]; all others become 0."""
    if voxels.ndim != 3 or not voxels.size:
        raise ValueError(f"a volume has three axes, but this has shape {_join(voxels.shape)}")
    if min(voxels.shape) < 2:
        raise ValueError(f"it is flat ({_join(voxels.shape)}); give a volume of several slices")
    values = np.ascontiguousarray(voxels, dtype=np.float32)
    finite = np.isfinite(values)
    is_whole = bool(finite.all())
    known = values if is_whole else values[finite]
    if not known.size:
        raise ValueError("it has no finite voxel (all are NaN or infinite)")
    low, high = float(known.min()), float(known.max())
    if low == high:
        raise ValueError(f"it is constant: every voxel is {low:g}")
    # Halves keep high - low finite even for the widest floats.
    scaled = ((values / 2 - low / 2) / (high / 2 - low / 2)).astype(np.float32, copy=False)
    if not is_whole:
        scaled[~finite] = 0.0
    return np.clip(scaled, 0.0, 1.0)


def _join(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
