"""Run one trial under Ray: in Tune's own reused process on one device, under Ray Train on several."""

import json
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util import get_current_placement_group, remove_placement_group

from medcap_core.config import TrialConfig
from medcap_core.data.prepare import prepare_data
from medcap_core.data.records import fold_white_space
from medcap_core.data.remote import fetch_ahead
from medcap_core.errors import DataFault, ModelFault, TrialFailure, UserFault
from medcap_core.models import load_geometry
from medcap_core.runtime.device import release_memory
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.runtime.storage import StorageFault, working_directory
from medcap_core.runtime.workers import current_workers
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.loop import fit
from medcap_core.training.stored_checkpoints import StoredCheckpoints
from sweep.execution.cluster import worker_resources
from sweep.execution.moves import NodeFault, is_fault_of_node
from sweep.execution.nodes import keep_off
from sweep.execution.ray_private import set_process_title
from sweep.execution.rendezvous import choose_torch_config

SECONDS_BETWEEN_WRITES = 2.0

FAILURE = "failure"
"""Key of a result with the reason why a trial failed; reported rather than raised, so that Tune does not retry it."""
CONFIG_AT_FAULT = "config_at_fault"
"""Key beside it: whether any trial of that config would fail."""
STORAGE_AT_FAULT = "storage_at_fault"
"""Key beside it: whether the storage of the run failed, so that no trial can go on."""
PLACES = "places"
"""Key of a result at the start of a trial: the node's id of each of its processes; in JSON, since Tune flattens it."""
SAMPLE = "sample"
"""Key of an epoch's result: one caption of it and the reference, in JSON."""
NODE_FAULT = "node_fault"
"""Key of a result of a process that is about to end by a fault of its node: a `NodeFault`, in JSON."""


@dataclass(frozen=True)
class Assignment:
    """The parameters of a trial process; plain values, since Ray serializes and shows them."""

    trial: str
    label: str
    config: dict[str, Any]
    directory: str
    scratch: str
    cpus_per_worker: float
    gpus_per_worker: float
    num_workers: int
    url: str | None = None
    """The URL of the run, under which its checkpoints are kept; None where all nodes share `directory`."""
    avoided_nodes: tuple[str, ...] = ()

    @property
    def trial_config(self) -> TrialConfig:
        """The config, as the driver validated it."""
        return TrialConfig.model_validate(self.config)

    @property
    def folder(self) -> Path:
        """The trial's folder, as this node has it."""
        return working_directory(self.url) / "trials" / self.trial if self.url else Path(self.directory)

    @property
    def scratch_folder(self) -> Path:
        """The folder of Tune's and Train's own files, as this node has it."""
        return working_directory(self.url) / "ray" if self.url else Path(self.scratch)

    @property
    def reservation(self) -> Path:
        """The file with the placement group of several workers."""
        return self.scratch_folder / "reservations" / f"{self.trial}.pickle"


def run_trial(params: dict[str, Any]) -> None:
    """Run one assignment to its end and report each epoch: Tune's function trainable."""
    assignment = Assignment(**params)
    if assignment.num_workers == 1:
        train_here(assignment, tune.report)
        return
    tune.report({PLACES: json.dumps({"leader": ray.get_runtime_context().get_node_id()})})
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config=params,
        # Shared memory and loopback serve where there is no GPU; NCCL where there is one.
        torch_config=choose_torch_config("nccl" if assignment.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # declared as that of Train V1
            num_workers=assignment.num_workers,
            use_gpu=assignment.gpus_per_worker > 0,
            resources_per_worker=worker_resources(assignment.cpus_per_worker, assignment.gpus_per_worker),
            label_selector=keep_off(assignment.avoided_nodes),
        ),
        run_config=RunConfig(
            name=assignment.trial,  # the restore key, so without a time stamp
            storage_path=str(assignment.scratch_folder / "train"),
            failure_config=FailureConfig(max_failures=0),
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]  # a UserCallback
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        causes = {rank: _root_cause(failure) for rank, failure in error.worker_failures.items()}
        for cause in causes.values():
            if isinstance(cause, TrialFailure | UserFault) and not is_fault_of_node(cause):
                tune.report(describe_failure(cause))
                return
        for rank, cause in causes.items():
            if is_fault_of_node(cause):
                tune.report(describe_node_fault(cause, rank))
                break
        raise


def describe_failure(error: BaseException) -> dict[str, Any]:
    """Build the last report of a trial that would fail again."""
    return {
        FAILURE: fold_white_space(str(error)),
        CONFIG_AT_FAULT: isinstance(error, TrialFailure),
        STORAGE_AT_FAULT: isinstance(error, StorageFault),
    }


