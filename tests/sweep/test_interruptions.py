"""Runs that are stopped in whatever way go on as if nothing had happened."""

import csv
import json
import re
import signal
from pathlib import Path
from typing import Any

from sweep.study.record import TrialState
from tests.support.real_runs import Materials, ended_afterwards, family, start_run, wait_until, wait_until_gone
from tests.support.small_runs import read_optuna
from tests.support.terminals import Terminal
from tests.sweep.conftest import FinishedRun

MEASURED = {"seconds", "training_seconds", "encoding_seconds", "images_per_second", "peak_memory_bytes"}
"""What differs from run to run; all else does not, with one trial at a time."""


def read_table(directory: Path) -> list[dict[str, str]]:
    with (directory / "trials.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key not in MEASURED} for row in csv.DictReader(file)]


def read_records(directory: Path) -> dict[str, dict[str, Any]]:
    records = (json.loads(path.read_text()) for path in sorted(directory.glob("trials/*/trial.json")))
    return {record["trial"]: record for record in records}


def one_has_finished_and_one_is_on_its_way(directory: Path) -> bool:
    records = read_records(directory).values()
    return any(TrialState(record["state"]).is_final for record in records) and any(
        record["state"] == "RUNNING" and 1 <= len(record["epochs"]) < record["config"]["num_epochs"] - 1
        for record in records
    )


def test_kill_and_ctrl_c_lose_nothing(materials: Materials, finished_run: FinishedRun, tmp_path: Path) -> None:
    """`kill -9` of the driver, then Ctrl-C of the resumed run, then a last resume: the same run as without them."""
    directory = tmp_path / "run"
    flags = ("--data", materials.images, "--model", materials.model, "--max-concurrent", 1, "--out", directory)
    driver = start_run(materials, materials.space, *flags)
    with ended_afterwards(driver):
        wait_until(lambda: one_has_finished_and_one_is_on_its_way(directory), "a trial was half-way", driver)
        # Ray's agents end a minute after it, and are in nobody's way.
        processes = [process for process in family(driver.pid) if not process.name().endswith("Agent")]
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        wait_until_gone(processes)
    killed = read_records(directory)
    finished = {name for name, record in killed.items() if TrialState(record["state"]).is_final}
    (cut_off,) = killed.keys() - finished
    untouched = {name: (directory / "trials" / name / "trial.json").read_bytes() for name in finished}

    terminal = Terminal()
    driver = start_run(materials, "--resume", directory, "--max-concurrent", 1, **terminal.options)
    with ended_afterwards(driver):
        num_known = len(killed[cut_off]["epochs"])
        wait_until(lambda: len(read_records(directory)[cut_off]["epochs"]) > num_known, "it went on")
        processes = family(driver.pid)
        terminal.press("\x03")
        assert driver.wait(timeout=120) == 130
        wait_until_gone(processes)
    shown = terminal.written
    assert "Traceback" not in shown
    assert f"Go on with: python -m sweep.run --resume {directory}" in shown
    stopped = read_records(directory)
    assert {name: (directory / "trials" / name / "trial.json").read_bytes() for name in finished} == untouched
    assert stopped[cut_off]["epochs"][:num_known] == killed[cut_off]["epochs"]
    beginnings = re.findall(r"(\d+) epochs done before", (directory / "trials" / cut_off / "log.txt").read_text())
    assert beginnings[0] == "0"
    assert num_known <= int(beginnings[1]) <= num_known + 1  # the kill may come after a save and before its report

    driver = start_run(materials, "--resume", directory, "--max-concurrent", 1)
    with ended_afterwards(driver):
        _, errors = driver.communicate()
    assert (driver.returncode, errors) == (0, "")
    assert read_table(directory) == read_table(finished_run.directory)
    metrics = [json.loads((run / "test_metrics.json").read_text()) for run in (directory, finished_run.directory)]
    assert metrics[0] == metrics[1]
    assert len(read_optuna(directory)) == 4
    assert not (directory / "ray").exists()


def test_being_terminated_is_like_ctrl_c(materials: Materials, finished_run: FinishedRun, tmp_path: Path) -> None:
    """SIGTERM, as batch systems send it; here before the first trial of a run with an earlier one as history."""
    directory = tmp_path / "run"
    flags = ("--data", materials.images, "--model", materials.model, "--out", directory)
    flags += ("--warm-start", finished_run.directory)
    driver = start_run(materials, materials.space, *flags)
    with ended_afterwards(driver):
        wait_until((directory / "log.txt").exists, "the run began", driver)
        wait_until(lambda: len(family(driver.pid)) > 2, "Ray began", driver)
        processes = family(driver.pid)
        driver.terminate()
        output, errors = driver.communicate(timeout=120)
        wait_until_gone(processes)
    assert (driver.returncode, errors) == (130, "")
    assert output.splitlines()[-1].endswith(f"Go on with: python -m sweep.run --resume {directory}")
    assert f"Warm start     4 of the 4 trials of {finished_run.directory}\n" in output
    assert len(json.loads((directory / "warm_start.json").read_text())["trials"]) == 4
