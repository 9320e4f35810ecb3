"""What a sweep is estimated to cost."""

from pathlib import Path
from typing import Any

import pytest

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.models import load_captioner
from sweep.dry_run import estimate
from sweep.dry_run.estimate import (
    TrialCost,
    count_epochs_bytes,
    count_images,
    count_weights_bytes,
    estimate_cost,
    measure_trial,
)
from sweep.dry_run.plan import CostEstimate
from sweep.execution.cluster import TrialResources
from sweep.space import build_space
from sweep.space.points import build_config
from sweep.space.schema import SearchSpace
from tests.support.real_runs import Materials

ONE_BY_ONE, TWO_AT_ONCE, TWO_WORKERS = (
    TrialResources(num_workers=workers, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent=at_once)
    for workers, at_once in ((1, 1), (1, 2), (2, 1))
)
TRIALS = 3  # place of the trials among the parts of an estimate


def build(materials: Materials, **changes: object) -> SearchSpace:
    values: dict[str, Any] = {
        "name": "any",
        "data": str(materials.images),
        "model": str(materials.model),
        "fixed": {"max_caption_tokens": 16, "max_new_tokens": 10, "batch_size": 4, "max_validation_images": 6},
    }
    return build_space(values | changes, "test")


def build_cost(trained: int = 0, total: int = 0) -> TrialCost:
    """An epoch of a trial on the 22 and 6 images takes 2 s, its start 1 s."""
    return TrialCost(
        start_seconds=1.0,
        training_seconds=1.4 / 22,
        validation_seconds=0.1,
        image_seconds=0.5,
        image_bytes=1000,
        trained_parameters=trained,
        total_parameters=total,
    )


@pytest.fixture
def known_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "measure_trial", lambda config: build_cost())


def list_parts(cost: CostEstimate) -> list[tuple[str, float]]:
    return list(cost.seconds.items())


def grid_of_epochs(materials: Materials, *num_epochs: int, **changes: object) -> SearchSpace:
    return build(materials, search={"num_epochs": {"grid": list(num_epochs)}}, sampler="grid", **changes)


def test_images_are_counted_as_they_are_drawn(materials: Materials) -> None:
    config = build_config(build(materials), {})
    assert count_images(config) == {"train": 22, "validation": 6, "test": 7}
    assert count_images(config, whole_validation=True) == {"train": 22, "validation": 9, "test": 7}
    half = config.model_copy(update={"data_fraction": 0.5, "max_test_images": 3, "max_validation_images": None})
    assert count_images(half) == {"train": 11, "validation": 9, "test": 3}


@pytest.mark.parametrize("freeze", [FreezeMode.DECODER_ONLY, FreezeMode.ZERO_SHOT])
def test_a_short_trial_is_measured(
    materials: Materials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freeze: FreezeMode
) -> None:
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path))
    config = build_config(build(materials), {"freeze": freeze, "learning_rate": 1.0})
    cost = measure_trial(config)
    is_trained = freeze is not FreezeMode.ZERO_SHOT
    assert (cost.training_seconds > 1e-4, cost.trained_parameters > 0) == (is_trained, is_trained)
    assert 1e-4 < cost.validation_seconds < 10
    assert 0 < cost.start_seconds < 60
    assert 0 < cost.image_seconds < 1
    assert cost.total_parameters == sum(parameter.numel() for parameter in load_captioner(config.model).parameters())
    assert cost.image_bytes == 3 * 48 * 48 + 960
    pixels_alone = measure_trial(config.model_copy(update={"cache_features": False}))
    assert pixels_alone.image_bytes == 3 * 48 * 48


def test_the_parts_of_a_run_follow_from_counts(materials: Materials, known_costs: None) -> None:
    space = build(materials, search={"learning_rate": {"uniform": [1e-4, 2e-4]}}, trials=8, scheduler="none")
    cost = estimate_cost(space, TWO_AT_ONCE, start_seconds=3.0)
    assert list_parts(cost) == [
        ("imports and checks", 3.0),
        ("images decoded and encoded, unless stored from before", pytest.approx(35 * 0.5)),
        ("until Ray and the processes of trials have started", 1.5 * 3),
        ("8 trials, 2 at once, 100% of their epochs", pytest.approx(4 * (1 + 4 * 2))),
        ("50 captions of the leading trials and the test split", pytest.approx((4 * 9 + 2 * 7) * 0.1 / 2)),
        ("scores of 5 rows, report, end", pytest.approx(5 * 7 * 7e-4 + 2 * 3)),
    ]
    assert cost.seconds_per_trial == pytest.approx(9)
    assert cost.disk_bytes == 35 * 1000
    compared = estimate_cost(space.model_copy(update={"test": "all"}), TWO_AT_ONCE, start_seconds=3.0)
    assert list_parts(compared)[4][0].startswith(f"{4 * 9 + 9 * 7} captions")
    assert list_parts(compared)[5][0].startswith("scores of 12 rows")


