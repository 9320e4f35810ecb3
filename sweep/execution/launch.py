"""Start Ray in the background, while libraries are imported and data prepared, and choose what each trial takes."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from sweep.execution.cluster import ClusterInfo, TrialResources, choose_resources, connect, find_address
from sweep.execution.nodes import describe_shortage, find_unfit
from sweep.process.interrupts import take_back_termination
from sweep.space import Resources, count_most_workers, draw_configs

if TYPE_CHECKING:
    from sweep.study.study import Study
    from sweep.terminal.view import SweepView  # slow to import, and Ray starts before anything slow


@contextmanager
def launch(address: str | None, wanted: Resources, num_trials: int) -> Iterator["Launch"]:
    """Start or join Ray in the background, and disconnect at the end; see `sweep.execution.cluster.connect`."""
    with connect(address) as starting:
        yield Launch(starting, wanted, num_trials, address)


class Launch:
    """The start of a run's Ray: `starting` resolves to the cluster, `wanted` is what the space file asks for."""

    def __init__(
        self, starting: "Future[ClusterInfo]", wanted: Resources, num_trials: int, address: str | None
    ) -> None:
        self.num_trials = num_trials
        self._starting = starting
        self._wanted = wanted
        self._settled: tuple[ClusterInfo, TrialResources] | None = None
        asks_for_none = wanted.cpus_per_trial == wanted.gpus_per_trial == "auto"
        joins = find_address(address) is not None
        self.is_sure = not joins and asks_for_none and wanted.workers_per_trial in (1, "auto")
        """Whether any machine can satisfy `wanted`; a joined cluster may lack what it asks for."""
        self.flag = f" --address {address}" if address else ""
        """What joins the same cluster again."""

    def settle(self, study: "Study", view: "SweepView") -> tuple[ClusterInfo, TrialResources]:
        """Wait for Ray, leave out unfit nodes, choose the resources of each trial, and show all, once.

        Raises RunFault.
        """
        if self._settled is None:
            if not self._starting.done():
                view.step("starting Ray", 0, 1)
            cluster = self._starting.result()
            take_back_termination()
            unfit = {}
            if not cluster.is_own:
                configs = draw_configs(study.space)
                unfit = find_unfit(cluster.nodes, configs, study.directory, study.url, view.step)
                for sentence in unfit.values():
                    view.message(f"Left out: {sentence}")
                cluster = replace(cluster, nodes=tuple(node for node in cluster.nodes if node.id not in unfit))
            most_workers = count_most_workers(study.space)
            resources = choose_resources(cluster.nodes, self._wanted, self.num_trials, most_workers)
            self._settled = cluster, replace(resources, unfit_nodes=tuple(unfit))
            for line in describe_start(*self._settled, self.num_trials, self._wanted):
                view.message(line)
            shortage = describe_shortage(resources.cpus_per_worker, resources.gpus_per_worker)
            if shortage and not cluster.is_own:
                view.message(shortage)
        return self._settled


def describe_start(cluster: ClusterInfo, resources: TrialResources, num_trials: int, wanted: Resources) -> list[str]:
    """Name the machines the trials run on, and the dashboard."""
    nodes = "1 node" if len(cluster.nodes) == 1 else f"{len(cluster.nodes)} nodes"
    where = "its own Ray" if cluster.is_own else f"a Ray cluster of {nodes}"
    cpus, gpus = sum(node.cpus for node in cluster.nodes), sum(node.gpus for node in cluster.nodes)
    devices = f"{gpus:g} GPUs, {cpus:g} CPUs" if gpus else f"{cpus:g} CPUs"
    limits = (("GPU", wanted.cluster_gpus, gpus), ("CPU", wanted.cluster_cpus, cpus))
    growth = [f"{value:g} {kind}s" for kind, value, now in limits if value != "auto" and value > now]
    if growth:
        devices += f" now; it may grow to {', '.join(growth)}"
    shared = f" of {resources.num_workers} workers each" if resources.num_workers > 1 else ""
    lines = [f"Trials         {num_trials}, {resources.max_concurrent} at once{shared}, on {where} ({devices})"]
    sign_in = f" ({cluster.sign_in})" if cluster.sign_in else ""
    return [*lines, f"Dashboard      {cluster.dashboard_url}{sign_in}"] if cluster.dashboard_url else lines
