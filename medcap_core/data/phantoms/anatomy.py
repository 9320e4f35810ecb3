"""Normal anatomy: the organs of each view and how they are painted, and the table of views."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from medcap_core.data.phantoms.drawing import SIGNS, Array, Ellipse, Frame, Sites, blend, build_texture, clip


def build_pair(u: float, v: float, ru: float, rv: float, angle: float, asymmetry: float) -> Sites:
    """Build one organ on each side, the left one larger where `asymmetry` is positive."""
    return {
        "right": Ellipse(-u, v, ru * (1 - asymmetry), rv * (1 - asymmetry / 2), angle),
        "left": Ellipse(u, v, ru * (1 + asymmetry), rv * (1 + asymmetry / 2), -angle),
    }


SITES: dict[str, Callable[[Array], Sites]] = {
    "lungs": lambda j: build_pair(0.43 + 0.02 * j[0], -0.06 + 0.03 * j[1], 0.31, 0.62 + 0.03 * j[2], 0.10, 0.05 * j[3]),
    "lungs_axial": lambda j: build_pair(
        0.45 + 0.02 * j[0], -0.02, 0.30 + 0.02 * j[1], 0.47 + 0.03 * j[2], 0.12, 0.05 * j[3]
    ),
    "kidneys": lambda j: build_pair(0.42 + 0.03 * j[0], 0.22 + 0.03 * j[1], 0.19, 0.235, 0.35, 0.06 * j[3]),
    "hemispheres": lambda j: build_pair(0.33, 0.02, 0.29 + 0.02 * j[0], 0.64 + 0.03 * j[2], 0.06, 0.03 * j[3]),
    "liver_lobes": lambda j: build_pair(0.40 + 0.03 * j[0], 0.06, 0.27, 0.52 + 0.03 * j[2], 0.12, 0.04 * j[3]),
    "thyroid_lobes": lambda j: build_pair(0.45 + 0.02 * j[0], -0.1, 0.27 + 0.02 * j[1], 0.31, -0.15, 0.06 * j[3]),
}
"""The paired organ that holds the findings, built from a patient's jitter."""


def paint_chest(frame: Frame, jitter: Array, rng: np.random.Generator, *, supine: bool) -> Array:
    """Paint a frontal chest radiograph; `supine` widens the heart and lifts the diaphragm."""
    canvas = np.full_like(frame.u, 0.03)
    blend(canvas, frame.cover_ellipse(Ellipse(0, 0.45, 0.92 + 0.04 * jitter[4], 1.3), 0.08), 0.5)
    blend(canvas, frame.cover_ellipse(Ellipse(0, -0.95, 0.2, 0.5), 0.08), 0.5)
    bones, lungs = np.zeros_like(canvas), np.zeros_like(canvas)
    for side, site in SITES["lungs"](jitter).items():
        sign = SIGNS[side]
        lung = frame.cover_ellipse(site.grown(1.08), 0.07)
        dome = 0.50 + 0.04 * jitter[5] + (0.05 if side == "left" else 0.0) - (0.08 if supine else 0.0)
        lung *= 1 - frame.cover_below(dome, 1.6, site.u, 0.05)
        lungs = np.maximum(lungs, lung)
        arch = frame.v * np.float32(4.6) + (frame.u - np.float32(sign * 0.25)) ** 2 * np.float32(5.5)
        bones += clip(np.cos(arch * np.float32(2 * np.pi)) - 0.45) * lung * np.float32(0.16)
        tip = (sign * 0.66, -0.70 + 0.05 * jitter[6])
        bones += 0.13 * frame.cover_line((sign * 0.07, -0.58), tip, 0.07)
    blend(canvas, lungs, 0.2 + 0.03 * jitter[7])
    canvas += bones
    canvas += lungs * build_texture(rng, 24) * np.float32(0.018)
    heart = 0.30 + 0.04 * jitter[8] + (0.06 if supine else 0.0)
    blend(canvas, frame.cover_ellipse(Ellipse(0.12, 0.26, heart, 0.36, 0.5), 0.06) * 0.92, 0.68)
    blend(canvas, frame.cover_ellipse(Ellipse(0.0, -0.15, 0.13 + 0.02 * jitter[9], 0.85), 0.08) * 0.85, 0.64)
    blend(canvas, frame.cover_ellipse(Ellipse(0.0, -0.72, 0.05, 0.3), 0.04) * 0.5, 0.35)  # trachea
    return canvas


