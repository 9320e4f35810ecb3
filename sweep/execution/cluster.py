"""Start the Ray of a sweep on one machine, or join a running cluster, and choose the resources of trials."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import ray

from medcap_core.errors import RunFault
from sweep.execution.nodes import NodeSize, list_nodes
from sweep.execution.ray_start import start_ray
from sweep.process.environment import CARRIED_VARIABLES
from sweep.space import Resources

PACKAGES = Path(__file__).parents[2]
SECONDS_TO_REACH, SECONDS_TO_JOIN = 5.0, 40.0
MOST_TRIALS_AT_ONCE_ON_CPUS = 4
DRIVER_CPUS = 0.1
"""Share of a core for the process that leads several workers; a trial on one device has no such process."""


@dataclass(frozen=True)
class ClusterInfo:
    """The cluster: dashboard, how to sign in there, and the sizes of its nodes."""

    dashboard_url: str | None
    sign_in: str | None
    nodes: tuple[NodeSize, ...]
    is_own: bool


@contextmanager
def connect(address: str | None) -> Iterator["Future[ClusterInfo]"]:
    """Start a Ray of our own on loopback, or join the cluster at `address` (or in RAY_ADDRESS), in the background.

    Yields a future: `result()` waits for the cluster, and raises RunFault where none starts or answers. Ray is shut
    down, or the cluster left, at the end.
    """
    address = find_address(address)
    if address and address.startswith("ray://"):
        host = address.removeprefix("ray://").partition(":")[0] or "HEAD"
        raise RunFault(
            f"--address {address}: a sweep cannot be driven through Ray Client, which would move its data and files "
            f"over one connection; run it on the cluster: ray job submit --address http://{host}:8265 -- medcap run "
            "SPACE --out DIR, with a DIR or URL that the cluster sees."
        )
    is_wanted = Event()
    is_wanted.set()
    # Ray's processes end with the thread that has started them, so it stays until Ray is shut down.
    with ExitStack() as threads, ThreadPoolExecutor(1, thread_name_prefix="ray") as thread:
        started = thread.submit(
            lambda: _join(address) if address else _describe(start_ray(threads, is_wanted), is_own=True)
        )
        try:
            yield started
        finally:
            is_wanted.clear()
            wait([started])  # half a Ray cannot be shut down
            ray.shutdown()


def find_address(address: str | None) -> str | None:
    """Return the cluster to join, given or in RAY_ADDRESS; None for a Ray of our own."""
    return address or os.environ.get("RAY_ADDRESS") or None


def _describe(dashboard_url: str | None, *, is_own: bool) -> ClusterInfo:
    asks_for_token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    return ClusterInfo(
        dashboard_url=f"http://{dashboard_url}" if dashboard_url else None,
        sign_in="token: `ray get-auth-token`" if asks_for_token else None,
        nodes=tuple(node for node in list_nodes() if node.is_alive),
        is_own=is_own,
    )


def _join(address: str) -> ClusterInfo:
    try:
        _probe(address)
        context = ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # The nodes need this project's dependencies installed, but not its code. The environment is copied too:
            # without telemetry here means without it there.
            runtime_env={
                "py_modules": [str(PACKAGES / name) for name in ("medcap_core", "sweep")],
                "env_vars": {name: os.environ[name] for name in CARRIED_VARIABLES if name in os.environ},
            },
        )
    except RunFault:
        raise
    except Exception as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise RunFault(
            f"--address {address}: no Ray cluster answers there ({reason}); start one with `ray start --head` or leave "
            "the flag out to use this machine alone."
        ) from error
    return _describe(context.dashboard_url, is_own=False)


def _probe(address: str) -> None:
    """Raise OSError or ValueError where no cluster answers, since `ray.init` would try for many minutes.

    Another program may listen there, so a subprocess tries to join, which can be killed. Raises RunFault where it is
    told that a token is missing.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        if "://" in address or not host or not port.isdecimal():
            raise ValueError("an address is auto or HOST:PORT")
        socket.create_connection((host, int(port)), SECONDS_TO_REACH).close()
    join = [sys.executable, "-c", "import ray, sys; ray.init(sys.argv[1], log_to_driver=False)", address]
    try:
        output, is_late = subprocess.run(join, timeout=SECONDS_TO_JOIN, capture_output=True, check=False).stderr, False
    except subprocess.TimeoutExpired as error:
        output, is_late = error.stderr or b"", True
    if b"InvalidAuthToken" in output:
        raise RunFault(
            f"--address {address}: the cluster asks for a token; set RAY_AUTH_MODE=token in the environment, and "
            "put the token that `ray get-auth-token` prints on its head into ~/.ray/auth_token."
        )
    if is_late:
        raise TimeoutError(f"no answer in {SECONDS_TO_JOIN:.0f} s")


