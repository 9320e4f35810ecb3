"""The cluster a sweep runs on, and what each trial takes of it."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import astuple
from functools import partial
from pathlib import Path

import psutil
import pytest

from medcap_core.errors import RunFault
from sweep.execution.cluster import DRIVER_CPUS, ClusterInfo, choose_resources, connect
from sweep.execution.launch import describe_start
from sweep.execution.nodes import NodeSize
from sweep.space.schema import Resources
from tests.support.real_runs import (
    Materials,
    ended_afterwards,
    family,
    find_trial_process,
    start_run,
    wait_until,
    wait_until_gone,
)
from tests.support.small_runs import read_optuna

choose = partial(choose_resources, most_workers=16)


class TestResources:
    @pytest.mark.parametrize(
        ("cpus", "gpus", "wanted", "num_trials", "expected"),
        [
            (2, 0, {}, 12, (1, 1.0, 0.0, 2)),
            (2, 0, {}, 1, (1, 2.0, 0.0, 1)),
            (17, 0, {}, 12, (1, 4.0, 0.0, 4)),  # no more than four at once on CPUs
            (17, 0, {"max_concurrent": 3}, 12, (1, 5.0, 0.0, 3)),
            (16, 0, {"cpus_per_trial": 2}, 12, (1, 2.0, 0.0, 8)),
            (16, 3, {}, 12, (1, 5.0, 1.0, 3)),
            (16, 1, {"gpus_per_trial": 0.25}, 12, (1, 4.0, 0.25, 4)),
            (16, 4, {"workers_per_trial": 2}, 12, (2, (8 - DRIVER_CPUS) / 2, 1.0, 2)),
            (2, 0, {"workers_per_trial": 2}, 12, (2, (2 - DRIVER_CPUS) / 2, 0.0, 1)),
            (1, 0, {"workers_per_trial": 2}, 12, (2, (1 - DRIVER_CPUS) / 2, 0.0, 1)),
        ],
    )
    def test_are_shared_out(
        self, cpus: float, gpus: float, wanted: dict[str, float], num_trials: int, expected: tuple[float, ...]
    ) -> None:
        chosen = choose([NodeSize(cpus, gpus)], Resources.model_validate(wanted), num_trials)
        assert astuple(chosen)[:4] == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("nodes", "wanted", "num_trials", "expected"),
        [
            ([(16, 4)], {}, 12, (1, 1.0, 4)),  # a device each where there are trials enough
            ([(16, 8)], {}, 3, (2, 1.0, 3)),  # two GPUs are left over
            ([(16, 8)], {"max_concurrent": 2}, 12, (4, 1.0, 2)),
            ([(16, 4), (16, 4)], {}, 1, (8, 1.0, 1)),  # over both nodes
            ([(64, 32)], {}, 1, (16, 1.0, 1)),  # no more than a batch has images
            ([(16, 8)], {"gpus_per_trial": 2}, 12, (2, 1.0, 4)),
            ([(16, 8)], {"gpus_per_trial": 0.5}, 12, (1, 0.5, 12)),
            ([(16, 8)], {"gpus_per_trial": 0}, 12, (1, 0.0, 4)),
            ([(16, 0)], {}, 1, (1, 0.0, 1)),
        ],
    )
    def test_deal_left_over_gpus_to_workers(
        self, nodes: list[tuple[float, float]], wanted: dict[str, float], num_trials: int, expected: tuple[float, ...]
    ) -> None:
        sizes = [NodeSize(*node) for node in nodes]
        chosen = choose(sizes, Resources.model_validate(wanted | {"workers_per_trial": "auto"}), num_trials)
        assert (chosen.num_workers, chosen.gpus_per_worker, chosen.max_concurrent) == expected
        cluster = ClusterInfo(None, None, tuple(sizes), is_own=True)
        said = describe_start(cluster, chosen, num_trials, Resources())[0]
        assert (f" of {expected[0]} workers each," in said) == (expected[0] > 1)

    def test_of_a_worker_fit_on_one_node(self) -> None:
        nodes = [NodeSize(cpus=6, gpus=2), NodeSize(cpus=11), NodeSize(cpus=16, gpus=1)]
        chosen = choose(nodes, Resources(), num_trials=9)
        assert (chosen.cpus_per_worker, chosen.gpus_per_worker, chosen.max_concurrent) == (3.0, 1.0, 3)
        chosen = choose([NodeSize(3), NodeSize(5)], Resources(), num_trials=1)
        assert chosen.cpus_per_worker == 3.0  # so that it runs on either
        with pytest.raises(RunFault, match=r"^resources.cpus_per_trial: no node of the cluster has 6 CPUs"):
            choose([NodeSize(3), NodeSize(5)], Resources(cpus_per_trial=6), num_trials=1)
        with pytest.raises(RunFault, match=r"^resources.gpus_per_trial: no node of the cluster has 2 GPUs"):
            choose([NodeSize(4, 1), NodeSize(4, 1)], Resources(gpus_per_trial=2), num_trials=1)

    def test_of_a_cluster_that_may_grow_are_asked_for(self) -> None:
        head = NodeSize(cpus=0)
        with pytest.raises(RunFault):
            choose([head], Resources(gpus_per_trial=1), num_trials=40)
        grown = choose([head], Resources(cluster_gpus=8, cluster_cpus=64), num_trials=40)
        assert (grown.cpus_per_worker, grown.gpus_per_worker, grown.max_concurrent) == (8.0, 1.0, 8)
        assert choose([head], Resources(cluster_gpus=8), num_trials=40).cpus_per_worker == 1.0
        there = choose([NodeSize(16, 2)], Resources(cluster_gpus=2), num_trials=40)
        assert there == choose([NodeSize(16, 2)], Resources(), num_trials=40)
        cluster = ClusterInfo(None, None, (head,), is_own=False)
        (line,) = describe_start(cluster, grown, 40, Resources(cluster_gpus=8, cluster_cpus=64))
        assert line.endswith("8 at once, on a Ray cluster of 1 node (0 CPUs now; it may grow to 8 GPUs, 64 CPUs)")

    def test_never_exceed_what_there_is(self) -> None:
        for cpus in (1, 2, 3, 5, 8, 13):
            for workers in (1, 2, 3):
                chosen = choose([NodeSize(cpus)], Resources(workers_per_trial=workers), 9)
                driver = DRIVER_CPUS if workers > 1 else 0
                assert chosen.max_concurrent * (workers * chosen.cpus_per_worker + driver) <= cpus + 1e-9

    def test_that_cannot_be_had_are_a_fault(self) -> None:
        with pytest.raises(RunFault, match=r"^resources.cpus_per_trial 9 exceeds the 8 CPUs there are; lower it.$"):
            choose([NodeSize(5), NodeSize(3)], Resources(cpus_per_trial=9), 2)
        with pytest.raises(RunFault, match=r"^resources.cpus_per_trial 0.1 leaves nothing for 2 workers: .* raise it"):
            choose([NodeSize(8)], Resources(workers_per_trial=2, cpus_per_trial=0.1), 5)
        with pytest.raises(RunFault, match=r"^resources.gpus_per_trial 1 exceeds the 0 GPUs there are; lower it.$"):
            choose([NodeSize(5), NodeSize(3)], Resources(gpus_per_trial=1), 2)


def test_a_cluster_that_asks_for_a_token_is_told_from_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"  # says what Ray 2.60 says there
    program.write_text("#!/bin/sh\necho 'Unauthenticated: RPC error: InvalidAuthToken: token is missing' >&2\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        said = rf"^--address {address}: .* asks for a token; set RAY_AUTH_MODE=token in"
        with connect(address) as starting, pytest.raises(RunFault, match=said):
            starting.result()


@pytest.mark.usefixtures("local_ray")
def test_ray_does_not_take_our_way_of_ending() -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
cluster.add_node(num_cpus=1)
cluster.add_node(num_cpus=1)
cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": sys.argv[1]})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""

WHERE_IS_THE_CODE = """
import sys
from sweep.process.environment import set_environment
set_environment(sys.argv[1])
import ray
from sweep.execution.cluster import connect
with connect(sys.argv[1]) as starting:
    starting.result()
    @ray.remote(num_cpus=1)
    def find():
        import medcap_core, sweep
        return medcap_core.__file__ + " " + sweep.__file__
    print(ray.get(find.remote()))