def describe_node_fault(error: BaseException, rank: int) -> dict[str, Any]:
    """Build the last report of a process that ends by a fault of its node, whereupon the driver moves the trial."""
    may_pass = not isinstance(error, DataFault | ModelFault)
    fault = NodeFault(f"worker {rank}", fold_white_space(str(error)), may_pass)
    return {NODE_FAULT: json.dumps(asdict(fault))}


def _root_cause(error: BaseException) -> BaseException:
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    return error


def _train_worker(params: dict[str, Any]) -> None:
    assignment = Assignment(**params)
    group = get_current_placement_group()
    if ray.train.get_context().get_world_rank() == 0 and group is not None:
        assignment.reservation.parent.mkdir(parents=True, exist_ok=True)
        assignment.reservation.write_bytes(pickle.dumps(group))
    train_here(assignment, ray.train.report)


def free_workers(assignment: Assignment) -> None:
    """Remove the placement group of a finished trial's workers, where Train has not.

    Tune stops a trial together with Train's controller; Train's own clean-up then looks for the only Ray on the
    machine, and fails if there are two.
    """
    if assignment.reservation.is_file():
        remove_placement_group(pickle.loads(assignment.reservation.read_bytes()))
        assignment.reservation.unlink()


def train_here(assignment: Assignment, report: Callable[[dict[str, Any]], None]) -> None:
    """Fit in this process, with log and progress in the trial's folder."""
    config, directory = assignment.trial_config, assignment.folder
    set_up_libraries()
    torch.set_num_threads(max(1, int(assignment.cpus_per_worker)))
    directory.mkdir(parents=True, exist_ok=True)
    rank = current_workers().rank
    nodes = current_workers().gather(ray.get_runtime_context().get_node_id())
    report({PLACES: json.dumps({f"worker {number}": node for number, node in enumerate(nodes)})})
    write_progress, sample = ProgressWriter(assignment, rank), dict[str, str]()

    def show_sample(caption: str, reference: str) -> None:
        sample[SAMPLE] = json.dumps((caption, reference))

    try:
        with (
            store_epochs(assignment, lambda epoch: report(asdict(epoch) | sample), leads=rank == 0) as report_epoch,
            log_to(directory / ("log.txt" if rank == 0 else f"log.{rank}.txt")),
        ):
            fetch_ahead(config.data, write_progress)
            data = prepare_data(config, load_geometry(config))
            fit(config, data, directory / "checkpoints", report_epoch, write_progress, show_sample)
    except (TrialFailure, UserFault, OSError, RuntimeError) as failure:
        if assignment.num_workers > 1:
            raise  # the other workers wait until this one ends
        if is_fault_of_node(failure):
            report(describe_node_fault(failure, rank))
            raise  # the process ends, since a lost device stays lost
        if not isinstance(failure, TrialFailure | UserFault):
            raise
        report(describe_failure(failure))
    finally:
        release_memory()  # the process is reused for another trial


@contextmanager
def store_epochs(
    assignment: Assignment, report: Callable[[EpochReport], None], *, leads: bool
) -> Iterator[Callable[[EpochReport], None]]:
    """Get the trial's checkpoints from the run's URL, if it has one; yields a `report` that uploads those of an epoch.

    At the end, also of a trial that was stopped, all are stored, and this node's disk is freed of them.
    """
    if assignment.url is None:
        yield report
        return
    stored = StoredCheckpoints(assignment.url, assignment.trial)
    stored.fetch()
    if not leads:
        yield report
        return
    # Of several workers a trial may be stopped by their death, so that nothing is left to be done beside.
    beside = assignment.num_workers == 1
    try:
        yield lambda epoch: stored.after_epoch(lambda: report(epoch), beside=beside)
    finally:
        stored.close()


class ProgressWriter:
    """Publishes the progress of a trial within its epoch at intervals.

    The driver's table reads a small file that the first worker writes. The dashboard and `ps` show the title of each
    process, which Ray resets at every call to the name of the function.
    """

    def __init__(self, assignment: Assignment, rank: int) -> None:
        self.path = assignment.folder / "progress.json" if rank == 0 else None
        self.title = f"ray::{assignment.trial} {assignment.label}"
        self.last_write = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Write `{what, done, total}` if the last time is long enough ago."""
        now = time.monotonic()
        if now - self.last_write < SECONDS_BETWEEN_WRITES:
            return
        self.last_write = now
        set_process_title(f"{self.title} ({what})")
        if self.path is None:
            return
        partial = self.path.with_suffix(".partial")
        text = json.dumps({"what": what, "done": done, "total": total})
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.path)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send the log records of `medcap_core` to `path` while a trial runs in this process."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("medcap_core")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
