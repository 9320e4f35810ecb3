from typing import Any

import pytest

from sweep.space import build_space
from sweep.space.schema import SearchSpace
from sweep.study.stopping import Curve, build_rungs, interpolate, should_prune
from tests.support.small_runs import Create, fixed_length, run_one
from tests.support.small_runs import space as searched


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


def test_a_sweep_pruned_as_worked_out_by_hand(create: Create) -> None:
    study = create(fixed_length(4))
    table = [
        ((1.0, 1.5, 2.0, 2.1), [True, True, True, True]),  # the first three: too few to compare with
        ((0.5, 0.6, 0.7, 0.8), [True, True, True, True]),
        ((1.2, 1.7, 1.8, 1.9), [True, True, True, True]),
        ((0.4,), [False]),  # at 25%: 1.2, 1.0, 0.5, 0.4; two stay
        ((1.0, 1.4), [True, False]),  # equal to the second of five, where three stay; at 50%: 1.7, 1.5, 1.4, 0.6
        ((1.1, 0.3), [True, False]),  # at 50% its best so far is 1.1, the fourth of five
        ((1.3, 1.6, 0.1, 0.2), [True, True, True, True]),  # never pruned after 50%
    ]
    for ciders, answers in table:
        record, given = run_one(study, *ciders)
        assert given == answers, record.name
    assert [record.state.value for record in study.records] == [*["SUCCEEDED"] * 3, *["PRUNED"] * 3, "SUCCEEDED"]
    assert [record.best_score for record in study.best(7)] == [2.1, 1.9, 1.6, 1.4, 1.1, 0.8, 0.4]


def test_short_and_long_schedules_are_compared_at_equal_shares(create: Create) -> None:
    search = {"num_epochs": {"choice": [4, 5]}, "lora_rank": {"choice": [4, 8, 16]}}
    points = [{"num_epochs": epochs, "lora_rank": rank} for epochs, rank in ((5, 4), (5, 8), (5, 16), (4, 4), (4, 8))]
    study = create(searched(search=search, first_points=points, trials=5))
    for _ in range(3):
        run_one(study, 1.0, 2.0, 2.5, 3.0, 3.5)  # 1.25 after a quarter
    assert run_one(study, 1.2)[1] == [False]
    assert run_one(study, 1.3, 2.3, 2.4, 2.5)[1] == [True] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"scheduler": "none"},
        {"search": {"learning_rate": {"grid": [1e-4, 1e-3, 1e-2, 1e-1]}}, "sampler": "grid", "test": "all"},
    ],
)
def test_without_a_scheduler_or_where_rows_are_compared_none_is_pruned(create: Create, changes: dict[str, Any]) -> None:
    study = create(fixed_length(2, **changes))
    for _ in range(3):
        run_one(study, 2.0, 2.0)
    assert run_one(study, 0.1, 0.1)[1] == [True, True]
