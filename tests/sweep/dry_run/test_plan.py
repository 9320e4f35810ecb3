"""The text of a dry run, and short names of points."""

from typing import Any

import pytest

from sweep.dry_run.plan import CostEstimate, describe_plan, format_duration
from sweep.execution.cluster import TrialResources
from sweep.space import build_space
from sweep.space.labels import short_label
from sweep.space.schema import SearchSpace

LABELS: list[tuple[dict[str, Any], str]] = [
    ({"freeze": "lora", "learning_rate": 1e-3, "lora_rank": 8, "num_epochs": 4}, "lora r8 lr1e-3 e4"),
    ({"num_epochs": 3, "learning_rate": 5e-5, "freeze": "full"}, "full lr5e-5 e3"),
    ({"learning_rate": 0.0001234}, "lr1.2e-4"),
    ({"learning_rate": 0.0234}, "lr2.3e-2"),
    ({"learning_rate": 1.0}, "lr1e0"),
    ({"seed": 3, "freeze": "encoder_only"}, "encoder_only s3"),
    ({"augment": True, "lora_vision": False}, "no-vision aug"),
    ({"batch_size": 32, "schedule": "cosine", "weight_decay": 0.05}, "b32 cosine wd0.05"),
    ({"lora_alpha": 16.0, "lora_dropout": 0.0, "max_grad_norm": 0.001}, "a16 do0 clip1e-3"),
    ({"lora_alpha": None, "image_size": None}, "anull pxnull"),
    ({"prompt": "une radiographie \u00e0 "}, "prompt=une-radiographie-a"),
    ({"min_new_tokens": 5}, "min_new_tokens=5"),
    ({}, "default"),
]


@pytest.mark.parametrize(("point", "label"), LABELS, ids=[label for _, label in LABELS])
def test_short_label(point: dict[str, Any], label: str) -> None:
    assert short_label(point) == label


def show(space: SearchSpace) -> str:
    """The plan where its cost does not matter."""
    resources = TrialResources(num_workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent=1)
    return describe_plan(space, resources, CostEstimate({"trials": 1.0}, seconds_per_trial=1.0, disk_bytes=0))


def test_plan_of_a_conditional_search() -> None:
    space = build_space(
        {
            "name": "tiny",
            "fixed": {"batch_size": 6, "prompt": "a scan of "},
            "search": {
                "freeze": {"choice": ["full", "decoder_only", "lora"]},
                "learning_rate": [
                    {"loguniform": [1e-5, 1e-3], "when": {"freeze": ["full", "decoder_only"]}},
                    {"loguniform": [1e-4, 1e-2], "when": {"freeze": "lora"}},
                ],
            },
            "first_points": [{"freeze": "lora", "learning_rate": 1e-3}],
            "trials": 7,
        },
        "a test",
    )
    resources = TrialResources(num_workers=2, cpus_per_worker=0.9, gpus_per_worker=0.5, max_concurrent=3)
    estimate = CostEstimate({"imports": 4.4, "trials": 395.6}, seconds_per_trial=40, disk_bytes=12_340_000)
    text = describe_plan(space, resources, estimate)
    head, searched, fixed, defaults, points, samples, cost = text.split("\n\n")
    assert head == (
        "Sweep 'tiny'\n"
        "  data         phantoms\n"
        "  model        phantom-blip\n"
        "  trials       7, of which 1 given as first points\n"
        "  sampler      tpe, seed 0\n"
        "  scheduler    asha, one in 2 goes on past 25%, 50% of its own schedule\n"
        "  objective    CIDEr of the best epoch on the validation split, maximised\n"
        "  test split   the chosen model only\n"
        "  checkpoints  the best three trials' are kept"
    )
    by_answers = show(build_space({"name": "any", "objective": "balanced_accuracy"}, "a test"))
    assert "  objective    Balanced accuracy of the best epoch on the validation split, maximised\n" in by_answers
    assert "objective =" not in by_answers
    by_loss = show(build_space({"name": "any", "objective": "validation_loss", "max_hours": 1.5}, "a test"))
    assert "  ends after   1.5 hours at most; then no epoch begins any more, " in by_loss
    assert "  objective    Validation loss of the best epoch on the validation split, minimised\n" in by_loss
    assert searched == (
        "Searched\n"
        "  freeze         choice [full, decoder_only, lora]\n"
        "  learning_rate  loguniform [1e-05, 0.001]   when freeze is full or decoder_only\n"
        "                 loguniform [0.0001, 0.01]   when freeze is lora"
    )
    assert fixed == "Fixed\n  batch_size = 6\n  prompt = 'a scan of '"
    assert defaults.startswith("By default\n  data_fraction = 1.0, max_train_images = null,")
    assert "num_epochs = 4" in defaults
    assert "batch_size = 16" not in defaults
    assert " learning_rate" not in defaults
    assert points == "First points\n  1. freeze = lora, learning_rate = 0.001"
    title, *lines = samples.splitlines()
    assert title == "Sample configs (drawn at random; the sampler's own will differ)"
    assert [line[:5] for line in lines] == ["  1. ", "  2. ", "  3. ", "  4. ", "  5. "]
    assert cost == (
        "Cost\n"
        "  each trial   workers: 2, for each of them CPUs: 0.9, GPUs: 0.5\n"
        "  at once      3 of 7 trials\n"
        "  time         about 6 min 40 s in all, 40 s a trial (from a few measured steps of each kind of trial here)\n"
        "                      4 s  imports\n"
        "               6 min 40 s  trials\n"
        "  disk         about 12 MB"
    )
    assert describe_plan(space, resources, estimate) == text


