"""A Ray that starts while libraries are imported and data prepared: what trials take of it, their first processes."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from medcap_core.errors import RunFault
from sweep.execution.cluster import ClusterInfo, TrialResources, choose_resources, connect, find_address
from sweep.execution.ready_processes import find_trial_environment, start_ready_processes
from sweep.space.schema import Resources

if TYPE_CHECKING:
    from sweep.terminal.view import SweepView  # takes long to import, and Ray is to start before anything that does


@contextmanager
def launch(address: str | None, wanted: Resources, num_trials: int) -> Iterator["Launch"]:
    """Start or join Ray in the background, and leave it after; see `sweep.execution.cluster.connect`."""
    with connect(address, preload=wanted.workers_per_trial == 1) as starting:
        yield Launch(starting, wanted, num_trials, joins=find_address(address) is not None)


class Launch:
    """The start of a run's Ray; `starting` gives the cluster when it is there, `wanted` what trials are to have."""

    def __init__(self, starting: "Future[ClusterInfo]", wanted: Resources, num_trials: int, *, joins: bool) -> None:
        self.num_trials = num_trials
        self._starting = starting
        self._wanted = wanted
        self._settled: tuple[ClusterInfo, TrialResources] | None = None
        asked = (wanted.cpus_per_trial, wanted.gpus_per_trial, wanted.workers_per_trial)
        self.is_sure = not joins and asked == ("auto", "auto", 1)
        """Whether what trials are to have is there whatever this machine has; a joined cluster may lack it."""
        self._environment = find_trial_environment()  # here, since Ray takes as long to start
        starting.add_done_callback(lambda _: self._keep_processes_ready())

    def settle(self, view: "SweepView") -> tuple[ClusterInfo, TrialResources]:
        """Wait for Ray, choose what each trial takes of it, and show both, once. Raises RunFault."""
        if self._settled is None:
            if not self._starting.done():
                view.step("starting Ray", 0, 1)
            cluster = self._starting.result()
            self._settled = (cluster, choose_resources(cluster.nodes, self._wanted, self.num_trials))
            for line in describe_start(*self._settled, self.num_trials):
                view.message(line)
        return self._settled

    def _keep_processes_ready(self) -> None:
        """Let the first trials' processes start; called once a Ray is there, in the thread that has started it."""
        if self._wanted.workers_per_trial > 1 or self._starting.exception() is not None:
            return
        cluster = self._starting.result()
        with suppress(RunFault):  # `settle` raises it
            resources = choose_resources(cluster.nodes, self._wanted, self.num_trials)
            if cluster.is_own:
                start_ready_processes(resources.max_concurrent, self._environment)


def describe_start(cluster: ClusterInfo, resources: TrialResources, num_trials: int) -> list[str]:
    """On what the trials will run, and how to watch."""
    nodes = "1 node" if len(cluster.nodes) == 1 else f"{len(cluster.nodes)} nodes"
    kind = "its own Ray" if cluster.is_own else f"a Ray cluster of {nodes}"
    devices = (
        f"{cluster.num_gpus:g} GPUs, {cluster.num_cpus:g} CPUs" if cluster.num_gpus else f"{cluster.num_cpus:g} CPUs"
    )
    lines = [f"Trials         {num_trials}, {resources.max_concurrent} at once, on {kind} ({devices})"]
    if cluster.dashboard_url:
        sign_in = f" ({cluster.sign_in})" if cluster.sign_in else ""
        lines.append(f"Dashboard      {cluster.dashboard_url}{sign_in}")
    return lines
