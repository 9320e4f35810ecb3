"""Uncertainty of scores: bootstrap intervals, paired tests, correction for multiple tests, spread over seeds.

Images of one case are correlated, so cases are resampled, or images where the data set has no cases.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NUM_RESAMPLES = 1000
NUM_SIGN_FLIPS = 10_000
CONFIDENCE = 0.95
_CHUNK_CELLS = 4_000_000  # draws held at once: 32 MB
_SAME = 1e-9  # relative difference below which a flipped sum counts as equal to the observed one


def number_units(cases: Sequence[str | None]) -> IntArray:
    """Assign a number to the resampling unit of each image: its case, or the image itself where it has none."""
    numbers: dict[object, int] = {}
    keys = [position if case is None else case for position, case in enumerate(cases)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def resample_sums(
    values: FloatArray, units: IntArray, *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> tuple[FloatArray, FloatArray]:
    """Sum `values` (N, K) over bootstrap resamples, (B, K), and count the images of each, (B,).

    Each resample draws as many units as there are, with replacement, and takes all images of a unit as often as it was
    drawn. The draws depend on `seed` and the units alone, so rows of the same images can be compared by resample.
    """
    totals = _sum_by_unit(np.column_stack([values, np.ones(len(values))]), units)
    sums = np.empty((num_resamples, totals.shape[1]))
    generator = np.random.default_rng(seed)
    for start, stop in _chunks(num_resamples, len(totals)):
        num_rows, num_units = stop - start, len(totals)
        drawn = generator.integers(num_units, size=(num_rows, num_units))
        drawn += num_units * np.arange(num_rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=num_rows * num_units).reshape(num_rows, num_units)
        sums[start:stop] = counts.astype(np.float64) @ totals
    return sums[:, :-1], sums[:, -1]


def compute_interval(resampled: FloatArray) -> tuple[float, float]:
    """Compute the central 95% of a resampled score (B,): low and high, to six decimals (percentile bootstrap)."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return round(float(low), 6), round(float(high), 6)


@dataclass(frozen=True)
class PairedComparison:
    """Comparison of one row with the baseline on the same images; `difference` is row less baseline."""

    difference: float
    interval: tuple[float, float]
    p_value: float


def compare_paired(
    differences: Mapping[str, FloatArray],
    units: IntArray,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    num_flips: int = NUM_SIGN_FLIPS,
) -> dict[str, PairedComparison]:
    """Test whether the mean over images of each row's differences (N,) could be 0.

    Two-sided sign-flip permutation test: under the null hypothesis each unit's difference has either sign with equal
    probability. With B random sign assignments, p = (1 + #{|flipped sum| >= |observed sum|}) / (1 + B). The interval is
    a bootstrap interval by `resample_sums`. All rows share flips and resamples. The test covers the sampling of images,
    not the training of models.
    """
    if not differences:
        return {}
    values = np.column_stack(list(differences.values()))
    sums, num_images = resample_sums(values, units, seed=seed, num_resamples=num_resamples)
    p_values = _flip_signs(_sum_by_unit(values, units), seed=seed, num_flips=num_flips)
    return {
        name: PairedComparison(
            difference=float(values[:, column].mean()),
            interval=compute_interval(sums[:, column] / num_images),
            p_value=float(p_values[column]),
        )
        for column, name in enumerate(differences)
    }


def correct_by_holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Correct p-values by Holm's step-down method, which bounds the family-wise error rate.

    The smallest of m is multiplied by m, the next by m - 1, ...; the results are non-decreasing and at most 1.
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def summarise_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Compute mean and sample standard deviation (n - 1) over seeds; None for the latter of a single seed."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _sum_by_unit(values: FloatArray, units: IntArray) -> FloatArray:
    """Sum (N, K) over the images of each unit: (U, K)."""
    sums = np.zeros((int(units.max()) + 1, values.shape[1]))
    np.add.at(sums, units, values)
    return sums


def _chunks(total: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield ranges that cover `total` rows of `width` cells, each of at most `_CHUNK_CELLS` cells."""
    step = max(1, _CHUNK_CELLS // width)
    for start in range(0, total, step):
        yield start, min(start + step, total)


def _flip_signs(totals: FloatArray, *, seed: int, num_flips: int) -> FloatArray:
    """Compute the p-values (R,) of unit sums (U, R)."""
    observed = np.abs(totals.sum(axis=0))
    scale = np.abs(totals).sum(axis=0)
    generator = np.random.default_rng(seed)
    num_extreme = np.zeros(totals.shape[1], dtype=np.int64)
    for start, stop in _chunks(num_flips, len(totals)):
        signs = generator.integers(2, size=(stop - start, len(totals)), dtype=np.int8) * 2.0 - 1.0
        num_extreme += (np.abs(signs @ totals) >= observed - _SAME * scale).sum(axis=0)
    return np.asarray((1 + num_extreme) / (1 + num_flips))