def test_plan_of_a_grid() -> None:
    values = {"search": {"num_epochs": {"grid": [2, 3, 5]}}, "sampler": "grid", "seeds": [7, 9], "scheduler": "none"}
    text = show(build_space(values | {"name": "rows", "test": "all", "keep_checkpoints": True}, "a test"))
    assert "  trials       6, one for each row of the grid, each row for seeds 7, 9\n" in text
    assert "  scheduler    none, every trial runs to its end\n" in text
    assert "  test split   every trial's best epoch\n" in text
    assert "  checkpoints  all trials' are kept\n" in text
    assert (
        "First rows of the grid\n"
        "  1. num_epochs = 2, seed = 7\n"
        "  2. num_epochs = 2, seed = 9\n"
        "  3. num_epochs = 3, seed = 7\n"
        "  4. num_epochs = 3, seed = 9\n"
        "  5. num_epochs = 5, seed = 7\n"
    ) in text


def test_plan_of_kept_epochs_says_what_they_take() -> None:
    space = build_space({"name": "x", "fixed": {"evaluate": "last", "checkpoint_every_epoch": True}}, "test")
    resources = TrialResources(num_workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent=1)
    lines = describe_plan(space, resources, CostEstimate({"trials": 1.0}, 1.0, 12_340_000, 8_000_000)).splitlines()
    assert "  objective    CIDEr of the last epoch on the validation split, maximised" in lines
    assert "  checkpoints  the best three trials' are kept, with model and optimizer of every epoch" in lines
    assert lines[-1] == "  disk         about 12 MB, of which checkpoints of every epoch 8.0 MB"


def test_plan_of_a_comparison_stops_nothing() -> None:
    values = {"name": "rows", "search": {"num_epochs": {"grid": [2, 3]}}, "sampler": "grid"}
    assert "  scheduler    asha, one in 2" in show(build_space(values, "a test"))
    text = show(build_space(values | {"test": "all"}, "a test"))
    assert "  scheduler    asha, but every row of a comparison (grid, test: all) runs to its end\n" in text


def test_plan_where_nothing_is_searched() -> None:
    text = show(build_space({"name": "one", "trials": 1}, "a test"))
    assert "  trials       1 (nothing is searched)\n" in text
    assert "Searched" not in text
    assert "Sample configs" not in text


def test_samples_leave_out_what_does_not_go_together() -> None:
    search = {"batch_size": {"choice": [4, 6]}, "accumulation_steps": {"choice": [1, 4]}}
    samples = show(build_space({"name": "x", "search": search}, "a test")).split("\n\n")[3]
    assert samples.count("batch_size = ") == 5
    assert "batch_size = 6, accumulation_steps = 4" not in samples
    assert "batch_size = 4, accumulation_steps = 4" in samples


def test_duration() -> None:
    durations = {
        0.4: "0 s", 89: "89 s", 90: "1 min 30 s", 117: "2 min", 594: "9 min 50 s", 596: "10 min", 5399: "1 h 30 min",
        7500: "2 h 05 min",
    }  # fmt: skip
    assert {seconds: format_duration(seconds) for seconds in durations} == durations