def _paint_torso(frame: Frame, jitter: Array, inner: float) -> tuple[Array, Ellipse]:
    """Paint skin, fat and body wall of an axial slice; also returns the outline inside the fat."""
    canvas = np.full_like(frame.u, 0.02)
    outline = Ellipse(0, 0, 0.95 + 0.03 * jitter[4], 0.76 + 0.04 * jitter[5])
    blend(canvas, frame.cover_ellipse(outline, 0.03), 0.28)
    wall = outline.grown(0.90 + 0.03 * jitter[6])
    blend(canvas, frame.cover_ellipse(wall, 0.04), inner)
    return canvas, wall


def _paint_spine(canvas: Array, frame: Frame, v: float, value: float) -> None:
    blend(canvas, frame.cover_ellipse(Ellipse(0, v, 0.13, 0.11), 0.03), value)
    blend(canvas, frame.cover_line((0, v + 0.1), (0, v + 0.24), 0.06), value)
    blend(canvas, frame.cover_ellipse(Ellipse(0, v + 0.12, 0.05, 0.04), 0.02), 0.4)


def paint_ct_chest(frame: Frame, jitter: Array, rng: np.random.Generator) -> Array:
    """Paint an axial CT slice of the chest at the level of the heart."""
    canvas, wall = _paint_torso(frame, jitter, 0.5)
    angle, phase = np.arctan2(frame.v, frame.u), np.float32(3 * float(jitter[7]))
    ribs = clip(np.cos(angle * np.float32(10) + phase) * 4 - 2)
    blend(canvas, frame.cover_ring(wall.grown(0.97)) * ribs, 0.85)
    lungs = np.zeros_like(canvas)
    for site in SITES["lungs_axial"](jitter).values():
        lungs = np.maximum(lungs, frame.cover_ellipse(site.grown(1.08), 0.03))
    blend(canvas, lungs, 0.13)
    vessels = clip(build_texture(rng, 40) - 1.5)
    canvas += lungs * vessels * np.float32(0.28)
    blend(canvas, frame.cover_ellipse(Ellipse(0.09, -0.13, 0.27 + 0.03 * jitter[8], 0.24, 0.4), 0.04), 0.58)
    blend(canvas, frame.cover_ellipse(Ellipse(0.12, 0.3, 0.075, 0.075), 0.02), 0.66)  # aorta
    _paint_spine(canvas, frame, 0.42, 0.9)
    return canvas


def paint_ct_abdomen(frame: Frame, jitter: Array, rng: np.random.Generator, *, contrast: bool) -> Array:
    """Paint an axial CT slice at the level of the kidneys; `contrast` brightens kidneys, vessels and organs."""
    organ = 0.56 if contrast else 0.48
    canvas, wall = _paint_torso(frame, jitter, 0.43)
    blend(canvas, frame.cover_ellipse(wall.grown(0.9), 0.04), 0.27)
    inside = frame.cover_ellipse(wall.grown(0.88), 0.03)
    blend(canvas, inside * frame.cover_ellipse(Ellipse(-0.45, -0.2, 0.45, 0.40 + 0.05 * jitter[8], 0.3), 0.04), organ)
    spleen = Ellipse(0.66, 0.0 + 0.05 * jitter[7], 0.16, 0.25, -0.3)
    blend(canvas, inside * frame.cover_ellipse(spleen, 0.04), organ + 0.04)
    blend(canvas, frame.cover_ellipse(Ellipse(0.3 + 0.04 * jitter[9], -0.34, 0.26, 0.17, 0.3), 0.03), 0.46)
    blend(canvas, frame.cover_ellipse(Ellipse(0.3 + 0.04 * jitter[9], -0.40, 0.19, 0.08, 0.3), 0.03), 0.05)  # gas
    loops = clip(build_texture(rng, 14)) * frame.cover_ellipse(Ellipse(0.1, -0.1, 0.35, 0.22), 0.2)
    canvas += loops * np.float32(0.14)
    for site in SITES["kidneys"](jitter).values():
        blend(canvas, frame.cover_ellipse(site, 0.03), 0.74 if contrast else 0.50)
        sinus = Ellipse(site.u * 0.80, site.v, site.ru * 0.38, site.rv * 0.3)
        blend(canvas, frame.cover_ellipse(sinus, 0.04), 0.36)
    vessel = 0.80 if contrast else 0.52
    blend(canvas, frame.cover_ellipse(Ellipse(0.07, 0.2, 0.075, 0.075), 0.02), vessel)
    blend(canvas, frame.cover_ellipse(Ellipse(-0.1, 0.18, 0.085, 0.06), 0.02), vessel - 0.06)
    _paint_spine(canvas, frame, 0.40, 0.92)
    return canvas


def _head_outline(jitter: Array) -> Ellipse:
    return Ellipse(0, 0.02, 0.74 + 0.03 * jitter[4], 0.90 + 0.03 * jitter[5])


