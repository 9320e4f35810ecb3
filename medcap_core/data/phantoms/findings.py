"""Shape and paint of each finding.

A shape computes the finding's coverage (H, W), which is enough for mask and box; a paint draws it on the anatomy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medcap_core.data.phantoms.drawing import (
    Array,
    Ellipse,
    Frame,
    blend,
    build_texture,
    clip,
    compute_radius,
    cover_ellipse,
    cover_from_radius,
)

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


Shape = Callable[[Frame, Location, np.random.Generator], Array]
Paint = Callable[[Array, Frame, Array, Location, float, np.random.Generator], None]


@dataclass(frozen=True)
class Finding:
    """One kind of abnormality: its shape, its paint and how its sizes compare with `RADII`."""

    shape: Shape
    paint: Paint
    size_factor: float = 1.0


# Shapes


def round_shape(irregular: float = 0.0, edge: float = 0.3, slim: float = 0.85, wander: float = 0.12) -> Shape:
    """Build the shape of a round or oval body; `irregular` roughens its outline, `edge` is its rim / radius."""

    def shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
        u, v = location.centre(wander)
        oval = Ellipse(
            u, v, location.radius, location.radius * float(rng.uniform(slim, 1)), float(rng.uniform(0, math.pi))
        )
        radius = compute_radius(frame, oval)
        if irregular:
            radius = radius + np.float32(irregular) * build_texture(rng, 16)
            radius = np.maximum(radius, compute_radius(frame, oval.grown(1.6)))
        return cover_from_radius(radius, edge)

    return shape


def lip_shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
    """Cover a round body that bulges from the organ's border at the finding's level."""
    u, v = location.organ.at(0.35 * location.drift[0], location.level * 1.35)
    return cover_from_radius(
        compute_radius(frame, Ellipse(u, v, location.radius, location.radius * float(rng.uniform(0.85, 1)))), 0.25
    )


def crescent_shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
    """Cover a collection between the surface and the same outline moved inwards."""
    surface = location.surface
    du, dv = location.direction()
    inner = surface.moved(-du * location.radius, -dv * location.radius)
    outside = 1 - cover_ellipse(frame, inner, 0.025)
    along = (frame.u - surface.u) * np.float32(du / surface.ru) + (frame.v - surface.v) * np.float32(dv / surface.rv)
    reach = clip((along - float(rng.uniform(0.35, 0.45))) / 0.08 + 0.5)
    return cover_ellipse(frame, surface, 0.025) * outside * reach


def lens_shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
    """Cover a biconvex collection on the surface."""
    surface = location.surface
    du, dv = location.direction()
    tangent = math.atan2(dv / surface.rv, du / surface.ru) + math.pi / 2
    reach = surface.ru * surface.rv / math.hypot(surface.rv * du, surface.ru * dv)
    centre = Ellipse(
        surface.u + du * reach,
        surface.v + dv * reach,
        location.radius * float(rng.uniform(1.7, 2.1)),
        location.radius,
        tangent,
    )
    return cover_ellipse(frame, surface, 0.025) * cover_ellipse(frame, centre, 0.03)


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
    return cover_ellipse(frame, surface, 0.03) * inside * clip(ahead / 0.04)


def pool_shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
    """Cover fluid in the organ's lower part, with a meniscus that rises outwards."""
    organ = location.organ
    top = organ.v + organ.rv * (0.86 - 2.6 * location.radius)
    rise = np.float32(0.5) * np.maximum(location.outward * (frame.u - np.float32(organ.u)), -0.05)
    below = clip((frame.v + rise - np.float32(top)) / 0.05 + 0.5)
    bottom = clip((0.66 - frame.v) / 0.05 + 0.5)
    return cover_ellipse(frame, organ.grown(1.08), 0.05) * below * bottom


