"""What a sweep will cost in time and disk, from a few measured steps of its own trials on its own data."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from medcap_core import training
from medcap_core.batches import SourcePart
from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.geometry import Geometry
from medcap_core.data.prepare import PreparedData, load_dataset, prepare_data
from medcap_core.data.records import SplitName
from medcap_core.data.splits import DATA_SEED, select_rows
from medcap_core.device import current_device
from medcap_core.distributed import Workers
from medcap_core.evaluation import compute_validation_loss, generate_captions
from medcap_core.image_sources import FrozenEncoder
from medcap_core.models import load_geometry
from medcap_core.steps import STEPS_BEFORE_RECORDING
from sweep.cluster import TrialResources
from sweep.plan import CostEstimate
from sweep.points import build_config, draw_configs, num_trials
from sweep.pruning import build_rungs, should_prune
from sweep.schema import SearchSpace
from sweep.trial_record import compute_step

NUM_DRAWS = 32
NUM_STEPS = 4
NUM_CAPTIONED = 32
NUM_SIMULATED_SWEEPS = 20
SECONDS_TO_START = 12.0
"""Ray, the check of the evaluation and the first import in each trial process."""
SECONDS_TO_SCORE_AN_EPOCH = 0.6
SECONDS_TO_END = 10.0
"""The test split's baselines, of which METEOR's start takes most, and the report."""
SECONDS_TO_SCORE_A_MODEL = 1.0


@dataclass(frozen=True)
class UnitCost:
    """Seconds an image in training, captioning and encoding ahead; bytes of its stored features; parameters.

    `total_parameters` are the base model's, LoRA's factors left out.
    """

    training_seconds: float
    caption_seconds: float
    encoding_seconds: float
    feature_bytes: int
    trained_parameters: int
    total_parameters: int


Measured = tuple[TrialConfig, UnitCost]


def estimate_cost(space: SearchSpace, resources: TrialResources) -> CostEstimate:
    """Measure a few steps of each kind of trial the space holds, and add up what the sweep will do of each.

    Needs a few decoded images; everything else is counted, not done. Steps are measured beside as many busy processes
    as there will be other trials. How much of their schedules ASHA lets trials run is found by simulating sweeps whose
    trials differ at random; first points are counted as they are, the others as random ones.
    """
    torch.set_num_threads(max(1, int(resources.cpus_per_worker)))
    given = [build_config(space, point) for point in space.first_points[: num_trials(space)]]
    drawn = draw_configs(space, NUM_DRAWS)
    kinds = {_kind(config): config for config in [*given, *drawn]}
    workers, devices = resources.num_workers, resources.num_workers * resources.max_concurrent
    num_others = 0 if resources.gpus_per_worker else devices - 1
    with busy_processes(min(num_others, (os.cpu_count() or 1) - 1)):
        units = {kind: measure_units(config) for kind, config in kinds.items()}
    share = simulate_share_run(space, drawn)

    def estimate_trial(config: TrialConfig) -> float:
        unit, sizes = units[_kind(config)], count_images(config)
        is_trained = config.freeze is not FreezeMode.ZERO_SHOT
        epoch = (
            is_trained * sizes["train"] * unit.training_seconds + sizes["validation"] * unit.caption_seconds
        ) / workers
        return (epoch + SECONDS_TO_SCORE_AN_EPOCH) * (config.num_epochs * share if is_trained else 1)

    of_given, of_drawn = ([estimate_trial(config) for config in configs] for configs in (given, drawn))
    trials = sum(of_given) + (num_trials(space) - len(given)) * float(np.mean(of_drawn))

    base, measured = drawn[0], [(config, units[_kind(config)]) for config in (*given, *drawn)]
    sizes = count_images(base)
    caption_seconds = float(np.mean([units[_kind(config)].caption_seconds for config in drawn]))
    encoding = sum(
        max(unit.encoding_seconds for _, unit in group) * _count_encoded(group) for group in _by_encoder(measured)
    )
    scored_again = 3 * count_images(base.model_copy(update={"max_validation_images": None}))["validation"]
    num_tested = num_trials(space) if space.test == "all" else 1
    captions = (1 + num_tested) * sizes["test"] + (scored_again if base.max_validation_images else 0)
    total = (
        SECONDS_TO_START
        + (encoding + captions * caption_seconds) / devices
        + trials / resources.max_concurrent
        + SECONDS_TO_END
        + num_tested * SECONDS_TO_SCORE_A_MODEL
    )
    return CostEstimate(
        seconds_per_trial=trials / num_trials(space),
        total_seconds=total,
        disk_bytes=estimate_disk(measured, resources)
        + count_kept_bytes(space, [units[_kind(config)] for config in drawn]),
        basis=f"{NUM_STEPS} measured steps and {NUM_CAPTIONED} captions of each kind of trial on this machine",
    )


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` processes multiplying matrices meanwhile: a core that has company is slower than one alone."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "import numpy as n\na = n.ones((256, 256), n.float32)\nwhile True: a @ a"]
    processes = [subprocess.Popen(command, env=environment) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _kind(config: TrialConfig) -> tuple[object, ...]:
    """What decides the time of a step: trials of one kind are measured once."""
    return (
        *_encoder_of(config), config.quantization, config.freeze, config.lora_targets, config.lora_vision,
        config.batch_size, config.num_beams, config.augment,
    )  # fmt: skip


def _encoder_of(config: TrialConfig) -> tuple[object, ...]:
    """What decides an encoder's output for an image."""
    return (config.model, config.vision_model, config.weights_dtype, config.image_size)


