"""Captions and answers of trained models for a whole split, shared out over all devices of the run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from medcap_core.config import TrialConfig
from medcap_core.data.batches import Positions
from medcap_core.data.prepare import PreparedSplit, prepare_data
from medcap_core.data.records import SplitName
from medcap_core.errors import MedcapError, RunFault
from medcap_core.inference.generation import ImageAnswers, generate_answers
from medcap_core.inference.image_sources import open_images
from medcap_core.models import Captioner, load_geometry, load_trial_captioner
from medcap_core.objective import Predictions
from medcap_core.runtime.device import is_small
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.training.export import load_trained_captioner
from medcap_core.training.trial import name_memory_faults
from medcap_core.training.validation import choose_scored, predict
from sweep.execution.cluster import TrialResources

T = TypeVar("T")

MOST_RETRIES = 2
MOST_IMAGES_HERE = 1000
"""On one machine's CPUs up to so many images are captioned here by small models: other processes take longer to start.
"""
SHARDS_PER_DEVICE = 4
"""On CPUs more shards than devices, so that progress shows and a slow device does not hold the others up."""


@dataclass(frozen=True)
class SplitJob(Generic[T]):
    """One model to show the images of one split to; `weights` None is the base model itself."""

    name: str
    config: TrialConfig
    weights: Path | None
    split: SplitName
    num_images: int
    whole_validation: bool = True

    def choose(self, split: PreparedSplit) -> PreparedSplit:
        """What of the split is shown."""
        return split

    def run(self, captioner: Captioner, split: PreparedSplit, positions: Positions, progress: Progress) -> Sequence[T]:
        """What the model says of `split`, the images at `positions` of those chosen."""
        raise NotImplementedError


@dataclass(frozen=True)
class CaptionJob(SplitJob[str]):
    """One text an image.

    With `predictions` "answers" the texts are answers to the question for the diagnosis, and `num_images` counts the
    scans whose diagnosis is known.
    """

    predictions: Predictions = "captions"

    def choose(self, split: PreparedSplit) -> PreparedSplit:
        """See `SplitJob.choose`."""
        return choose_scored(split, self.predictions)

    def run(
        self, captioner: Captioner, split: PreparedSplit, positions: Positions, progress: Progress
    ) -> Sequence[str]:
        """See `SplitJob.run`."""
        images = open_images(captioner, split, self.config)
        return predict(captioner, images, self.config, self.predictions, progress=progress)


@dataclass(frozen=True)
class AnswerJob(SplitJob[ImageAnswers]):
    """Answers to the questions on each image of the split, and its similarity to each of `classes`, if any."""

    questions: tuple[tuple[str, ...], ...] = ()
    classes: tuple[str, ...] = ()

    def run(
        self, captioner: Captioner, split: PreparedSplit, positions: Positions, progress: Progress
    ) -> Sequence[ImageAnswers]:
        """See `SplitJob.run`."""
        asked = [self.questions[position] for position in positions.tolist()]
        images = open_images(captioner, split, self.config)
        return generate_answers(captioner, images, asked, self.config, progress=progress, classes=self.classes)


def load_split(config: TrialConfig, name: SplitName) -> PreparedSplit:
    """A split as the models of `config` are scored on it: all of validation, of the others what the config says."""
    return prepare_data(config, load_geometry(config), splits=(name,), whole_validation=True).splits[name]


def predict_split(
    jobs: Sequence[SplitJob[T]], resources: TrialResources, progress: Progress, what: str
) -> dict[str, list[T]]:
    """What every job's model says, in the order of its split, by job name."""
    if not resources.gpus_per_worker and _is_one_machine() and _is_little_work(jobs):
        return _predict_all_here(jobs, progress, what)
    return share_out(jobs, resources, progress, what)


def _is_little_work(jobs: Sequence[SplitJob[Any]]) -> bool:
    if sum(job.num_images for job in jobs) > MOST_IMAGES_HERE:
        return False
    captioners = [load_trial_captioner(config) for config in {job.config.model: job.config for job in jobs}.values()]
    return all(is_small(captioner) for captioner in captioners)


def share_out(
    jobs: Sequence[SplitJob[T]], resources: TrialResources, progress: Progress, what: str
) -> dict[str, list[T]]:
    """The same, whatever the size, in processes on all devices of the run."""
    num_devices = resources.max_concurrent * resources.num_workers
    # Given here and not by `options`, GPUs also make Ray end the process after a shard, so that it leaves the card.
    run: Any = ray.remote(
        num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, max_retries=MOST_RETRIES
    )(_predict_positions)
    shards_per_device = 1 if resources.gpus_per_worker else SHARDS_PER_DEVICE
    pending: dict[Any, tuple[str, np.ndarray]] = {}
    for job in jobs:
        num_shards = max(
            1, min(num_devices * shards_per_device, math.ceil(job.num_images / job.config.eval_batch_size))
        )
        for positions in np.array_split(np.arange(job.num_images), num_shards):
            task = run.remote(job, positions, resources.cpus_per_worker)
            pending[task] = (job.name, positions)
    told: dict[str, dict[int, T]] = {job.name: {} for job in jobs}
    total = sum(job.num_images for job in jobs)
    while pending:
        (task, *_), _ = ray.wait(list(pending), num_returns=1)
        name, positions = pending.pop(task)
        told[name].update(zip(positions.tolist(), _fetch(task), strict=True))
        progress(what, sum(len(part) for part in told.values()), total)
    return {name: [part[position] for position in range(len(part))] for name, part in told.items()}


def _is_one_machine() -> bool:
    return len([node for node in ray.nodes() if node["Alive"]]) == 1


def _predict_all_here(jobs: Sequence[SplitJob[T]], progress: Progress, what: str) -> dict[str, list[T]]:
    told: dict[str, list[T]] = {}
    total = sum(job.num_images for job in jobs)
    for job in jobs:
        before = sum(map(len, told.values()))

        def note(_: str, done: int, __: int, before: int = before) -> None:
            progress(what, before + done, total)

        told[job.name] = predict_here(job, progress=note)
    return told


def _fetch(task: "ray.ObjectRef[list[T]]") -> list[T]:
    """What a task gave; a fault of the user's or of the model is raised as it was there."""
    try:
        told: list[T] = ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, MedcapError):
            raise error.cause from error
        raise
    except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunFault(
            f"The process that shows images to a model died {MOST_RETRIES + 1} times ({reason}); if memory ran out, "
            "give the run fewer processes by --max-concurrent, then go on by --resume."
        ) from error
    return told


def _predict_positions(job: SplitJob[T], positions: np.ndarray, num_threads: float) -> list[T]:
    """Runs in a Ray worker."""
    set_up_libraries()
    torch.set_num_threads(max(1, int(num_threads)))
    return predict_here(job, positions)


def predict_here(
    job: SplitJob[T], positions: np.ndarray | None = None, progress: Progress = ignore_progress
) -> list[T]:
    """What the model says of these images of a job, by default of all, here; it stays for the next call.

    Raises OutOfMemory.
    """
    with name_memory_faults(job.config):
        captioner = load_trained_captioner(job.config, job.weights)
        data = prepare_data(job.config, captioner.geometry, splits=(job.split,), whole_validation=job.whole_validation)
        chosen = job.choose(data.splits[job.split])
        places = np.arange(job.num_images) if positions is None else positions
        return list(job.run(captioner, chosen.part(places), places, progress))
