"""The views and findings of each domain; planning one image from its key, and drawing the plan."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from medcap_core.data.phantoms.anatomy import VIEWS
from medcap_core.data.phantoms.artefacts import finish
from medcap_core.data.phantoms.drawing import NUM_JITTER, SIGNS, Array, Frame, Side, build_frame
from medcap_core.data.phantoms.findings import FINDINGS, RADII, Location, Spot
from medcap_core.data.records import SPLITS, SplitName

Domain = Literal["general", "target"]
NORMAL_SHARE = 0.18

# Of every GROUP_IMAGES consecutive images, the last two show one patient.
GROUP_IMAGES = 9
_DOMAIN_CODES: dict[Domain, int] = {"general": 1, "target": 2}


@dataclass(frozen=True)
class Scene:
    """One view of a domain, its share of the images and its possible findings.

    `findings` maps a finding's name to its weight and its levels (None: all levels of the view).
    """

    view: str
    weight: float
    findings: Mapping[str, tuple[float, tuple[str, ...] | None]]


SCENES: dict[Domain, tuple[Scene, ...]] = {
    "general": (
        Scene("chest_pa", 3, {"nodule": (1, None), "consolidation": (1, None), "effusion": (0.7, ("lower",))}),
        Scene("ct_chest", 2, {"lung_nodule": (1, None), "lung_consolidation": (1, None)}),
        Scene("ct_abdomen_plain", 2, {"renal_cyst": (1, None), "renal_stone": (1, None)}),
        Scene("mri_t1", 2, {"hypointense_lesion": (1, None), "hyperintense_bleed": (1, None)}),
        Scene("us_liver", 2, {"hepatic_cyst": (1, None), "haemangioma": (1, None)}),
    ),
    "target": (
        Scene("chest_ap", 3, {"nodule": (1, None), "pneumothorax": (1, ("upper", "lower")), "cavity": (1, None)}),
        Scene("ct_chest", 2, {"ground_glass": (1, None), "lung_cavity": (1, None)}),
        Scene("ct_abdomen_contrast", 2, {"renal_mass": (1, None), "hydronephrosis": (0.7, None)}),
        Scene("ct_head", 2.5, {"epidural": (1, None), "subdural": (1, None), "parenchymal_bleed": (1, None)}),
        Scene("mri_flair", 2.5, {"plaque": (1, None), "infarct": (1, None), "abscess": (1, None)}),
        Scene("us_thyroid", 2, dict.fromkeys(("calcified_nodule", "spongiform_nodule", "thyroid_cyst"), (1, None))),
    ),
}


@dataclass(frozen=True)
class Plan:
    """The facts a caption may state of one image; finding, side, level and size are None in a normal one."""

    view: str
    finding: str | None
    side: Side | None
    level: str | None
    size: str | None


@dataclass(frozen=True)
class Key:
    """The numbers that determine one image: `index` counts the images of a split."""

    domain: Domain
    seed: int
    split: SplitName
    index: int

    @property
    def shot(self) -> int:
        """The index among the patient's images."""
        return int(self.index % GROUP_IMAGES == GROUP_IMAGES - 1)

    @property
    def case(self) -> int:
        """The patient, counted in the split."""
        group, position = divmod(self.index, GROUP_IMAGES)
        return group * (GROUP_IMAGES - 1) + position - self.shot

    def build_generator(self, purpose: int, of_shot: bool = False) -> np.random.Generator:
        """Build the generator of one purpose, the same for all of a patient's images unless `of_shot`."""
        numbers = [self.seed, _DOMAIN_CODES[self.domain], SPLITS.index(self.split), self.case, purpose]
        return np.random.default_rng([*numbers, self.shot] if of_shot else numbers)


_PLAN, _BUILD, _FINDING, _SHOT, WORDING = range(5)


def _draw_weighted(rng: np.random.Generator, weights: list[float]) -> int:
    edges = np.cumsum(weights)
    return int(np.searchsorted(edges, rng.uniform(0, edges[-1]), side="right"))


@lru_cache(maxsize=256)
def build_plan(key: Key) -> Plan:
    """Choose view, finding, side, level and size of one patient."""
    rng = key.build_generator(_PLAN)
    scenes = SCENES[key.domain]
    scene = scenes[_draw_weighted(rng, [scene.weight for scene in scenes])]
    if rng.uniform() < NORMAL_SHARE:
        return Plan(scene.view, None, None, None, None)
    names = list(scene.findings)
    finding = names[_draw_weighted(rng, [scene.findings[name][0] for name in names])]
    levels = scene.findings[finding][1] or tuple(VIEWS[scene.view].levels)
    side: Side = "right" if rng.uniform() < 0.5 else "left"
    level = levels[int(rng.integers(len(levels)))]
    return Plan(scene.view, finding, side, level, list(RADII)[int(rng.integers(len(RADII)))])


@dataclass(frozen=True)
class Layout:
    """The geometry of one image: frame, patient's build and, unless normal, the finding's location."""

    frame: Frame
    jitter: Array
    location: Location | None
    strength: float


def build_layout(key: Key) -> Layout:
    """Draw the random numbers of the image's geometry; paints nothing."""
    plan, view = build_plan(key), VIEWS[build_plan(key).view]
    build = key.build_generator(_BUILD)
    jitter = build.uniform(-1, 1, NUM_JITTER).astype(np.float32)
    size_jitter, strength = float(build.uniform(0.9, 1.1)), float(build.uniform(0.45, 1.0))
    drift = (float(build.uniform(-1, 1)), float(build.uniform(-1, 1)))
    shot = key.build_generator(_SHOT, of_shot=True)
    tilt, grow, right, down = shot.uniform(-1, 1, 4)
    frame = build_frame(6 * tilt, 0.97 + 0.06 * grow, 0.05 * right, 0.04 * down)
    if plan.finding is None or plan.side is None or plan.level is None or plan.size is None:
        return Layout(frame, jitter, None, strength)
    radius = RADII[plan.size] * size_jitter * FINDINGS[plan.finding].size_factor
    organ = view.sites(jitter)[plan.side]
    surface = view.outline(jitter) if view.outline else organ.grown(1.06)
    location = Location(organ, surface, SIGNS[plan.side], view.levels[plan.level], radius, drift)
    return Layout(frame, jitter, location, strength)


def draw_cover(key: Key, layout: Layout) -> Array | None:
    """Compute the finding's coverage (H, W); None in a normal image."""
    finding = build_plan(key).finding
    if finding is None or layout.location is None:
        return None
    return FINDINGS[finding].shape(layout.frame, layout.location, key.build_generator(_FINDING))


def draw_canvas(key: Key) -> Array:
    """Draw the whole image (H, W), brightness in about [0, 1]."""
    plan, layout = build_plan(key), build_layout(key)
    view = VIEWS[plan.view]
    canvas = view.paint(layout.frame, layout.jitter, key.build_generator(_BUILD + 16))
    cover = draw_cover(key, layout)
    if cover is not None and plan.finding is not None and layout.location is not None:
        rng = key.build_generator(_FINDING + 16)
        FINDINGS[plan.finding].paint(Spot(canvas, layout.frame, cover, layout.location, layout.strength, rng))
    return finish(canvas, view, layout.frame, key.build_generator(_SHOT + 16, of_shot=True))
