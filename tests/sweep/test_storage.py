"""Whole runs under a URL, on a real S3-compatible server; one also on emulators of Google Cloud Storage and Azure."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from medcap_core.runtime.storage import Storage
from tests.support import REPOSITORY
from tests.support.emulators import Emulator, serving
from tests.support.real_runs import Materials, ended_afterwards, family, start_run, wait_until, wait_until_gone
from tests.support.s3_server import S3Server, SlowLink, serving_s3, upload_folder
from tests.support.separate_nodes import GATEWAY, NETWORK, separate_network, start_on_node
from tests.sweep.conftest import FinishedRun

pytestmark = pytest.mark.long

RUN, DATA = "s3://hospital/runs/tiny", "s3://hospital/images"
SECONDS_OF_OUTAGE, SECONDS_OF_SILENCE, SECONDS_OF_DELAY = 3.0, 30.0, 0.02
SECONDS_TO_END = 90.0
DIFFERING = ("seconds", "images_per_second", "peak_memory_bytes", "config.data")


@pytest.fixture
def s3(materials: Materials) -> Iterator[S3Server]:
    with serving_s3("hospital") as server:
        upload_folder(materials.images, Storage(DATA))
        yield server


@pytest.fixture(params=["s3", "gs", "az"])
def any_server(
    request: pytest.FixtureRequest, materials: Materials, tmp_path: Path
) -> Iterator[tuple[str, S3Server | Emulator]]:
    """The scheme of a storage, and the server that stands for it."""
    with serving(request.param, "hospital", tmp_path) as server:
        upload_folder(materials.images, Storage(DATA.replace("s3", request.param, 1)))
        yield request.param, server


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


def test_what_another_machine_writes_is_seen_after_the_folder_was_listed(s3: S3Server) -> None:
    place = Storage(RUN)
    place.write("trials.csv", b"1")
    assert [*place.list_files()] == ["trials.csv"]
    client = boto3.client("s3", endpoint_url=s3.environment["AWS_ENDPOINT_URL"])
    client.put_object(Bucket="hospital", Key="runs/tiny/test_metrics.json", Body=b"2")
    assert place.read("test_metrics.json") == b"2"


def test_a_run_goes_on_after_the_loss_of_its_machine(
    any_server: tuple[str, S3Server | Emulator], finished_run: FinishedRun, materials: Materials, tmp_path: Path
) -> None:
    """And the storage was away for a while."""
    scheme, server = any_server
    run, data = (url.replace("s3", scheme, 1) for url in (RUN, DATA))
    place = Storage(run)
    history = "trials/trial_0001/checkpoints/history.json"
    driver = start(materials, tmp_path / "first", materials.space, "--data", data, "--model", "../model", "--out", run)
    with ended_afterwards(driver):
        wait_until(lambda: place.read(history), "the second trial has an epoch", driver)
        server.stop()
        time.sleep(SECONDS_OF_OUTAGE)
        server.start()
        known = json.loads(place.read(history) or b"[]")
        wait_until(lambda: len(json.loads(place.read(history) or b"[]")) > len(known), "it has one more", driver)
        processes = family(driver.pid)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        wait_until_gone(processes)
        driver.communicate()
    num_done = len(json.loads(place.read(history) or b"[]"))
    record = json.loads(place.read("trials/trial_0001/trial.json") or b"{}")
    assert record["state"] == "RUNNING"

    driver = start(materials, tmp_path / "second", "--resume", run)
    with ended_afterwards(driver):
        output, errors = driver.communicate()
    assert (driver.returncode, errors) == (0, "")
    assert not [*(tmp_path / "second").glob("runs/*/trials/*/checkpoints")]
    assert f"kept at {run}" in output
    assert f"python -m sweep.run --resume {run} --trials" in output
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
    assert f"{num_done} epochs done before" in log
    trials = (place.read("trials.csv") or b"").decode()
    assert read_trials(trials) == read_trials((finished_run.directory / "trials.csv").read_text())
    assert read_scores(place.read("test_metrics.json") or b"") == read_scores(
        (finished_run.directory / "test_metrics.json").read_bytes()
    )


def count_epochs(number: int) -> int:
    return len(json.loads(Storage(RUN).read(f"trials/trial_000{number}/checkpoints/history.json") or b"[]"))


def finish(materials: Materials, cache: Path, like: FinishedRun) -> None:
    """Resume the run, and see that nothing of it is lost."""
    place, driver = Storage(RUN), start(materials, cache, "--resume", RUN)
    with ended_afterwards(driver):
        output, errors = driver.communicate()
    assert (driver.returncode, errors) == (0, ""), output + errors
    trials = (place.read("trials.csv") or b"").decode()
    assert read_trials(trials) == read_trials((like.directory / "trials.csv").read_text())
    assert read_scores(place.read("test_metrics.json") or b"") == read_scores(
        (like.directory / "test_metrics.json").read_bytes()
    )


def test_a_run_outlasts_a_slow_storage_that_falls_silent_and_ends_where_it_refuses(
    s3: S3Server, finished_run: FinishedRun, materials: Materials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, link = tmp_path / "cache", SlowLink(s3.port, SECONDS_OF_DELAY)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", link.environment["AWS_ENDPOINT_URL"])
        driver = start(materials, cache, materials.space, "--data", DATA, "--model", "../model", "--out", RUN)
    with ended_afterwards(driver):
        wait_until(lambda: count_epochs(0), "the first trial has an epoch", driver)
        link.silent.set()
        time.sleep(SECONDS_OF_SILENCE)
        link.silent.clear()
        wait_until(lambda: count_epochs(1), "the second trial has an epoch", driver)
        s3.refuse(all_keys=True)
        output, errors = driver.communicate()
    assert re.search(
        rf"\n{RUN} has not answered for \d+ s \(.+\); all is kept on this machine and tried again\n", output
    )
    assert re.search(rf"\n{RUN} answers again, after \d+ s\n", output)
    refused = rf"{RUN}\S*: access is refused \(.+\); check the credentials that this machine has for s3://"
    assert driver.returncode == 2
    assert re.search(refused, errors), errors
    assert "Traceback" not in output + errors

    driver = start(materials, cache, "--resume", RUN)
    with ended_afterwards(driver):
        output, errors = driver.communicate()
    assert (driver.returncode, len(errors.splitlines())) == (2, 1), errors
    assert re.search(refused, errors)

    s3.refuse(all_keys=False)
    finish(materials, cache, finished_run)


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_a_run_whose_storage_stays_away_ends_and_goes_on_when_it_is_back(
    s3: S3Server, finished_run: FinishedRun, materials: Materials, tmp_path: Path, is_interrupted: bool
) -> None:
    """After its time or, where the user interrupts the run, within seconds."""
    cache, out = tmp_path / "cache", [materials.space, "--data", DATA, "--model", "../model", "--out", RUN]
    with pytest.MonkeyPatch.context() as patch:
        if not is_interrupted:
            patch.setenv("MEDCAP_STORAGE_TIMEOUT", "5")
        driver = start(materials, cache, *out)
    with ended_afterwards(driver):
        wait_until(lambda: count_epochs(1), "the second trial has an epoch", driver)
        s3.stop()
        if is_interrupted:
            time.sleep(SECONDS_OF_OUTAGE)
            driver.send_signal(signal.SIGINT)
        began = time.monotonic()
        output, errors = driver.communicate()
        assert time.monotonic() - began < SECONDS_TO_END
    assert (driver.returncode, "Traceback" in output + errors) == (2, False), output + errors
    assert re.fullmatch(
        rf"error: {RUN}\S* did not answer for \d+ s \(.+\); go on by --resume when it does: .+\n", errors
    )
    s3.start()
    finish(materials, cache, finished_run)


LONG_SPACE = """
name: long
fixed: {batch_size: 8, max_caption_tokens: 16, max_new_tokens: 10, num_beams: 1, eval_batch_size: 4,
        max_validation_images: 6, freeze: decoder_only, num_epochs: 15}
