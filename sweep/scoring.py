"""Captions (or answers) of trained models for a whole split, shared out over all devices of the run."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from medcap_core.config import TrialConfig
from medcap_core.data.prepare import PreparedSplit, prepare_data
from medcap_core.data.records import SplitName
from medcap_core.device import is_small
from medcap_core.errors import MedcapError, RunFault
from medcap_core.evaluation import ignore_progress
from medcap_core.image_sources import open_images
from medcap_core.libraries import quiet_libraries
from medcap_core.models import load_geometry, load_trial_captioner
from medcap_core.objective import Predictions
from medcap_core.trained import load_trained_captioner
from medcap_core.training import name_memory_faults
from medcap_core.validation import choose_scored, predict
from medcap_core.zero_shot import caption_zero_shot
from sweep.cluster import TrialResources

MOST_RETRIES = 2
MOST_IMAGES_HERE = 1000
"""On one machine's CPUs up to so many images are captioned here by small models: other processes take longer to start.
"""
SHARDS_PER_DEVICE = 4
"""On CPUs more shards than devices, so that progress shows and a slow device does not hold the others up."""


@dataclass(frozen=True)
class CaptionJob:
    """One model to caption one split with; `weights` None is the base model itself.

    `may_look_up` lets captions of a base model come from an earlier run. With `predictions` "answers" the texts are
    answers to the question for the diagnosis, and `num_images` counts the scans whose diagnosis is known.
    """

    name: str
    config: TrialConfig
    weights: Path | None
    split: SplitName
    num_images: int
    whole_validation: bool = True
    may_look_up: bool = True
    predictions: Predictions = "captions"


def load_split(config: TrialConfig, name: SplitName) -> PreparedSplit:
    """A split as the models of `config` are scored on it: all of validation, of the others what the config says."""
    return prepare_data(config, load_geometry(config), splits=(name,), whole_validation=True).splits[name]


def caption_split(
    jobs: list[CaptionJob], resources: TrialResources, progress: Callable[[str, int, int], None], what: str
) -> dict[str, list[str]]:
    """Every job's captions in the order of its split, by job name."""
    if not resources.gpus_per_worker and _is_one_machine() and _is_little_work(jobs):
        return _caption_all_here(jobs, progress, what)
    return share_out(jobs, resources, progress, what)


def _is_little_work(jobs: list[CaptionJob]) -> bool:
    if sum(job.num_images for job in jobs) > MOST_IMAGES_HERE:
        return False
    captioners = [load_trial_captioner(config) for config in {job.config.model: job.config for job in jobs}.values()]
    return all(is_small(captioner) for captioner in captioners)


def share_out(
    jobs: list[CaptionJob], resources: TrialResources, progress: Callable[[str, int, int], None], what: str
) -> dict[str, list[str]]:
    """The same, whatever the size, in processes on all devices of the run."""
    num_devices = resources.max_concurrent * resources.num_workers
    # Given here and not by `options`, GPUs also make Ray end the process after a shard, so that it leaves the card.
    run = ray.remote(num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, max_retries=MOST_RETRIES)(
        _caption_positions
    )
    shards_per_device = 1 if resources.gpus_per_worker else SHARDS_PER_DEVICE
    pending: dict[Any, tuple[str, np.ndarray]] = {}
    for job in jobs:
        num_shards = max(
            1, min(num_devices * shards_per_device, math.ceil(job.num_images / job.config.eval_batch_size))
        )
        for positions in np.array_split(np.arange(job.num_images), num_shards):
            task = run.remote(job, positions, resources.cpus_per_worker)
            pending[task] = (job.name, positions)
    captions: dict[str, dict[int, str]] = {job.name: {} for job in jobs}
    total = sum(job.num_images for job in jobs)
    while pending:
        (task, *_), _ = ray.wait(list(pending), num_returns=1)
        name, positions = pending.pop(task)
        captions[name].update(zip(positions.tolist(), _fetch(task), strict=True))
        progress(what, sum(len(part) for part in captions.values()), total)
    return {name: [part[position] for position in range(len(part))] for name, part in captions.items()}


def _is_one_machine() -> bool:
    return len([node for node in ray.nodes() if node["Alive"]]) == 1


def _caption_all_here(
    jobs: list[CaptionJob], progress: Callable[[str, int, int], None], what: str
) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    total = sum(job.num_images for job in jobs)
    for job in jobs:
        before = sum(map(len, captions.values()))

        def note(_: str, done: int, __: int, before: int = before) -> None:
            progress(what, before + done, total)

        captions[job.name] = caption_here(job, progress=note)
    return captions


def _fetch(task: "ray.ObjectRef[list[str]]") -> list[str]:
    """What a task gave; a fault of the user's or of the model is raised as it was there."""
    try:
        captions: list[str] = ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, MedcapError):
            raise error.cause from error
        raise
    except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunFault(
            f"The process that captions images died {MOST_RETRIES + 1} times ({reason}); if memory ran out, give the "
            "run fewer processes by --max-concurrent, then go on by --resume."
        ) from error
    return captions


def _caption_positions(job: CaptionJob, positions: np.ndarray, num_threads: float) -> list[str]:
    """Runs in a Ray worker."""
    quiet_libraries()
    torch.set_num_threads(max(1, int(num_threads)))
    return caption_here(job, positions)


def caption_here(
    job: CaptionJob, positions: np.ndarray | None = None, progress: Callable[[str, int, int], None] = ignore_progress
) -> list[str]:
    """Captions of these images of a job, by default of all, made here; the model stays for the next call.

    Raises OutOfMemory.
    """
    with name_memory_faults(job.config):
        captioner = load_trained_captioner(job.config, job.weights)
        data = prepare_data(job.config, captioner.geometry, splits=(job.split,), whole_validation=job.whole_validation)
        scored = choose_scored(data.splits[job.split], job.predictions)
        split = scored.part(np.arange(job.num_images) if positions is None else positions)
        if job.predictions == "captions" and job.weights is None and job.may_look_up:
            return caption_zero_shot(captioner, split, job.config, progress)
        images = open_images(captioner, split, job.config)
        return predict(captioner, images, job.config, job.predictions, progress=progress)
