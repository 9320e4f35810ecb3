"""Shape and paint of each finding.

A shape computes the finding's coverage (H, W), which is enough for mask and box; a paint draws it on the anatomy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medcap_core.data.phantoms.drawing import Array, Ellipse, Frame, blend, build_texture, clip, cover_from_radius

RADII = {"small": 0.070, "moderate": 0.105, "large": 0.150}  # body units; times a finding's own factor


@dataclass(frozen=True)
class Location:
    """The location of one finding, in body coordinates.

    `organ` is the site on the finding's side, `surface` the outline that crescents and lenses follow, `level` the share
    of the organ's half height, `outward` -1 on the image's left and 1 on its right, `drift` two numbers in [-1, 1].
    """

    organ: Ellipse
    surface: Ellipse
    outward: int
    level: float
    radius: float
    drift: tuple[float, float]

    def centre(self, wander: float = 0.12) -> tuple[float, float]:
        """Compute a point of the organ at the finding's level."""
        return self.organ.at(wander * 2 * self.drift[0], self.level + wander * self.drift[1])

    def direction(self) -> tuple[float, float]:
        """Compute the unit vector (du, dv) from the centre of the surface to the finding."""
        angle = math.asin(max(-0.95, min(0.95, 0.95 * self.level + 0.1 * self.drift[1])))
        return self.outward * math.cos(angle), math.sin(angle)

    def measure_along(self, frame: Frame) -> Array:
        """Measure how far each pixel lies from the surface's centre towards the finding, in shares of the half axes."""
        surface, (du, dv) = self.surface, self.direction()
        return (frame.u - surface.u) * np.float32(du / surface.ru) + (frame.v - surface.v) * np.float32(dv / surface.rv)


Shape = Callable[[Frame, Location, np.random.Generator], Array]


@dataclass
class Spot:
    """What a paint changes, `canvas`, and what it needs; `strength` in [0, 1] is the finding's contrast."""

    canvas: Array
    frame: Frame
    cover: Array
    location: Location
    strength: float
    rng: np.random.Generator


@dataclass(frozen=True)
class Finding:
    """One kind of abnormality: its shape, its paint and how its sizes compare with `RADII`."""

    shape: Shape
    paint: Callable[[Spot], None]
    size_factor: float = 1.0


def round_shape(irregular: float = 0.0, edge: float = 0.3, slim: float = 0.85, wander: float = 0.12) -> Shape:
    """Build the shape of a round or oval body; `irregular` roughens its outline, `edge` is its rim / radius."""

    def shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
        u, v = location.centre(wander)
        across = location.radius * float(rng.uniform(slim, 1))
        oval = Ellipse(u, v, location.radius, across, float(rng.uniform(0, math.pi)))
        radius = frame.compute_radius(oval)
        if irregular:
            radius = radius + np.float32(irregular) * build_texture(rng, 16)
            radius = np.maximum(radius, frame.compute_radius(oval.grown(1.6)))
        return cover_from_radius(radius, edge)

    return shape


def lip_shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
    """Cover a round body that bulges from the organ's border at the finding's level."""
    u, v = location.organ.at(0.35 * location.drift[0], location.level * 1.35)
    bulge = Ellipse(u, v, location.radius, location.radius * float(rng.uniform(0.85, 1)))
    return cover_from_radius(frame.compute_radius(bulge), 0.25)


def crescent_shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
    """Cover a collection between the surface and the same outline moved inwards."""
    surface = location.surface
    du, dv = location.direction()
    inner = surface.moved(-du * location.radius, -dv * location.radius)
    outside = 1 - frame.cover_ellipse(inner, 0.025)
    reach = clip((location.measure_along(frame) - float(rng.uniform(0.35, 0.45))) / 0.08 + 0.5)
    return frame.cover_ellipse(surface, 0.025) * outside * reach


def lens_shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
    """Cover a biconvex collection on the surface."""
    surface = location.surface
    du, dv = location.direction()
    tangent = math.atan2(dv / surface.rv, du / surface.ru) + math.pi / 2
    reach = surface.ru * surface.rv / math.hypot(surface.rv * du, surface.ru * dv)
    length = location.radius * float(rng.uniform(1.7, 2.1))
    lens = Ellipse(surface.u + du * reach, surface.v + dv * reach, length, location.radius, tangent)
    return frame.cover_ellipse(surface, 0.025) * frame.cover_ellipse(lens, 0.03)