search: {learning_rate: {loguniform: [1.0e-3, 3.0e-2]}}
trials: 2
scheduler: none
resources: {cpus_per_trial: 1}
"""
TWO_WORKERS = LONG_SPACE.replace("{cpus_per_trial: 1}", "{cpus_per_trial: 1.5, workers_per_trial: 2}")
HEAD = f"ray start --head --node-ip-address={NETWORK}.1 --port=6379 --num-cpus=1 --include-dashboard=false"
WORKER = f"ray start --address={NETWORK}.1:6379 --node-ip-address={NETWORK}.2 --num-cpus=1"
SWEEP = f"python -m sweep.run /mnt/long.yaml --data {DATA} --model /mnt/model --out {RUN} --address {NETWORK}.1:6379"


@contextmanager
def sweeping_on_two_nodes(materials: Materials, space: Path) -> Iterator[tuple["subprocess.Popen[str]", ...]]:
    """Start a sweep, and a second node that joins it; they share the storage alone. Yields both processes."""
    files = (space, materials.model)
    with separate_network(2), serving_s3("hospital", GATEWAY) as server:
        upload_folder(materials.images, Storage(DATA))
        environment = server.environment | {"RAY_USAGE_STATS_ENABLED": "0", "GLOO_SOCKET_IFNAME": "eth0"}
        code = {"PYTHONPATH": str(REPOSITORY)}
        connect = f'import socket; socket.create_connection(("{NETWORK}.2", 7000))'
        ready = f"until python -c '{connect}' 2> /dev/null; do sleep 0.3; done"
        driver = start_on_node(1, f"{HEAD} && {ready} && {SWEEP}", files, environment | code)
        join = f"until {WORKER} ; do sleep 0.5; done; python -m http.server 7000 --bind {NETWORK}.2"
        worker = start_on_node(2, join, files, environment)
        with ended_afterwards(driver), ended_afterwards(worker):
            yield driver, worker


def test_a_trial_goes_on_on_another_node_with_a_disk_of_its_own(materials: Materials, tmp_path: Path) -> None:
    """One node dies in mid-trial."""
    space = tmp_path / "long.yaml"
    space.write_text(LONG_SPACE)
    place = Storage(RUN)
    histories = [f"trials/trial_000{number}/checkpoints/history.json" for number in range(2)]
    with sweeping_on_two_nodes(materials, space) as (driver, worker):
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


def test_the_workers_of_a_trial_lie_on_nodes_that_share_no_disk(materials: Materials, tmp_path: Path) -> None:
    """Each node has room for one of them."""
    space = tmp_path / "long.yaml"
    space.write_text(TWO_WORKERS.replace("num_epochs: 15", "num_epochs: 3").replace("trials: 2", "trials: 1"))
    place = Storage(RUN)
    with sweeping_on_two_nodes(materials, space) as (driver, worker):
        output, errors = driver.communicate()
        assert driver.returncode == 0, output + errors
        _, *own = family(worker.pid)
        cache = Path(f"/proc/{own[-1].pid}/root/tmp/home/.cache")
        assert cache.is_dir()
        assert not [*cache.rglob("*.safetensors")]
        record = json.loads(place.read("trials/trial_0000/trial.json") or b"{}")
        assert (record["state"], record["attempts"], len(record["epochs"])) == ("SUCCEEDED", 1, 3)
        assert place.read("best/trial.txt") == b"trial_0000\n"


def test_a_run_of_two_workers_a_trial_goes_on_after_a_kill(s3: S3Server, materials: Materials, tmp_path: Path) -> None:
    """Beside a run that nothing disturbs, with a Ray of its own, whose tables it has in the end."""
    space, undisturbed = tmp_path / "two.yaml", Storage("s3://hospital/runs/undisturbed")
    space.write_text(TWO_WORKERS.replace("num_epochs: 15", "num_epochs: 5"))
    flags = (space, "--data", DATA, "--model", "../model", "--out")
    other = start(materials, tmp_path / "undisturbed", *flags, undisturbed.url)
    driver = start(materials, tmp_path / "first", *flags, RUN)
    with ended_afterwards(other), ended_afterwards(driver):
        wait_until(lambda: count_epochs(1) >= 2, "the second trial has two epochs", driver)
        # Ray's agents end a minute after it, and are in nobody's way.
        processes = [process for process in family(driver.pid) if not process.name().endswith("Agent")]
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        wait_until_gone(processes)
        known = count_epochs(1)
        driver = start(materials, tmp_path / "second", "--resume", RUN)
        with ended_afterwards(driver):
            output, errors = driver.communicate()
        assert (driver.returncode, errors) == (0, ""), output + errors
        output, errors = other.communicate()
        assert (other.returncode, errors) == (0, ""), output + errors
    log = (Storage(RUN).read("trials/trial_0001/log.txt") or b"").decode()
    assert re.findall(r"(\d+) epochs done before", log) == ["0", str(known)]
    left = tmp_path.glob("*/runs/*/trials/*/checkpoints/last")
    assert [path.relative_to(tmp_path).parts[0] for path in left] == ["first"]
    tables = [read_trials((place.read("trials.csv") or b"").decode()) for place in (Storage(RUN), undisturbed)]
    assert tables[0] == tables[1]
    scores = [read_scores(place.read("test_metrics.json") or b"") for place in (Storage(RUN), undisturbed)]
    assert scores[0] == scores[1]
