"""The five cohorts: how each scans, and which of them are for training."""

from dataclasses import dataclass
from typing import Literal

CohortName = Literal["phantom-alder", "phantom-birch", "phantom-cedar", "phantom-dogwood", "phantom-elm"]


@dataclass(frozen=True)
class Contrast:
    """Brightness of the tissues as shares of the brightest, fat."""

    muscle: float
    white_matter: float
    grey_matter: float
    fluid: float
    bone: float
    fat: float = 1.0


@dataclass(frozen=True)
class Cohort:
    """One scanner and protocol.

    `voxel_mm` and `matrix` are along x (left to right), y (back to front) and z (bottom to top). `full_scale` is the
    value of the brightest tissue as stored, `offset` that of air; `bias` the largest relative change of brightness
    across the head; `noise` the standard deviation as a share of `full_scale`.
    """

    voxel_mm: tuple[float, float, float]
    matrix: tuple[int, int, int]
    contrast: Contrast
    full_scale: float
    offset: float
    bias: float
    noise: float


# Voxels, matrix, contrast (muscle, white matter, grey matter, fluid, bone), full scale, offset, bias and noise.
COHORTS: dict[CohortName, Cohort] = {
    "phantom-alder": Cohort((3.0, 3.0, 3.0), (60, 72, 68), Contrast(0.45, 0.82, 0.55, 0.15, 0.06), 1000, 0, 0.1, 0.03),
    "phantom-birch": Cohort((2.8, 2.8, 3.5), (68, 80, 60), Contrast(0.42, 0.9, 0.64, 0.22, 0.04), 255, 12, 0.18, 0.04),
    "phantom-cedar": Cohort((3.5, 3.1, 3.1), (56, 74, 68), Contrast(0.46, 0.72, 0.47, 0.11, 0.08), 3200, 0, 0.14, 0.05),
    "phantom-dogwood": Cohort(
        (3.2, 3.2, 3.2), (60, 70, 66), Contrast(0.39, 0.86, 0.5, 0.18, 0.04), 640, 30, 0.22, 0.05
    ),
    "phantom-elm": Cohort((2.9, 3.5, 2.9), (64, 62, 70), Contrast(0.52, 0.78, 0.59, 0.1, 0.09), 4095, 0, 0.12, 0.06),
}

TRAINING_COHORTS: tuple[CohortName, ...] = ("phantom-alder", "phantom-birch", "phantom-cedar")
UNSEEN_COHORTS: tuple[CohortName, ...] = ("phantom-dogwood", "phantom-elm")