def wedge_shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
    """Cover a vascular territory: a wedge with its tip deep in the brain and its base on the surface."""
    surface = location.surface
    du, dv = location.direction()
    tip_u, tip_v = surface.u + 0.16 * location.outward, surface.v + 0.35 * dv
    pu, pv = frame.u - np.float32(tip_u), frame.v - np.float32(tip_v)
    ahead = pu * np.float32(du) + pv * np.float32(dv)
    across = np.abs(pv * np.float32(du) - pu * np.float32(dv))
    spread = location.radius * 3.2 * float(rng.uniform(0.9, 1.1))
    inside = clip((ahead * np.float32(spread) - across) / 0.05 + 0.5)
    return frame.cover_ellipse(surface, 0.03) * inside * clip(ahead / 0.04)


def pool_shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
    """Cover fluid in the organ's lower part, with a meniscus that rises outwards."""
    organ = location.organ
    top = organ.v + organ.rv * (0.86 - 2.6 * location.radius)
    rise = np.float32(0.5) * np.maximum(location.outward * (frame.u - np.float32(organ.u)), -0.05)
    below = clip((frame.v + rise - np.float32(top)) / 0.05 + 0.5)
    bottom = clip((0.66 - frame.v) / 0.05 + 0.5)
    return frame.cover_ellipse(organ.grown(1.08), 0.05) * below * bottom


def pelvis_shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
    """Cover a widened collecting system: three lobes in the kidney near the finding's level."""
    organ = location.organ
    cover = np.zeros_like(frame.u)
    for turn in (-0.9, 0.0, 0.9):
        u, v = organ.at(0.30 * math.cos(turn) * -location.outward, location.level * 0.9 + 0.35 * math.sin(turn))
        lobe = Ellipse(u, v, location.radius * 0.9, location.radius * 0.75, turn * location.outward)
        cover = np.maximum(cover, frame.cover_ellipse(lobe, 0.03))
    return cover


def add_tone(spot: Spot, delta: float) -> None:
    """Add brightness to the anatomy, as in a projection."""
    spot.canvas += spot.cover * np.float32(delta * spot.strength)


def fill_tone(spot: Spot, value: float, mottle: float = 0.0) -> None:
    """Replace the anatomy by one brightness, as in a slice; `mottle` makes it uneven."""
    tone = value + np.float32(mottle) * build_texture(spot.rng, 24) if mottle else value
    blend(spot.canvas, spot.cover * np.float32(0.4 + 0.6 * spot.strength), tone)


def hollow(spot: Spot, rim: float, core: float, halo: float | None = None) -> None:
    """Paint a rim around a core; `halo` is a soft zone around both (oedema)."""
    frame, radius, surface = spot.frame, spot.location.radius, spot.location.surface
    u, v = spot.location.centre()
    if halo is not None:
        zone = frame.cover_ellipse(Ellipse(u, v, radius * 1.9, radius * 1.7), radius)
        blend(spot.canvas, zone * 0.6 * frame.cover_ellipse(surface), halo)
    blend(spot.canvas, spot.cover * np.float32(0.5 + 0.5 * spot.strength), rim)
    blend(spot.canvas, frame.cover_ellipse(Ellipse(u, v, radius * 0.55, radius * 0.55 * 0.9), 0.03), core)


def cystic(spot: Spot, tail: float) -> None:
    """Paint without echoes, with a brighter (`tail` > 0) path behind the finding."""
    spot.canvas *= 1 + cover_path(spot) * np.float32(tail * spot.strength)
    blend(spot.canvas, spot.cover * np.float32(0.7 + 0.3 * spot.strength), 0.04)


def calcified(spot: Spot) -> None:
    """Paint a body with a bright speck in its middle and a dark shadow behind."""
    blend(spot.canvas, spot.cover * 0.8, 0.3)
    spot.canvas *= 1 - cover_path(spot) * np.float32(0.6 * spot.strength)
    speck = Ellipse(*spot.location.centre(), spot.location.radius * 0.55, spot.location.radius * 0.28)
    blend(spot.canvas, spot.frame.cover_ellipse(speck, 0.03), 1.0)


def spongy(spot: Spot) -> None:
    """Paint many small black chambers between gray walls."""
    blend(spot.canvas, spot.cover, 0.6)
    cells = clip((build_texture(spot.rng, 36) + 0.25) * 3)
    blend(spot.canvas, spot.cover * cells * np.float32(0.6 + 0.4 * spot.strength), 0.03)