def build_brain_outline(jitter: Array) -> Ellipse:
    """Build the brain's surface, on which extra-axial collections lie."""
    return _head_outline(jitter).grown(0.88)


@dataclass(frozen=True)
class HeadTones:
    """Brightness of each tissue in one kind of head image."""

    scalp: float
    skull: float
    grey: float
    white: float
    fluid: float
    fissure: float
    furrows: float


_T1 = HeadTones(0.85, 0.05, 0.46, 0.62, 0.14, 0.14, -0.10)
_FLAIR = HeadTones(0.60, 0.04, 0.52, 0.40, 0.08, 0.08, -0.09)
_CT = HeadTones(0.30, 0.97, 0.45, 0.41, 0.22, 0.6, -0.04)


def paint_head(tones: HeadTones, frame: Frame, jitter: Array, rng: np.random.Generator) -> Array:
    """Paint an axial slice of the head at the level of the ventricles; MRI and CT differ by their tones alone."""
    canvas = np.full_like(frame.u, 0.02)
    outline = _head_outline(jitter)
    blend(canvas, frame.cover_ellipse(outline.grown(1.06), 0.03), tones.scalp)
    blend(canvas, frame.cover_ellipse(outline, 0.02), tones.skull)
    brain = frame.cover_ellipse(build_brain_outline(jitter), 0.03)
    blend(canvas, brain, tones.grey)
    furrows = build_texture(rng, 22)
    depth = build_brain_outline(jitter).grown(0.84)
    core = frame.cover_ellipse(depth, 0.16)
    canvas += brain * (1 - core) * clip(furrows) * np.float32(tones.furrows * 2)
    blend(canvas, core * clip(furrows * 0.35 + 0.75), tones.white)
    widen = 1 + 0.25 * float(jitter[6])
    for sign in (-1, 1):
        horn = Ellipse(sign * 0.12, -0.14, 0.055 * widen, 0.22, -sign * 0.3)
        blend(canvas, frame.cover_ellipse(horn, 0.03), tones.fluid)
        trigone = Ellipse(sign * 0.17, 0.24, 0.05 * widen, 0.17, -sign * 0.35)
        blend(canvas, frame.cover_ellipse(trigone, 0.03), tones.fluid)
        nucleus = Ellipse(sign * 0.25, 0.02, 0.08, 0.17, sign * 0.2)
        blend(canvas, frame.cover_ellipse(nucleus, 0.06) * 0.7, tones.grey)
    fissure = frame.cover_line((0, -0.76), (0, -0.34), 0.02) + frame.cover_line((0, 0.42), (0, 0.78), 0.02)
    blend(canvas, np.minimum(fissure, 1) * 0.7, tones.fissure)
    return canvas


def _paint_echoes(canvas: Array, rng: np.random.Generator) -> None:
    """Multiply by speckle: coarse along the beam's width, fine along its depth."""
    canvas *= 1 + np.float32(0.17) * build_texture(rng, 60) + np.float32(0.08) * build_texture(rng, 20)


def paint_liver_ultrasound(frame: Frame, jitter: Array, rng: np.random.Generator) -> Array:
    """Paint a transverse sector scan of the liver."""
    canvas = np.full_like(frame.u, 0.40)
    blend(canvas, frame.cover_below(-0.62, 0.15, 0.0, 0.06) * -1 + 1, 0.58)  # abdominal wall
    blend(canvas, frame.cover_below(0.76 + 0.04 * jitter[4], -0.35, 0.0, 0.04), 0.14)
    diaphragm = np.abs(frame.v - (0.76 + 0.04 * jitter[4]) + 0.35 * frame.u * frame.u)
    blend(canvas, clip(1 - diaphragm / 0.05), 0.9)
    ligament = frame.cover_line((0.02 + 0.04 * jitter[5], -0.5), (-0.02 + 0.04 * jitter[6], 0.3), 0.07)
    blend(canvas, ligament * 0.85, 0.85)
    for index, (u, v) in enumerate(((-0.62, -0.1), (-0.2, 0.45), (0.24, 0.5), (0.66, -0.05))):
        du, dv = 0.06 * jitter[7 + index], 0.06 * jitter[11 + index]
        blend(canvas, frame.cover_ellipse(Ellipse(u + du, v + dv, 0.09, 0.035, 0.5 * index), 0.03), 0.13)
    _paint_echoes(canvas, rng)
    # The field of view is a sector.
    depth = frame.v - -1.35
    radius = np.hypot(frame.u, depth)
    inside = clip((depth * 0.85 - np.abs(frame.u)) / 0.04 + 0.5)
    canvas *= inside * clip((radius - 0.5) / 0.03) * clip((2.25 - radius) / 0.04)
    return canvas


