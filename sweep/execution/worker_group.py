"""Keep the workers of Ray Train for one trial after another, so that they start once a run.

Tune reuses a `WorkerGroup`, which leads a run of Ray Train. Its workers take trials from a queue and report to another;
between two trials they wait, in one process group, with libraries imported and models loaded.
"""

import asyncio
import json
import uuid
from collections import defaultdict
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Thread
from typing import Any

import ray
from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.util import get_current_placement_group

from medcap_core.errors import TrialFailure, UserFault
from medcap_core.runtime.workers import current_workers
from sweep.execution.cluster import worker_resources
from sweep.execution.moves import is_fault_of_node
from sweep.execution.nodes import keep_off
from sweep.execution.rendezvous import choose_torch_config
from sweep.execution.trial import PLACES, SCRATCH, Assignment, describe_failure, describe_node_fault, train_here

RESERVATION = "reservation"
"""Key of a result beside PLACES: the placement group of the workers, which outlives a leader that is killed."""
DONE = "done"
"""Key of Tune's for the last result of a trial."""
SECONDS_TO_LEAVE = 60.0
_RESULTS, _GO_ON = "results", "go on"
_ENDED = "ended"


class WorkerGroup(tune.Trainable):
    """Leads workers through a trial and, when Tune resets it, through the next one."""

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare the first trial."""
        self.end: Future[object] | None = None
        self.is_asked = False
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stop the present trial, if it goes on, and prepare the next one."""
        self._answer(go_on=False)
        self.params, self.num_steps = new_config, 0
        return True

    def step(self) -> dict[str, Any]:
        """Let the workers go on, and return what they report next."""
        self.num_steps += 1
        if self.num_steps == 1:  # before the workers wait for resources, since this node may die meanwhile
            return {PLACES: json.dumps({"leader": ray.get_runtime_context().get_node_id()})}
        if self.num_steps == 2:
            if self.end is None or self.end.done():
                self._start()
            self._assign(self.params)
        assert self.end is not None
        if self.end.done():
            self.end.result()  # its last report did not end the trial
        self._answer(go_on=True)
        result = ray.get(self.desk.get.remote(_RESULTS))
        if result == _ENDED:
            return describe_end(self.end.exception())
        self.is_asked = DONE not in result
        return dict(result)

    def cleanup(self) -> None:
        """Let the workers end, whereupon Ray Train frees what they took."""
        if self.end is not None:
            self._answer(go_on=False)
            self._assign(None)
            wait([self.end], SECONDS_TO_LEAVE)

    def _start(self) -> None:
        desk, end = start_desk(), Future[object]()
        end.add_done_callback(lambda _: desk.put.remote(_RESULTS, _ENDED))
        self.desk, self.end = desk, end
        Thread(target=_lead, args=(build_trainer(Assignment(**self.params), desk), end), daemon=True).start()

    def _answer(self, *, go_on: bool) -> None:
        if self.is_asked:
            self.is_asked = False
            self.desk.put.remote(_GO_ON, go_on)

    def _assign(self, params: dict[str, Any] | None) -> None:
        for rank in range(Assignment(**self.params).num_workers):
            self.desk.put.remote(rank, params)


def start_desk() -> Any:
    """Start the process of the queues between leader and workers; pickled whole, so that it imports little."""

    class Desk:
        def __init__(self) -> None:
            self.queues: dict[object, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
            self.ranks: set[int] = set()

        async def join(self, rank: int) -> None:
            if rank in self.ranks:  # after a preemption Ray Train starts new workers by itself
                raise RuntimeError("The workers of this trial were replaced.")
            self.ranks.add(rank)

        async def put(self, queue: object, item: Any) -> None:
            self.queues[queue].put_nowait(item)

        async def get(self, queue: object) -> Any:
            return await self.queues[queue].get()

    desk: Any = ray.remote(Desk)
    return desk.options(num_cpus=0).remote()


def build_trainer(assignment: Assignment, desk: Any) -> TorchTrainer:
    """Build the run of Ray Train of workers for trials that need the same as `assignment`."""
    run = assignment.folder.parents[1]
    return TorchTrainer(
        work,
        train_loop_config={"desk": desk},
        # Shared memory and loopback serve where there is no GPU; NCCL where there is one.
        torch_config=choose_torch_config("nccl" if assignment.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # declared as that of Train V1
            num_workers=assignment.num_workers,
            use_gpu=assignment.gpus_per_worker > 0,
            resources_per_worker=worker_resources(assignment.cpus_per_worker, assignment.gpus_per_worker),
            label_selector=keep_off(assignment.avoided_nodes),
        ),
        run_config=RunConfig(
            name=f"{run.name}-workers-{uuid.uuid4().hex[:8]}",
            storage_path=str(run / SCRATCH / "train"),
            failure_config=FailureConfig(max_failures=0),
        ),
    )


def _lead(trainer: TorchTrainer, end: Future[object]) -> None:
    try:
        end.set_result(trainer.fit())
    except Exception as error:  # noqa: BLE001  # raised again by the step that waits
        end.set_exception(error)


class TrialStopped(Exception):
    """Ends a trial on all workers, whose process group stays."""


def work(params: dict[str, Any]) -> None:
    """Train one trial after another, in each worker, until there are no more."""
    desk, workers = params["desk"], current_workers()
    ray.get(desk.join.remote(workers.rank))

    def report(result: dict[str, Any]) -> None:
        goes_on = False
        if workers.leads:
            if PLACES in result:
                result = result | {RESERVATION: get_current_placement_group()}
            desk.put.remote(_RESULTS, result)
            goes_on = ray.get(desk.get.remote(_GO_ON))
        if not workers.broadcast(goes_on):
            raise TrialStopped

    while (order := ray.get(desk.get.remote(workers.rank))) is not None:
        with suppress(TrialStopped):
            train_here(Assignment(**order), report)
            if workers.leads:
                desk.put.remote(_RESULTS, {DONE: True})


def describe_end(error: BaseException | None) -> dict[str, Any]:
    """Build the last report of workers that ended by `error`; raises it where another try may do without."""
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    causes = {rank: _root_cause(failure) for rank, failure in failures.items()}
    for cause in causes.values():
        if isinstance(cause, TrialFailure | UserFault) and not is_fault_of_node(cause):
            return describe_failure(cause)
    for rank, cause in causes.items():
        if is_fault_of_node(cause):
            return describe_node_fault(cause, rank)
    raise error or RuntimeError("The workers ended before their trial.")


def _root_cause(error: BaseException) -> BaseException:
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    return error
