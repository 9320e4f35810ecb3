"""The synthetic 3D data set: records of scans that are drawn when opened."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.brain_phantoms.anatomy import Head, MaskName
from medcap_core.data.brain_phantoms.cohorts import COHORTS, TRAINING_COHORTS, UNSEEN_COHORTS, CohortName
from medcap_core.data.brain_phantoms.scanner import place_head, scan
from medcap_core.data.brain_phantoms.subjects import SubjectKey, build_subject
from medcap_core.data.brain_phantoms.wording import ask, write_report
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
        """Build the subject's head as it lies in the scanner."""
        return place_head(build_subject(self.subject_key), COHORTS[self.cohort], self.build_generator(_POSE))

    def read(self) -> Volume:
        """Draw the scan, raw values in the cohort's own scale."""
        return Volume(scan(self.build_head(), self.build_generator(_NOISE)), COHORTS[self.cohort].voxel_mm)

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


def _place_test_scan(index: int) -> tuple[CohortName, int]:
    """Cohort and number in it of one test scan."""
    group, position = divmod(index, len(_TEST_PATTERN))
    unseen = _TEST_PATTERN[position]
    if unseen is not None:
        return UNSEEN_COHORTS[unseen], 3 * group + _TEST_PATTERN[:position].count(unseen)
    count = 2 * group + _TEST_PATTERN[:position].count(None)
    return TRAINING_COHORTS[count % len(TRAINING_COHORTS)], count // len(TRAINING_COHORTS)


def place_scan(split: SplitName, index: int) -> tuple[CohortName, int]:
    """Cohort and number in it of a split's scan `index`; any beginning of a split holds all of its cohorts evenly."""
    if split == "test":
        return _place_test_scan(index)
    return TRAINING_COHORTS[index % len(TRAINING_COHORTS)], index // len(TRAINING_COHORTS)


def _build_record(seed: int, split: SplitName, index: int) -> ScanRecord:
    cohort, number = place_scan(split, index)
    phantom = BrainPhantom(cohort, seed, split, number)
    facts = build_subject(phantom.subject_key).facts
    name = f"brain-phantom-{seed}-{split}"
    truth = {
        "diagnosis": facts.diagnosis.value,
        "age": facts.age,
        "sex": facts.sex,
        "structure": facts.shrunk_structure,
        "side": facts.smaller_side,
        "ventricles": facts.ventricles,
        "hippocampi": facts.hippocampi,
        "cortex": facts.cortex,
        "unseen_cohort": cohort in UNSEEN_COHORTS,
    }
    return ScanRecord(
        id=f"{name}-{index:04d}",
        image=phantom,
        caption=write_report(cohort, facts, phantom.build_generator(_WORDING)),
        case=f"{name}-{cohort}-subject-{phantom.subject_key.subject:04d}",
        truth=truth,
        cohort=cohort,
        diagnosis=facts.diagnosis,
        questions=ask(facts),
    )


def load_brain_phantoms(
    *,
    num_train: int | None = None,
    num_validation: int | None = None,
    num_test: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Plan the synthetic scans; they are drawn only when opened.

    Sizes are numbers of scans, None for the defaults. Training and validation are of three cohorts; three quarters of
    the test split are of two others, the rest of further subjects of the three. Splits are drawn apart: changing one's
    size changes no other, and no subject is in two of them.
    """
    asked: dict[SplitName, int | None] = {"train": num_train, "validation": num_validation, "test": num_test}
    sizes = {split: DEFAULT_SIZES[split] if asked[split] is None else asked[split] for split in SPLITS}
    return Dataset(
        name="brain_phantoms",
        kind="synthetic 3D heads drawn by this project, no patients",
        splits={split: [_build_record(seed, split, index) for index in range(sizes[split] or 0)] for split in SPLITS},
        notes=[
            f"All scans are synthetic, drawn from seed {seed}; hippocampi and cortex about twice life size.",
            f"Cohorts {', '.join(UNSEEN_COHORTS)} are in the test split only.",
        ],
    )