def pelvis_shape(frame: Frame, location: Location, rng: np.random.Generator) -> Array:
    """Cover a widened collecting system: three lobes in the kidney near the finding's level."""
    organ = location.organ
    cover = np.zeros_like(frame.u)
    for turn in (-0.9, 0.0, 0.9):
        u, v = organ.at(0.30 * math.cos(turn) * -location.outward, location.level * 0.9 + 0.35 * math.sin(turn))
        lobe = Ellipse(u, v, location.radius * 0.9, location.radius * 0.75, turn * location.outward)
        cover = np.maximum(cover, cover_ellipse(frame, lobe, 0.03))
    return cover


# Paints; `strength` in [0, 1] is the finding's contrast


def add_tone(delta: float) -> Paint:
    """Build a paint that adds brightness to the anatomy, as in a projection."""

    def paint(
        canvas: Array, frame: Frame, cover: Array, location: Location, strength: float, rng: np.random.Generator
    ) -> None:
        canvas += cover * np.float32(delta * strength)

    return paint


def fill_tone(value: float, mottle: float = 0.0) -> Paint:
    """Build a paint that replaces the anatomy by one brightness, as in a slice; `mottle` makes it uneven."""

    def paint(
        canvas: Array, frame: Frame, cover: Array, location: Location, strength: float, rng: np.random.Generator
    ) -> None:
        tone = value + np.float32(mottle) * build_texture(rng, 24) if mottle else value
        blend(canvas, cover * np.float32(0.4 + 0.6 * strength), tone)

    return paint


def hollow(rim: float, core: float, halo: float | None = None) -> Paint:
    """Build a paint of a rim around a core; `halo` is a soft zone around both (oedema)."""

    def paint(
        canvas: Array, frame: Frame, cover: Array, location: Location, strength: float, rng: np.random.Generator
    ) -> None:
        u, v = location.centre()
        if halo is not None:
            zone = Ellipse(u, v, location.radius * 1.9, location.radius * 1.7)
            blend(
                canvas, cover_ellipse(frame, zone, location.radius) * 0.6 * cover_ellipse(frame, location.surface), halo
            )
        blend(canvas, cover * np.float32(0.5 + 0.5 * strength), rim)
        inner = Ellipse(u, v, location.radius * 0.55, location.radius * 0.55 * 0.9)
        blend(canvas, cover_ellipse(frame, inner, 0.03), core)

    return paint


def cystic(tail: float) -> Paint:
    """Build a paint without echoes, with a brighter (`tail` > 0) path behind the finding."""

    def paint(
        canvas: Array, frame: Frame, cover: Array, location: Location, strength: float, rng: np.random.Generator
    ) -> None:
        canvas *= 1 + cover_path(frame, location) * np.float32(tail * strength)
        blend(canvas, cover * np.float32(0.7 + 0.3 * strength), 0.04)

    return paint


def calcified(value: float, crust: float) -> Paint:
    """Build a paint of a body with a bright speck in its middle and a dark shadow behind."""

    def paint(
        canvas: Array, frame: Frame, cover: Array, location: Location, strength: float, rng: np.random.Generator
    ) -> None:
        blend(canvas, cover * 0.8, value)
        canvas *= 1 - cover_path(frame, location) * np.float32(0.6 * strength)
        u, v = location.centre()
        speck = Ellipse(u, v, location.radius * 0.55, location.radius * 0.28)
        blend(canvas, cover_ellipse(frame, speck, 0.03), crust)

    return paint


def spongy(frame_tone: float) -> Paint:
    """Build a paint of many small black chambers between walls of brightness `frame_tone`."""

    def paint(
        canvas: Array, frame: Frame, cover: Array, location: Location, strength: float, rng: np.random.Generator
    ) -> None:
        blend(canvas, cover, frame_tone)
        cells = clip((build_texture(rng, 36) + 0.25) * 3)
        blend(canvas, cover * cells * np.float32(0.6 + 0.4 * strength), 0.03)

    return paint


