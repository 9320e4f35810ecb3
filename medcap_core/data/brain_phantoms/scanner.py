"""How a cohort's scanner turns a head into a volume: pose, contrast, uneven field, noise, stored values."""

import numpy as np

from medcap_core.data.brain_phantoms.anatomy import Array, Head, Pose
from medcap_core.data.brain_phantoms.cohorts import Cohort
from medcap_core.data.brain_phantoms.subjects import Subject

_MAX_ROTATION_DEGREES = 4.0
_MAX_SHIFT_MM = 4.0


def place_head(subject: Subject, cohort: Cohort, rng: np.random.Generator) -> Head:
    """Lay the subject into the scanner, never quite straight."""
    turn, shift = rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3)
    pose = Pose(
        (turn[0] * _MAX_ROTATION_DEGREES, turn[1] * _MAX_ROTATION_DEGREES, turn[2] * _MAX_ROTATION_DEGREES),
        (shift[0] * _MAX_SHIFT_MM, shift[1] * _MAX_SHIFT_MM, shift[2] * _MAX_SHIFT_MM),
    )
    return Head(subject, cohort, pose)


def scan(head: Head, rng: np.random.Generator) -> Array:
    """Draw the volume, float32 (X, Y, Z) in RAS order, in the cohort's own scale of values."""
    cohort = head.cohort
    image = head.paint(cohort.contrast)
    image *= _draw_bias(cohort, rng)
    # The magnitude of a signal with noise in both of its parts, as MRI has it.
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32)
    noise *= np.float32(cohort.noise)
    image += noise[0]
    image *= image
    noise[1] *= noise[1]
    image += noise[1]
    np.sqrt(image, out=image)
    image *= np.float32(cohort.full_scale)
    image += np.float32(cohort.offset)
    return image


def _draw_bias(cohort: Cohort, rng: np.random.Generator) -> Array:
    """Draw a smooth field around 1, the product of one bent line for each axis."""
    field = np.ones((1, 1, 1), np.float32)
    for axis, size in enumerate(cohort.matrix):
        slope, bend = rng.uniform(-1, 1, 2) * cohort.bias / 2
        place = np.linspace(-1, 1, size, dtype=np.float32)
        line = 1 + np.float32(slope) * place + np.float32(bend) * (place * place - np.float32(1 / 3))
        field = field * line.reshape([-1 if other == axis else 1 for other in range(3)])
    return field
