"""Orthogonal slices of a volume and their layout in one picture."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", bound=np.generic)
Point = tuple[float, float]


def cut_slices(
    cube: NDArray[Value], voxel: tuple[int, int, int] | None = None
) -> tuple[NDArray[Value], NDArray[Value], NDArray[Value]]:
    """Cut the sagittal, coronal and axial slices of a cube (S, S, S) in RAS through a voxel, by default the middle.

    Each is (S, S), with superior (axial: anterior) at the top. The sagittal slice faces left; in the others the
    subject's right is on the left, the radiological convention.
    """
    x, y, z = voxel or tuple(side // 2 for side in cube.shape)
    sagittal = cube[x, ::-1, ::-1].T
    coronal = cube[::-1, y, ::-1].T
    axial = cube[::-1, ::-1, z].T
    return sagittal, coronal, axial


def find_in_slices(point: tuple[float, float, float]) -> tuple[Point, Point, Point]:
    """Project a point of a cube (shares of its side along x, y, z) into the three slices of `cut_slices`.

    Each is (share of the width from the left, share of the height from the top).
    """
    x, y, z = point
    return (1 - y, 1 - z), (1 - x, 1 - z), (1 - x, 1 - y)


def lay_out_slices(slices: tuple[NDArray[Value], NDArray[Value], NDArray[Value]]) -> NDArray[Value]:
    """Lay out three slices (S, S) as (2 S, 2 S): coronal above axial on the left, sagittal above black on the right."""
    sagittal, coronal, axial = slices
    return np.block([[coronal, sagittal], [axial, np.zeros_like(axial)]])
