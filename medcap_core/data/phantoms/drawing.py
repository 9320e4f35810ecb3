"""Vectorised drawing on a small grayscale canvas in body coordinates.

All shapes are given in body coordinates (u, v): the body spans about [-1, 1] in both, u grows to the image's right
(the patient's left), v grows downwards. A `Frame` holds the body coordinates of every pixel under one pose, which
covers rotation, scale and shift of the patient. Coverages and canvases are float32 arrays (H, W) in [0, 1].
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

IMAGE_SIZE = 128  # pixels a side

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Ellipse:
    """An ellipse in body coordinates: centre, half axes, rotation in radians."""

    u: float
    v: float
    ru: float
    rv: float
    angle: float = 0.0

    def at(self, along_u: float, along_v: float) -> tuple[float, float]:
        """Compute the point at these shares of the half axes from the centre."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        du, dv = along_u * self.ru, along_v * self.rv
        return self.u + cosine * du - sine * dv, self.v + sine * du + cosine * dv

    def moved(self, du: float, dv: float) -> "Ellipse":
        """Return the ellipse shifted by (du, dv)."""
        return Ellipse(self.u + du, self.v + dv, self.ru, self.rv, self.angle)

    def grown(self, factor: float) -> "Ellipse":
        """Return the ellipse with both half axes times `factor`."""
        return Ellipse(self.u, self.v, self.ru * factor, self.rv * factor, self.angle)


@dataclass(frozen=True)
class Frame:
    """Body coordinates of all pixels, each (H, W)."""

    u: Array
    v: Array

    def compute_radius(self, ellipse: Ellipse) -> Array:
        """Compute each pixel's distance from the centre in units of the half axes: 1 on the ellipse, less inside."""
        du, dv = self.u - np.float32(ellipse.u), self.v - np.float32(ellipse.v)
        if ellipse.angle:
            cosine, sine = np.float32(math.cos(ellipse.angle)), np.float32(math.sin(ellipse.angle))
            du, dv = cosine * du + sine * dv, cosine * dv - sine * du
        du *= np.float32(1 / ellipse.ru)
        dv *= np.float32(1 / ellipse.rv)
        radius: Array = np.sqrt(du * du + dv * dv)
        return radius

    def cover_ellipse(self, ellipse: Ellipse, edge: float = 0.03) -> Array:
        """Compute the soft coverage of an ellipse; `edge` is the width of its rim in body units."""
        return cover_from_radius(self.compute_radius(ellipse), edge / min(ellipse.ru, ellipse.rv))

    def cover_ring(self, ellipse: Ellipse) -> Array:
        """Compute the soft coverage of the band inside the ellipse's border, 0.05 wide in body units."""
        small = min(ellipse.ru, ellipse.rv)
        middle = np.abs(self.compute_radius(ellipse) - np.float32(1 - 0.05 / small / 2))
        return clip((0.05 / 2 - middle * small) / 0.02 + 0.5)

    def cover_line(self, start: tuple[float, float], end: tuple[float, float], width: float) -> Array:
        """Compute the soft coverage of a straight stroke with round ends, `width` wide in body units."""
        du, dv = end[0] - start[0], end[1] - start[1]
        pu, pv = self.u - np.float32(start[0]), self.v - np.float32(start[1])
        share = np.clip(
            (pu * np.float32(du) + pv * np.float32(dv)) * np.float32(1 / max(du * du + dv * dv, 1e-9)), 0, 1
        )
        distance = np.hypot(pu - share * np.float32(du), pv - share * np.float32(dv))
        return clip((width / 2 - distance) / 0.016 + 0.5)

    def cover_below(self, v: float, curvature: float, u: float = 0.0, edge: float = 0.03) -> Array:
        """Compute the soft coverage of the area below the parabola `v + curvature * (u' - u)^2`."""
        du = self.u - np.float32(u)
        return clip((self.v - v - np.float32(curvature) * du * du) / edge + 0.5)


Side = Literal["right", "left"]
SIGNS: dict[Side, int] = {"right": -1, "left": 1}
"""Radiological convention: the patient's right is on the image's left (u < 0)."""

NUM_JITTER = 16
"""Length of `jitter`: numbers in [-1, 1] that determine one patient's organs."""

Sites = dict[Side, Ellipse]


def build_frame(rotation_degrees: float, scale: float, shift_x: float, shift_y: float) -> Frame:
    """Compute the body coordinates of every pixel for a patient in this pose; shifts are in half image widths."""
    line = ((np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5) / IMAGE_SIZE * 2 - 1).astype(np.float32)
    x, y = line - np.float32(shift_x), line[:, None] - np.float32(shift_y)
    angle = math.radians(rotation_degrees)
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    u = np.float32(cosine) * x + np.float32(sine) * y
    v = np.float32(cosine) * y - np.float32(sine) * x
    return Frame(u, v)


def clip(values: NDArray[np.floating[Any]]) -> Array:
    """Clip the values to [0, 1], as float32."""
    clipped: Array = np.clip(values, 0, 1).astype(np.float32, copy=False)
    return clipped


def cover_from_radius(radius: Array, softness: float) -> Array:
    """Compute coverage: 1 inside the unit radius, 0 outside, linear over `softness` (a share of the radius) between."""
    cover: Array = radius * np.float32(-1 / softness)
    cover += np.float32(1 / softness + 0.5)
    return clip(cover)


def blend(canvas: Array, cover: Array, value: float | Array) -> None:
    """Paint `value` over the canvas, in place, where covered."""
    canvas += cover * (value - canvas)


def build_texture(rng: np.random.Generator, cells: int) -> Array:
    """Draw smooth noise (H, W) of about unit deviation, with grains `IMAGE_SIZE / cells` pixels wide."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    smooth = Image.fromarray(coarse).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32)
