"""Normal anatomy of the trunk: chest radiograph, axial CT of chest and abdomen."""

import numpy as np

from medcap_core.data.phantoms.drawing import (
    SIGNS,
    Array,
    Ellipse,
    Frame,
    Sites,
    blend,
    build_canvas,
    build_pair,
    build_texture,
    clip,
    cover_below,
    cover_ellipse,
    cover_line,
    cover_ring,
)

# Chest radiograph


def find_chest_sites(jitter: Array) -> Sites:
    """Find the two lungs in a frontal projection."""
    return build_pair(
        0.43 + 0.02 * jitter[0], -0.06 + 0.03 * jitter[1], 0.31, 0.62 + 0.03 * jitter[2], 0.10, 0.05 * jitter[3]
    )


def paint_chest(frame: Frame, jitter: Array, rng: np.random.Generator, *, supine: bool) -> Array:
    """Paint a frontal chest radiograph; `supine` widens the heart and lifts the diaphragm."""
    canvas = build_canvas(frame, 0.03)
    blend(canvas, cover_ellipse(frame, Ellipse(0, 0.45, 0.92 + 0.04 * jitter[4], 1.3), 0.08), 0.5)
    blend(canvas, cover_ellipse(frame, Ellipse(0, -0.95, 0.2, 0.5), 0.08), 0.5)
    bones, lungs = np.zeros_like(canvas), np.zeros_like(canvas)
    for side, site in find_chest_sites(jitter).items():
        sign = SIGNS[side]
        lung = cover_ellipse(frame, site.grown(1.08), 0.07)
        dome = 0.50 + 0.04 * jitter[5] + (0.05 if side == "left" else 0.0) - (0.08 if supine else 0.0)
        lung *= 1 - cover_below(frame, dome, 1.6, site.u, 0.05)
        lungs = np.maximum(lungs, lung)
        arch = frame.v * np.float32(4.6) + (frame.u - np.float32(sign * 0.25)) ** 2 * np.float32(5.5)
        bones += clip(np.cos(arch * np.float32(2 * np.pi)) - 0.45) * lung * np.float32(0.16)
        tip = (sign * 0.66, -0.70 + 0.05 * jitter[6])
        bones += 0.13 * cover_line(frame, (sign * 0.07, -0.58), tip, 0.07)
    blend(canvas, lungs, 0.2 + 0.03 * jitter[7])
    canvas += bones
    canvas += lungs * build_texture(rng, 24) * np.float32(0.018)
    heart = 0.30 + 0.04 * jitter[8] + (0.06 if supine else 0.0)
    blend(canvas, cover_ellipse(frame, Ellipse(0.12, 0.26, heart, 0.36, 0.5), 0.06) * 0.92, 0.68)
    blend(canvas, cover_ellipse(frame, Ellipse(0.0, -0.15, 0.13 + 0.02 * jitter[9], 0.85), 0.08) * 0.85, 0.64)
    blend(canvas, cover_ellipse(frame, Ellipse(0.0, -0.72, 0.05, 0.3), 0.04) * 0.5, 0.35)  # trachea
    return canvas


# Axial CT of the chest


def find_ct_chest_sites(jitter: Array) -> Sites:
    """Find the two lungs in an axial slice."""
    return build_pair(
        0.45 + 0.02 * jitter[0], -0.02, 0.30 + 0.02 * jitter[1], 0.47 + 0.03 * jitter[2], 0.12, 0.05 * jitter[3]
    )


def _paint_torso(frame: Frame, jitter: Array, inner: float) -> tuple[Array, Ellipse]:
    """Paint skin, fat and body wall of an axial slice; also returns the outline inside the fat."""
    canvas = build_canvas(frame, 0.02)
    outline = Ellipse(0, 0, 0.95 + 0.03 * jitter[4], 0.76 + 0.04 * jitter[5])
    blend(canvas, cover_ellipse(frame, outline, 0.03), 0.28)
    wall = outline.grown(0.90 + 0.03 * jitter[6])
    blend(canvas, cover_ellipse(frame, wall, 0.04), inner)
    return canvas, wall


