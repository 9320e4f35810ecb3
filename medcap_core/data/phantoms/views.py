"""The table of views: organs, painter and levels of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from medcap_core.data.phantoms.drawing import Array, Ellipse, Frame, Side, Sites
from medcap_core.data.phantoms.head import TONES, build_brain_outline, find_hemisphere_sites, paint_head
from medcap_core.data.phantoms.torso import (
    find_chest_sites,
    find_ct_chest_sites,
    find_kidney_sites,
    paint_chest,
    paint_ct_abdomen,
    paint_ct_chest,
)
from medcap_core.data.phantoms.ultrasound import (
    find_liver_sites,
    find_thyroid_sites,
    paint_liver_ultrasound,
    paint_thyroid_ultrasound,
)

Painter = Callable[[Frame, Array, np.random.Generator], Array]


@dataclass(frozen=True)
class View:
    """One modality and projection.

    `sites` returns the organ that holds the findings, by side. `levels` maps a level's name to its middle as a share of
    the organ's half height (-1 top of the image, 1 bottom). `field_mm` is the width of the image.
    """

    name: str
    modality: str
    field_mm: float
    levels: Mapping[str, float]
    sites: Callable[[Array], Sites]
    paint: Painter
    outline: Callable[[Array], Ellipse] | None = None

    def build_surface(self, jitter: Array, side: Side) -> Ellipse:
        """Build the outline along which collections lie: of the whole body part, else of that side's organ."""
        return self.outline(jitter) if self.outline else self.sites(jitter)[side].grown(1.06)


_AXIAL = {"anterior": -0.55, "posterior": 0.55}
_ZONES = {"upper": -0.62, "middle": 0.0, "lower": 0.62}
_LOBES = {"frontal": -0.62, "parietal": 0.0, "occipital": 0.62}
_DEPTHS = {"superficial": -0.52, "deep": 0.52}


def _build_head_view(name: str, modality: str, tones: str) -> View:
    paint = partial(paint_head, tones=TONES[tones])
    return View(name, modality, 230, _LOBES, find_hemisphere_sites, paint, build_brain_outline)


VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View("chest_pa", "radiograph", 400, _ZONES, find_chest_sites, partial(paint_chest, supine=False)),
        View("chest_ap", "radiograph", 420, _ZONES, find_chest_sites, partial(paint_chest, supine=True)),
        View("ct_chest", "CT", 380, _AXIAL, find_ct_chest_sites, paint_ct_chest),
        View("ct_abdomen_plain", "CT", 380, _AXIAL, find_kidney_sites, partial(paint_ct_abdomen, contrast=False)),
        View("ct_abdomen_contrast", "CT", 380, _AXIAL, find_kidney_sites, partial(paint_ct_abdomen, contrast=True)),
        _build_head_view("ct_head", "CT", "ct"),
        _build_head_view("mri_t1", "MRI", "t1"),
        _build_head_view("mri_flair", "MRI", "flair"),
        View("us_liver", "ultrasound", 160, _DEPTHS, find_liver_sites, paint_liver_ultrasound),
        View("us_thyroid", "ultrasound", 70, _DEPTHS, find_thyroid_sites, paint_thyroid_ultrasound),
    )
}