def free_air(inside: float) -> Paint:
    """Build a paint of air without lung markings, bounded by a thin bright pleural line."""

    def paint(
        canvas: Array, frame: Frame, cover: Array, location: Location, strength: float, rng: np.random.Generator
    ) -> None:
        blend(canvas, cover * np.float32(0.5 + 0.5 * strength), inside)
        du, dv = location.direction()
        edge = compute_radius(frame, location.surface.moved(-du * location.radius * 1.15, -dv * location.radius * 1.15))
        along = (frame.u - np.float32(location.surface.u)) * np.float32(du / location.surface.ru)
        along += (frame.v - np.float32(location.surface.v)) * np.float32(dv / location.surface.rv)
        line = clip(1 - np.abs(edge - 1) / 0.05) * clip((along - 0.4) * 6)
        canvas += line * np.float32(0.28 * strength)

    return paint


def cover_path(frame: Frame, location: Location) -> Array:
    """Cover the stripe behind the finding in the ultrasound beam: straight down from its middle."""
    u, v = location.centre()
    stripe = clip((location.radius * 0.8 - np.abs(frame.u - np.float32(u))) / 0.04 + 0.5)
    return stripe * clip((frame.v - np.float32(v + 0.5 * location.radius)) / 0.05)


FINDINGS: dict[str, Finding] = {
    # the general domain
    "nodule": Finding(round_shape(edge=0.25), add_tone(0.34)),
    "consolidation": Finding(round_shape(irregular=0.3, edge=0.6), add_tone(0.36), 1.7),
    "effusion": Finding(pool_shape, fill_tone(0.66), 1.0),
    "lung_nodule": Finding(round_shape(edge=0.2), fill_tone(0.58)),
    "lung_consolidation": Finding(round_shape(irregular=0.3, edge=0.4), fill_tone(0.5, 0.05), 1.5),
    "renal_cyst": Finding(lip_shape, fill_tone(0.22), 0.95),
    "renal_stone": Finding(round_shape(edge=0.3), fill_tone(1.0), 0.45),
    "hypointense_lesion": Finding(round_shape(irregular=0.12, edge=0.3), fill_tone(0.16), 1.1),
    "hyperintense_bleed": Finding(round_shape(irregular=0.25, edge=0.3), fill_tone(0.93), 1.1),
    "hepatic_cyst": Finding(round_shape(edge=0.15), cystic(0.8), 1.15),
    "haemangioma": Finding(round_shape(edge=0.2), fill_tone(0.88, 0.04), 1.15),
    # the target domain
    "pneumothorax": Finding(crescent_shape, free_air(0.07), 1.1),
    "cavity": Finding(round_shape(edge=0.25), hollow(0.62, 0.12), 1.25),
    "ground_glass": Finding(round_shape(irregular=0.25, edge=0.7), fill_tone(0.30, 0.03), 1.7),
    "lung_cavity": Finding(round_shape(irregular=0.08, edge=0.2), hollow(0.6, 0.05), 1.2),
    "renal_mass": Finding(lip_shape, fill_tone(0.52, 0.09), 1.2),
    "hydronephrosis": Finding(pelvis_shape, fill_tone(0.24), 0.8),
    "plaque": Finding(round_shape(irregular=0.1, edge=0.3, slim=0.6), fill_tone(0.82), 0.9),
    "infarct": Finding(wedge_shape, fill_tone(0.72, 0.02), 1.0),
    "abscess": Finding(round_shape(edge=0.2), hollow(0.92, 0.2, halo=0.72), 1.15),
    "epidural": Finding(lens_shape, fill_tone(0.76), 1.2),
    "subdural": Finding(crescent_shape, fill_tone(0.68), 1.5),
    "parenchymal_bleed": Finding(round_shape(irregular=0.2, edge=0.3), hollow(0.74, 0.78, halo=0.3), 1.15),
    "calcified_nodule": Finding(round_shape(irregular=0.12, edge=0.25, wander=0.08), calcified(0.3, 1.0), 1.1),
    "spongiform_nodule": Finding(round_shape(edge=0.15, wander=0.08), spongy(0.6), 1.2),
    "thyroid_cyst": Finding(round_shape(edge=0.15, wander=0.08), cystic(0.7), 1.0),
}
