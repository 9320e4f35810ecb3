"""Real sweeps for tests: a tiny model and images on disk, the command line and the processes it starts."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.console import Console

from medcap_core.objective import Objective
from sweep.terminal.progress import SweepProgress
from sweep.terminal.view import SweepView
from tests.support import REPOSITORY

NUM_IMAGES = {"train": 22, "validation": 9, "test": 7}
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
PATIENCE_SECONDS = 240.0  # how long a condition may take on a machine with much else to do

SPACE = """
name: tiny
fixed: {batch_size: 8, max_caption_tokens: 16, max_new_tokens: 10, num_beams: 2, eval_batch_size: 4,
        max_validation_images: 6}
search:
  freeze: {choice: [full, decoder_only, lora]}
  learning_rate: {loguniform: [1.0e-3, 3.0e-2]}
  num_epochs: {int: [3, 6]}
first_points:
  - {freeze: lora, learning_rate: 2.0e-2, num_epochs: 3}
  - {freeze: full, learning_rate: 3.0e-3, num_epochs: 6}
trials: 4
resources: {cpus_per_trial: 1}
"""


@dataclass(frozen=True)
class Materials:
    """What a tiny run needs: `home` holds `images/`, `model/`, `cache/`, `space.yaml` and the folder `working here`."""

    home: Path

    @property
    def images(self) -> Path:
        return self.home / "images"

    @property
    def model(self) -> Path:
        return self.home / "model"

    @property
    def space(self) -> Path:
        return self.home / "space.yaml"

    @property
    def working_directory(self) -> Path:
        return self.home / "working here"

    @property
    def environment(self) -> dict[str, str]:
        """A user's environment: nothing set for Ray but that it starts without its dashboard, which takes long."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
        own = {"MEDCAP_CACHE": str(self.home / "cache"), "MEDCAP_DASHBOARD": "0", "PYTHONPATH": str(REPOSITORY)}
        return kept | own


def write_images(folder: Path) -> None:
    """Lungs with a bright square whose side and size the caption tells."""
    from tests.support.tiny_blip import IMAGE_SIZE  # with torch, which other users of this file do without

    generator = np.random.default_rng(0)
    for split, count in NUM_IMAGES.items():
        (folder / split).mkdir(parents=True)
        rows = ["file_name,text"]
        for index in range(count):
            is_left, is_large = generator.integers(0, 2, 2)
            pixels = generator.integers(0, 60, (IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
            start, side = (4 if is_left else 28), (16 if is_large else 8)
            pixels[16 : 16 + side, start : start + side] = 220
            Image.fromarray(pixels).save(folder / split / f"{index}.png")
            size = "a large nodule" if is_large else "small opacity"
            rows.append(f"{index}.png,the {'left' if is_left else 'right'} lung shows {size}")
        (folder / split / "metadata.csv").write_text("\n".join(rows) + "\n")


def start_run(materials: Materials, *arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """`python -m sweep.run ARGUMENTS`, from a folder with a space in its name."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-m", "sweep.run", *map(str, arguments)],
        cwd=materials.working_directory,
        **(pipes | {"env": materials.environment} | options),
    )


def wait_until(condition: Callable[[], Any], what: str, still_runs: "subprocess.Popen[str] | None" = None) -> Any:
    """Poll until `condition` gives something true, and return it; fails after a time, or when the process has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        if still_runs is not None and still_runs.poll() is not None:
            raise AssertionError(f"it ended with {still_runs.returncode} before {what}: {still_runs.communicate()}")
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE_SECONDS:.0f} s in vain until {what}")


def family(process_id: int) -> list[psutil.Process]:
    """A process and all it has started."""
    try:
        parent = psutil.Process(process_id)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)
    assert not [process.cmdline() for process in alive]


def find_trial_process(driver: int, directory: Path) -> psutil.Process | None:
    """The process that runs the trial of `directory`: the one that has its log open."""
    log = str(directory / "log.txt")
    for process in family(driver)[1:]:
        with suppress(OSError, psutil.NoSuchProcess):
            if process.name().startswith("ray::") and any(
                str(entry.readlink()) == log for entry in Path(f"/proc/{process.pid}/fd").iterdir()
            ):
                return process
    return None


def find_listening(driver: int) -> set[tuple[str, str]]:
    """(process name, address) of every TCP socket on which a run's processes take connections."""
    names = {}
    for process in family(driver):
        with suppress(psutil.NoSuchProcess):
            names[process.pid] = process.name()
    return {
        (names[connection.pid], connection.laddr.ip)
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in names
    }


@contextmanager
def watching_listening(driver: int, seconds_between: float = 3.0) -> Iterator[set[tuple[str, str]]]:
    """A set that gathers what `find_listening` sees meanwhile; looking is costly."""
    seen: set[tuple[str, str]] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(seconds_between):
            seen.update(find_listening(driver))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@contextmanager
def ended_afterwards(process: "subprocess.Popen[str]") -> Iterator[None]:
    """See that a test that fails leaves no run behind."""
    try:
        yield
    finally:
        if process.poll() is None:
            left = family(process.pid)
            process.send_signal(signal.SIGKILL)
            psutil.wait_procs(left, timeout=30)


def quiet_view(total_trials: int = 1) -> SweepView:
    """A view that nobody looks at."""
    console = Console(file=io.StringIO(), width=200)
    return SweepView(console, SweepProgress(total_trials, Objective()), name="test")
