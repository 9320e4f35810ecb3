"""Predictions of trained models for the images of a split, shared out over all devices of the run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medcap_core.config import TrialConfig
from medcap_core.data.batches import Positions
from medcap_core.data.prepare import PreparedSplit, prepare_data
from medcap_core.data.records import SplitName
from medcap_core.errors import MedcapError, RunFault, first_line
from medcap_core.inference.generation import ImagePrediction, Request, generate_predictions
from medcap_core.inference.image_sources import open_images
from medcap_core.models import load_geometry, load_trial_captioner
from medcap_core.runtime.device import is_small
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.training.export import load_trained_captioner
from medcap_core.training.stored_checkpoints import StoredCheckpoints, free_node
from medcap_core.training.trial import name_memory_faults
from sweep.execution.cluster import TrialResources
from sweep.execution.nodes import is_one_machine, keep_off, list_nodes

MOST_RETRIES = 2
SECONDS_TO_FREE = 60.0
"""How long nodes may take to remove weights, before the run ends without."""
MOST_IMAGES_HERE = 1000
"""Up to this many images are shown to small models in this process, on one machine's CPUs: others take longer to start.
"""
SHARDS_PER_DEVICE = 4
"""On CPUs more shards than devices, so that progress shows and a slow device does not hold the others up."""


@dataclass(frozen=True)
class PredictionJob:
    """One model to show images of one split to; `weights` None is the base model itself.

    With the `url` of a run the weights are those of its trial `name`, and are got from there on each node.
    `positions` are the indices of the images in the split; `request` has questions in their order. A shard is some of
    a job's images, as indices of `positions`.
    """

    name: str
    config: TrialConfig
    weights: Path | None
    split: SplitName
    positions: Sequence[int]
    request: Request
    whole_validation: bool = True
    url: str | None = None


def load_split(config: TrialConfig, name: SplitName) -> PreparedSplit:
    """Load a split as models of `config` are scored on it: all of validation, of the others what the config says."""
    return prepare_data(config, load_geometry(config), splits=(name,), whole_validation=True).splits[name]


def predict_split(
    jobs: Sequence[PredictionJob], resources: TrialResources, progress: Progress, what: str
) -> dict[str, list[ImagePrediction]]:
    """Predict what every job asks, by job name, in the order of its positions."""
    configs = {job.config.model: job.config for job in jobs}.values()
    is_little = sum(len(job.positions) for job in jobs) <= MOST_IMAGES_HERE
    is_on_cpus = not resources.gpus_per_worker and is_one_machine()
    if is_little and is_on_cpus and all(is_small(load_trial_captioner(config)) for config in configs):
        return _predict_all_here(jobs, progress, what)
    return share_out(jobs, resources, progress, what)


def share_out(
    jobs: Sequence[PredictionJob], resources: TrialResources, progress: Progress, what: str
) -> dict[str, list[ImagePrediction]]:
    """Predict the same, whatever the size, in processes on all devices of the run."""
    num_devices = resources.max_concurrent * resources.num_workers
    # Given here and not by `options`, GPUs also make Ray end the process after a shard, so that it leaves the card.
    run: Any = ray.remote(
        num_cpus=resources.cpus_per_worker,
        num_gpus=resources.gpus_per_worker,
        max_retries=MOST_RETRIES,
        label_selector=keep_off(resources.unfit_nodes),
    )(_predict_shard)
    shards_per_device = 1 if resources.gpus_per_worker else SHARDS_PER_DEVICE
    pending: dict[Any, tuple[str, np.ndarray]] = {}
    for job in jobs:
        most = max(1, math.ceil(len(job.positions) / job.config.eval_batch_size))
        for shard in np.array_split(np.arange(len(job.positions)), min(num_devices * shards_per_device, most)):
            pending[run.remote(job, shard, resources.cpus_per_worker)] = (job.name, shard)
    found: dict[str, dict[int, ImagePrediction]] = {job.name: {} for job in jobs}
    total = sum(len(job.positions) for job in jobs)
    while pending:
        (task, *_), _ = ray.wait(list(pending), num_returns=1)
        name, shard = pending.pop(task)
        found[name].update(zip(shard.tolist(), _fetch(task), strict=True))
        progress(what, sum(map(len, found.values())), total)
    return {name: [part[index] for index in range(len(part))] for name, part in found.items()}


def _predict_all_here(jobs: Sequence[PredictionJob], progress: Progress, what: str) -> dict[str, list[ImagePrediction]]:
    found: dict[str, list[ImagePrediction]] = {}

    def note(_: str, done: int, __: int) -> None:
        progress(what, sum(map(len, found.values())) + done, sum(len(job.positions) for job in jobs))

    for job in jobs:
        found[job.name] = predict_here(job, progress=note)
    return found


def free_nodes(url: str) -> None:
    """Free the disks of all nodes of what they got of the weights of a run at `url`, once it is over."""
    free_node(url)
    if not is_one_machine():
        free = ray.remote(num_cpus=0)(free_node)
        places = [NodeAffinitySchedulingStrategy(node.id, soft=True) for node in list_nodes() if node.is_alive]
        freed = [free.options(scheduling_strategy=place).remote(url) for place in places]
        ray.wait(freed, num_returns=len(freed), timeout=SECONDS_TO_FREE)


def _fetch(task: "ray.ObjectRef[list[ImagePrediction]]") -> list[ImagePrediction]:
    """Return what a task predicted; a fault of the user's or of the model is raised as it was there."""
    try:
        return ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, MedcapError):
            raise error.cause from error
        raise
    except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
        raise RunFault(
            f"The process that shows images to a model died {MOST_RETRIES + 1} times ({first_line(error)}); if memory "
            "ran out, give the run fewer processes by --max-concurrent, then go on by --resume."
        ) from error


def _predict_shard(job: PredictionJob, shard: Positions, num_threads: float) -> list[ImagePrediction]:
    set_up_libraries()
    torch.set_num_threads(max(1, int(num_threads)))
    return predict_here(job, shard)


def predict_here(
    job: PredictionJob, shard: Positions | None = None, progress: Progress = ignore_progress
) -> list[ImagePrediction]:
    """Predict what a job asks of the images of a shard, by default of all, here; the model stays for the next call.

    Raises OutOfMemory.
    """
    with name_memory_faults(job.config):
        weights = job.weights
        if job.url and weights:
            weights = StoredCheckpoints(job.url, job.name).fetch_best_weights()
        captioner = load_trained_captioner(job.config, weights)
        data = prepare_data(job.config, captioner.geometry, splits=(job.split,), whole_validation=job.whole_validation)
        shard = np.arange(len(job.positions)) if shard is None else shard
        split = data.splits[job.split].part(np.array(job.positions)[shard])
        images = open_images(captioner, split, job.config)
        return generate_predictions(captioner, images, job.request.part(shard), job.config, progress=progress)
