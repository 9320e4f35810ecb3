"""Who lies in the scanner: age, sex, diagnosis, and how large the structures of the head are."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from medcap_core.data.scans.records import Diagnosis

Sex = Literal["female", "male"]
Side = Literal["left", "right", "neither"]
Structure = Literal["hippocampus", "cortex", "none"]
Degree = Literal["normal", "mild", "moderate", "severe"]

DEGREES: tuple[Degree, ...] = ("normal", "mild", "moderate", "severe")
SIDES: tuple[Side, ...] = ("left", "right", "neither")
STRUCTURES: tuple[Structure, ...] = ("hippocampus", "cortex", "none")

# A healthy head of 70 years and scale 1. Hippocampi and cortex are drawn about twice life size: at the 3 to 4 mm that a
# small model sees they would vanish otherwise.
VENTRICLE_ML = 9.0  # one side
HIPPOCAMPUS_ML = 7.0  # one side
CORTEX_THICKNESS_MM = 7.0

# What one stage of disease (0, 1, 2) adds to the logarithm of each size, and its noise.
_STAGE_NOISE = 0.34
_VENTRICLE_STAGE, _VENTRICLE_YEAR, _VENTRICLE_NOISE = 0.42, 0.014, 0.10
_HIPPOCAMPUS_STAGE, _HIPPOCAMPUS_YEAR, _HIPPOCAMPUS_NOISE = 0.27, 0.004, 0.04
_CORTEX_STAGE, _CORTEX_YEAR, _CORTEX_NOISE = 0.20, 0.003, 0.03
# Disease takes more of the hippocampus in half of the subjects, and more of the cortex in the other half.
_MORE, _LESS = 1.45, 0.5
_ONE_SIDED_SHARE = 0.3  # for each side, at every diagnosis
_ONE_SIDED_LOSS = 0.55  # of the logarithm
_SIDES_NOISE = 0.02

SIDE_RATIO = 0.85  # below it one hippocampus counts as smaller than the other
LOSS_TO_NAME = 0.15  # relative loss from which a structure counts as shrunk

_AGE_MEANS = {Diagnosis.NOT_DEMENTED: 70.0, Diagnosis.MCI: 73.0, Diagnosis.DEMENTIA: 75.0}
_AGE_DEVIATION, YOUNGEST, OLDEST = 6.0, 55, 90
_STAGES = tuple(Diagnosis)
_HEAD_SCALES: dict[Sex, float] = {"female": 0.97, "male": 1.03}

_WHO, _SIZES = 0, 1


@dataclass(frozen=True)
class SubjectKey:
    """The numbers that decide one subject; `numbers` must tell data sets, splits and cohorts apart."""

    numbers: tuple[int, ...]
    subject: int

    def build_generator(self, *purpose: int) -> np.random.Generator:
        """Build a generator of its own for each purpose."""
        return np.random.default_rng([*self.numbers, self.subject, *purpose])


@dataclass(frozen=True)
class Facts:
    """What can be said of a subject in words."""

    diagnosis: Diagnosis
    age: int
    sex: Sex
    structure: Structure
    """The structure that has shrunk most."""
    side: Side
    """The side of the smaller hippocampus."""
    ventricles: Degree
    hippocampi: Degree
    cortex: Degree


@dataclass(frozen=True)
class Subject:
    """All that is true of one subject.

    Ratios are to a healthy head of the same scale at 70 years: volumes of ventricles and hippocampi, thickness of the
    cortex. `brow` and `neck` are what tells the sexes apart besides the size of the head, about 0 to 1.
    """

    diagnosis: Diagnosis
    age: int
    sex: Sex
    head_scale: float
    ventricle_ratio: float
    left_hippocampus_ratio: float
    right_hippocampus_ratio: float
    cortex_ratio: float
    brow: float
    neck: float

    @property
    def facts(self) -> Facts:
        """All this in words; the degrees say how far ventricles are enlarged, hippocampi and cortex shrunk."""
        left, right = self.left_hippocampus_ratio, self.right_hippocampus_ratio
        hippocampi = (left + right) / 2
        losses: dict[Structure, float] = {"hippocampus": 1 - hippocampi, "cortex": 1 - self.cortex_ratio}
        shrunk = max(losses, key=lambda name: losses[name])
        side: Side = "left" if left / right < SIDE_RATIO else "right" if left / right > 1 / SIDE_RATIO else "neither"
        ventricles = _grade(self.ventricle_ratio, (1.35, 1.9, 2.6))
        shrinkage = _grade(1 / hippocampi, (1 / 0.85, 1 / 0.7, 1 / 0.55))
        cortex = _grade(1 / self.cortex_ratio, (1 / 0.85, 1 / 0.75, 1 / 0.65))
        structure: Structure = shrunk if losses[shrunk] >= LOSS_TO_NAME else "none"
        return Facts(self.diagnosis, self.age, self.sex, structure, side, ventricles, shrinkage, cortex)


def _grade(value: float, limits: tuple[float, float, float]) -> Degree:
    return DEGREES[sum(value >= limit for limit in limits)]


@lru_cache(maxsize=1024)
def build_subject(key: SubjectKey) -> Subject:
    """Draw one subject."""
    # Each three subjects in a row have the three diagnoses, in an order of their own.
    block, place = divmod(key.subject, len(_STAGES))
    order = np.random.default_rng([*key.numbers, block, 2**20]).permutation(len(_STAGES))
    diagnosis = _STAGES[int(order[place])]
    who = key.build_generator(_WHO)
    sex: Sex = "female" if who.uniform() < 0.5 else "male"
    age = int(np.clip(round(who.normal(_AGE_MEANS[diagnosis], _AGE_DEVIATION)), YOUNGEST, OLDEST))
    masculine = float(sex == "male")
    sizes = key.build_generator(_SIZES)
    noise = sizes.standard_normal(9)
    burden = _STAGES.index(diagnosis) + _STAGE_NOISE * noise[0]
    years = age - 70
    of_hippocampus, of_cortex = (_MORE, _LESS) if sizes.uniform() < 0.5 else (_LESS, _MORE)
    hippocampus = (
        -_HIPPOCAMPUS_STAGE * of_hippocampus * burden - _HIPPOCAMPUS_YEAR * years + _HIPPOCAMPUS_NOISE * noise[2]
    )
    where = sizes.uniform()
    left_loss = _ONE_SIDED_LOSS * (where < _ONE_SIDED_SHARE) + _SIDES_NOISE * noise[4]
    right_loss = _ONE_SIDED_LOSS * (where >= 1 - _ONE_SIDED_SHARE) + _SIDES_NOISE * noise[5]
    return Subject(
        diagnosis=diagnosis,
        age=age,
        sex=sex,
        head_scale=_HEAD_SCALES[sex] + 0.02 * float(noise[6]),
        ventricle_ratio=math.exp(_VENTRICLE_STAGE * burden + _VENTRICLE_YEAR * years + _VENTRICLE_NOISE * noise[1]),
        left_hippocampus_ratio=math.exp(hippocampus - left_loss),
        right_hippocampus_ratio=math.exp(hippocampus - right_loss),
        cortex_ratio=math.exp(-_CORTEX_STAGE * of_cortex * burden - _CORTEX_YEAR * years + _CORTEX_NOISE * noise[3]),
        brow=masculine + 0.15 * float(noise[7]),
        neck=masculine + 0.25 * float(noise[8]),
    )
