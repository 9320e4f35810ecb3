"""Runs `sweep.run` as a user does, in a process of its own, and reads from what it leaves how long each part took."""

import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from sweep.space import dump_space
from sweep.space.schema import SearchSpace

REPOSITORY = Path(__file__).parents[1]
SECONDS_BETWEEN_SAMPLES = 1.0

_EPOCH_LINE = re.compile(r"^(\S+ \S+) \w+ epoch (\d+): CIDEr ")


@dataclass(frozen=True)
class TrialTimes:
    """One trial; times in seconds since 1970, read from its log and record."""

    first_step: float
    last_epoch: float
    training_seconds: float
    evaluation_seconds: float
    cider: list[float]


@dataclass(frozen=True)
class SweepRun:
    """One run of `sweep.run`; times in seconds since 1970, memory and disk at their peak."""

    started: float
    searched: float
    ended: float
    trials: list[TrialTimes]
    driver_bytes: int
    all_processes_bytes: int
    disk_bytes: int

    @property
    def first_step(self) -> float:
        """When the first trial began its first epoch."""
        return min(trial.first_step for trial in self.trials)

    @property
    def num_slots(self) -> int:
        """How many trials ran at once at most."""
        return max(
            sum(other.first_step <= trial.first_step < other.last_epoch for other in self.trials)
            for trial in self.trials
        )


def run_sweep(space: SearchSpace, scratch: Path, arguments: Sequence[str] = (), cache: Path | None = None) -> SweepRun:
    """Run a space with its files under `scratch`; what it prints goes to standard error.

    `cache` is its MEDCAP_CACHE, by default an empty one. Raises CalledProcessError where the run fails.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    space_file, directory = scratch / "space.yaml", scratch / "run"
    space_file.write_text(dump_space(space), encoding="utf-8")
    command = [sys.executable, "-m", "sweep.run", str(space_file), "--out", str(directory), *arguments]
    environment = build_environment() | {"MEDCAP_CACHE": str(cache or scratch / "cache")}
    started = time.time()
    with subprocess.Popen(command, stdout=sys.stderr, env=environment) as process:
        meter = ResourceMeter(process.pid, directory)
        code = process.wait()
        ended = time.time()
        meter.stop()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return SweepRun(
        started=started,
        searched=(directory / "best.yaml").stat().st_mtime,
        ended=ended,
        trials=[read_trial(folder) for folder in sorted((directory / "trials").iterdir())],
        driver_bytes=meter.driver_bytes,
        all_processes_bytes=meter.all_processes_bytes,
        disk_bytes=max(meter.disk_bytes, measure_disk(directory)),
    )


def build_environment() -> dict[str, str]:
    """Build an environment in which a new Python finds the project from any folder and uses no network."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def read_trial(folder: Path) -> TrialTimes:
    """Read the times of a trial from `trial.json` and `log.txt`. Raises ValueError where no epoch is logged."""
    epochs: list[dict[str, Any]] = json.loads((folder / "trial.json").read_text(encoding="utf-8"))["epochs"]
    lines = (folder / "log.txt").read_text(encoding="utf-8").splitlines()
    ends = [read_time(match[1]) for match in map(_EPOCH_LINE.match, lines) if match]
    if not ends or not epochs:
        raise ValueError(f"{folder} tells of no epoch")
    return TrialTimes(
        first_step=ends[0] - epochs[0]["seconds"],
        last_epoch=ends[-1],
        training_seconds=sum(epoch["training_seconds"] for epoch in epochs),
        evaluation_seconds=sum(epoch["seconds"] - epoch["training_seconds"] for epoch in epochs),
        cider=[epoch["score"] for epoch in epochs],
    )


def read_time(text: str) -> float:
    """Seconds since 1970 of a log line's local time, such as `2026-11-23 05:29:54,123`."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def compute_turnarounds(run: SweepRun) -> list[float]:
    """Seconds from the last epoch of a trial to the first step of the one after it; for trials one at a time."""
    trials = sorted(run.trials, key=lambda trial: trial.first_step)
    return [later.first_step - earlier.last_epoch for earlier, later in itertools.pairwise(trials)]


class ResourceMeter:
    """Watches a process, its children and its run directory; keeps the highest figures seen."""

    def __init__(self, pid: int, directory: Path) -> None:
        self.process = psutil.Process(pid)
        self.directory = directory
        self.driver_bytes = self.all_processes_bytes = self.disk_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_SAMPLES):
            try:
                driver = int(self.process.memory_info().rss)
                children = self.process.children(recursive=True)
            except psutil.Error:
                return  # it has just ended
            self.driver_bytes = max(self.driver_bytes, driver)
            self.all_processes_bytes = max(self.all_processes_bytes, driver + sum(map(_own_bytes, children)))
            self.disk_bytes = max(self.disk_bytes, measure_disk(self.directory))


def _own_bytes(process: psutil.Process) -> int:
    """Proportional set size, so that memory shared by several processes counts once; 0 for one that has ended."""
    try:
        info = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(info, "pss", info.rss))


def measure_disk(directory: Path) -> int:
    """Bytes the files of a folder take on the disk; those that vanish meanwhile count nothing."""
    total = 0
    for path in (Path(root) / name for root, _, names in os.walk(directory) for name in names):
        with suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512
    return total
