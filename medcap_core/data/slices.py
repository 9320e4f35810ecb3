"""Orthogonal slices of a volume, laid out to be looked at."""

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8]


def cut_slices(cube: NDArray[np.uint8], place: tuple[int, int, int] | None = None) -> tuple[Plane, Plane, Plane]:
    """The sagittal, coronal and axial slices of a cube (S, S, S) in RAS through a voxel, by default the middle one.

    Each is (S, S) with the upper end or, axially, the front on top. The sagittal one looks to the left; in the others
    the subject's right is on the left, as radiologists see it.
    """
    x, y, z = place or tuple(side // 2 for side in cube.shape)
    sagittal = cube[x, ::-1, ::-1].T
    coronal = cube[::-1, y, ::-1].T
    axial = cube[::-1, ::-1, z].T
    return sagittal, coronal, axial


def lay_out_slices(slices: tuple[Plane, Plane, Plane]) -> NDArray[np.uint8]:
    """Three slices (S, S) as one picture (2 S, 2 S): coronal above axial, the sagittal one beside; black below it."""
    sagittal, coronal, axial = slices
    return np.block([[coronal, sagittal], [axial, np.zeros_like(axial)]])
