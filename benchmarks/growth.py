"""How cost grows: with the number of images, of trials, and of trials at once.

python -m benchmarks.growth
"""

import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks.lists import build_tiny_space
from benchmarks.machine import describe_machine, print_table, run_apart, tell
from benchmarks.sweep_run import compute_turnarounds, measure_disk, run_sweep
from benchmarks.synthetic import write_phantom_folder
from medcap_core.config import TrialConfig
from medcap_core.data.images import ImageGeometry
from medcap_core.data.prepare import load_dataset, prepare_data
from medcap_core.runtime.cache import CACHE_VARIABLE
from medcap_core.training.epoch_report import EpochReport
from sweep.space import build_space
from sweep.study.record import TrialRecord, TrialState
from sweep.study.study import Study
from sweep.terminal.row import build_row

NUM_DISTINCT_IMAGES = 200
"""So many phantoms are drawn; the rest are further names of the same files, which cost as much to read and to keep."""

IMAGE_COLUMNS = ("images", "reading records s", "empty cache s", "filled cache s", "memory MB", "cache MB")
STUDY_COLUMNS = ("trials", "s", "ms a trial", "ms the last trial", "opening again s", "memory MB", "disk MB")
CONCURRENCY_COLUMNS = (
    "at once", "start s", "search s", "s a trial", "median turnaround s", "driver MB", "all processes MB",
    "run directory MB",
)  # fmt: skip
MODES = ["full", "encoder_only", "decoder_only", "lora"]
DRIVEN_SPACE = {
    "name": "growth",
    "fixed": {"num_epochs": 4},
    "search": {
        "freeze": {"choice": MODES},
        "learning_rate": [
            {"loguniform": [2.0e-4, 4.0e-3], "when": {"freeze": MODES[:3]}},
            {"loguniform": [2.0e-3, 4.0e-2], "when": {"freeze": "lora"}},
        ],
        "lora_rank": {"choice": [4, 8, 16, 32], "when": {"freeze": "lora"}},
        "lora_targets": {"choice": ["query_key", "attention", "attention_mlp"], "when": {"freeze": "lora"}},
    },
}
"""The knobs of the main search, with every trial 4 epochs long."""


def write_large_folder(directory: Path, num_images: int) -> Path:
    """Make an image folder of that many training images, most of them hard links to the same few files."""
    write_phantom_folder(directory, min(NUM_DISTINCT_IMAGES, num_images), 2)
    train = directory / "train"
    header, *lines = (train / "metadata.csv").read_text(encoding="utf-8").splitlines()
    names = [line.partition(",") for line in lines]
    for index in range(len(names), num_images):
        file_name, _, caption = names[index % len(names)]
        linked = f"image-{index:06d}.png"
        os.link(train / file_name, train / linked)
        lines.append(f"{linked},{caption}")
    (train / "metadata.csv").write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return directory


def prepare_folder(data: Path, cache: Path, image_size: int) -> tuple[float, float, int]:
    """Seconds to read the records and to have the images ready, and the bytes by which this process grew."""
    os.environ[CACHE_VARIABLE] = str(cache)
    config, memory_before, started = TrialConfig(data=str(data)), _resident_bytes(), time.perf_counter()
    load_dataset(config)
    read = time.perf_counter()
    prepare_data(config, ImageGeometry(image_size))
    return read - started, time.perf_counter() - read, _resident_bytes() - memory_before


def image_rows(counts: list[int], image_size: int) -> Iterator[tuple[object, ...]]:
    """For each number of images: seconds to read the records and to fill the store, then again; memory and disk."""
    for count in counts:
        tell(f"{count} images")
        with tempfile.TemporaryDirectory(prefix="medcap-growth-") as name:
            data, cache = write_large_folder(Path(name) / "data", count), Path(name) / "cache"
            reading, cold, memory = run_apart(prepare_folder, data, cache, image_size)
            _, warm, _ = run_apart(prepare_folder, data, cache, image_size)
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


@dataclass(frozen=True)
class StudyCost:
    """What a study took; memory is what the process grew by."""

    seconds: float
    last_trial_seconds: float
    opening_seconds: float
    memory_bytes: int
    disk_bytes: int


def drive_study(directory: Path, num_trials: int) -> StudyCost:
    """Propose, report and finish every trial as the search does, with made-up scores in place of training."""
    memory_before, started = _resident_bytes(), time.perf_counter()
    with Study.create(directory, build_space(DRIVEN_SPACE | {"trials": num_trials}, "growth")) as study:
        while True:
            trial_started = time.perf_counter()
            record = study.propose()
            if record is None:
                break
            run_made_up_trial(study, record)
            last_trial_seconds = time.perf_counter() - trial_started
            list(map(build_row, study.records))
        seconds = time.perf_counter() - started
    memory, opening = _resident_bytes() - memory_before, time.perf_counter()
    Study.open(directory).close()
    return StudyCost(seconds, last_trial_seconds, time.perf_counter() - opening, memory, measure_disk(directory))


def run_made_up_trial(study: Study, record: TrialRecord) -> None:
    """Report epochs until the study says stop; the score rises by epoch and is best at a rate of 1e-3."""
    study.start(record.name)
    rate, state = record.config.learning_rate, TrialState.SUCCEEDED
    for epoch in range(1, 5):
        report = EpochReport(
            epoch=epoch, num_epochs=4, score=math.sqrt(epoch) / (1 + math.log10(rate / 1e-3) ** 2), validation_loss=1.0,
            training_loss=1.0, learning_rate=rate, seconds=2.0, training_seconds=1.0, encoding_seconds=0.0,
            images_per_second=100.0, peak_memory_bytes=10**9, trainable_parameters=10**6, total_parameters=10**7,
        )  # fmt: skip
        if not study.report(record.name, report):
            state = TrialState.PRUNED
            break
    study.finish(record.name, state)
    study.tidy_checkpoints()


def study_rows(counts: list[int]) -> Iterator[tuple[object, ...]]:
    """For each number of trials: a study driven without training, in a process of its own."""
    for count in counts:
        tell(f"a study of {count} trials")
        with tempfile.TemporaryDirectory(prefix="medcap-growth-") as name:
            cost = run_apart(drive_study, Path(name) / "run", count)
            yield (
                count, cost.seconds, cost.seconds / count * 1e3, cost.last_trial_seconds * 1e3,
                cost.opening_seconds, cost.memory_bytes / 1e6, cost.disk_bytes / 1e6,
            )  # fmt: skip


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


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
