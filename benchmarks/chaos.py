"""Kills of driver, node, trial process and storage at random moments: what is lost, and whether the results differ.

python -m benchmarks.chaos --kills 20 --seed 0

Each sweep runs on three Ray nodes of this machine, each with a cache of its own, and is kept on an S3 server (moto)
without a shared disk. A killed driver is followed by `--resume`, half of the times with an empty cache, as on another
machine. At the end the tables are compared with those of a sweep that nothing disturbed.
"""

import csv
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from moto.server import ThreadedMotoServer
from ray.cluster_utils import Cluster

from benchmarks.machine import print_table, tell
from benchmarks.sweep_run import build_environment
from medcap_core.runtime.cache import CACHE_VARIABLE
from medcap_core.runtime.storage import Storage
from sweep.space import build_space, dump_space

BUCKET = "chaos"
KINDS = ("driver", "node", "worker", "storage")
MOST_KILLS_A_SWEEP = 10
MOST_KILLS_OF_A_WORKER = 2  # a third death of its process fails a trial, as it should
SECONDS_BETWEEN_KILLS, SECONDS_OF_OUTAGE = (5.0, 45.0), (3.0, 40.0)
SECONDS_TO_END, SECONDS_TO_JOIN = 1800.0, 300.0
DIFFERING = ("seconds", "images_per_second", "peak_memory_bytes")
"""Ends of the names of columns that differ from run to run."""
COLUMNS = ("sweep", "kills", *KINDS, "finished trials", "of these lost", "tables equal", "s")
FINAL = ("SUCCEEDED", "PRUNED", "FAILED")

SPACE = {
    "name": "chaos",
    "data": "phantoms",
    "model": "phantom-blip",
    "fixed": {
        "max_train_images": 48, "max_validation_images": 12, "max_test_images": 12, "batch_size": 8, "num_beams": 1,
        "num_epochs": 5,
    },
    "search": {
        "freeze": {"choice": ["full", "decoder_only", "lora"]},
        "learning_rate": {"loguniform": [1e-4, 1e-3]},
    },
    "sampler": "random",
    "scheduler": "none",
    "trials": 6,
    "resources": {"cpus_per_trial": 1, "max_concurrent": 3},
}  # fmt: skip


