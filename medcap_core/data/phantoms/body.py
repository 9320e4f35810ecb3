"""What every view's anatomy is built from: sides, one patient's build, and a pair of organs.

Sides follow the radiological convention: the patient's right is on the image's left (u < 0). `jitter` is an array of
`NUM_JITTER` numbers in [-1, 1], one patient's build; the same jitter always gives the same organs.
"""

from typing import Literal

import numpy as np

from medcap_core.data.phantoms.drawing import Array, Ellipse, Frame

Side = Literal["right", "left"]
SIGNS: dict[Side, int] = {"right": -1, "left": 1}
NUM_JITTER = 16

Sites = dict[Side, Ellipse]


def build_pair(u: float, v: float, ru: float, rv: float, angle: float, asymmetry: float) -> Sites:
    """One organ on each side, the left one larger where `asymmetry` is positive."""
    return {
        "right": Ellipse(-u, v, ru * (1 - asymmetry), rv * (1 - asymmetry / 2), angle),
        "left": Ellipse(u, v, ru * (1 + asymmetry), rv * (1 + asymmetry / 2), -angle),
    }


def build_canvas(frame: Frame, value: float) -> Array:
    """An even canvas, (H, W)."""
    return np.full(frame.u.shape, value, dtype=np.float32)
