"""What a sweep is said to cost."""

import pytest

from medcap_core.config import FreezeMode
from medcap_core.models import load_captioner
from sweep.cluster import TrialResources
from sweep.estimate import UnitCost, count_images, count_kept_bytes, estimate_cost, estimate_disk, simulate_share_run
from sweep.points import build_config
from sweep.schema import SearchSpace
from sweep.space import build_space
from tests.sweep.real_runs import Materials

TWO_AT_ONCE = TrialResources(num_workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent=2)


@pytest.fixture
def space(materials: Materials) -> SearchSpace:
    values = {
        "name": "any",
        "data": str(materials.images),
        "model": str(materials.model),
        "fixed": {"max_caption_tokens": 16, "max_new_tokens": 10, "batch_size": 4, "max_validation_images": 6},
        "search": {"freeze": {"choice": ["full", "lora"]}, "num_epochs": {"int": [2, 5]}},
        "trials": 8,
    }
    return build_space(values, "test")


def with_(space: SearchSpace, **changes: object) -> SearchSpace:
    return space.model_copy(update=changes)


def test_images_are_counted_as_they_are_drawn(space: SearchSpace) -> None:
    config = build_config(space, {})
    assert count_images(config) == {"train": 22, "validation": 6, "test": 7}
    half = config.model_copy(update={"data_fraction": 0.5, "max_test_images": 3, "max_validation_images": None})
    assert count_images(half) == {"train": 11, "validation": 9, "test": 3}


def test_time_grows_with_what_is_done(space: SearchSpace) -> None:
    cost = estimate_cost(space, TWO_AT_ONCE)
    assert 0 < cost.seconds_per_trial < cost.total_seconds < 600
    more = estimate_cost(with_(space, trials=80), TWO_AT_ONCE)
    assert more.total_seconds > cost.total_seconds + 30 * cost.seconds_per_trial / 2


def test_disk_holds_the_trials_that_are_over(space: SearchSpace) -> None:
    units = [UnitCost(1.0, 1.0, 1.0, 960, trained, 5000) for trained in (0, 100, 500)]
    assert count_kept_bytes(space, units) == 3 * 4 * 500
    assert count_kept_bytes(with_(space, trials=2), units) == 2 * 4 * 500
    assert count_kept_bytes(with_(space, test="all"), units) == 8 * 4 * 200
    assert count_kept_bytes(with_(space, keep_checkpoints=True), units) == 8 * 16 * 200


def test_disk_holds_running_and_best_trials(space: SearchSpace) -> None:
    config = build_config(space, {})
    model = load_captioner(config.model)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    images = (3 * 48 * 48 + 960) * (22 + 6 + 7)
    # Two trials with weights, two moments and the best epoch's weights; one whole model.
    expected = 2 * 4 * 4 * num_parameters + 4 * num_parameters + images
    units = [
        UnitCost(1.0, 1.0, 1.0, 960, 100, num_parameters),
        UnitCost(1.0, 1.0, 0.0, 0, num_parameters, num_parameters),
    ]
    measured = [(config, unit) for unit in units]
    assert estimate_disk(measured, TWO_AT_ONCE) == expected
    larger = config.model_copy(update={"image_size": 64})  # another size and another encoder, one not stored
    assert estimate_disk([*measured, (larger, units[1])], TWO_AT_ONCE) == expected + 3 * 64 * 64 * (22 + 6 + 7)
    untrained = [(config.model_copy(update={"freeze": FreezeMode.ZERO_SHOT}), unit) for unit in units]
    assert estimate_disk(untrained, TWO_AT_ONCE) == expected - 960 * 22  # training images are decoded, not encoded


def test_the_share_that_asha_runs(space: SearchSpace) -> None:
    configs = [build_config(space, {"freeze": "full", "num_epochs": 4})]
    assert simulate_share_run(with_(space, scheduler="none"), configs) == 1.0
    share = simulate_share_run(space, configs)
    assert 0.25 < share < 1.0
    assert simulate_share_run(with_(space, reduction_factor=4), configs) < share
    rows = {"sampler": "grid", "search": {}, "seeds": (1, 2, 3, 5)}
    assert simulate_share_run(with_(space, **rows), configs) < 1.0
    assert simulate_share_run(with_(space, **rows, test="all"), configs) == 1.0
    short = [build_config(space, {"freeze": "full", "num_epochs": 1})]
    assert simulate_share_run(space, short) == 1.0
