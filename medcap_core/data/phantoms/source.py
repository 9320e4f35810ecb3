"""The synthetic data set: records of images that are drawn when opened."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medcap_core.data.phantoms.anatomy import VIEWS
from medcap_core.data.phantoms.drawing import IMAGE_SIZE
from medcap_core.data.phantoms.findings import FINDINGS, RADII
from medcap_core.data.phantoms.scenes import WORDING, Domain, Key, build_layout, build_plan, draw_canvas, draw_cover
from medcap_core.data.phantoms.wording import write_caption
from medcap_core.data.records import SPLITS, Dataset, Record, SplitName

DRAWING_VERSION = 1  # raise it whenever any pixel changes, so that stored images are redrawn

DEFAULT_SIZES: Mapping[Domain, Mapping[SplitName, int]] = {
    "general": {"train": 20_000, "validation": 200, "test": 200},
    "target": {"train": 1_200, "validation": 200, "test": 300},
}
_ONE_AT_A_TIME = threading.Lock()
"""Drawing is many short NumPy calls: two threads at once take longer than one after the other."""


class PhantomImage(Key):
    """One synthetic image of 128 x 128 pixels, determined by a few numbers.

    Sides follow the radiological convention: the patient's right is on the image's left.
    """

    def open(self) -> Image.Image:
        """Draw the image, 8-bit grayscale (mode L)."""
        with _ONE_AT_A_TIME:
            canvas = draw_canvas(self)
        return Image.fromarray((np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8))

    def fingerprint(self) -> str:
        """Join the numbers that determine the image and the drawing version."""
        return f"phantom-{DRAWING_VERSION}:{self.domain}:{self.seed}:{self.split}:{self.index}"

    def mask(self) -> NDArray[np.bool_]:
        """Compute the finding's pixels, bool (H, W); all False in a normal image."""
        cover = draw_cover(self, build_layout(self))
        return np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=bool) if cover is None else cover > 0.5


class PhantomTruth(Mapping[str, Any]):
    """The labels of one image. The box is computed on first access, since the finding must be drawn for it."""

    def __init__(self, facts: Mapping[str, Any], image: PhantomImage) -> None:
        self._facts = dict(facts)
        self._image = image

    @cached_property
    def _box(self) -> tuple[float, float, float, float] | None:
        return compute_box(self._image.mask())

    def __getitem__(self, fact: str) -> Any:
        return self._box if fact == "box" else self._facts[fact]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._facts, "box"))

    def __len__(self) -> int:
        return len(self._facts) + 1


def compute_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """Compute the bounding box of a mask, (x0, y0, x1, y1) as shares of width and height; None for an empty mask."""
    if not mask.any():
        return None
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    height, width = mask.shape
    box = columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height
    x0, y0, x1, y1 = map(float, box)
    return x0, y0, x1, y1


def _build_record(domain: Domain, seed: int, split: SplitName, index: int) -> Record:
    image = PhantomImage(domain, seed, split, index)
    plan = build_plan(image)
    view = VIEWS[plan.view]
    size_mm = None
    if plan.finding is not None and plan.size is not None:
        size_mm = round(RADII[plan.size] * FINDINGS[plan.finding].size_factor * view.field_mm, 1)
    facts = {"modality": view.modality, **asdict(plan), "size_mm": size_mm, "normal": plan.finding is None}
    name = f"phantom-{domain}-{seed}-{split}"
    caption = write_caption(domain, plan, image.build_generator(WORDING, of_shot=True))
    case = f"{name}-case-{image.case:05d}"
    return Record(f"{name}-{index:05d}", image, caption, case, PhantomTruth(facts, image))


def load_phantoms(domain: Domain = "target", sizes: Mapping[SplitName, int] | None = None, *, seed: int = 0) -> Dataset:
    """Plan a synthetic data set with so many images of each split, by default `DEFAULT_SIZES`; drawn only when opened.

    The embedded base model was trained on `general`; `target` has findings, views and wordings unseen in training.
    Splits are independent: the size of one does not change another, and no patient is in two. `truth` of each record
    holds modality, view, finding, side, level, size (a word), size_mm (the finding's nominal diameter), box (x0, y0,
    x1, y1 as shares of the image) and normal; the facts of a finding are None in a normal image.
    """
    sizes = DEFAULT_SIZES[domain] if sizes is None else sizes
    return Dataset(
        name="phantoms" if domain == "target" else "phantoms-general",
        kind=f"synthetic images drawn by this project ({domain} domain), no patients",
        splits={
            split: [_build_record(domain, seed, split, index) for index in range(sizes.get(split, 0))]
            for split in SPLITS
        },
        notes=[f"All images are synthetic: {IMAGE_SIZE} x {IMAGE_SIZE} drawings from seed {seed}."],
    )
