"""Intervals, tests and corrections, by hand where numbers are small and by simulation where they are many."""

import itertools
import time

import numpy as np
import pytest

from medcap_core.scoring.statistics import (
    compare_paired,
    compute_interval,
    correct_by_holm,
    number_units,
    resample_sums,
    summarise_seeds,
)


def test_images_without_a_case_stand_alone() -> None:
    assert number_units(["a", None, "b", "a", None, "b"]).tolist() == [0, 1, 2, 0, 3, 2]
    assert number_units(["0", None, "1"]).tolist() == [0, 1, 2]  # a case named like a position is no image


def test_resamples_take_whole_cases() -> None:
    """Cases of 1, 2 and 3 images with sums 1, 10 and 100: each resample holds three cases, with replacement."""
    units = np.array([0, 1, 1, 2, 2, 2])
    values = np.array([[1.0], [4.0], [6.0], [50.0], [30.0], [20.0]])
    sums, num_images = resample_sums(values, units, seed=3, num_resamples=2000)
    possible = {
        (float(sum((1, 10, 100)[case] for case in drawn)), float(sum(case + 1 for case in drawn)))
        for drawn in itertools.product(range(3), repeat=3)
    }
    seen = set(zip(sums[:, 0].tolist(), num_images.tolist(), strict=True))
    assert seen == possible
    assert sums[:, 0].mean() == pytest.approx(111, rel=0.05)


def test_draws_depend_on_seed_and_units_alone() -> None:
    units = np.arange(17)
    values = np.random.default_rng(0).normal(size=(17, 3))
    whole, num_images = resample_sums(values, units, seed=5, num_resamples=7)
    alone, _ = resample_sums(values[:, 1:2], units, seed=5, num_resamples=7)
    np.testing.assert_allclose(alone, whole[:, 1:2], rtol=1e-12)
    assert num_images.tolist() == [17] * 7
    other, _ = resample_sums(values, units, seed=6, num_resamples=7)
    assert not np.allclose(other, whole)


def test_the_interval_is_the_middle_95_percent() -> None:
    assert compute_interval(np.arange(1001.0)) == (25.0, 975.0)
    assert compute_interval(np.array([1 / 3, 1 / 3])) == (0.333333, 0.333333)


def test_intervals_cover_the_truth_by_cases_and_not_by_images() -> None:
    """200 simulated data sets of 40 cases of 5 images that are alike: 95% of the intervals should hold the true mean.

    Taking images for independent makes the intervals less than half as wide as they must be.
    """
    generator = np.random.default_rng(11)
    by_case, by_image = 0, 0
    for number in range(200):
        scores = np.repeat(generator.normal(2.0, 1.0, 40), 5) + generator.normal(0, 0.2, 200)
        for units in (np.repeat(np.arange(40), 5), np.arange(200)):
            sums, num_images = resample_sums(scores[:, None], units, seed=number, num_resamples=400)
            low, high = compute_interval(sums[:, 0] / num_images)
            if len(set(units.tolist())) == 40:
                by_case += low <= 2.0 <= high
            else:
                by_image += low <= 2.0 <= high
    assert 0.90 <= by_case / 200 <= 0.98
    assert by_image / 200 < 0.75


def test_the_p_value_counts_flips_as_extreme() -> None:
    """Four differences 1, 2, 3, 4: of the 16 sign patterns only all + and all - reach 10, so p is about 1/8."""
    values = np.array([1.0, 2.0, 3.0, 4.0])
    found = compare_paired({"row": values}, np.arange(4), seed=0, num_flips=20_000)["row"]
    assert found.difference == 2.5
    assert found.p_value == pytest.approx(1 / 8, abs=0.01)
    # With 9 flips at most 1/10 can be reached, and never 0.
    strong = compare_paired({"row": np.ones(50)}, np.arange(50), seed=0, num_flips=9)["row"]
    assert strong.p_value == 1 / 10
    assert strong.interval == (1.0, 1.0)


def test_cases_flip_as_one() -> None:
    """Two cases can be flipped in four ways, two of which reach the observed sum: p is about 1/2 for any images."""
    values = np.ones(100)
    found = compare_paired({"row": values}, np.repeat([0, 1], 50), seed=0, num_flips=10_000)["row"]
    assert found.p_value == pytest.approx(0.5, abs=0.02)


def test_no_difference_is_no_finding() -> None:
    found = compare_paired({"same": np.zeros(5), "even": np.array([0.1, -0.1, 0.2, -0.2, 0.0])}, np.arange(5), seed=0)
    assert found["same"].p_value == 1
    assert found["same"].interval == (0, 0)
    assert found["even"].p_value == 1  # rounding of sums must not make a tie a difference
    assert compare_paired({}, np.arange(5), seed=0) == {}


def test_false_alarms_are_as_rare_as_promised() -> None:
    generator = np.random.default_rng(2)
    rows = {str(number): generator.exponential(size=40) - generator.exponential(size=40) for number in range(400)}
    found = compare_paired(rows, np.arange(40), seed=1, num_resamples=2, num_flips=999)
    share = np.mean([comparison.p_value <= 0.05 for comparison in found.values()])
    assert 0.025 <= share <= 0.08


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.6 are multiplied by 4, 3, 2, 1 and made to rise."""
    adjusted = correct_by_holm({"c": 0.03, "a": 0.01, "d": 0.6, "b": 0.02})
    assert list(adjusted) == ["c", "a", "d", "b"]
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.6})
    assert correct_by_holm({"a": 0.4, "b": 0.5}) == {"a": 0.8, "b": 0.8}
    assert correct_by_holm({"a": 0.9, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert correct_by_holm({}) == {}


def test_spread_over_seeds_is_the_sample_standard_deviation() -> None:
    assert summarise_seeds([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5))  # (4 + 1 + 9) / 2
    assert summarise_seeds([1.5]) == (1.5, None)


def test_ten_thousand_images_take_seconds() -> None:
    values = np.random.default_rng(0).normal(size=(10_000, 40))
    units = np.arange(10_000)
    started = time.process_time()
    sums, _ = resample_sums(values, units, seed=0)
    assert sums.shape == (1000, 40)
    assert time.process_time() - started < 20  # about 1 s on a quiet core
