"""How cost grows: with the number of images, of trials, and of trials at once.

python -m benchmarks.growth
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.growth_study import drive_study
from benchmarks.lists import build_tiny_space
from benchmarks.machine import describe_machine
from benchmarks.report import print_table, tell
from benchmarks.sweep_run import REPOSITORY, build_environment, compute_turnarounds, measure_disk, run_sweep
from benchmarks.synthetic import write_phantom_folder

NUM_DISTINCT_IMAGES = 200
"""So many phantoms are drawn; the rest are further names of the same files, which cost as much to read and to keep."""

IMAGE_COLUMNS = ("images", "reading records s", "empty cache s", "filled cache s", "memory MB", "cache MB")
STUDY_COLUMNS = ("trials", "s", "ms a trial", "ms the last trial", "opening again s", "memory MB", "disk MB")
CONCURRENCY_COLUMNS = (
    "at once", "start s", "search s", "s a trial", "median turnaround s", "driver MB", "all processes MB",
    "run directory MB",
)  # fmt: skip

_PREPARE = """
import psutil, sys, time
from medcap_core.config import TrialConfig
from medcap_core.data.images import ImageGeometry
from medcap_core.data.prepare import load_dataset, prepare_data
config = TrialConfig(data=sys.argv[1])
before, started = psutil.Process().memory_info().rss, time.perf_counter()
load_dataset(config.data)
read = time.perf_counter()
prepare_data(config, ImageGeometry(int(sys.argv[2])))
ended = time.perf_counter()
print(read - started, ended - read, psutil.Process().memory_info().rss - before)
"""


def write_large_folder(directory: Path, num_images: int) -> Path:
    """Make an image folder of that many training images, most of them hard links to the same few files."""
    write_phantom_folder(directory, min(NUM_DISTINCT_IMAGES, num_images), 2)
    train = directory / "train"
    header, *rows = (train / "metadata.csv").read_text(encoding="utf-8").splitlines()
    names = [row.partition(",") for row in rows]
    lines = [header]
    for index in range(num_images):
        file_name, _, caption = names[index % len(names)]
        if index >= len(names):
            linked = f"image-{index:06d}.png"
            os.link(train / file_name, train / linked)
            file_name = linked
        lines.append(f"{file_name},{caption}")
    (train / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def image_rows(counts: list[int], image_size: int) -> Iterator[tuple[object, ...]]:
    """For each number of images: seconds to read the records and to fill the store, then again; memory and disk."""
    for count in counts:
        tell(f"{count} images")
        with tempfile.TemporaryDirectory(prefix="medcap-growth-") as name:
            data, cache = write_large_folder(Path(name) / "data", count), Path(name) / "cache"
            environment = build_environment() | {"MEDCAP_CACHE": str(cache)}
            command = [sys.executable, "-c", _PREPARE, str(data), str(image_size)]
            answers = [
                subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                for _ in range(2)
            ]
            (reading, cold, memory), (_, warm, _) = (map(float, answer.stdout.split()) for answer in answers)
            yield count, reading, cold, warm, memory / 1e6, measure_disk(cache) / 1e6


def concurrency_rows(counts: list[int], num_trials: int) -> Iterator[tuple[object, ...]]:
    """For each number of trials at once: a real run of tiny trials."""
    with tempfile.TemporaryDirectory(prefix="medcap-growth-") as name:
        data = write_phantom_folder(Path(name) / "data", 32, 8)
        for count in counts:
            tell(f"{count} trials at once")
            run = run_sweep(build_tiny_space(data, num_trials, count), Path(name) / f"at-once-{count}")
            searching = run.searched - run.first_step
            turnaround = sorted(compute_turnarounds(run))[(num_trials - 1) // 2] if count == 1 else None
            yield (
                count, run.first_step - run.started, searching, searching / num_trials, turnaround,
                run.driver_bytes / 1e6, run.all_processes_bytes / 1e6, run.disk_bytes / 1e6,
            )  # fmt: skip


def study_rows(counts: list[int]) -> Iterator[tuple[object, ...]]:
    """For each number of trials: a study driven without training, in a process of its own."""
    for count in counts:
        tell(f"a study of {count} trials")
        with tempfile.TemporaryDirectory(prefix="medcap-growth-") as name:
            cost = drive_study(Path(name) / "run", count)
            yield (
                count, cost.seconds, cost.seconds / count * 1e3, cost.last_trial_seconds * 1e3,
                cost.opening_seconds, cost.memory_bytes / 1e6, cost.disk_bytes / 1e6,
            )  # fmt: skip


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main(
    images: Annotated[str, typer.Option(help="Numbers of images; empty leaves this out.")] = "1000,5000,20000,60000",
    trials: Annotated[str, typer.Option(help="Numbers of trials in a study driven alone.")] = "8,32,128,500",
    concurrent: Annotated[str, typer.Option(help="Numbers of trials at once in a real run.")] = "1,2,3,4",
    trials_of_run: Annotated[int, typer.Option(help="Tiny trials in each real run.")] = 12,
    image_size: Annotated[int, typer.Option(help="Pixels a side in the store.")] = 96,
) -> None:
    """Print three tables."""
    print(f"# {describe_machine()}\n", flush=True)
    if images:
        print(f"## Images: PNG files of 128 px, stored at {image_size} px; no training\n", flush=True)
        print_table(IMAGE_COLUMNS, image_rows(_numbers(images), image_size))
    if trials:
        print("## Trials: a study driven without training or Ray: proposals (TPE), 4 epochs each, ASHA, all files\n")
        print_table(STUDY_COLUMNS, study_rows(_numbers(trials)))
    if concurrent:
        print(f"## Trials at once: real runs of {trials_of_run} tiny trials (32 images, 1 epoch)\n", flush=True)
        print_table(CONCURRENCY_COLUMNS, concurrency_rows(_numbers(concurrent), trials_of_run))


if __name__ == "__main__":
    typer.run(main)
