"""Normal anatomy of the head in axial MRI and CT, which differ by their tones alone."""

from dataclasses import dataclass

import numpy as np

from medcap_core.data.phantoms.drawing import (
    Array,
    Ellipse,
    Frame,
    Sites,
    blend,
    build_canvas,
    build_pair,
    build_texture,
    clip,
    cover_ellipse,
    cover_line,
)


def find_hemisphere_sites(jitter: Array) -> Sites:
    """Find the two hemispheres."""
    return build_pair(0.33, 0.02, 0.29 + 0.02 * jitter[0], 0.64 + 0.03 * jitter[2], 0.06, 0.03 * jitter[3])


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
    furrows: float


TONES = {
    "t1": HeadTones(0.85, 0.05, 0.46, 0.62, 0.14, -0.10),
    "flair": HeadTones(0.60, 0.04, 0.52, 0.40, 0.08, -0.09),
    "ct": HeadTones(0.30, 0.97, 0.45, 0.41, 0.22, -0.04),
}


def paint_head(frame: Frame, jitter: Array, rng: np.random.Generator, *, tones: HeadTones) -> Array:
    """Paint an axial slice at the level of the lateral ventricles."""
    canvas = build_canvas(frame, 0.02)
    outline = _head_outline(jitter)
    blend(canvas, cover_ellipse(frame, outline.grown(1.06), 0.03), tones.scalp)
    blend(canvas, cover_ellipse(frame, outline, 0.02), tones.skull)
    brain = cover_ellipse(frame, build_brain_outline(jitter), 0.03)
    blend(canvas, brain, tones.grey)
    furrows = build_texture(rng, 22)
    depth = build_brain_outline(jitter).grown(0.84)
    core = cover_ellipse(frame, depth, 0.16)
    canvas += brain * (1 - core) * clip(furrows) * np.float32(tones.furrows * 2)
    blend(canvas, core * clip(furrows * 0.35 + 0.75), tones.white)
    widen = 1 + 0.25 * float(jitter[6])
    for sign in (-1, 1):
        horn = Ellipse(sign * 0.12, -0.14, 0.055 * widen, 0.22, -sign * 0.3)
        blend(canvas, cover_ellipse(frame, horn, 0.03), tones.fluid)
        trigone = Ellipse(sign * 0.17, 0.24, 0.05 * widen, 0.17, -sign * 0.35)
        blend(canvas, cover_ellipse(frame, trigone, 0.03), tones.fluid)
        nucleus = Ellipse(sign * 0.25, 0.02, 0.08, 0.17, sign * 0.2)
        blend(canvas, cover_ellipse(frame, nucleus, 0.06) * 0.7, tones.grey)
    fissure = cover_line(frame, (0, -0.76), (0, -0.34), 0.02) + cover_line(frame, (0, 0.42), (0, 0.78), 0.02)
    blend(canvas, np.minimum(fissure, 1) * 0.7, 0.6 if tones is TONES["ct"] else tones.fluid)
    return canvas
