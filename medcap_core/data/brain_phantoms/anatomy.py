"""The shapes of a synthetic head on a voxel grid.

Head coordinates are millimetres in RAS, times the subject's head scale: x grows to the subject's right, y to the front,
z upwards; the origin lies in the middle of the head. All shapes are ellipsoids, bent by shears, which keep their
volumes. Fields and coverages are float32 arrays (X, Y, Z); a coverage is the share of a voxel that a shape fills.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.brain_phantoms.cohorts import Cohort, Contrast
from medcap_core.data.brain_phantoms.subjects import CORTEX_THICKNESS_MM, HIPPOCAMPUS_ML, VENTRICLE_ML, Subject
from medcap_core.data.phantoms.drawing import Array, blend

Triple = tuple[float, float, float]
Coordinates = tuple[Array, Array, Array]
MaskName = Literal["ventricles", "left_hippocampus", "right_hippocampus", "cortex"]

_BALL = 4 / 3 * math.pi / 1000  # ml of an ellipsoid over the product of its half axes in mm

_HEAD, _HEAD_CENTRE = (70.0, 88.0, 86.0), (0.0, 0.0, 0.0)
_FAT_MM = 5.0
_CRANIUM, _CRANIUM_CENTRE = (60.0, 78.0, 68.0), (0.0, -2.0, 8.0)
_SKULL_MM = 5.0
_BASE_Z, _BASE_SLOPE = -42.0, 0.4  # the floor of the cranium, which rises to the front
_CEREBRUM, _CEREBRUM_CENTRE = (58.5, 76.5, 56.0), (0.0, -2.0, 18.0)
_CEREBELLUM, _CEREBELLUM_CENTRE = (42.0, 27.0, 20.0), (0.0, -38.0, -36.0)
_BRAIN_STEM_RADIUS, _BRAIN_STEM_Y, _BRAIN_STEM_TOP = 12.0, -14.0, -8.0
_NECK_RADII, _NECK_Y, _NECK_TOP = {"thin": (40.0, 46.0), "added": (11.0, 9.0)}, -18.0, -40.0
_BROW, _BROW_CENTRE = (34.0, 9.0, 9.0), (0.0, 81.0, 4.0)
_OCCIPUT, _OCCIPUT_CENTRE = (16.0, 9.0, 10.0), (0.0, -84.0, -8.0)

_GAP_MM = 1.0  # between cranium and healthy brain
_GAP_PER_LOSS_MM = 10.0  # the brain's surface draws back as its cortex thins
_FOLD_MM = 0.9  # half height of the folds

_VENTRICLE_SHAPE = (0.75, 4.0, 1.25)  # half axes before scaling
_VENTRICLE_Y, _VENTRICLE_Z, _VENTRICLE_GAP = -6.0, 18.0, 2.5
_VENTRICLE_BEND, _VENTRICLE_SPREAD = 0.007, -0.16  # ends sink, and part towards the back

_HIPPOCAMPUS_SHAPE = (0.85, 2.1, 0.85)
_HIPPOCAMPUS_CENTRE = (27.0, -6.0, -10.0)
_HIPPOCAMPUS_BEND, _HIPPOCAMPUS_SPREAD = -0.010, 0.15
_POCKET = 1.1  # times a healthy hippocampus: what lies free of it is filled with fluid


def _build_rotation(degrees: Triple) -> NDArray[np.float64]:
    (ca, cb, cc), (sa, sb, sc) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    rotation: NDArray[np.float64] = about_z @ about_y @ about_x
    return rotation


def _scale_axes(shape: Triple, volume_ml: float, reference_ml: float, narrow: float) -> Triple:
    """Compute the half axes of an ellipsoid of `volume_ml`.

    At `reference_ml` they are as `shape` has them to each other; from there the long middle axis follows the volume by
    the power `narrow`, the two others share the rest.
    """
    unit = (reference_ml / (_BALL * math.prod(shape))) ** (1 / 3)
    ratio = volume_ml / reference_ml
    across, along = ratio ** ((1 - narrow) / 2), ratio**narrow
    return shape[0] * unit * across, shape[1] * unit * along, shape[2] * unit * across


@dataclass(frozen=True)
class Head:
    """One subject's head, turned about x, y, z and shifted, on one cohort's grid; fields are computed on demand."""

    subject: Subject
    cohort: Cohort
    rotation_degrees: Triple = (0.0, 0.0, 0.0)
    shift_mm: Triple = (0.0, 0.0, 0.0)

    @cached_property
    def _coordinates(self) -> Coordinates:
        """Compute the head coordinates of the middle of each voxel."""
        rotation = (_build_rotation(self.rotation_degrees).T / self.subject.head_scale).astype(np.float32)
        places = [
            ((np.arange(size) - (size - 1) / 2) * step - shift).astype(np.float32)
            for size, step, shift in zip(self.cohort.matrix, self.cohort.voxel_mm, self.shift_mm, strict=True)
        ]
        axes = np.meshgrid(*places, indexing="ij", sparse=True)
        x, y, z = (row[0] * axes[0] + row[1] * axes[1] + row[2] * axes[2] for row in rotation)
        return x, y, z

    def _cover(self, distance: Array) -> Array:
        """Compute the coverage from the signed distance to a surface in mm, negative inside."""
        edge_mm = math.prod(self.cohort.voxel_mm) ** (1 / 3) / self.subject.head_scale
        cover: Array = np.clip(distance * np.float32(-1 / edge_mm) + np.float32(0.5), 0, 1)
        return cover

    def _measure(self, axes: Triple, centre: Triple) -> Array:
        return _measure_ellipsoid(self._coordinates, axes, centre)

    @cached_property
    def cerebrum(self) -> tuple[Array, Array]:
        """Compute the coverages of the whole cerebrum and of its part under the cortex."""
        outer, inner = self.cerebrum_axes
        x, y, z = self._coordinates
        folds = np.sin(x / 4) + np.sin(y / np.float32(4.5)) + np.sin(z / 4)
        folds *= np.float32(_FOLD_MM / 1.2)
        # The midline is cut as by the falx.
        fissure = 1.5 - np.abs(x) - np.maximum(8 - z, 0)
        outside = np.maximum(self._measure(outer, _CEREBRUM_CENTRE) + folds, fissure)
        inside = self._measure(inner, _CEREBRUM_CENTRE) + folds
        whole, core = self._cover(outside), self._cover(inside)
        core *= whole
        return whole, core

    @property
    def cerebrum_axes(self) -> tuple[Triple, Triple]:
        """Compute the half axes in mm of the cerebrum's surface and of the border under its cortex."""
        loss = 1 - self.subject.cortex_ratio
        gap = max(_GAP_MM + _GAP_PER_LOSS_MM * loss, 0.0)
        thickness = CORTEX_THICKNESS_MM * self.subject.cortex_ratio
        a, b, c = _CEREBRUM
        return (a - gap, b - gap, c - gap), (a - gap - thickness, b - gap - thickness, c - gap - thickness)

    def cover_ventricle(self, side: int) -> Array:
        """Compute the coverage of one lateral ventricle (side -1 left, 1 right)."""
        axes = _scale_axes(_VENTRICLE_SHAPE, VENTRICLE_ML * self.subject.ventricle_ratio, VENTRICLE_ML, narrow=0.15)
        centre = (side * (axes[0] + _VENTRICLE_GAP), _VENTRICLE_Y, _VENTRICLE_Z)
        return self._cover_bent(axes, centre, side, _VENTRICLE_BEND, _VENTRICLE_SPREAD)

    def cover_hippocampus(self, side: int, ratio: float | None = None) -> Array:
        """Compute the coverage of one hippocampus, of the subject's size or of `ratio` times a healthy one."""
        left, right = self.subject.left_hippocampus_ratio, self.subject.right_hippocampus_ratio
        own = left if side < 0 else right
        volume_ml = HIPPOCAMPUS_ML * (own if ratio is None else ratio)
        axes = _scale_axes(_HIPPOCAMPUS_SHAPE, volume_ml, HIPPOCAMPUS_ML, narrow=0.2)
        x, y, z = _HIPPOCAMPUS_CENTRE
        return self._cover_bent(axes, (side * x, y, z), side, _HIPPOCAMPUS_BEND, _HIPPOCAMPUS_SPREAD)

    def _cover_bent(self, axes: Triple, centre: Triple, side: int, bend: float, spread: float) -> Array:
        """Cover an ellipsoid along y whose ends sink by `bend` (1/mm) and that swings outwards by `spread` mm a mm."""
        x, y, z = self._coordinates
        along = y - np.float32(centre[1])
        straight_x = x - np.float32(side * spread) * along
        straight_z = z + np.float32(bend) * (along * along - np.float32(axes[1] ** 2 / 5))
        return self._cover(_measure_ellipsoid((straight_x, y, straight_z), axes, centre))

    def mask(self, structure: MaskName) -> NDArray[np.bool_]:
        """Find the voxels (X, Y, Z) that one structure fills by more than half."""
        if structure == "cortex":
            whole, core = self.cerebrum
            return np.logical_and(whole > 0.5, core <= 0.5)
        if structure == "ventricles":
            cover = np.maximum(self.cover_ventricle(-1), self.cover_ventricle(1))
        else:
            cover = self.cover_hippocampus(-1 if structure == "left_hippocampus" else 1)
        mask: NDArray[np.bool_] = cover > 0.5
        return mask

    def paint(self, contrast: Contrast) -> Array:
        """Paint the brightness (X, Y, Z) of the whole head, air 0."""
        image = self._paint_surroundings(contrast)
        whole, core = self.cerebrum
        blend(image, whole, contrast.grey_matter)
        blend(image, core, contrast.white_matter)
        for side in (-1, 1):
            blend(image, self.cover_ventricle(side), contrast.fluid)
            blend(image, self.cover_hippocampus(side, ratio=_POCKET), contrast.fluid)
            blend(image, self.cover_hippocampus(side), contrast.grey_matter)
        return image

    def _paint_surroundings(self, contrast: Contrast) -> Array:
        """Paint scalp, neck, skull, and the fluid, cerebellum and brain stem inside it."""
        x, y, z = self._coordinates
        subject = self.subject
        wide, deep = (
            thin + subject.neck * added for thin, added in zip(_NECK_RADII["thin"], _NECK_RADII["added"], strict=True)
        )
        neck = _measure_cylinder((x, y, z), (wide, deep), _NECK_Y, _NECK_TOP)
        outline = np.minimum(self._measure(_HEAD, _HEAD_CENTRE), neck)
        for axes, centre in ((_BROW, _BROW_CENTRE), (_OCCIPUT, _OCCIPUT_CENTRE)):
            depth = max(axes[1] * (0.3 + subject.brow), 0.5)
            outline = np.minimum(outline, self._measure((axes[0], depth, axes[2]), centre))
        image = self._cover(outline) * np.float32(contrast.fat)
        blend(image, self._cover(outline + np.float32(_FAT_MM)), contrast.muscle)
        cranium = self._measure(_CRANIUM, _CRANIUM_CENTRE)
        np.maximum(cranium, np.float32(_BASE_Z) + np.float32(_BASE_SLOPE) * y - z, out=cranium)
        blend(image, self._cover(cranium - np.float32(_SKULL_MM)), contrast.bone)
        blend(image, self._cover(cranium), contrast.fluid)
        stem = _measure_cylinder((x, y, z), (_BRAIN_STEM_RADIUS, _BRAIN_STEM_RADIUS), _BRAIN_STEM_Y, _BRAIN_STEM_TOP)
        blend(image, self._cover(stem), contrast.white_matter)
        cerebellum = (contrast.grey_matter + contrast.white_matter) / 2
        blend(image, self._cover(self._measure(_CEREBELLUM, _CEREBELLUM_CENTRE)), cerebellum)
        return image


def _measure_ellipsoid(coordinates: Coordinates, axes: Triple, centre: Triple) -> Array:
    """Compute about the distance in mm to an ellipsoid's surface, exact in sign."""
    parts = [_square(field, middle, half) for field, middle, half in zip(coordinates, centre, axes, strict=True)]
    distance: Array = (np.sqrt(parts[0] + parts[1] + parts[2]) - 1) * np.float32(math.prod(axes) ** (1 / 3))
    return distance


def _measure_cylinder(coordinates: Coordinates, radii: tuple[float, float], centre_y: float, top: float) -> Array:
    """Compute about the distance to an upright elliptic cylinder that has no lower end."""
    x, y, z = coordinates
    radius = np.sqrt(_square(x, 0.0, radii[0]) + _square(y, centre_y, radii[1]))
    distance: Array = np.maximum((radius - 1) * np.float32(math.sqrt(math.prod(radii))), z - np.float32(top))
    return distance


def _square(field: Array, middle: float, half: float) -> Array:
    scaled: Array = field * np.float32(1 / half) - np.float32(middle / half)
    return scaled * scaled
