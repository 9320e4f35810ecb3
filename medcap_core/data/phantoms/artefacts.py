"""Artefacts of the images: devices, letters, uneven exposure and noise."""

import math

import numpy as np
from PIL import Image, ImageDraw

from medcap_core.data.phantoms.anatomy import View
from medcap_core.data.phantoms.drawing import IMAGE_SIZE, Array, Ellipse, Frame, build_texture

_LETTERS: dict[str, tuple[str, ...]] = {
    "radiograph": ("SUPINE", "PORT", "AP", "PA", "90 kV"),
    "CT": ("SE 3", "IM 27", "W 400", "120 kV"),
    "MRI": ("SE 5", "IM 12", "TR 9000", "TE 90"),
    "ultrasound": ("MI 0.8", "12 Hz", "TIs 0.4"),
}


def finish(canvas: Array, view: View, frame: Frame, rng: np.random.Generator) -> Array:
    """Add the artefacts of the view's modality; changes and returns `canvas`."""
    if view.modality == "radiograph":
        _add_devices(canvas, frame, rng)
    bias = 1 + np.float32(0.05) * build_texture(rng, 3)
    gamma, contrast = float(rng.uniform(0.85, 1.2)), float(rng.uniform(0.85, 1.1))
    np.clip(canvas * bias, 0, 1, out=canvas)
    canvas **= np.float32(gamma)
    canvas *= np.float32(contrast)
    noise = float(rng.uniform(0.012, 0.045)) * (0.5 if view.modality == "ultrasound" else 1.0)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(noise)
    if rng.uniform() < 0.4:
        _add_letters(canvas, _LETTERS[view.modality], rng)
    return canvas


def _add_letters(canvas: Array, texts: tuple[str, ...], rng: np.random.Generator) -> None:
    text = texts[int(rng.integers(len(texts)))]
    width, height = 6 * len(text) + 2, 11
    letters = Image.new("L", (width, height))
    ImageDraw.Draw(letters).text((1, 0), text, fill=255)
    top = 2 if rng.uniform() < 0.5 else IMAGE_SIZE - height - 2
    left = 2 if rng.uniform() < 0.5 else IMAGE_SIZE - width - 2
    patch = canvas[top : top + height, left : left + width]
    np.maximum(patch, np.asarray(letters, dtype=np.float32) / np.float32(255) * np.float32(0.9), out=patch)


def _add_devices(canvas: Array, frame: Frame, rng: np.random.Generator) -> None:
    """Paint electrodes with leads, a tube or a pulse generator: bright, but not a finding."""
    kind = rng.uniform()
    if kind < 0.25:
        for _ in range(2):
            u, v = float(rng.uniform(-0.6, 0.6)), float(rng.uniform(-0.5, 0.4))
            lead = frame.cover_line((u, v), (u * 1.3 + 0.1, 1.2), 0.02)
            np.maximum(canvas, lead * np.float32(0.75), out=canvas)
            canvas += frame.cover_ellipse(Ellipse(u, v, 0.035, 0.035), 0.02) * np.float32(0.25)
    elif kind < 0.45:
        bend = float(rng.uniform(-0.05, 0.05))
        tube = frame.cover_line((bend, -1.1), (0.02, -0.3), 0.03)
        np.maximum(canvas, tube * np.float32(0.9), out=canvas)
    elif kind < 0.55:
        box = Ellipse(0.55, -0.45, 0.11, 0.09, math.pi / 6)
        np.maximum(canvas, frame.cover_ellipse(box, 0.02) * np.float32(0.97), out=canvas)
        wire = frame.cover_line((0.5, -0.4), (0.1, 0.3), 0.02)
        np.maximum(canvas, wire * np.float32(0.9), out=canvas)
