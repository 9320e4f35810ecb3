from typing import Any

import pytest

from sweep.space import build_space
from sweep.space.schema import SearchSpace
from sweep.study.stopping import Curve, build_rungs, interpolate, should_prune


def space(**values: Any) -> SearchSpace:
    return build_space({"name": "stop", "search": {"learning_rate": {"uniform": [0.1, 0.2]}}} | values, "test")


def judge(curve: Curve, others: list[Curve], **values: Any) -> bool:
    return should_prune(len(others), [*others, curve], space(**values))


@pytest.mark.parametrize(
    ("grace_fraction", "reduction_factor", "rungs"),
    [(0.25, 2, [25, 50]), (0.1, 3, [10, 30, 90]), (1 / 3, 2, [33, 67]), (0.5, 2, [50]), (1.0, 2, [])],
)
def test_rungs_are_shares_below_the_end(grace_fraction: float, reduction_factor: int, rungs: list[int]) -> None:
    assert build_rungs(grace_fraction, reduction_factor) == rungs


@pytest.mark.parametrize(
    ("share", "value"), [(19, None), (20, 1.0), (25, 1.25), (40, 2.0), (50, 2.5), (60, 3.0), (75, 3.0)]
)
def test_a_curve_is_read_between_its_epochs(share: int, value: float | None) -> None:
    assert interpolate({20: 1.0, 40: 2.0, 60: 3.0}, share) == value


def at_25(*values: float) -> list[Curve]:
    return [{25: value} for value in values]


@pytest.mark.parametrize(
    ("curve", "others", "pruned"),
    [
        # nothing stops before four can be compared; then the best two of four and three of five go on
        ({25: 0.1}, [], False),
        ({25: 0.1}, at_25(1.0, 2.0), False),
        ({25: 0.1}, at_25(1.0, 2.0, 3.0), True),
        ({25: 2.5}, at_25(1.0, 2.0, 3.0), False),
        ({25: 2.0}, at_25(1.0, 2.5, 3.0), True),
        ({25: 2.0}, at_25(1.0, 1.5, 2.5, 3.0), False),
        # equals stay
        ({25: 1.0}, at_25(1.0, 1.0, 1.0), False),
        # the next rung is a new comparison; those stopped before it do not count there
        ({25: 9.0, 50: 9.1}, [{25: 1.0, 50: 9.2 + index} for index in range(3)], True),
        ({25: 9.0, 50: 9.1}, [{25: 1.0, 50: 9.2}, {25: 1.0, 50: 9.3}, {25: 99.0}], False),
        # between rungs, before the first, and at the end nothing is decided
        ({20: 0.0}, [{20: 9.0, 40: 9.0}] * 3, False),
        ({25: 0.0, 50: 0.0, 75: 0.0}, [{25: 9.0, 50: 9.0, 75: 9.0}] * 3, False),
        ({50: 0.0, 100: 0.0}, [{50: 9.0, 100: 9.0}] * 3, False),
        # the first of 4 epochs against 5: those stood between 1.0 and 2.0 after a quarter
        ({25: 1.2}, [{20: 1.0, 40: 2.0}] * 3, True),
        ({25: 1.25}, [{20: 1.0, 40: 2.0}] * 3, False),
        # the second of 5 epochs against 4: those came from 1.0 to 2.0; stopped ones count with their last score
        ({20: 1.0, 40: 1.5}, [{25: 1.0, 50: 2.0}] * 3, True),
        ({20: 1.0, 40: 1.6}, [{25: 1.0, 50: 2.0}] * 3, False),
        ({20: 1.0, 40: 1.5}, [{25: 1.4}, {25: 1.4}, {25: 1.0, 50: 2.0}], False),
        # a two-epoch trial is compared at 50 only, and is not known at 25
        ({50: 1.5}, [{25: 1.0, 50: 1.6}] * 3, True),
        ({50: 1.7}, [{25: 9.0, 50: 1.6}] * 3, False),
        ({25: 0.1}, [{50: 1.7, 100: 1.8}] * 3, False),
    ],
)
def test_decisions_worked_out_by_hand(curve: Curve, others: list[Curve], pruned: bool) -> None:
    assert judge(curve, others) is pruned


def test_a_larger_factor_keeps_fewer() -> None:
    others = at_25(1.0, 2.0, 3.0, 4.0, 5.0)
    assert not judge({25: 4.5}, others, reduction_factor=3)  # the second of six, two stay
    assert judge({25: 3.5}, others, reduction_factor=3)
    assert judge({25: 4.5}, others, reduction_factor=6)


@pytest.mark.parametrize(
    ("curve", "others", "pruned"),
    [
        ({25: 1.9}, at_25(1.0, 2.0, 3.0), True),
        ({25: 2.0}, at_25(1.0, 2.0, 3.0), False),
        ({25: 1.9}, at_25(2.0, 3.0), False),
        ({25: 9.0, 50: 9.0, 75: 1.9}, [{25: 0.0, 75: value} for value in (1.0, 2.0, 3.0)], True),  # each report
        ({20: 0.0}, [{20: 1.0, 40: 1.0}] * 3, False),
    ],
)
def test_the_median_rule_looks_at_every_report(curve: Curve, others: list[Curve], pruned: bool) -> None:
    assert judge(curve, others, scheduler="median") is pruned


def test_hyperband_compares_within_brackets_that_begin_later_and_later() -> None:
    # Rungs 25 and 50 make three brackets: numbers 0, 3, 6, 9 stop at both, 1, 4, 7, 10 at 50 only, the others never.
    curves: list[Curve] = [{25: 5.0, 50: 5.0} for _ in range(12)]

    def stops(number: int, curve: Curve) -> bool:
        return should_prune(number, [*curves[:number], curve, *curves[number + 1 :]], space(scheduler="hyperband"))

    assert [stops(number, {25: 1.0}) for number in (9, 10, 11)] == [True, False, False]
    assert [stops(number, {25: 1.0, 50: 1.0}) for number in (9, 10, 11)] == [True, True, False]
    for other in (0, 3, 6):
        curves[other] = {25: 0.5}  # weaker ones of its own bracket
    assert not stops(9, {25: 1.0})


def test_none_stops_nothing() -> None:
    assert not judge({25: 0.1}, at_25(1.0, 2.0, 3.0), scheduler="none")