class S3Server:
    """A server of this process, which keeps its files while it is down."""

    def __init__(self) -> None:
        self.port, self.is_up = 0, threading.Event()
        self._start()
        self.port = self._server.get_host_and_port()[1]

    def fail(self, seconds: float) -> None:
        """Be away for a while, which this call does not wait for."""
        self.is_up.clear()
        self.stop()
        threading.Timer(seconds, self._start).start()

    def stop(self) -> None:
        """Close all connections, and take no more."""
        self._server.stop()
        if self._server._server is not None:
            self._server._server.server_close()

    def _start(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()
        self.is_up.set()


@dataclass
class Chaos:
    """What the sweeps share: nodes, storage, folders of this machine, and the chance by which kills are drawn."""

    cluster: Cluster
    server: S3Server
    scratch: Path
    chance: random.Random
    nodes: list[Any] = field(default_factory=list)
    num_caches: int = 0

    def new_cache(self) -> Path:
        """Make an empty cache folder, as a new machine has it."""
        self.num_caches += 1
        folder = self.scratch / f"cache-{self.num_caches}"
        folder.mkdir()
        return folder

    def add_node(self) -> None:
        """Add a node of one CPU with an empty cache."""
        environment = {"XDG_CACHE_HOME": str(self.new_cache())}
        self.nodes.append(self.cluster.add_node(wait=False, num_cpus=1, env_vars=environment))


@dataclass
class ChaosSweep:
    """One sweep under one URL, from its first start to its end over any number of drivers."""

    chaos: Chaos
    name: str
    kills: list[str] = field(default_factory=list)
    finished: dict[str, int] = field(default_factory=dict)
    """Attempts of each trial that was over when its driver was killed."""
    worker_kills: dict[str, int] = field(default_factory=dict)

    @property
    def place(self) -> Storage:
        """The storage of the run."""
        return Storage(f"s3://{BUCKET}/{self.name}")

    def run(self, num_kills: int) -> None:
        """Run to the end, with at most the given number of kills. Raises RuntimeError where a driver ends otherwise."""
        scratch, cache, resumed = self.chaos.scratch, self.chaos.new_cache(), False
        output = scratch / f"{self.name}.txt"
        while True:
            flags = ["--resume", self.place.url] if resumed else [f"{scratch}/space.yaml", "--out", self.place.url]
            command = [sys.executable, "-m", "sweep.run", *flags, "--address", self.chaos.cluster.address]
            environment = build_environment() | {"XDG_CACHE_HOME": str(cache)}
            environment.pop(CACHE_VARIABLE, None)
            with output.open("ab") as file:
                driver = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
            if not self._disturb(driver, num_kills):
                if driver.returncode:
                    raise RuntimeError(f"{self.name} ended with {driver.returncode}: {output.read_text()[-3000:]}")
                return
            resumed = True
            if self.chaos.chance.random() < 0.5:
                cache = self.chaos.new_cache()

    def _disturb(self, driver: "subprocess.Popen[bytes]", num_kills: int) -> bool:
        """Kill until the driver is killed, then return True; False where it ends by itself."""
        chance, deadline = self.chaos.chance, time.monotonic() + SECONDS_TO_END
        while True:
            with suppress(subprocess.TimeoutExpired):
                driver.wait(chance.uniform(*SECONDS_BETWEEN_KILLS) if len(self.kills) < num_kills else 5.0)
                return False
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not end; see {self.chaos.scratch}")
            if len(self.kills) >= num_kills:
                continue
            if self.chaos.server.is_up.is_set() and self.place.read("trials/trial_0000/trial.json") is None:
                continue  # the search has not begun: a driver killed now is started again by the same command
            kind = chance.choice(KINDS)
            if not (said := self._kill(kind, driver)):
                continue
            self.kills.append(kind)
            tell(f"{self.name}: kill {len(self.kills)}, {said}")
            if kind == "driver":
                return True

    def _kill(self, kind: str, driver: "subprocess.Popen[bytes]") -> str:
        chaos = self.chaos
        if kind == "storage":
            if not chaos.server.is_up.is_set():
                return ""
            chaos.server.fail(seconds := chaos.chance.uniform(*SECONDS_OF_OUTAGE))
            return f"storage for {seconds:.0f} s"
        if kind == "worker":
            trials = find_trial_processes()
            allowed = [name for name in trials if self.worker_kills.get(name, 0) < MOST_KILLS_OF_A_WORKER]
            if not allowed:
                return ""
            name = chaos.chance.choice(allowed)
            self.worker_kills[name] = self.worker_kills.get(name, 0) + 1
            with suppress(psutil.NoSuchProcess):
                trials[name].kill()
            return f"worker of {name}"
        if kind == "node":
            node = chaos.nodes.pop(chaos.chance.randrange(len(chaos.nodes)))
            chaos.cluster.remove_node(node, allow_graceful=False)
            chaos.add_node()
            return "node"
        chaos.server.is_up.wait()
        driver.send_signal(signal.SIGSTOP)  # so that nothing is finished between this look and the kill
        records = read_records(self.place)
        self.finished |= {name: record["attempts"] for name, record in records.items() if record["state"] in FINAL}
        driver.kill()
        driver.wait()
        return f"driver, {len(self.finished)} trials over"

    def read_tables(self) -> tuple[list[dict[str, str]], Any]:
        """Read `trials.csv` without times, and the scores on the test split."""
        rows = csv.DictReader(io.StringIO((self.place.read("trials.csv") or b"").decode()))
        kept = [{name: value for name, value in row.items() if not name.endswith(DIFFERING)} for row in rows]
        return kept, json.loads(self.place.read("test_metrics.json") or b"null")


def find_lost(finished: dict[str, int], records: dict[str, dict[str, Any]]) -> list[str]:
    """List the finished trials, given with their attempts then, that are gone, unfinished or were begun again."""
    return [
        name
        for name, attempts in finished.items()
        if name not in records or records[name]["state"] not in FINAL or records[name]["attempts"] != attempts
    ]


def read_records(place: Storage) -> dict[str, dict[str, Any]]:
    """Read the records of all trials under a URL, by name."""
    names = [name for name in place.list_files() if name.endswith("/trial.json")]
    return {name.split("/")[1]: json.loads(place.read(name) or b"{}") for name in sorted(names)}


def find_trial_processes() -> dict[str, psutil.Process]:
    """Find the processes below this one that run a trial now, by the trial's name."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, IndexError):
            title = process.cmdline()[0]
            if title.startswith("ray::trial_"):
                found[title.removeprefix("ray::").split()[0]] = process
    return found


@contextmanager
def start_chaos(seed: int, scratch: Path) -> Iterator[Chaos]:
    """Start the storage and three nodes, of which the first has the cluster's head and is never killed."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it names each request
    server = S3Server()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "5",
    }
    import s3fs

    s3fs.S3FileSystem().mkdir(BUCKET)
    (scratch / "space.yaml").write_text(dump_space(build_space(SPACE, "space")), encoding="utf-8")
    head = {"num_cpus": 1, "include_dashboard": False, "env_vars": {"XDG_CACHE_HOME": str(scratch / "cache-head")}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        chaos = Chaos(cluster, server, scratch, random.Random(seed))
        chaos.add_node()
        chaos.add_node()
        cluster.wait_for_nodes(timeout=SECONDS_TO_JOIN)
        yield chaos
    finally:
        cluster.shutdown()
        server.stop()


def main(
    kills: Annotated[int, typer.Option(min=1, help="Kills in all.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of what is killed, and when.")] = 0,
) -> None:
    """Run one sweep undisturbed, then others until the number of kills is reached; print a row for each."""
    scratch = tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True)
    with scratch as folder, start_chaos(seed, Path(folder)) as chaos:
        print_table(COLUMNS, run_all(chaos, kills))


def run_all(chaos: Chaos, num_kills: int) -> Iterator[tuple[object, ...]]:
    """Run the sweeps; yields the rows of the table."""
    undisturbed, done, number = None, 0, 0
    while undisturbed is None or done < num_kills:
        sweep, started = ChaosSweep(chaos, f"sweep-{number}"), time.monotonic()
        sweep.run(min(MOST_KILLS_A_SWEEP, num_kills - done) if number else 0)
        tables = sweep.read_tables()
        undisturbed = undisturbed or tables
        counts = [sweep.kills.count(kind) for kind in KINDS]
        is_equal = "yes" if tables == undisturbed else "no"
        lost, seconds = find_lost(sweep.finished, read_records(sweep.place)), time.monotonic() - started
        yield (sweep.name, len(sweep.kills), *counts, len(sweep.finished), len(lost), is_equal, seconds)
        done, number = done + len(sweep.kills), number + 1


if __name__ == "__main__":
    typer.run(main)