def free_air(spot: Spot) -> None:
    """Paint air without lung markings, bounded by a thin bright pleural line."""
    blend(spot.canvas, spot.cover * np.float32(0.5 + 0.5 * spot.strength), 0.07)
    du, dv = spot.location.direction()
    inwards = -1.15 * spot.location.radius
    edge = spot.frame.compute_radius(spot.location.surface.moved(du * inwards, dv * inwards))
    line = clip(1 - np.abs(edge - 1) / 0.05) * clip((spot.location.measure_along(spot.frame) - 0.4) * 6)
    spot.canvas += line * np.float32(0.28 * spot.strength)


def cover_path(spot: Spot) -> Array:
    """Cover the stripe behind the finding in the ultrasound beam: straight down from its middle."""
    frame, radius = spot.frame, spot.location.radius
    u, v = spot.location.centre()
    stripe = clip((radius * 0.8 - np.abs(frame.u - np.float32(u))) / 0.04 + 0.5)
    return stripe * clip((frame.v - np.float32(v + 0.5 * radius)) / 0.05)


FINDINGS: dict[str, Finding] = {
    # the general domain
    "nodule": Finding(round_shape(edge=0.25), lambda spot: add_tone(spot, 0.34)),
    "consolidation": Finding(round_shape(irregular=0.3, edge=0.6), lambda spot: add_tone(spot, 0.36), 1.7),
    "effusion": Finding(pool_shape, lambda spot: fill_tone(spot, 0.66)),
    "lung_nodule": Finding(round_shape(edge=0.2), lambda spot: fill_tone(spot, 0.58)),
    "lung_consolidation": Finding(round_shape(irregular=0.3, edge=0.4), lambda spot: fill_tone(spot, 0.5, 0.05), 1.5),
    "renal_cyst": Finding(lip_shape, lambda spot: fill_tone(spot, 0.22), 0.95),
    "renal_stone": Finding(round_shape(edge=0.3), lambda spot: fill_tone(spot, 1.0), 0.45),
    "hypointense_lesion": Finding(round_shape(irregular=0.12, edge=0.3), lambda spot: fill_tone(spot, 0.16), 1.1),
    "hyperintense_bleed": Finding(round_shape(irregular=0.25, edge=0.3), lambda spot: fill_tone(spot, 0.93), 1.1),
    "hepatic_cyst": Finding(round_shape(edge=0.15), lambda spot: cystic(spot, 0.8), 1.15),
    "haemangioma": Finding(round_shape(edge=0.2), lambda spot: fill_tone(spot, 0.88, 0.04), 1.15),
    # the target domain
    "pneumothorax": Finding(crescent_shape, free_air, 1.1),
    "cavity": Finding(round_shape(edge=0.25), lambda spot: hollow(spot, 0.62, 0.12), 1.25),
    "ground_glass": Finding(round_shape(irregular=0.25, edge=0.7), lambda spot: fill_tone(spot, 0.30, 0.03), 1.7),
    "lung_cavity": Finding(round_shape(irregular=0.08, edge=0.2), lambda spot: hollow(spot, 0.6, 0.05), 1.2),
    "renal_mass": Finding(lip_shape, lambda spot: fill_tone(spot, 0.52, 0.09), 1.2),
    "hydronephrosis": Finding(pelvis_shape, lambda spot: fill_tone(spot, 0.24), 0.8),
    "plaque": Finding(round_shape(irregular=0.1, edge=0.3, slim=0.6), lambda spot: fill_tone(spot, 0.82), 0.9),
    "infarct": Finding(wedge_shape, lambda spot: fill_tone(spot, 0.72, 0.02)),
    "abscess": Finding(round_shape(edge=0.2), lambda spot: hollow(spot, 0.92, 0.2, 0.72), 1.15),
    "epidural": Finding(lens_shape, lambda spot: fill_tone(spot, 0.76), 1.2),
    "subdural": Finding(crescent_shape, lambda spot: fill_tone(spot, 0.68), 1.5),
    "parenchymal_bleed": Finding(round_shape(0.2, edge=0.3), lambda spot: hollow(spot, 0.74, 0.78, 0.3), 1.15),
    "calcified_nodule": Finding(round_shape(irregular=0.12, edge=0.25, wander=0.08), calcified, 1.1),
    "spongiform_nodule": Finding(round_shape(edge=0.15, wander=0.08), spongy, 1.2),
    "thyroid_cyst": Finding(round_shape(edge=0.15, wander=0.08), lambda spot: cystic(spot, 0.7)),
}
