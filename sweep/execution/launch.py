"""Start Ray in the background, while libraries are imported and data prepared, and choose what each trial takes."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sweep.execution.cluster import ClusterInfo, TrialResources, choose_resources, connect, find_address
from sweep.space.schema import Resources

if TYPE_CHECKING:
    from sweep.terminal.view import SweepView  # slow to import, and Ray starts before anything slow


@contextmanager
def launch(address: str | None, wanted: Resources, num_trials: int, most_workers: int) -> Iterator["Launch"]:
    """Start or join Ray in the background, and disconnect at the end; see `sweep.execution.cluster.connect`."""
    with connect(address) as starting:
        yield Launch(starting, wanted, num_trials, most_workers, joins=find_address(address) is not None)


class Launch:
    """The start of a run's Ray: `starting` resolves to the cluster, `wanted` is what the space file asks for.

    `most_workers` is the number of workers that every trial's batch can feed.
    """

    def __init__(
        self,
        starting: "Future[ClusterInfo]",
        wanted: Resources,
        num_trials: int,
        most_workers: int,
        *,
        joins: bool,
    ) -> None:
        self.num_trials = num_trials
        self._starting = starting
        self._wanted = wanted
        self._most_workers = most_workers
        self._settled: tuple[ClusterInfo, TrialResources] | None = None
        asks_for_none = wanted.cpus_per_trial == wanted.gpus_per_trial == "auto"
        self.is_sure = not joins and asks_for_none and wanted.workers_per_trial in (1, "auto")
        """Whether any machine can satisfy `wanted`; a joined cluster may lack what it asks for."""

    def settle(self, view: "SweepView") -> tuple[ClusterInfo, TrialResources]:
        """Wait for Ray, choose the resources of each trial, and show both, once. Raises RunFault."""
        if self._settled is None:
            if not self._starting.done():
                view.step("starting Ray", 0, 1)
            cluster = self._starting.result()
            resources = choose_resources(cluster.nodes, self._wanted, self.num_trials, self._most_workers)
            self._settled = (cluster, resources)
            for line in describe_start(*self._settled, self.num_trials):
                view.message(line)
        return self._settled


def describe_start(cluster: ClusterInfo, resources: TrialResources, num_trials: int) -> list[str]:
    """Name the machines the trials run on, and the dashboard."""
    nodes = "1 node" if len(cluster.nodes) == 1 else f"{len(cluster.nodes)} nodes"
    kind = "its own Ray" if cluster.is_own else f"a Ray cluster of {nodes}"
    devices = (
        f"{cluster.num_gpus:g} GPUs, {cluster.num_cpus:g} CPUs" if cluster.num_gpus else f"{cluster.num_cpus:g} CPUs"
    )
    shared = f" of {resources.num_workers} workers each" if resources.num_workers > 1 else ""
    lines = [f"Trials         {num_trials}, {resources.max_concurrent} at once{shared}, on {kind} ({devices})"]
    if cluster.dashboard_url:
        sign_in = f" ({cluster.sign_in})" if cluster.sign_in else ""
        lines.append(f"Dashboard      {cluster.dashboard_url}{sign_in}")
    return lines
