"""What the parts of a trial cost here: measured on a few of its own images, beside other busy processes."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.batches import SourcePart
from medcap_core.data.decoding import UnreadableImage
from medcap_core.data.geometry import Geometry
from medcap_core.data.prepare import PreparedData, PreparedSplit, load_dataset, prepare_data
from medcap_core.data.records import SPLITS, Record, SplitName
from medcap_core.data.splits import DATA_SEED, select_rows
from medcap_core.data.stores.features import FeatureStore
from medcap_core.data.stores.images import count_usable_cpus
from medcap_core.inference.generation import compute_validation_loss, count_at_once
from medcap_core.inference.image_sources import FrozenEncoder
from medcap_core.models import load_geometry
from medcap_core.objective import OBJECTIVES
from medcap_core.runtime.device import current_device, is_small
from medcap_core.runtime.workers import Workers
from medcap_core.training.checkpoint import save_weights, trained_weights
from medcap_core.training.steps import STEPS_BEFORE_RECORDING
from medcap_core.training.trial import Trial, set_up
from medcap_core.training.validation import predict, score_predictions

LEAST_STEPS, LEAST_SECONDS = 4, 1.0
"""So many training steps are timed at least, and for so long."""
FEW_IMAGES = 32
NUM_DECODED = 32
STATES_IN_A_CHECKPOINT = 4
"""Weights, Adam's two moments, and the best epoch's weights beside them."""


@dataclass(frozen=True, kw_only=True)
class UnitCost:
    """Seconds until a trial's first step; an image in training, in captioning and for its loss, in encoding; an epoch's
    scoring and checkpoint.

    `feature_bytes` are those of an image; `num_encoded` counts each split's images that are stored encoded already.
    `total_parameters` are the base model's, LoRA's factors left out.
    """

    begin_seconds: float = 0.0
    training_seconds: float
    caption_seconds: float
    scoring_seconds: float = 0.0
    encoding_seconds: float
    feature_bytes: int
    num_encoded: Mapping[SplitName, int]
    trained_parameters: int
    total_parameters: int
    is_small: bool = True


@dataclass(frozen=True)
class DecodingCost:
    """Seconds an image on all cores, and how many images of each split are decoded already."""

    seconds: float
    num_decoded: Mapping[SplitName, int]


def measure_units(config: TrialConfig) -> UnitCost:
    """Run a few training steps, captions and scores of one config on its own data."""
    workers, device = Workers(), current_device()
    trial = set_up(config, take_few(config, FEW_IMAGES), workers, device)
    data = take_few(config, max(FEW_IMAGES, count_at_once(trial.captioner, config)))
    started = time.perf_counter()
    trial = set_up(config, data, workers, device)  # again, since weights and images are at hand now
    begin_seconds = time.perf_counter() - started
    positions = np.arange(min(count_at_once(trial.captioner, config), len(trial.validation.images)))
    part, split = SourcePart(trial.validation.images, positions), data.splits["validation"].part(positions)
    texts: list[str] = []

    def caption() -> None:
        texts[:] = predict(trial.captioner, part, config, OBJECTIVES[config.metric].predictions)

    caption_seconds = time_call(caption) / len(part)
    loss_seconds = time_call(lambda: compute_validation_loss(trial.captioner, trial.validation, config))
    encoding_seconds, feature_bytes, num_encoded = 0.0, 0, dict.fromkeys(SPLITS, 0)
    if trial.validation.images.encoded:
        encoder = FrozenEncoder(trial.captioner, config)
        feature_bytes = trial.validation.images.fetch(np.arange(1)).nbytes
        some = split.pixels(np.arange(min(FEW_IMAGES, len(split))))
        encoding_seconds = time_call(lambda: encoder.encode(some)) / len(some)
        num_encoded = {name: _count_encoded(part, encoder) for name, part in data.splits.items()}
    trained = trial.tuning.trainable_parameters
    return UnitCost(
        begin_seconds=begin_seconds,
        training_seconds=_time_training(trial),
        caption_seconds=caption_seconds + loss_seconds / len(trial.validation.images),
        scoring_seconds=_time_scoring(trial, split, texts),
        encoding_seconds=encoding_seconds,
        feature_bytes=feature_bytes,
        num_encoded=num_encoded,
        trained_parameters=trained,
        total_parameters=trial.tuning.total_parameters - (trained if config.freeze is FreezeMode.LORA else 0),
        is_small=is_small(trial.captioner),
    )


def measure_decoding(config: TrialConfig) -> DecodingCost:
    """Open and resize a few images of the config's training data, as many at once as a run does."""
    geometry, data = load_geometry(config), take_few(config, 2)
    records = load_dataset(config.data).splits["train"][:NUM_DECODED]
    with ThreadPoolExecutor(count_usable_cpus()) as pool:
        seconds = time_call(lambda: list(pool.map(lambda record: _try_to_decode(geometry, record), records)))
    stores = {name: split.store for name, split in data.splits.items()}
    num_decoded = {name: int(np.sum(store.readable(np.arange(len(store))))) for name, store in stores.items()}
    return DecodingCost(seconds / len(records), num_decoded)


def take_few(config: TrialConfig, num_images: int) -> PreparedData:
    """A few images of each split of a config's data, decoded; of train as many as make two batches, up to 128."""
    few = config.model_copy(
        update={
            "data_fraction": 1.0,
            "max_train_images": max(num_images, min(config.batch_size * 2, 128)),
            "max_validation_images": num_images,
            "max_test_images": 2,
            "max_bad_record_share": 1.0,
            "drop_duplicate_train_images": False,  # a measurement need not read every split
        }
    )
    return prepare_data(few, load_geometry(few), splits=SPLITS)


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


def _time_training(trial: Trial) -> float:
    """Seconds an image in training; 0 where nothing is trained."""
    if not trial.tuning.trainable_parameters:
        return 0.0
    step = np.arange(trial.config.batch_size) % len(trial.train.images)
    own_parts = np.array_split(step, trial.config.accumulation_steps)
    parts = [trial.train.make(part, own_parts) for part in own_parts]
    labels = trial.train.texts.count_labels(step)
    for _ in range(STEPS_BEFORE_RECORDING + 1):
        trial.steps.take(parts, labels)
    num_steps, seconds = 0, 0.0
    while num_steps < LEAST_STEPS or seconds < LEAST_SECONDS:
        seconds += time_call(lambda: [trial.steps.take(parts, labels) for _ in range(LEAST_STEPS)])
        num_steps += LEAST_STEPS
    return seconds / (num_steps * trial.config.batch_size)


def _time_scoring(trial: Trial, split: PreparedSplit, texts: Sequence[str]) -> float:
    """Seconds to score an epoch and to write its checkpoint."""
    metric = trial.config.metric
    score_predictions(split, texts, metric)  # the first of a process starts Java and prepares the references
    seconds = time_call(lambda: score_predictions(split, texts, metric))
    if trial.tuning.trainable_parameters:
        weights = trained_weights(trial.captioner)
        with tempfile.TemporaryDirectory() as folder:
            seconds += STATES_IN_A_CHECKPOINT * time_call(lambda: save_weights(Path(folder) / "weights", weights))
    return seconds


def _count_encoded(split: PreparedSplit, encoder: FrozenEncoder) -> int:
    """How many images of a split's store are encoded already."""
    store = FeatureStore(split.store, encoder.hash, encoder.measure_output(split), encoder.precision)
    return len(store) - len(store.missing(np.arange(len(store))))


def _try_to_decode(geometry: Geometry, record: Record) -> None:
    with suppress(UnreadableImage):
        geometry.decode(record.image)
