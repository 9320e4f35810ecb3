"""Whole runs under a URL, on a real S3-compatible server."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medcap_core.runtime.storage import Storage
from tests.support import REPOSITORY
from tests.support.real_runs import Materials, ended_afterwards, family, start_run, wait_until, wait_until_gone
from tests.support.s3_server import S3Server, serving_s3, upload_folder
from tests.support.separate_nodes import GATEWAY, NETWORK, separate_network, start_on_node
from tests.sweep.conftest import FinishedRun

pytestmark = pytest.mark.long

RUN, DATA = "s3://hospital/runs/tiny", "s3://hospital/images"
SECONDS_OF_OUTAGE = 3.0
DIFFERING = ("seconds", "images_per_second", "peak_memory_bytes", "config.data")


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
    return [{name: value for name, value in row.items() if not name.endswith(DIFFERING)} for row in rows]


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


LONG_SPACE = """
name: long
fixed: {batch_size: 8, max_caption_tokens: 16, max_new_tokens: 10, num_beams: 1, eval_batch_size: 4,
        max_validation_images: 6, freeze: decoder_only, num_epochs: 15}
search: {learning_rate: {loguniform: [1.0e-3, 3.0e-2]}}
trials: 2
scheduler: none
resources: {cpus_per_trial: 1}
"""
HEAD = f"ray start --head --node-ip-address={NETWORK}.1 --port=6379 --num-cpus=1 --include-dashboard=false"
WORKER = f"ray start --address={NETWORK}.1:6379 --node-ip-address={NETWORK}.2 --num-cpus=1"
SWEEP = f"python -m sweep.run /mnt/long.yaml --data {DATA} --model /mnt/model --out {RUN} --address {NETWORK}.1:6379"


def test_a_trial_goes_on_on_another_node_with_a_disk_of_its_own(materials: Materials, tmp_path: Path) -> None:
    """The storage is all that the nodes share; one of them dies in mid-trial."""
    space = tmp_path / "long.yaml"
    space.write_text(LONG_SPACE)
    files = (space, materials.model)
    place = Storage(RUN)
    histories = [f"trials/trial_000{number}/checkpoints/history.json" for number in range(2)]
    with separate_network(2), serving_s3("hospital", GATEWAY) as server:
        upload_folder(materials.images, Storage(DATA))
        environment = server.environment | {"RAY_USAGE_STATS_ENABLED": "0"}
        code = {"PYTHONPATH": str(REPOSITORY)}
        connect = f'import socket; socket.create_connection(("{NETWORK}.2", 7000))'
        ready = f"until python -c '{connect}' 2> /dev/null; do sleep 0.3; done"
        driver = start_on_node(1, f"{HEAD} && {ready} && {SWEEP}", files, environment | code)
        join = f"until {WORKER} ; do sleep 0.5; done; python -m http.server 7000 --bind {NETWORK}.2"
        worker = start_on_node(2, join, files, environment)
        with ended_afterwards(driver), ended_afterwards(worker):
            wait_until(lambda: place.read("driver.json"), "the cluster is there", driver)
            wait_until(lambda: place.read("trials/trial_0000/trial.json"), "the nodes are checked", driver)
            wait_until(lambda: all(map(place.read, histories)), "both trials have an epoch", driver)
            worker.kill()
            output, errors = driver.communicate()
            assert driver.returncode == 0, output + errors
        records = [json.loads(place.read(f"trials/trial_000{number}/trial.json") or b"{}") for number in range(2)]
        assert [record["state"] for record in records] == ["SUCCEEDED", "SUCCEEDED"]
        assert sorted(record["attempts"] for record in records) == [1, 2]
        moved = next(number for number, record in enumerate(records) if record["attempts"] == 2)
        log = (place.read(f"trials/trial_000{moved}/log.txt") or b"").decode()
        assert re.findall(r"(\d+) epochs done before", log)[-1] != "0"
