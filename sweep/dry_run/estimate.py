"""Estimate what a sweep costs in time and disk: a short measured trial of each kind, times counts."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, cycle, islice
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.prepare import draw_rows, load_dataset, prepare_data
from medcap_core.data.records import SPLITS, SplitName
from medcap_core.data.stores.images import count_usable_cpus
from medcap_core.inference.generation import count_at_once
from medcap_core.inference.image_sources import FrozenEncoder
from medcap_core.models import load_trial_captioner
from medcap_core.models.tuning import features_are_fixed
from medcap_core.runtime.device import current_device
from medcap_core.runtime.workers import Workers
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.loop import fit
from medcap_core.training.trial import Trial
from sweep.dry_run.plan import CostEstimate
from sweep.execution.cluster import TrialResources
from sweep.space import SearchSpace, build_config, draw_configs, num_trials
from sweep.study.record import NUM_CANDIDATES

NUM_DRAWS, NUM_STEPS, NUM_DECODED = 32, 4, 16
SHARE_UNDER_ASHA = 0.8
"""Epochs run of those planned: 43 of 47 in lora.yaml, 35 of 48 in lora_only.yaml."""
STARTS_OF_PROCESSES, STARTS_OF_WORKERS, STARTS_OF_THE_END = 1.5, 4.5, 2.0
"""In units of this process's own start: of trials' processes; of several workers; of METEOR's Java and the report at
the end. On two quiet cores 6, 17 and 7.4 s, to 3.8 s."""
SECONDS_TO_SCORE_A_TEXT = 7e-4  # by all scores, with its share of intervals and tests

_encoder_of = attrgetter("model", "vision_model", "weights_dtype", "image_size")
_kind_of = attrgetter(
    "model", "vision_model", "language_model", "weights_dtype", "image_size", "quantization", "freeze", "lora_targets",
    "lora_vision", "use_dora", "gradient_checkpointing", "batch_size", "num_beams", "augment",
)  # fmt: skip


@dataclass(frozen=True)
class TrialCost:
    """Seconds of a trial's start, and of an image in training, in validation and to be stored."""

    start_seconds: float
    training_seconds: float
    validation_seconds: float
    image_seconds: float
    image_bytes: int
    trained_parameters: int
    total_parameters: int

    def compute_seconds(self, config: TrialConfig, share: float, num_workers: int) -> float:
        """Seconds of a trial that runs `share` of its epochs."""
        sizes = count_images(config)
        images = sizes["train"] * self.training_seconds + sizes["validation"] * self.validation_seconds
        num_epochs = 1 if config.freeze is FreezeMode.ZERO_SHOT else max(1.0, share * config.num_epochs)
        return self.start_seconds + num_epochs * images / num_workers


def estimate_cost(space: SearchSpace, resources: TrialResources, start_seconds: float) -> CostEstimate:
    """Measure a short trial of each kind the space holds, and multiply by what the sweep will do.

    `start_seconds` is what imports and checks took this process. Trials are the first points and random points, or the
    rows of a grid. Beside other programs they take longer than this says: Ray runs them at niceness 15.
    """
    given = [build_config(space, point) for point in space.first_points]
    trials = list(islice(chain(given, cycle(draw_configs(space, NUM_DRAWS))), num_trials(space)))
    num_devices = resources.max_concurrent * resources.num_workers
    torch.set_num_threads(max(1, int(resources.cpus_per_worker)))
    with busy_processes(0 if resources.gpus_per_worker else min(num_devices, os.cpu_count() or 1) - 1):
        kinds = {_kind_of(config): config for config in trials}
        measured = {kind: measure_trial(config) for kind, config in kinds.items()}
    costs = [measured[_kind_of(config)] for config in trials]
    share = SHARE_UNDER_ASHA if space.stops_weak_trials else 1.0
    first_start = STARTS_OF_WORKERS * start_seconds if resources.num_workers > 1 else 0.0
    seconds, ends = [], [first_start] * min(resources.max_concurrent, len(trials))
    stored: dict[tuple[object, ...], tuple[float, int]] = {}
    for config, cost in zip(trials, costs, strict=True):
        seconds.append(cost.compute_seconds(config, share, resources.num_workers))
        ends[ends.index(min(ends))] += seconds[-1]
        count, encoder = sum(count_images(config).values()), _encoder_of(config)
        stored[encoder] = max(stored.get(encoder, (0.0, 0)), (count * cost.image_seconds, count * cost.image_bytes))
    whole, is_part = count_images(trials[0], whole_validation=True), trials[0].max_validation_images is not None
    num_again = min(NUM_CANDIDATES, len(trials)) + 1 if len(trials) > 1 and is_part else 0  # and the untrained model
    num_tested = len(trials) if space.test == "all" else 1
    num_captions = num_again * whole["validation"] + (1 + num_tested) * whole["test"]
    caption_seconds = float(np.mean([cost.validation_seconds for cost in costs])) / num_devices
    num_rows = num_tested + 4  # untrained, best constant caption, nearest image, shuffled images
    end_seconds = num_rows * whole["test"] * SECONDS_TO_SCORE_A_TEXT + STARTS_OF_THE_END * start_seconds
    epochs_bytes = sum(map(count_epochs_bytes, trials, costs))
    images_seconds, images_bytes = map(sum, zip(*stored.values(), strict=True))
    return CostEstimate(
        seconds={
            "imports and checks": start_seconds,
            "images decoded and encoded, unless stored from before": images_seconds,
            "until Ray and the processes of trials have started": STARTS_OF_PROCESSES * start_seconds,
            f"{len(trials)} trials, {resources.max_concurrent} at once, {share:.0%} of their epochs": max(ends),
            f"{num_captions:,} captions of the leading trials and the test split": num_captions * caption_seconds,
            f"scores of {num_rows} rows, report, end": end_seconds,
        },
        seconds_per_trial=float(np.mean(seconds)),
        disk_bytes=images_bytes + epochs_bytes + count_weights_bytes(space, costs, resources.max_concurrent),
        epochs_bytes=epochs_bytes,
    )


