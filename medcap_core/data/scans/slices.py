"""Orthogonal slices of a volume, laid out to be looked at."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", bound=np.generic)
Point = tuple[float, float]


def cut_slices(
    cube: NDArray[Value], place: tuple[int, int, int] | None = None
) -> tuple[NDArray[Value], NDArray[Value], NDArray[Value]]:
    """The sagittal, coronal and axial slices of a cube (S, S, S) in RAS through a voxel, by default the middle one.

    Each is (S, S) with the upper end or, axially, the front on top. The sagittal one looks to the left; in the others
    the subject's right is on the left, as radiologists see it.
    """
    x, y, z = place or tuple(side // 2 for side in cube.shape)
    sagittal = cube[x, ::-1, ::-1].T
    coronal = cube[::-1, y, ::-1].T
    axial = cube[::-1, ::-1, z].T
    return sagittal, coronal, axial


def find_in_slices(point: tuple[float, float, float]) -> tuple[Point, Point, Point]:
    """Where a point of a cube, shares of it along x, y, z, lies in the slices of `cut_slices`.

    Each is (share of the width from the left, share of the height from the top).
    """
    x, y, z = point
    return (1 - y, 1 - z), (1 - x, 1 - z), (1 - x, 1 - y)


def lay_out_slices(slices: tuple[NDArray[Value], NDArray[Value], NDArray[Value]]) -> NDArray[Value]:
    """Three slices (S, S) as one picture (2 S, 2 S): coronal above axial, the sagittal one beside; black below it."""
    sagittal, coronal, axial = slices
    return np.block([[coronal, sagittal], [axial, np.zeros_like(axial)]])