def _by_encoder(measured: list[Measured]) -> list[list[Measured]]:
    """The measured configs, those with the same encoder together."""
    groups: dict[tuple[object, ...], list[Measured]] = {}
    for config, unit in measured:
        groups.setdefault(_encoder_of(config), []).append((config, unit))
    return list(groups.values())


def _count_encoded(group: list[Measured]) -> int:
    """How many images one encoder sees; a zero-shot trial looks at no training images."""
    counts = []
    for config, _ in group:
        sizes = count_images(config)
        counts.append(sum(sizes.values()) - (config.freeze is FreezeMode.ZERO_SHOT) * sizes["train"])
    return max(counts)


def measure_units(config: TrialConfig) -> UnitCost:
    """Run a few training steps and captions of one config on its own data."""
    num_images = max(NUM_CAPTIONED, min(config.batch_size * 2, 128))
    few = config.model_copy(
        update={
            "data_fraction": 1.0,
            "max_train_images": num_images,
            "max_validation_images": NUM_CAPTIONED,
            "max_bad_record_share": 1.0,
            "drop_duplicate_train_images": False,  # a measurement need not read every split
        }
    )
    data: PreparedData = prepare_data(few, load_geometry(few))
    trial = training.set_up(few, data, Workers(), current_device())
    unit_seconds = 0.0
    if trial.tuning.trainable_parameters:
        step = np.arange(config.batch_size) % len(trial.train.images)
        parts = [trial.train.make(part) for part in np.array_split(step, config.accumulation_steps)]
        labels = trial.train.texts.count_labels(step)
        for _ in range(STEPS_BEFORE_RECORDING + 1):
            trial.steps.take(parts, labels)
        elapsed = time_call(lambda: [trial.steps.take(parts, labels) for _ in range(NUM_STEPS)])
        unit_seconds = elapsed / (NUM_STEPS * config.batch_size)
    part = SourcePart(trial.validation.images, np.arange(min(NUM_CAPTIONED, len(trial.validation.images))))

    def caption() -> None:
        generate_captions(trial.captioner, part, config)
        compute_validation_loss(trial.captioner, trial.validation, config)

    encoding_seconds, feature_bytes = 0.0, 0
    if trial.validation.images.encoded:
        feature_bytes = trial.validation.images.fetch(np.arange(1)).nbytes
        some = data.splits["validation"].pixels(np.arange(len(part)))
        encoding_seconds = time_call(lambda: FrozenEncoder(trial.captioner, config).encode(some)) / len(part)
    caption_seconds, trained = time_call(caption) / len(part), trial.tuning.trainable_parameters
    base_parameters = trial.tuning.total_parameters - (trained if config.freeze is FreezeMode.LORA else 0)
    return UnitCost(unit_seconds, caption_seconds, encoding_seconds, feature_bytes, trained, base_parameters)