def measure_trial(config: TrialConfig) -> TrialCost:
    """Run two epochs of one config on a few of its images; the second one counts, the first warms up."""
    captioner = load_trial_captioner(config, current_device())
    changes: dict[str, object] = {
        "data_fraction": 1.0,
        "max_train_images": NUM_STEPS * config.batch_size,
        "max_validation_images": count_at_once(captioner, config),
        "drop_duplicate_train_images": False,
        "learning_rate": 1e-9,  # no loss diverges
        "num_epochs": 2,
        "parallel": "ddp",  # here is one worker
    }
    few = config.model_copy(update=changes)
    data, reports = prepare_data(few, captioner.geometry), list[EpochReport]()
    records = data.splits["train"].records[:NUM_DECODED]
    started = time.monotonic()
    pixels = np.stack([captioner.geometry.decode(record.image) for record in records])
    image_seconds, image_bytes = (time.monotonic() - started) / count_usable_cpus(), pixels.nbytes
    if features_are_fixed(captioner, config) and config.cache_features:
        started = time.monotonic()
        image_bytes += FrozenEncoder(captioner, few).encode(pixels).cpu().nbytes
        image_seconds += time.monotonic() - started
    Trial(few, data, Workers(), current_device())  # stores the features that the trial reads
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fit(few, data, Path(folder), reports.append)
    last = reports[-1]
    return TrialCost(
        start_seconds=time.monotonic() - started - sum(report.seconds for report in reports),
        training_seconds=last.training_seconds / len(data.splits["train"]),
        validation_seconds=(last.seconds - last.training_seconds) / len(data.splits["validation"]),
        image_seconds=image_seconds / len(records),
        image_bytes=image_bytes // len(records),
        trained_parameters=last.trainable_parameters,
        total_parameters=last.total_parameters,
    )


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` processes multiplying matrices meanwhile: a core that has company is slower than one alone."""
    command = [sys.executable, "-c", "import numpy as n\na = n.ones((256, 256), n.float32)\nwhile True: a @ a"]
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen(command, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}))
            stack.callback(process.kill)
        yield


@cache
def count_images(config: TrialConfig, *, whole_validation: bool = False) -> dict[SplitName, int]:
    """Count the images of each split that a trial of this config uses, bad ones not yet taken off."""
    dataset = load_dataset(config)
    return {split: len(draw_rows(dataset, split, config, whole_validation=whole_validation)) for split in SPLITS}


def count_epochs_bytes(config: TrialConfig, cost: TrialCost) -> int:
    """Bytes of the checkpoints of every epoch, where a trial keeps them: trained weights and Adam's two moments."""
    return 3 * 4 * cost.trained_parameters * config.num_epochs if config.checkpoint_every_epoch else 0


def count_weights_bytes(space: SearchSpace, costs: Sequence[TrialCost], num_running: int) -> int:
    """Bytes of weights at the fullest moment: running trials, those kept, and `best/`."""
    weights = sorted((4 * cost.trained_parameters for cost in costs), reverse=True)
    kept = sum(weights if space.test == "all" else weights[:NUM_CANDIDATES])
    if space.keep_checkpoints:
        kept = 4 * sum(weights)  # Adam's two moments and the last epoch's weights beside the best one's
    return kept + 4 * num_running * weights[0] + 4 * max(cost.total_parameters for cost in costs)
