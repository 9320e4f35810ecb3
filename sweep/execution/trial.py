"""Run one trial in this process: Tune's own, or that of one of several workers."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from medcap_core.config import TrialConfig
from medcap_core.data.records import fold_white_space
from medcap_core.data.remote import fetch_data
from medcap_core.errors import DataFault, ModelFault, NonFiniteLoss, TrialFailure, UserFault
from medcap_core.runtime.command_line import quick_imports
from medcap_core.runtime.device import release_memory
from medcap_core.runtime.files import replace_text
from medcap_core.runtime.storage import StorageFault, working_directory
from medcap_core.runtime.workers import current_workers
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.stored_checkpoints import StoredCheckpoints
from sweep.execution.moves import NodeFault, is_fault_of_node
from sweep.execution.ray_private import set_process_title

SECONDS_BETWEEN_WRITES = 2.0
SCRATCH = "ray"
"""Folder of a run with the files of Tune and Train while trials run."""

FAILURE = "failure"
"""Key of a result with a `Failure`, in JSON; reported rather than raised, so that Tune does not retry the trial."""
PLACES = "places"
"""Key of a result at the start of a trial: the node's id of each of its processes; in JSON, since Tune flattens it."""
SAMPLE = "sample"
"""Key of an epoch's result: one caption of it and the reference, in JSON."""
NODE_FAULT = "node_fault"
"""Key of a result of a process that is about to end by a fault of its node: a `NodeFault`, in JSON."""


@dataclass(frozen=True)
class Failure:
    """Why a trial failed: by its config, as any other of it would, or by the run's storage, so that none can go on."""

    reason: str
    is_config_at_fault: bool
    is_storage_at_fault: bool


@dataclass(frozen=True)
class Assignment:
    """The parameters of a trial process; plain values, since Ray serializes and shows them."""

    trial: str
    label: str
    config: dict[str, Any]
    directory: str
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


def run_trial(params: dict[str, Any]) -> None:
    """Run one assignment of one worker to its end and report each epoch: Tune's function trainable."""
    train_here(Assignment(**params), tune.report)


def describe_failure(error: BaseException) -> dict[str, str]:
    """Build the last report of a trial that would fail again."""
    reason = fold_white_space(str(error))
    failure = Failure(reason, isinstance(error, TrialFailure), isinstance(error, StorageFault))
    return {FAILURE: json.dumps(asdict(failure))}


def describe_node_fault(error: BaseException, rank: int) -> dict[str, str]:
    """Build the last report of a process that ends by a fault of its node, whereupon the driver moves the trial."""
    may_pass = not isinstance(error, DataFault | ModelFault)
    fault = NodeFault(f"worker {rank}", fold_white_space(str(error)), may_pass)
    return {NODE_FAULT: json.dumps(asdict(fault))}


def train_here(assignment: Assignment, report: Callable[[dict[str, Any]], None]) -> None:
    """Fit in this process, with log and progress in the trial's folder."""
    with quick_imports():  # the process may have just started
        from medcap_core.data.prepare import prepare_data
        from medcap_core.models import load_geometry
        from medcap_core.runtime.libraries import set_up_libraries
        from medcap_core.training.loop import fit
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
            store_epochs(assignment, lambda epoch: report(epoch.model_dump() | sample), rank, nodes) as report_epoch,
            log_to(directory / ("log.txt" if rank == 0 else f"log.{rank}.txt")),
        ):
            fetch_data(config.data, write_progress)
            data = prepare_data(config, load_geometry(config))
            fit(config, data, directory / "checkpoints", report_epoch, write_progress, show_sample)
    except (TrialFailure, UserFault, OSError, RuntimeError) as failure:
        if assignment.num_workers > 1 and not isinstance(failure, NonFiniteLoss):
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
    assignment: Assignment, report: Callable[[EpochReport], None], rank: int, nodes: Sequence[str]
) -> Iterator[Callable[[EpochReport], None]]:
    """Get the trial's checkpoints from the run's URL, if it has one; yields a `report` that uploads those of an epoch.

    At the end, also of a trial that was stopped, all are stored, and the disk of each node is freed of them. `nodes`
    has the node's id of each worker.
    """
    if assignment.url is None:
        yield report
        return
    stored = StoredCheckpoints(assignment.url, assignment.trial)
    stored.fetch()
    if rank:
        try:
            yield report
        finally:
            if nodes[rank] != nodes[0]:  # else the first worker may have some of them still to upload
                stored.free()
        return
    # Several workers have SECONDS_TO_LEAVE when a trial is stopped, too little to upload a large checkpoint.
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
        if self.path:
            replace_text(self.path, json.dumps({"what": what, "done": done, "total": total}))


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
