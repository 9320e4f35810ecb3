from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from sweep.space import SearchSpace, build_space, load_space
from sweep.study.proposal import build_proposal, choose_branch, find_branching_knob, lengthen_best, score_failures
from tests.support import REPOSITORY

CHOICES = ["full", "encoder_only", "lora"]
GIVEN = [{"freeze": "lora", "learning_rate": 1e-2}, {"freeze": "lora"}, {"freeze": "full"}]


def space(**changes: Any) -> SearchSpace:
    search = {
        "freeze": {"choice": CHOICES},
        "learning_rate": [
            {"loguniform": [1e-4, 1e-1], "when": {"freeze": ["full", "encoder_only"]}},
            {"loguniform": [1e-3, 1e-1], "when": {"freeze": "lora"}},
        ],
    }
    values = {"name": "branches", "search": search, "first_points": GIVEN, "trials": 30}
    return build_space(values | changes, "test")


def ended(freeze: str, score: float | None, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    return optuna.create_trial(
        state=state,
        params={"freeze": freeze},
        distributions={"freeze": optuna.distributions.CategoricalDistribution(CHOICES)},
        value=score if state is TrialState.COMPLETE else None,
        intermediate_values={} if score is None else {50: score},
    )


@pytest.mark.parametrize(
    ("drawn", "chosen"),
    [
        # given are lora 3.0 and 2.0, full 2.5: each value gets a draw of its own, the least tried first
        ([], ("encoder_only", True)),
        ([("encoder_only", 0.1)], ("full", True)),
        ([("encoder_only", 0.1), ("full", 2.0)], ("lora", True)),
        # and two trials in all
        ([("encoder_only", 0.1), ("full", 2.0), ("lora", 1.0)], ("encoder_only", True)),
        # the median of 0.1, 0.2, 1.0, 2.0, 2.0, 2.5, 3.0 is 2.0: encoder_only has lost, the others take turns
        ([("encoder_only", 0.1), ("full", 2.0), ("lora", 1.0), ("encoder_only", 0.2)], ("full", False)),
        ([("encoder_only", 0.1), ("full", 2.0), ("lora", 1.0), ("encoder_only", 0.2), ("full", 1.0)], ("lora", False)),
        # its best is the median: not lost
        ([("full", 2.0), ("full", 2.0), ("lora", 1.0), ("lora", 1.0), ("encoder_only", 2.0)], ("encoder_only", True)),
        ([*[("full", 2.0)] * 3, *[("lora", 1.0)] * 3, *[("encoder_only", 2.0)] * 2], ("encoder_only", False)),
    ],
)
def test_the_branch_of_the_next_trial(drawn: list[tuple[str, float]], chosen: tuple[str, bool]) -> None:
    history = [ended("lora", 3.0), ended("lora", 2.0), ended("full", 2.5)]
    history += [ended(freeze, score) for freeze, score in drawn[:-1]]
    history += [ended(freeze, score, TrialState.PRUNED) for freeze, score in drawn[-1:]]
    assert choose_branch(space(), "freeze", history) == chosen


def test_a_branch_that_runs_has_not_lost() -> None:
    drawn = [ended("encoder_only", None, TrialState.RUNNING)] * 2 + [ended("full", 2.0)] * 3 + [ended("lora", 1.0)] * 3
    history = [ended("lora", 3.0), ended("lora", 2.0), ended("full", 2.5), *drawn]
    assert choose_branch(space(), "freeze", history) == ("encoder_only", False)


def test_trials_of_earlier_runs_spare_random_draws_and_take_no_turn() -> None:
    earlier = [ended("lora", 3.0), ended("lora", 2.0), ended("full", 2.5), ended("full", 2.0)]
    earlier += [ended("encoder_only", 0.1), ended("encoder_only", 0.2)]
    own = [ended("lora", 3.0), ended("lora", 2.0), ended("full", 2.5)]  # the first points
    assert choose_branch(space(), "freeze", [*earlier, *own], 6) == ("full", False)
    own.append(ended("full", 2.5))
    assert choose_branch(space(), "freeze", [*earlier, *own], 6) == ("lora", False)
    assert choose_branch(space(), "freeze", own)[1]
    proposal = build_proposal(space(), 4, [*earlier, *own], set())
    assert proposal.point["freeze"] == "lora"


def test_spaces_branch_by_the_choice_that_most_ranges_depend_on() -> None:
    folder = REPOSITORY / "search_spaces"
    names = ("lora", "full", "medblip3d", "lora_only")
    assert [find_branching_knob(load_space(folder / f"{name}.yaml")) for name in names] == ["freeze"] * 3 + [None]


def test_a_proposal_is_of_the_branch_whose_turn_it_is() -> None:
    history = [ended("lora", 3.0), ended("lora", 2.0), ended("full", 2.5)]
    proposal = build_proposal(space(), 3, history, set())
    assert proposal.point["freeze"] == "encoder_only"
    assert proposal == build_proposal(space(), 3, history, set())


@pytest.mark.parametrize(
    ("curves", "lengthened"),
    [
        ([(3, {33: 1.0, 67: 2.0, 100: 2.5})], True),
        ([(3, {33: 1.0, 67: 2.5, 100: 2.5})], False),  # its last epoch brought nothing
        ([(1, {100: 2.5})], True),
        ([(6, {50: 1.0, 100: 2.5})], False),  # the most epochs of its range
        ([(3, {50: 1.0, 100: 2.5}), (6, {50: 1.0})], False),  # tried already
        ([(3, {50: 1.0, 100: 2.5}), (4, {50: 2.6, 100: 2.6})], False),  # no longer the best
        ([(3, {})], False),  # failed
    ],
)
def test_a_best_trial_that_still_rose_is_tried_with_the_most_epochs(
    curves: list[tuple[int, dict[int, float]]], lengthened: bool
) -> None:
    search = {"learning_rate": {"loguniform": [1e-4, 1e-2]}, "num_epochs": {"int": [1, 6]}}
    lengthened_space = build_space({"name": "lengthened", "search": search, "trials": 1}, "test")
    epochs = optuna.distributions.IntDistribution(1, 6)
    history = [trained(num_epochs, curve, "num_epochs", epochs) for num_epochs, curve in curves]
    proposal = build_proposal(lengthened_space, 9, history * 4, set())  # 4 of the same: past the random draws
    assert (proposal.point == {"learning_rate": 2e-3, "num_epochs": 6}) == lengthened
    if lengthened:
        assert build_proposal(lengthened_space, 9, history * 4, {proposal.config}).point != proposal.point


def trained(num_epochs: int, curve: dict[int, float], name: str, epochs: BaseDistribution) -> FrozenTrial:
    return optuna.create_trial(
        state=TrialState.COMPLETE if 100 in curve or not curve else TrialState.PRUNED,
        params={"learning_rate": 2e-3, name: num_epochs},
        distributions={"learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True), name: epochs},
        value=curve.get(100, None if curve else 0.0),
        intermediate_values=curve,
    )


def test_the_most_epochs_are_those_of_a_list_and_of_the_range_that_holds() -> None:
    epochs, name = optuna.distributions.CategoricalDistribution((8, 2, 4)), "num_epochs[freeze=full]"
    history = [trained(4, {50: 1.0, 100: 2.0}, name, epochs)]
    assert lengthen_best(history) == {"learning_rate": 2e-3, name: 8}
    assert lengthen_best([ended("full", 2.0)]) is None  # epochs are not searched


def test_failures_of_a_config_get_the_lowest_score_and_others_none() -> None:
    failed = ended("lora", None, TrialState.FAIL)
    history = [ended("full", 2.0), failed, ended("full", 0.5, TrialState.PRUNED), failed]
    scored = score_failures(history, {1})
    outcomes = [(trial.state.name, trial.value) for trial in scored]
    assert outcomes == [("COMPLETE", 2.0), ("COMPLETE", 0.5), ("PRUNED", None), ("FAIL", None)]
    assert scored[1].params == failed.params