def _paint_spine(canvas: Array, frame: Frame, v: float, value: float) -> None:
    blend(canvas, cover_ellipse(frame, Ellipse(0, v, 0.13, 0.11), 0.03), value)
    blend(canvas, cover_line(frame, (0, v + 0.1), (0, v + 0.24), 0.06), value)
    blend(canvas, cover_ellipse(frame, Ellipse(0, v + 0.12, 0.05, 0.04), 0.02), 0.4)


def paint_ct_chest(frame: Frame, jitter: Array, rng: np.random.Generator) -> Array:
    """Paint an axial slice at the level of the heart."""
    canvas, wall = _paint_torso(frame, jitter, 0.5)
    angle, phase = np.arctan2(frame.v, frame.u), np.float32(3 * float(jitter[7]))
    ribs = clip(np.cos(angle * np.float32(10) + phase) * 4 - 2)
    blend(canvas, cover_ring(frame, wall.grown(0.97)) * ribs, 0.85)
    lungs = np.zeros_like(canvas)
    for site in find_ct_chest_sites(jitter).values():
        lungs = np.maximum(lungs, cover_ellipse(frame, site.grown(1.08), 0.03))
    blend(canvas, lungs, 0.13)
    vessels = clip(build_texture(rng, 40) - 1.5)
    canvas += lungs * vessels * np.float32(0.28)
    blend(canvas, cover_ellipse(frame, Ellipse(0.09, -0.13, 0.27 + 0.03 * jitter[8], 0.24, 0.4), 0.04), 0.58)
    blend(canvas, cover_ellipse(frame, Ellipse(0.12, 0.3, 0.075, 0.075), 0.02), 0.66)  # aorta
    _paint_spine(canvas, frame, 0.42, 0.9)
    return canvas


# Axial CT of the abdomen


def find_kidney_sites(jitter: Array) -> Sites:
    """Find the two kidneys in an axial slice."""
    return build_pair(0.42 + 0.03 * jitter[0], 0.22 + 0.03 * jitter[1], 0.19, 0.235, 0.35, 0.06 * jitter[3])


def paint_ct_abdomen(frame: Frame, jitter: Array, rng: np.random.Generator, *, contrast: bool) -> Array:
    """Paint an axial slice at the level of the kidneys; `contrast` brightens kidneys, vessels and organs."""
    organ = 0.56 if contrast else 0.48
    canvas, wall = _paint_torso(frame, jitter, 0.43)
    blend(canvas, cover_ellipse(frame, wall.grown(0.9), 0.04), 0.27)
    inside = cover_ellipse(frame, wall.grown(0.88), 0.03)
    blend(canvas, inside * cover_ellipse(frame, Ellipse(-0.45, -0.2, 0.45, 0.40 + 0.05 * jitter[8], 0.3), 0.04), organ)
    spleen = Ellipse(0.66, 0.0 + 0.05 * jitter[7], 0.16, 0.25, -0.3)
    blend(canvas, inside * cover_ellipse(frame, spleen, 0.04), organ + 0.04)
    blend(canvas, cover_ellipse(frame, Ellipse(0.3 + 0.04 * jitter[9], -0.34, 0.26, 0.17, 0.3), 0.03), 0.46)
    blend(canvas, cover_ellipse(frame, Ellipse(0.3 + 0.04 * jitter[9], -0.40, 0.19, 0.08, 0.3), 0.03), 0.05)  # gas
    loops = clip(build_texture(rng, 14)) * cover_ellipse(frame, Ellipse(0.1, -0.1, 0.35, 0.22), 0.2)
    canvas += loops * np.float32(0.14)
    for site in find_kidney_sites(jitter).values():
        blend(canvas, cover_ellipse(frame, site, 0.03), 0.74 if contrast else 0.50)
        sinus = Ellipse(site.u * 0.80, site.v, site.ru * 0.38, site.rv * 0.3)
        blend(canvas, cover_ellipse(frame, sinus, 0.04), 0.36)
    vessel = 0.80 if contrast else 0.52
    blend(canvas, cover_ellipse(frame, Ellipse(0.07, 0.2, 0.075, 0.075), 0.02), vessel)
    blend(canvas, cover_ellipse(frame, Ellipse(-0.1, 0.18, 0.085, 0.06), 0.02), vessel - 0.06)
    _paint_spine(canvas, frame, 0.40, 0.92)
    return canvas