"""


@pytest.fixture
def cluster(materials: Materials, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A cluster of a head without CPUs and three nodes of one, of which one has another peft.

    Gives its process, whose next line of output is its address.
    """
    environment = {name: value for name, value in materials.environment.items() if name != "PYTHONPATH"}
    environment |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "4"}
    other = tmp_path / "other packages" / "peft-0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1\n")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, "-c", CLUSTER, str(other.parent)], cwd=tmp_path, env=environment, **pipes
    )
    processes = []
    try:
        yield process
        processes = family(process.pid)
        process.communicate(timeout=60)  # the end of its input ends it
    finally:
        process.kill()
        wait_until_gone(processes)


def test_a_sweep_joins_a_cluster_and_outlives_one_of_its_nodes(
    cluster: "subprocess.Popen[str]", materials: Materials, tmp_path: Path
) -> None:
    assert cluster.stdout is not None
    address = cluster.stdout.readline().strip()
    directory, space = tmp_path / "run", tmp_path / "space.yaml"
    space.write_text(
        re.sub(r"num_epochs: \d+", "num_epochs: 120", materials.space.read_text()).replace("[3, 6]", "[3, 120]")
    )
    flags = ("--data", materials.images, "--model", materials.model, "--address", address, "--trials", 2)
    driver = start_run(materials, space, *flags, "--out", directory)
    raylets: dict[str, psutil.Process] = {}

    def look() -> bool:
        for trial in ("trial_0000", "trial_0001"):
            process = find_trial_process(cluster.pid, directory / "trials" / trial)
            if process is not None:
                raylets[trial] = next(parent for parent in process.parents() if "raylet" in parent.name())
        return len({raylet.pid for raylet in raylets.values()}) == 2

    with ended_afterwards(driver):
        wait_until(look, "two nodes ran a trial", driver)
        wait_until((directory / "trials" / "trial_0001" / "checkpoints" / "history.json").is_file, "an epoch", driver)
        raylets["trial_0001"].kill()
        output, errors = driver.communicate()
    assert (driver.returncode, errors) == (0, "")
    assert re.search(r"Left out: node .+ cannot run trials: its peft is 0\.1, but .+ here", output)
    assert "2 at once, on a Ray cluster of 3 nodes (2 CPUs)" in output
    assert re.search(r"trial_0001: the node .+ died; it goes on elsewhere from its last epoch", output)
    assert "epochs done before" in (directory / "trials" / "trial_0001" / "log.txt").read_text()
    assert (directory / "test_metrics.json").is_file()
    assert {trial.state.name for trial in read_optuna(directory)} <= {"COMPLETE", "PRUNED"}
    assert not list(directory.glob(".shared-*"))

    ask = [sys.executable, "-c", WHERE_IS_THE_CODE, address]
    found = subprocess.run(
        ask, env=materials.environment, cwd=materials.working_directory, stdout=subprocess.PIPE, text=True, check=True
    )
    files = found.stdout.split()
    assert len(files) == 2
    assert all("py_modules_files" in file for file in files), files
