"""Small volumes on disk for the tests."""

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

IDENTITY = (1.0, 1.0, 1.0)


def number_voxels(shape: Sequence[int] = (3, 5, 7)) -> NDArray[np.float32]:
    """0, 1, 2 ... in C order: every voxel differs."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(tuple(shape))


def write_nifti(
    path: Path, voxels: NDArray[np.generic], axes: str = "RAS", voxel_size_mm: Sequence[float] = IDENTITY
) -> Path:
    """A NIfTI-1 file whose stored axes point as the letters of `axes` say, with voxel sizes along the stored axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    orientation = nibabel.orientations.axcodes2ornt(tuple(axes))
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for stored, (axis, direction) in enumerate(orientation):
        affine[int(axis), stored] = direction * voxel_size_mm[stored]
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path
