"""What a sweep is said to cost."""

from pathlib import Path

import pytest

from medcap_core.config import FreezeMode
from medcap_core.models import load_captioner
from sweep.dry_run import trial_costs
from sweep.dry_run.estimate import count_kept_bytes, estimate_cost, estimate_disk
from sweep.dry_run.trial_costs import UnitCost, count_images
from sweep.execution.cluster import TrialResources
from sweep.space import build_space
from sweep.space.points import build_config
from sweep.space.schema import SearchSpace
from tests.support.real_runs import Materials

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


def unit(trained: int, total: int, feature_bytes: int = 960) -> UnitCost:
    return UnitCost(
        training_seconds=1.0,
        caption_seconds=1.0,
        encoding_seconds=1.0,
        feature_bytes=feature_bytes,
        num_encoded={},
        trained_parameters=trained,
        total_parameters=total,
    )


def test_images_are_counted_as_they_are_drawn(space: SearchSpace) -> None:
    config = build_config(space, {})
    assert count_images(config) == {"train": 22, "validation": 6, "test": 7}
    half = config.model_copy(update={"data_fraction": 0.5, "max_test_images": 3, "max_validation_images": None})
    assert count_images(half) == {"train": 11, "validation": 9, "test": 3}


def test_time_grows_with_what_is_done(space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path))
    monkeypatch.setattr(trial_costs, "LEAST_SECONDS", 0.0)
    cost = estimate_cost(space, TWO_AT_ONCE, start_seconds=3.0)
    assert 0 < cost.seconds_per_trial < cost.total_seconds < 600
    assert sum(part.seconds for part in cost.parts) == pytest.approx(cost.total_seconds)
    assert cost.range_seconds is not None
    assert cost.range_seconds[0] < cost.total_seconds < cost.range_seconds[1]
    start, preparation, processes, trials, captions, end = cost.parts
    assert (start.what, start.seconds) == ("imports and checks", 3.0)
    # Of 22, 9 and 7 images the measurement has decoded all but 5 of the test split; it encodes none of that.
    assert preparation.what == "5 images to decode, 7 to encode, and a first look"
    assert 0 < preparation.seconds < 10
    assert processes.seconds == pytest.approx(1.5 * 3)
    assert trials.what.startswith("8 trials, 2 at once, ")
    assert captions.what == f"{3 * 9 + 2 * 7} captions of the leading trials and the test split"
    assert end.seconds == pytest.approx(5 * 7 * 7e-4 + 2 * 3)
    more = estimate_cost(with_(space, trials=80), TWO_AT_ONCE, start_seconds=3.0)
    assert more.total_seconds > cost.total_seconds + 30 * cost.seconds_per_trial / 2


def test_disk_holds_the_trials_that_are_over(space: SearchSpace) -> None:
    units = [unit(trained, 5000) for trained in (0, 100, 500)]
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
        unit(100, num_parameters),
        unit(num_parameters, num_parameters, feature_bytes=0),
    ]
    measured = [(config, each) for each in units]
    assert estimate_disk(measured, TWO_AT_ONCE) == expected
    larger = config.model_copy(update={"image_size": 64})  # another size and another encoder, one not stored
    assert estimate_disk([*measured, (larger, units[1])], TWO_AT_ONCE) == expected + 3 * 64 * 64 * (22 + 6 + 7)
    untrained = [(config.model_copy(update={"freeze": FreezeMode.ZERO_SHOT}), each) for each in units]
    assert estimate_disk(untrained, TWO_AT_ONCE) == expected - 960 * 22  # training images are decoded, not encoded
