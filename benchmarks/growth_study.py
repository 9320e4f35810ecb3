"""A study driven as the search drives it, but with made-up scores in place of training: what the driver alone costs."""

import json
import math
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.sweep_run import build_environment, measure_disk
from medcap_core.training.epoch_report import EpochReport
from sweep.space import build_space
from sweep.space.schema import SearchSpace
from sweep.study.record import TrialRecord, TrialState
from sweep.study.study import Study
from sweep.terminal.row import build_row


@dataclass(frozen=True)
class StudyCost:
    """What a study took; memory is what the process grew by."""

    seconds: float
    last_trial_seconds: float
    opening_seconds: float
    memory_bytes: int
    disk_bytes: int


def drive_study(directory: Path, num_trials: int) -> StudyCost:
    """Drive a study in a fresh process, so that its memory is its own."""
    command = [sys.executable, "-m", "benchmarks.growth_study", str(directory), str(num_trials)]
    answer = subprocess.run(command, env=build_environment(), stdout=subprocess.PIPE, text=True, check=True)
    return StudyCost(**json.loads(answer.stdout))


def build_driven_space(num_trials: int) -> SearchSpace:
    """Build the knobs of the main search, with every trial 4 epochs long."""
    modes = ["full", "encoder_only", "decoder_only", "lora"]
    values = {
        "name": "growth",
        "fixed": {"num_epochs": 4},
        "search": {
            "freeze": {"choice": modes},
            "learning_rate": [
                {"loguniform": [2.0e-4, 4.0e-3], "when": {"freeze": modes[:3]}},
                {"loguniform": [2.0e-3, 4.0e-2], "when": {"freeze": "lora"}},
            ],
            "lora_rank": {"choice": [4, 8, 16, 32], "when": {"freeze": "lora"}},
            "lora_targets": {"choice": ["query_key", "attention", "attention_mlp"], "when": {"freeze": "lora"}},
        },
        "trials": num_trials,
    }
    return build_space(values, "growth")


def drive_here(directory: Path, num_trials: int) -> StudyCost:
    """Propose, report and finish every trial, one after another."""
    memory_before = _resident_bytes()
    started = time.perf_counter()
    with Study.create(directory, build_driven_space(num_trials)) as study:
        while True:
            trial_started = time.perf_counter()
            record = study.propose()
            if record is None:
                break
            run_made_up_trial(study, record)
            last_trial_seconds = time.perf_counter() - trial_started
            list(map(build_row, study.records))
        seconds = time.perf_counter() - started
    memory = _resident_bytes() - memory_before
    opening = time.perf_counter()
    Study.open(directory).close()
    opening = time.perf_counter() - opening
    return StudyCost(seconds, last_trial_seconds, opening, memory, measure_disk(directory))


def run_made_up_trial(study: Study, record: TrialRecord) -> None:
    """Report epochs until the study says stop; the score rises by epoch and is best at a rate of 1e-3."""
    study.start(record.name)
    state = TrialState.SUCCEEDED
    for epoch in range(1, 5):
        score = math.sqrt(epoch) / (1 + math.log10(record.config.learning_rate / 1e-3) ** 2)
        report = EpochReport(
            epoch=epoch,
            num_epochs=4,
            score=score,
            validation_loss=1.0,
            training_loss=1.0,
            learning_rate=record.config.learning_rate,
            seconds=2.0,
            training_seconds=1.0,
            encoding_seconds=0.0,
            images_per_second=100.0,
            peak_memory_bytes=10**9,
            trainable_parameters=10**6,
            total_parameters=10**7,
        )
        if not study.report(record.name, report):
            state = TrialState.PRUNED
            break
    study.finish(record.name, state)
    study.tidy_checkpoints()


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    print(json.dumps(asdict(drive_here(Path(sys.argv[1]), int(sys.argv[2])))))
