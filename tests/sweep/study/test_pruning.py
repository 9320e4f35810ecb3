import pytest

from sweep.study.pruning import build_rungs, find_rung_value, should_prune

RUNGS = [25, 50]


@pytest.mark.parametrize(
    ("grace_fraction", "reduction_factor", "rungs"),
    [(0.25, 2, [25, 50]), (0.1, 3, [10, 30, 90]), (1 / 3, 2, [33, 67]), (0.5, 2, [50]), (1.0, 2, [])],
)
def test_rungs_are_shares_below_the_end(grace_fraction: float, reduction_factor: int, rungs: list[int]) -> None:
    assert build_rungs(grace_fraction, reduction_factor) == rungs


@pytest.mark.parametrize(
    ("curve", "at_25", "at_50"),
    [
        ({25: 1.0, 50: 2.0, 75: 3.0, 100: 4.0}, 1.0, 2.0),  # 4 epochs
        ({33: 1.0, 67: 2.0, 100: 3.0}, 1.0, 2.0),  # 3 epochs
        ({50: 2.0, 100: 3.0}, None, 2.0),  # 2 epochs: no report between 25 and 50
        ({20: 1.0, 40: 2.0, 60: 3.0}, 2.0, 3.0),  # 5 epochs
        ({20: 1.0}, None, None),
        ({100: 3.0}, None, None),
        ({}, None, None),
    ],
)
def test_a_trial_enters_the_highest_rung_a_report_has_reached(
    curve: dict[int, float], at_25: float | None, at_50: float | None
) -> None:
    assert find_rung_value(curve, RUNGS, 0) == at_25
    assert find_rung_value(curve, RUNGS, 1) == at_50


@pytest.mark.parametrize(
    ("curve", "others", "pruned"),
    [
        # the first at a rung goes on; of two and of three the best does; of four the best two
        ({25: 0.1}, [], False),
        ({25: 0.5}, [{25: 1.0}], True),
        ({25: 1.2}, [{25: 1.0}], False),
        ({25: 1.1}, [{25: 1.2}, {25: 1.0}], True),
        ({25: 1.1}, [{25: 1.2}, {25: 1.0}, {25: 0.5}], False),
        # equals stay
        ({25: 1.0}, [{25: 1.0}, {25: 1.0}], False),
        # the next rung is a new comparison, among those that have come so far
        ({25: 9.0, 50: 9.1}, [{25: 1.0, 50: 9.2}, {25: 99.0}], True),
        # between rungs, before the first, and at the end nothing is decided
        ({20: 0.0}, [{20: 9.0, 40: 9.0}], False),
        ({25: 0.0, 50: 0.0, 75: 0.0}, [{25: 9.0, 50: 9.0, 75: 9.0}], False),
        ({50: 0.0, 100: 0.0}, [{50: 9.0, 100: 9.0}], False),
        # 3 epochs: 33 counts at the rung of 25 and 67 at that of 50
        ({33: 1.0}, [{25: 1.1}], True),
        ({33: 1.2, 67: 2.0}, [{25: 1.1, 50: 2.1}], True),
        # a two-epoch trial is compared at 50 only, and raises no bar at 25
        ({50: 1.5}, [{25: 1.0, 50: 1.6}], True),
        ({50: 1.7}, [{25: 9.0, 50: 1.6}], False),
        ({25: 1.1}, [{25: 1.0}, {50: 1.7, 100: 1.8}], False),
    ],
)
def test_decisions_worked_out_by_hand(curve: dict[int, float], others: list[dict[int, float]], pruned: bool) -> None:
    assert should_prune(curve, others, RUNGS, 2) is pruned


def test_a_larger_factor_keeps_fewer() -> None:
    others = [{25: float(value)} for value in (1, 2, 3, 4, 5)]
    assert not should_prune({25: 4.5}, others, RUNGS, 3)  # the second of six, two stay
    assert should_prune({25: 3.5}, others, RUNGS, 3)
    assert should_prune({25: 4.5}, others, RUNGS, 6)
