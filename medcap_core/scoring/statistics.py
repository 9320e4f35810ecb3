"""How sure a score is: bootstrap intervals, paired tests, correction for many tests, spread over seeds.

Images of one case are alike, so cases are what is drawn; where the data set knows no cases, images are.
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
    """For each image the number of what is drawn with it: its case, or itself where it has none."""
    numbers: dict[object, int] = {}
    keys = [position if case is None else case for position, case in enumerate(cases)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def resample_sums(
    values: FloatArray, units: IntArray, *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> tuple[FloatArray, FloatArray]:
    """Sums of `values` (N, K) over bootstrap resamples (B, K), and the number of images in each (B,).

    Each resample draws as many units as there are, with replacement, and takes all images of a unit as often as it was
    drawn. The draws depend on `seed` and the units alone, so rows of the same images can be compared by resample.
    """
    totals = _sum_by_unit(np.column_stack([values, np.ones(len(values))]), units)
    sums = np.empty((num_resamples, totals.shape[1]))
    generator = np.random.default_rng(seed)
    for start, stop in _chunks(num_resamples, len(totals)):
        sums[start:stop] = _draw_counts(generator, stop - start, len(totals)) @ totals
    return sums[:, :-1], sums[:, -1]


def compute_interval(resampled: FloatArray) -> tuple[float, float]:
    """Compute the middle 95% of a resampled figure (B,): low and high, to six decimals (percentile bootstrap)."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return round(float(low), 6), round(float(high), 6)


@dataclass(frozen=True)
class PairedComparison:
    """One row against the baseline on the same images; `difference` is row less baseline."""

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

    Sign-flip permutation test, two-sided: if row and baseline were alike, each unit's difference could as well have the
    other sign. With B random assignments of signs, p = (1 + #{|flipped sum| >= |observed sum|}) / (1 + B). The interval
    is the bootstrap's of `resample_sums`. All rows see the same flips and the same resamples. This speaks of the images
    drawn anew, not of a model trained anew.
    """
    if not differences:
        return {}
    values = np.column_stack(list(differences.values()))
    sums, num_images = resample_sums(values, units, seed=seed, num_resamples=num_resamples)
    p_values = _flip_signs(_sum_by_unit(values, units), seed=seed, num_flips=num_flips)
    return {
        name: PairedComparison(
            difference=float(values[:, place].mean()),
            interval=compute_interval(sums[:, place] / num_images),
            p_value=float(p_values[place]),
        )
        for place, name in enumerate(differences)
    }


def correct_by_holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: the chance of one false alarm among all these tests stays below each value.

    The smallest of m is multiplied by m, the next by m - 1, ...; none falls below an earlier one or rises above 1.
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def summarise_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1) over seeds; None for a single one, whose spread is unknown."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _sum_by_unit(values: FloatArray, units: IntArray) -> FloatArray:
    """(U, K): the sums of (N, K) over the images of each unit."""
    sums = np.zeros((int(units.max()) + 1, values.shape[1]))
    np.add.at(sums, units, values)
    return sums


def _chunks(total: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges that cover `total` rows of `width` cells, none of more than `_CHUNK_CELLS` cells."""
    step = max(1, _CHUNK_CELLS // width)
    for start in range(0, total, step):
        yield start, min(start + step, total)


def _draw_counts(generator: np.random.Generator, num_rows: int, num_units: int) -> FloatArray:
    """How often each unit comes in each resample (rows, U)."""
    drawn = generator.integers(num_units, size=(num_rows, num_units))
    drawn += num_units * np.arange(num_rows)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=num_rows * num_units)
    return counts.reshape(num_rows, num_units).astype(np.float64)


def _flip_signs(totals: FloatArray, *, seed: int, num_flips: int) -> FloatArray:
    """p-values (R,) of unit sums (U, R)."""
    observed = np.abs(totals.sum(axis=0))
    scale = np.abs(totals).sum(axis=0)
    generator = np.random.default_rng(seed)
    num_extreme = np.zeros(totals.shape[1], dtype=np.int64)
    for start, stop in _chunks(num_flips, len(totals)):
        signs = generator.integers(2, size=(stop - start, len(totals)), dtype=np.int8) * 2.0 - 1.0
        num_extreme += (np.abs(signs @ totals) >= observed - _SAME * scale).sum(axis=0)
    return np.asarray((1 + num_extreme) / (1 + num_flips))
