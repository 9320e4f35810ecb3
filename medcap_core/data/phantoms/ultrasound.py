"""Normal anatomy of the liver and the thyroid in transverse ultrasound."""

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


def _paint_echoes(canvas: Array, rng: np.random.Generator) -> None:
    """Multiply by speckle: coarse along the beam's width, fine along its depth."""
    canvas *= 1 + np.float32(0.17) * build_texture(rng, 60) + np.float32(0.08) * build_texture(rng, 20)


def cover_beam(frame: Frame, linear: bool) -> Array:
    """Cover the field of view of the probe: a sector, or nearly all with a linear probe."""
    if linear:
        return clip((0.93 - np.abs(frame.u)) / 0.03) * clip((frame.v + 0.92) / 0.03)
    apex = -1.35
    depth = frame.v - apex
    radius = np.hypot(frame.u, depth)
    inside = clip((depth * 0.85 - np.abs(frame.u)) / 0.04 + 0.5)
    return inside * clip((radius - 0.5) / 0.03) * clip((2.25 - radius) / 0.04)


def find_liver_sites(jitter: Array) -> Sites:
    """Find the two lobes of the liver in a transverse scan."""
    return build_pair(0.40 + 0.03 * jitter[0], 0.06, 0.27, 0.52 + 0.03 * jitter[2], 0.12, 0.04 * jitter[3])


def paint_liver_ultrasound(frame: Frame, jitter: Array, rng: np.random.Generator) -> Array:
    """Paint a transverse sector scan of the liver."""
    canvas = build_canvas(frame, 0.40)
    blend(canvas, cover_below(frame, -0.62, 0.15, 0.0, 0.06) * -1 + 1, 0.58)  # abdominal wall
    blend(canvas, cover_below(frame, 0.76 + 0.04 * jitter[4], -0.35, 0.0, 0.04), 0.14)
    diaphragm = np.abs(frame.v - (0.76 + 0.04 * jitter[4]) + 0.35 * frame.u * frame.u)
    blend(canvas, clip(1 - diaphragm / 0.05), 0.9)
    ligament = cover_line(frame, (0.02 + 0.04 * jitter[5], -0.5), (-0.02 + 0.04 * jitter[6], 0.3), 0.07)
    blend(canvas, ligament * 0.85, 0.85)
    for index, (u, v) in enumerate(((-0.62, -0.1), (-0.2, 0.45), (0.24, 0.5), (0.66, -0.05))):
        du, dv = 0.06 * jitter[7 + index], 0.06 * jitter[11 + index]
        blend(canvas, cover_ellipse(frame, Ellipse(u + du, v + dv, 0.09, 0.035, 0.5 * index), 0.03), 0.13)
    _paint_echoes(canvas, rng)
    canvas *= cover_beam(frame, linear=False)
    return canvas


def find_thyroid_sites(jitter: Array) -> Sites:
    """Find the two lobes of the thyroid in a transverse scan."""
    return build_pair(0.45 + 0.02 * jitter[0], -0.1, 0.27 + 0.02 * jitter[1], 0.31, -0.15, 0.06 * jitter[3])


def paint_thyroid_ultrasound(frame: Frame, jitter: Array, rng: np.random.Generator) -> Array:
    """Paint a transverse scan of the neck with a linear probe."""
    canvas = build_canvas(frame, 0.24)
    stripes: Array = np.cos((frame.v + 0.15 * frame.u**2) * np.float32(26 + 3 * jitter[4]))
    blend(canvas, 1 - cover_below(frame, -0.52, 0.1), 0.34 + 0.10 * stripes)  # skin and strap muscles
    for side, site in find_thyroid_sites(jitter).items():
        sign = SIGNS[side]
        blend(canvas, cover_ellipse(frame, site.grown(1.08), 0.04), 0.56)
        artery = Ellipse(sign * (0.84 + 0.02 * jitter[5]), 0.02 + 0.05 * jitter[6], 0.10, 0.12)
        blend(canvas, cover_ellipse(frame, artery.grown(1.2), 0.03), 0.5)
        blend(canvas, cover_ellipse(frame, artery, 0.03), 0.06)
    blend(canvas, cover_ellipse(frame, Ellipse(0, -0.28, 0.2, 0.08), 0.04), 0.55)  # isthmus
    windpipe = Ellipse(0, 0.08, 0.19, 0.24)
    blend(canvas, cover_ellipse(frame, windpipe, 0.03), 0.1)
    blend(canvas, cover_ring(frame, windpipe.grown(1.12)) * cover_below(frame, 0.2, 9.0, 0, 0.1), 0.3)
    blend(canvas, clip(1 - np.abs(compute_top(frame, windpipe)) / 0.04), 0.92)
    blend(canvas, cover_below(frame, 0.62, -0.12, 0, 0.05), 0.14)
    _paint_echoes(canvas, rng)
    canvas *= cover_beam(frame, linear=True)
    return canvas


def compute_top(frame: Frame, ellipse: Ellipse) -> Array:
    """Compute the signed height below the ellipse's upper border; 9 beside the ellipse."""
    share = clip(1 - ((frame.u - ellipse.u) / ellipse.ru) ** 2)
    height = frame.v - (ellipse.v - ellipse.rv * np.sqrt(share))
    return np.where(share > 0, height, np.float32(9)).astype(np.float32)