def test_the_last_trial_may_run_alone(materials: Materials, known_costs: None) -> None:
    space = grid_of_epochs(materials, 2, 3, 4, 1, scheduler="none")  # 5, 7, 9 and 3 s
    # 0-5 and 5-14 in the first place, 0-7 and 7-10 in the second.
    assert list_parts(estimate_cost(space, TWO_AT_ONCE, 3.0))[TRIALS][1] == pytest.approx(14)
    assert list_parts(estimate_cost(space, ONE_BY_ONE, 3.0))[TRIALS][1] == pytest.approx(24)
    # Two workers share the images of each epoch, and start once.
    shared = list_parts(estimate_cost(space, TWO_WORKERS, 3.0))[TRIALS][1]
    assert shared == pytest.approx(4.5 * 3 + 4 * 1 + 10 * 2 / 2)


def test_first_points_come_first(materials: Materials, known_costs: None) -> None:
    search = {"num_epochs": {"int": [1, 2]}}
    space = build(materials, search=search, first_points=[{"num_epochs": 2}], trials=1, scheduler="none")
    assert list_parts(estimate_cost(space, ONE_BY_ONE, 3.0))[TRIALS][1] == pytest.approx(5)


def test_weak_trials_are_stopped(materials: Materials, known_costs: None) -> None:
    space = grid_of_epochs(materials, 1, 10)
    name, seconds = list_parts(estimate_cost(space, ONE_BY_ONE, 3.0))[TRIALS]
    share = estimate.SHARE_UNDER_ASHA
    assert name == f"2 trials, 1 at once, {share:.0%} of their epochs"
    assert seconds == pytest.approx((1 + 2) + (1 + share * 10 * 2))  # of one epoch nothing can be stopped
    name, seconds = list_parts(estimate_cost(grid_of_epochs(materials, 1, 10, test="all"), ONE_BY_ONE, 3.0))[TRIALS]
    assert (name, seconds) == ("2 trials, 1 at once, 100% of their epochs", pytest.approx(3 + 21))


def test_each_kind_is_measured_once(materials: Materials, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[TrialConfig] = []
    monkeypatch.setattr(estimate, "measure_trial", lambda config: measured.append(config) or build_cost())
    search = {"freeze": {"grid": ["zero_shot", "full", "lora"]}, "seed": {"grid": [1, 2]}}
    space = build(materials, search=search, sampler="grid", scheduler="none")
    parts = list_parts(estimate_cost(space, ONE_BY_ONE, 3.0))
    assert sorted(config.freeze for config in measured) == ["full", "lora", "zero_shot"]
    assert parts[TRIALS][1] == pytest.approx(2 * (1 + 2) + 4 * (1 + 4 * 2))  # a zero-shot trial has one epoch


def test_disk_holds_running_kept_and_best_weights(materials: Materials) -> None:
    costs = [build_cost(trained, 5000) for trained in (0, 100, 500, 100)]
    space = build(materials, trials=4)
    running = 2 * 4 * 4 * 500  # two trials with weights, Adam's two moments and the best epoch's weights
    best = 4 * 5000
    assert count_weights_bytes(space, costs, 2) == running + best + 4 * (500 + 100 + 100)
    assert count_weights_bytes(space, costs[:2], 1) == 4 * 4 * 100 + best + 4 * 100
    compared = space.model_copy(update={"test": "all"})
    assert count_weights_bytes(compared, [*costs, costs[1]], 2) == running + best + 4 * (500 + 3 * 100)
    kept = space.model_copy(update={"keep_checkpoints": True})
    assert count_weights_bytes(kept, costs, 2) == running + best + 16 * 700


def test_checkpoints_of_every_epoch_take_disk_where_they_are_kept() -> None:
    config = TrialConfig(num_epochs=5)
    assert count_epochs_bytes(config, build_cost(trained=100)) == 0
    kept = config.model_copy(update={"checkpoint_every_epoch": True})
    assert count_epochs_bytes(kept, build_cost(trained=100)) == 5 * 3 * 4 * 100