def time_call(call: Callable[[], object]) -> float:
    """Seconds a call takes, the device's work included."""
    started = time.perf_counter()
    call()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def count_images(config: TrialConfig) -> dict[SplitName, int]:
    """How many images of each split a trial of this config uses, bad ones not yet taken off."""
    splits = load_dataset(config.data).splits
    limits: dict[SplitName, tuple[float, int | None]] = {
        "train": (config.data_fraction, config.max_train_images),
        "validation": (1.0, config.max_validation_images),
        "test": (1.0, config.max_test_images),
    }
    return {
        name: len(select_rows(len(splits[name]), fraction=fraction, cap=cap, seed=DATA_SEED))
        for name, (fraction, cap) in limits.items()
    }


def simulate_share_run(space: SearchSpace, configs: list[TrialConfig]) -> float:
    """Share of all planned epochs that the scheduler lets trials run, if their quality is drawn at random."""
    if not space.stops_weak_trials:
        return 1.0
    rungs = build_rungs(space.grace_fraction, space.reduction_factor)
    generator = np.random.default_rng(0)
    planned = done = 0
    for _ in range(NUM_SIMULATED_SWEEPS):
        curves: list[dict[int, float]] = []
        for _ in range(num_trials(space)):
            num_epochs = configs[generator.integers(len(configs))].num_epochs
            quality = float(generator.random())
            curve: dict[int, float] = {}
            planned += num_epochs
            for epoch in range(1, num_epochs + 1):
                curve[compute_step(epoch, num_epochs)] = quality
                done += 1
                if epoch < num_epochs and should_prune(curve, curves, rungs, space.reduction_factor):
                    break
            curves.append(curve)
    return done / planned


def count_kept_bytes(space: SearchSpace, units: list[UnitCost]) -> int:
    """Bytes of the trials that are over: the three best; with `test: all` every one's weights, until they are scored.

    `units` are of random trials of the space, or of all rows of a grid.
    """
    weights_bytes = [4 * unit.trained_parameters for unit in units]
    of_all = num_trials(space) * float(np.mean(weights_bytes))
    if space.keep_checkpoints:
        return round(4 * of_all)  # Adam's two moments and the last epoch's weights beside the best one's
    best = min(3, num_trials(space)) * max(weights_bytes)
    return round(max(of_all, best)) if space.test == "all" else best


def estimate_disk(measured: list[Measured], resources: TrialResources) -> int:
    """Bytes at the fullest moment: running trials, `best/`, decoded and encoded images.

    Of several models the largest counts; images are decoded once for each size and encoded once for each encoder.
    """
    model_bytes = 4 * max(unit.total_parameters for _, unit in measured)
    weights_bytes = 4 * max(unit.trained_parameters for _, unit in measured)
    running_bytes = 4 * weights_bytes  # weights and Adam's two moments, and the best epoch's weights beside them
    decoded: dict[Geometry, int] = {}
    encoded_bytes = 0
    for group in _by_encoder(measured):
        num_images = max(sum(count_images(config).values()) for config, _ in group)
        geometry = load_geometry(group[0][0])
        decoded[geometry] = max(decoded.get(geometry, 0), num_images)
        encoded_bytes += _count_encoded(group) * max(unit.feature_bytes for _, unit in group)
    decoded_bytes = sum(math.prod(geometry.row_shape) * count for geometry, count in decoded.items())
    return resources.max_concurrent * running_bytes + model_bytes + decoded_bytes + encoded_bytes