def paint_thyroid_ultrasound(frame: Frame, jitter: Array, rng: np.random.Generator) -> Array:
    """Paint a transverse scan of the neck with a linear probe."""
    canvas = np.full_like(frame.u, 0.24)
    stripes: Array = np.cos((frame.v + 0.15 * frame.u**2) * np.float32(26 + 3 * jitter[4]))
    blend(canvas, 1 - frame.cover_below(-0.52, 0.1), 0.34 + 0.10 * stripes)  # skin and strap muscles
    for side, site in SITES["thyroid_lobes"](jitter).items():
        sign = SIGNS[side]
        blend(canvas, frame.cover_ellipse(site.grown(1.08), 0.04), 0.56)
        artery = Ellipse(sign * (0.84 + 0.02 * jitter[5]), 0.02 + 0.05 * jitter[6], 0.10, 0.12)
        blend(canvas, frame.cover_ellipse(artery.grown(1.2), 0.03), 0.5)
        blend(canvas, frame.cover_ellipse(artery, 0.03), 0.06)
    blend(canvas, frame.cover_ellipse(Ellipse(0, -0.28, 0.2, 0.08), 0.04), 0.55)  # isthmus
    windpipe = Ellipse(0, 0.08, 0.19, 0.24)
    blend(canvas, frame.cover_ellipse(windpipe, 0.03), 0.1)
    blend(canvas, frame.cover_ring(windpipe.grown(1.12)) * frame.cover_below(0.2, 9.0, 0, 0.1), 0.3)
    beside = clip(1 - ((frame.u - windpipe.u) / windpipe.ru) ** 2)
    below_top = np.where(beside > 0, frame.v - (windpipe.v - windpipe.rv * np.sqrt(beside)), np.float32(9))
    blend(canvas, clip(1 - np.abs(below_top.astype(np.float32)) / 0.04), 0.92)
    blend(canvas, frame.cover_below(0.62, -0.12, 0, 0.05), 0.14)
    _paint_echoes(canvas, rng)
    canvas *= clip((0.93 - np.abs(frame.u)) / 0.03) * clip((frame.v + 0.92) / 0.03)
    return canvas


@dataclass(frozen=True)
class View:
    """One modality and projection.

    `sites` returns the organ that holds the findings, by side. `levels` maps a level's name to its middle as a share of
    the organ's half height (-1 top of the image, 1 bottom). `field_mm` is the width of the image; `outline` returns the
    surface along which collections lie, where that is of the whole body part.
    """

    modality: str
    field_mm: float
    levels: Mapping[str, float]
    sites: Callable[[Array], Sites]
    paint: Callable[[Frame, Array, np.random.Generator], Array]
    outline: Callable[[Array], Ellipse] | None = None


_AXIAL = {"anterior": -0.55, "posterior": 0.55}
_ZONES = {"upper": -0.62, "middle": 0.0, "lower": 0.62}
_LOBES = {"frontal": -0.62, "parietal": 0.0, "occipital": 0.62}
_DEPTHS = {"superficial": -0.52, "deep": 0.52}


VIEWS: dict[str, View] = {
    "chest_pa": View("radiograph", 400, _ZONES, SITES["lungs"], partial(paint_chest, supine=False)),
    "chest_ap": View("radiograph", 420, _ZONES, SITES["lungs"], partial(paint_chest, supine=True)),
    "ct_chest": View("CT", 380, _AXIAL, SITES["lungs_axial"], paint_ct_chest),
    "ct_abdomen_plain": View("CT", 380, _AXIAL, SITES["kidneys"], partial(paint_ct_abdomen, contrast=False)),
    "ct_abdomen_contrast": View("CT", 380, _AXIAL, SITES["kidneys"], partial(paint_ct_abdomen, contrast=True)),
    "ct_head": View("CT", 230, _LOBES, SITES["hemispheres"], partial(paint_head, _CT), build_brain_outline),
    "mri_t1": View("MRI", 230, _LOBES, SITES["hemispheres"], partial(paint_head, _T1), build_brain_outline),
    "mri_flair": View("MRI", 230, _LOBES, SITES["hemispheres"], partial(paint_head, _FLAIR), build_brain_outline),
    "us_liver": View("ultrasound", 160, _DEPTHS, SITES["liver_lobes"], paint_liver_ultrasound),
    "us_thyroid": View("ultrasound", 70, _DEPTHS, SITES["thyroid_lobes"], paint_thyroid_ultrasound),
}