@dataclass(frozen=True)
class TrialResources:
    """CPUs and GPUs of each worker of a trial, the number of trials at once, and the nodes that run none, by id."""

    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    max_concurrent: int
    unfit_nodes: tuple[str, ...] = ()


def choose_resources(
    nodes: Sequence[NodeSize], wanted: Resources, num_trials: int, most_workers: int
) -> TrialResources:
    """Resolve what the space file leaves at `auto`, so that all devices are used and none is shared.

    With GPUs: one for each worker, and the CPUs in proportion. Without: up to four trials at once, with the cores
    divided among them, and never more for a worker than one node has. Where workers are `auto`, the GPUs are dealt to
    the trials that run at once, to each `most_workers` at most. Raises RunFault if a trial asks for more than there is,
    or than `cluster_cpus` and `cluster_gpus` say there may be, since it would wait for ever.
    """
    nodes = [*nodes, *_grow(nodes, wanted)]
    cluster_cpus, cluster_gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    limits = [max(num_trials, 1)]
    if wanted.max_concurrent != "auto":
        limits.append(wanted.max_concurrent)
    if wanted.workers_per_trial != "auto":
        workers = wanted.workers_per_trial
    elif wanted.gpus_per_trial == "auto":
        workers = max(1, min(int(cluster_gpus) // min(limits), most_workers))
    else:
        workers = max(1, int(wanted.gpus_per_trial))
    gpus = (float(workers) if cluster_gpus else 0.0) if wanted.gpus_per_trial == "auto" else wanted.gpus_per_trial
    if gpus > cluster_gpus:
        raise RunFault(f"resources.gpus_per_trial {gpus:g} exceeds the {cluster_gpus:g} GPUs there are; lower it.")
    if gpus:
        limits.append(int(cluster_gpus / gpus))
    elif wanted.cpus_per_trial == "auto":
        limits.append(min(int(cluster_cpus / workers), MOST_TRIALS_AT_ONCE_ON_CPUS))
    if wanted.cpus_per_trial != "auto":
        limits.append(int(cluster_cpus / wanted.cpus_per_trial))
    at_once = max(1, min(limits))
    share = cluster_cpus / at_once  # in whole cores where there is one for each worker
    even = float(int(share)) if share >= workers else share
    cpus = even if wanted.cpus_per_trial == "auto" else wanted.cpus_per_trial
    if cpus > cluster_cpus:
        raise RunFault(f"resources.cpus_per_trial {cpus:g} exceeds the {cluster_cpus:g} CPUs there are; lower it.")
    cpus_per_worker = cpus if workers == 1 else (cpus - DRIVER_CPUS) / workers
    if cpus_per_worker <= 0:
        raise RunFault(
            f"resources.cpus_per_trial {cpus:g} leaves nothing for {workers} workers: the process that leads them "
            f"takes {DRIVER_CPUS:g} of a CPU; raise it."
        )
    return TrialResources(
        num_workers=workers,
        cpus_per_worker=_fit_to_nodes(nodes, cpus_per_worker, gpus / workers, wanted),
        gpus_per_worker=gpus / workers,
        max_concurrent=at_once,
    )


def _grow(nodes: Sequence[NodeSize], wanted: Resources) -> list[NodeSize]:
    """Return what an autoscaling cluster may add, as one node; with as many CPUs as GPUs unless told otherwise."""
    gpus = 0.0 if wanted.cluster_gpus == "auto" else wanted.cluster_gpus - sum(node.gpus for node in nodes)
    cpus = gpus if wanted.cluster_cpus == "auto" else wanted.cluster_cpus - sum(node.cpus for node in nodes)
    return [NodeSize(max(cpus, 0.0), max(gpus, 0.0))] if max(cpus, gpus) > 0 else []


def _fit_to_nodes(nodes: Sequence[NodeSize], cpus: float, gpus: float, wanted: Resources) -> float:
    """Return the CPUs of a worker that some node can give beside its GPUs; lowered where they are `auto`."""
    suited = [node for node in nodes if node.gpus >= gpus and node.cpus > 0]
    if not suited:
        raise RunFault(f"resources.gpus_per_trial: no node of the cluster has {gpus:g} GPUs for one worker; lower it.")
    if wanted.cpus_per_trial == "auto":
        # On a node with GPUs every GPU gets its share of the CPUs.
        return min(cpus, *(node.cpus / max(1, int(node.gpus / gpus)) if gpus else node.cpus for node in suited))
    if all(node.cpus < cpus for node in suited):
        raise RunFault(f"resources.cpus_per_trial: no node of the cluster has {cpus:g} CPUs for one worker; lower it.")
    return cpus


def worker_resources(cpus: float, gpus: float) -> dict[str, float]:
    """Return the resources of one worker in Ray's terms."""
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
