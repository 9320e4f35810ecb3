"""Whole runs under a URL, on a real S3-compatible server."""

import csv
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medcap_core.runtime.storage import Storage
from tests.support.real_runs import Materials, ended_afterwards, family, start_run, wait_until, wait_until_gone
from tests.support.s3_server import S3Server, serving_s3, upload_folder
from tests.sweep.conftest import FinishedRun

RUN, DATA = "s3://hospital/runs/tiny", "s3://hospital/images"
SECONDS_OF_OUTAGE = 3.0
DIFFERING = {"seconds", "images_per_second", "peak_memory_bytes", "config.data"}


@pytest.fixture
def s3(materials: Materials) -> Iterator[S3Server]:
    with serving_s3("hospital") as server:
        upload_folder(materials.images, Storage(DATA))
        yield server


def start(materials: Materials, cache: Path, *flags: object) -> "subprocess.Popen[str]":
    """Run on a machine whose disk begins with `cache`; it finds the server by the environment of this process."""
    environment = os.environ | materials.environment | {"MEDCAP_CACHE": str(cache)}
    return start_run(materials, *flags, "--max-concurrent", 1, env=environment)


def read_trials(text: str) -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(text))
    return [{name: value for name, value in row.items() if name not in DIFFERING} for row in rows]


def read_scores(content: bytes) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads(content)
    metrics.pop("evaluation")  # names the data
    return metrics


def test_a_run_goes_on_after_the_loss_of_its_machine(
    s3: S3Server, finished_run: FinishedRun, materials: Materials, tmp_path: Path
) -> None:
    """And the storage was away for a while."""
    place = Storage(RUN)
    history = "trials/trial_0001/checkpoints/history.json"
    driver = start(materials, tmp_path / "first", materials.space, "--data", DATA, "--model", "../model", "--out", RUN)
    with ended_afterwards(driver):
        wait_until(lambda: place.read(history), "the second trial has an epoch", driver)
        s3.stop()
        time.sleep(SECONDS_OF_OUTAGE)
        s3.start()
        known = json.loads(place.read(history) or b"[]")
        wait_until(lambda: len(json.loads(place.read(history) or b"[]")) > len(known), "it has one more", driver)
        processes = family(driver.pid)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        wait_until_gone(processes)
        driver.communicate()
    record = json.loads(place.read("trials/trial_0001/trial.json") or b"{}")
    assert record["state"] == "RUNNING"

    driver = start(materials, tmp_path / "second", "--resume", RUN)
    with ended_afterwards(driver):
        output, errors = driver.communicate()
    assert (driver.returncode, errors) == (0, "")
    assert f"kept at {RUN}" in output
    assert f"python -m sweep.run --resume {RUN} --trials" in output
    files = place.list_files()
    assert {
        "study.db",
        "report.html",
        "best/model.safetensors",
        "best/trial.txt",
        "tables/per_image_scores.csv",
    } <= set(files)
    assert not [name for name in files if "/last/" in name]
    assert len([name for name in files if "/best/" in name]) == 3
    log = (place.read("trials/trial_0001/log.txt") or b"").decode()
    assert "0 epochs done before" in log
    assert f"{len(known) + 1} epochs done before" in log
    trials = (place.read("trials.csv") or b"").decode()
    assert read_trials(trials) == read_trials((finished_run.directory / "trials.csv").read_text())
    assert read_scores(place.read("test_metrics.json") or b"") == read_scores(
        (finished_run.directory / "test_metrics.json").read_bytes()
    )
