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


COHORTS: dict[CohortName, Cohort] = {
    "phantom-alder": Cohort(
        voxel_mm=(3.0, 3.0, 3.0),
        matrix=(60, 72, 68),
        contrast=Contrast(muscle=0.45, white_matter=0.82, grey_matter=0.55, fluid=0.15, bone=0.06),
        full_scale=1000.0,
        offset=0.0,
        bias=0.10,
        noise=0.03,
    ),
    "phantom-birch": Cohort(
        voxel_mm=(2.8, 2.8, 3.5),
        matrix=(68, 80, 60),
        contrast=Contrast(muscle=0.42, white_matter=0.90, grey_matter=0.64, fluid=0.22, bone=0.04),
        full_scale=255.0,
        offset=12.0,
        bias=0.18,
        noise=0.04,
    ),
    "phantom-cedar": Cohort(
        voxel_mm=(3.5, 3.1, 3.1),
        matrix=(56, 74, 68),
        contrast=Contrast(muscle=0.46, white_matter=0.72, grey_matter=0.47, fluid=0.11, bone=0.08),
        full_scale=3200.0,
        offset=0.0,
        bias=0.14,
        noise=0.05,
    ),
    "phantom-dogwood": Cohort(
        voxel_mm=(3.2, 3.2, 3.2),
        matrix=(60, 70, 66),
        contrast=Contrast(muscle=0.39, white_matter=0.86, grey_matter=0.50, fluid=0.18, bone=0.04),
        full_scale=640.0,
        offset=30.0,
        bias=0.22,
        noise=0.05,
    ),
    "phantom-elm": Cohort(
        voxel_mm=(2.9, 3.5, 2.9),
        matrix=(64, 62, 70),
        contrast=Contrast(muscle=0.52, white_matter=0.78, grey_matter=0.59, fluid=0.10, bone=0.09),
        full_scale=4095.0,
        offset=0.0,
        bias=0.12,
        noise=0.06,
    ),
}

TRAINING_COHORTS: tuple[CohortName, ...] = ("phantom-alder", "phantom-birch", "phantom-cedar")
UNSEEN_COHORTS: tuple[CohortName, ...] = ("phantom-dogwood", "phantom-elm")
