"""Points: drawn, encoded for a study, listed as a grid, made into configs."""

import math
from pathlib import Path
from typing import Any

import optuna

from medcap_core.config import TrialConfig
from sweep.space import build_config, draw_points, encode_point, grid_rows, num_trials, propose
from tests.support.space_files import ABLATION, LORA, load, search_of


def test_each_branch_is_a_parameter_of_its_own(tmp_path: Path) -> None:
    space = load(tmp_path, LORA)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=11))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        point = propose(space, trial)
        assert encode_point(space, point) == trial.params
        lora = point["freeze"] == "lora"
        low, high = (1e-4, 1e-2) if lora else (1e-5, 1e-3)
        assert low <= point["learning_rate"] <= high
        assert ("lora_rank" in point) == lora
        assert point["num_epochs"] in (2, 3, 4, 5)
        seen |= set(trial.params)
    assert seen == {
        "freeze",
        "learning_rate[freeze=full|decoder_only]",
        "learning_rate[freeze=lora]",
        "lora_rank",
        "num_epochs",
    }


def test_learning_rates_are_drawn_evenly_over_the_logarithm(tmp_path: Path) -> None:
    space = load(tmp_path, search_of("learning_rate: {loguniform: [1e-4, 1e-2]}"))
    drawn = [math.log10(point["learning_rate"]) for point in draw_points(space, 400, seed=5)]
    assert abs(sum(drawn) / 400 - -3) < 0.1  # the standard error is 0.029


def test_first_point_is_enqueued_in_its_branch(tmp_path: Path) -> None:
    space = load(tmp_path, LORA)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    for point in space.first_points:
        study.enqueue_trial(encode_point(space, point))
    assert [propose(space, study.ask()) for _ in range(2)] == list(space.first_points)


def test_parents_come_first_whatever_the_order_in_the_file(tmp_path: Path) -> None:
    text = "lora_rank: {choice: [4], when: {freeze: lora, augment: true}}\n  augment: {choice: [true]}\n  "
    space = load(tmp_path, search_of(text + "freeze: {choice: [lora]}"))
    assert list(propose(space, optuna.create_study().ask())) == ["augment", "freeze", "lora_rank"]


def test_draws_are_seeded(tmp_path: Path) -> None:
    space = load(tmp_path, LORA)
    assert draw_points(space, 6, seed=1) == draw_points(space, 6, seed=1)
    assert draw_points(space, 6, seed=1) != draw_points(space, 6, seed=2)


def test_grid_rows_by_hand(tmp_path: Path) -> None:
    space = load(tmp_path, ABLATION)
    rows: list[dict[str, Any]] = [
        {"freeze": "zero_shot"},
        {"freeze": "lora", "lora_rank": 4, "num_epochs": 2},
        {"freeze": "lora", "lora_rank": 4, "num_epochs": 3},
        {"freeze": "lora", "lora_rank": 16, "num_epochs": 2},
        {"freeze": "lora", "lora_rank": 16, "num_epochs": 3},
        {"freeze": "full", "num_epochs": 2},
        {"freeze": "full", "num_epochs": 3},
    ]
    assert grid_rows(space) == [{**row, "seed": seed} for row in rows for seed in (3, 5)]
    assert num_trials(space) == space.trials == 14
    assert {build_config(space, row).seed for row in grid_rows(space)} == {3, 5}
    assert draw_points(space, 3, seed=0) == grid_rows(space)[:3]


def test_grid_of_nothing_is_one_row(tmp_path: Path) -> None:
    assert grid_rows(load(tmp_path, "name: x\nsampler: grid")) == [{}]


def test_config_of_a_point(tmp_path: Path) -> None:
    space = load(tmp_path, LORA + "\nseed: 5\ndata: roco\n")
    point = {"freeze": "decoder_only", "learning_rate": 2e-4, "num_epochs": 3}
    assert build_config(space, point) == TrialConfig(
        data="roco", seed=5, batch_size=6, freeze="decoder_only", learning_rate=2e-4, num_epochs=3
    )
    assert build_config(space, {**point, "seed": 7}).seed == 7
