"""The synthetic 3D data set: records of scans that are drawn when opened."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.brain_phantoms.anatomy import Head, MaskName
from medcap_core.data.brain_phantoms.cohorts import COHORTS, TRAINING_COHORTS, UNSEEN_COHORTS, Cohort, CohortName
from medcap_core.data.brain_phantoms.subjects import SubjectKey, build_subject
from medcap_core.data.brain_phantoms.wording import ask, write_report
from medcap_core.data.phantoms.drawing import Array
from medcap_core.data.records import SPLITS, Dataset, SplitName, Volume, VolumeReference
from medcap_core.data.scans.records import ScanRecord
from medcap_core.data.scans.volumes import to_cube

DRAWING_VERSION = 1  # raise it whenever any voxel changes, so that caches of drawn scans are made anew

DEFAULT_SIZES: Mapping[SplitName, int] = {"train": 480, "validation": 90, "test": 240}
MASK_NAMES: tuple[MaskName, ...] = ("ventricles", "left_hippocampus", "right_hippocampus", "cortex")

# Of every GROUP_SCANS scans of a cohort in a row, the last two show one subject.
GROUP_SCANS = 5
# In every eight test scans six are of the unseen cohorts; the other two go round the training cohorts.
_TEST_PATTERN = (0, 1, None, 0, 1, None, 0, 1)
_POSE, _NOISE, _WORDING = 101, 102, 103
_MAX_ROTATION_DEGREES, _MAX_SHIFT_MM = 4.0, 4.0


@dataclass(frozen=True)
class BrainPhantom(VolumeReference):
    """One synthetic scan: a few numbers that always draw the same voxels.

    `number` counts the scans of one cohort in one split.
    """

    cohort: CohortName
    seed: int
    split: SplitName
    number: int

    @property
    def subject_key(self) -> SubjectKey:
        """The subject that this scan shows."""
        group, position = divmod(self.number, GROUP_SCANS)
        numbers = (self.seed, 3, SPLITS.index(self.split), list(COHORTS).index(self.cohort))
        return SubjectKey(numbers, group * (GROUP_SCANS - 1) + position - self.visit)

    @property
    def visit(self) -> int:
        """0 for a subject's first scan, 1 for its second."""
        return int(self.number % GROUP_SCANS == GROUP_SCANS - 1)

    def build_generator(self, purpose: int) -> np.random.Generator:
        """Build a generator of its own for each purpose and scan."""
        return self.subject_key.build_generator(purpose, self.visit)

    def build_head(self) -> Head:
        """Build the subject's head as it lies in the scanner, never quite straight."""
        rng = self.build_generator(_POSE)
        a, b, c = _MAX_ROTATION_DEGREES * rng.uniform(-1, 1, 3)
        x, y, z = _MAX_SHIFT_MM * rng.uniform(-1, 1, 3)
        return Head(build_subject(self.subject_key), COHORTS[self.cohort], (a, b, c), (x, y, z))

    def read(self) -> Volume:
        """Draw the scan, raw values in the cohort's own scale."""
        cohort, rng = COHORTS[self.cohort], self.build_generator(_NOISE)
        image = self.build_head().paint(cohort.contrast)
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
        return Volume(image, cohort.voxel_mm)

    def fingerprint(self) -> str:
        """Name the numbers the scan is drawn from and the version of the drawing."""
        return f"brain-phantom-{DRAWING_VERSION}:{self.cohort}:{self.seed}:{self.split}:{self.number}"

    def mask(self, structure: MaskName) -> Volume:
        """Draw one structure (of MASK_NAMES) on the scan's own grid: 1 inside, 0 elsewhere."""
        inside = self.build_head().mask(structure)
        return Volume(inside.astype(np.float32), COHORTS[self.cohort].voxel_mm)

    def cube_mask(self, structure: MaskName, size: int) -> NDArray[np.bool_]:
        """Draw the same in the cube that a model sees, bool (size, size, size)."""
        filled: NDArray[np.bool_] = to_cube(self.mask(structure), size)[0] > 127
        return filled


def _draw_bias(cohort: Cohort, rng: np.random.Generator) -> Array:
    """Draw a smooth field around 1, the product of one bent line for each axis."""
    lines = []
    for size in cohort.matrix:
        slope, bend = rng.uniform(-1, 1, 2) * cohort.bias / 2
        place = np.linspace(-1, 1, size, dtype=np.float32)
        lines.append(1 + np.float32(slope) * place + np.float32(bend) * (place * place - np.float32(1 / 3)))
    x, y, z = np.meshgrid(*lines, indexing="ij", sparse=True)
    field: Array = x * y * z
    return field


def place_scan(split: SplitName, index: int) -> tuple[CohortName, int]:
    """Cohort and number in it of a split's scan `index`; any beginning of a split holds all of its cohorts evenly."""
    if split == "test":
        group, position = divmod(index, len(_TEST_PATTERN))
        unseen = _TEST_PATTERN[position]
        if unseen is not None:
            return UNSEEN_COHORTS[unseen], 3 * group + _TEST_PATTERN[:position].count(unseen)
        index = 2 * group + _TEST_PATTERN[:position].count(None)
    return TRAINING_COHORTS[index % len(TRAINING_COHORTS)], index // len(TRAINING_COHORTS)


def _build_record(seed: int, split: SplitName, index: int) -> ScanRecord:
    cohort, number = place_scan(split, index)
    phantom = BrainPhantom(cohort, seed, split, number)
    facts = build_subject(phantom.subject_key).facts
    name = f"brain-phantom-{seed}-{split}"
    case = f"{name}-{cohort}-subject-{phantom.subject_key.subject:04d}"
    truth = {**asdict(facts), "diagnosis": facts.diagnosis.value, "unseen_cohort": cohort in UNSEEN_COHORTS}
    caption = write_report(cohort, facts, phantom.build_generator(_WORDING))
    return ScanRecord(
        f"{name}-{index:04d}", phantom, caption, case, truth,
        cohort=cohort, diagnosis=facts.diagnosis, questions=ask(facts),
    )  # fmt: skip


def load_brain_phantoms(sizes: Mapping[SplitName, int] = DEFAULT_SIZES, *, seed: int = 0) -> Dataset:
    """Plan the synthetic scans of each split by its size; they are drawn only when opened.

    Training and validation are of three cohorts; three quarters of the test split are of two others, the rest of
    further subjects of the three. Splits are drawn apart: changing one's size changes no other, and no subject is in
    two of them.
    """
    return Dataset(
        name="brain_phantoms",
        kind="synthetic 3D heads drawn by this project, no patients",
        splits={split: [_build_record(seed, split, index) for index in range(sizes.get(split, 0))] for split in SPLITS},
        notes=[
            f"All scans are synthetic, drawn from seed {seed}; hippocampi and cortex about twice life size.",
            f"Cohorts {', '.join(UNSEEN_COHORTS)} are in the test split only.",
        ],
    )
