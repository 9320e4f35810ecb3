"""One trial: in one process, and over two workers."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import placement_group_table

from medcap_core.errors import DataFault
from sweep.execution.cluster import choose_resources
from sweep.execution.ledger import read_progress
from sweep.execution.moves import NodeFault
from sweep.execution.nodes import NodeSize
from sweep.execution.trial import NODE_FAULT, PLACES, Assignment, ProgressWriter, store_epochs, train_here
from sweep.execution.tune import run_search
from sweep.execution.worker_group import TrialStopped, start_desk
from sweep.space.schema import Resources
from sweep.study.record import TrialState
from sweep.study.study import Study
from tests.support.real_runs import LOOPBACK, Materials, quiet_view, wait_until, watching_listening
from tests.support.small_runs import run_one
from tests.sweep.conftest import FinishedRun
from tests.sweep.execution.test_tune import build_study, kill_after_an_epoch, save_broken_model


def assign(directory: Path, **config: Any) -> Assignment:
    return Assignment("trial_0000", "full", config, str(directory), cpus_per_worker=1, gpus_per_worker=0, num_workers=1)


TWO_WORKERS = choose_resources([NodeSize(cpus=2)], Resources(workers_per_trial=2), num_trials=2, most_workers=2)


@pytest.mark.usefixtures("local_ray")
def test_workers_stay_for_one_trial_after_another(
    finished_run: FinishedRun, materials: Materials, tmp_path: Path
) -> None:
    """A trial that is as of one worker, one that is stopped, one whose loss is NaN, and a last one.

    Three earlier trials, made up, scored a little more than the second does after its first epoch.
    """
    models = {"good": str(materials.model), "broken": str(save_broken_model(materials, tmp_path / "model"))}
    points: list[dict[str, Any]] = [
        {"freeze": "decoder_only", "learning_rate": 1e-3 * number, "num_epochs": 3, "model": "good"}
        for number in (1, 2, 3)
    ]
    points += [
        {"freeze": "full", "learning_rate": 3e-3, "num_epochs": 6, "model": "good"},
        {"freeze": "lora", "learning_rate": 2e-2, "num_epochs": 3, "model": "good"},
        {"freeze": "full", "learning_rate": 2e-2, "num_epochs": 3, "model": "broken"},
        {"freeze": "decoder_only", "learning_rate": 3e-3, "num_epochs": 6, "model": "good"},
    ]
    with Study.open(finished_run.directory) as alone:
        lora, full = alone.records[0].epochs, alone.records[1].epochs
    earlier = set(placement_group_table())
    with build_study(tmp_path / "run", finished_run, models=models, first_points=points, trials=7) as study:
        for _ in range(3):
            run_one(study, *[float(lora[0].score or 0) + 1e-6] * 3)
        with watching_listening(os.getpid(), seconds_between=1) as listening:
            run_search(study, TWO_WORKERS, quiet_view())
        first, second, third, fourth = study.records[3:]
        assert {path.name for path in study.directory.glob("trials/*/*")} == {
            "checkpoints", "log.1.txt", "log.txt", "progress.json", "sample.json", "trial.json"
        }  # fmt: skip
        assert not (study.directory / "ray").exists()
    assert any(name.startswith("ray::") for name, _ in listening)
    assert {address for _, address in listening} <= LOOPBACK
    assert first.state is TrialState.SUCCEEDED, first.reason
    assert [epoch.score for epoch in first.epochs] == [epoch.score for epoch in full]
    for name in ("training_loss", "validation_loss"):
        losses = [getattr(epoch, name) for epoch in full]
        assert [getattr(epoch, name) for epoch in first.epochs] == pytest.approx(losses, abs=1e-4)
    assert (second.state, second.epochs_done) == (TrialState.PRUNED, 1)
    assert (third.state, third.attempts) == (TrialState.FAILED, 1)
    assert third.reason.startswith("The loss was not finite at step 1 ")
    assert fourth.state is TrialState.SUCCEEDED
    groups = [group for key, group in placement_group_table().items() if key not in earlier]
    assert sum(len(group["bundles"]) == 2 for group in groups) == 1
    all_cpus = ray.cluster_resources()["CPU"]
    wait_until(lambda: ray.available_resources().get("CPU") == all_cpus, "the workers were gone")


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_others_take_the_place_of_workers_of_which_one_was_killed(finished_run: FinishedRun, tmp_path: Path) -> None:
    points = [{"freeze": "full", "learning_rate": 3e-3, "num_epochs": 6}]
    with build_study(tmp_path / "run", finished_run, first_points=points, trials=1) as study:
        with ThreadPoolExecutor(1) as beside:
            killing = beside.submit(kill_after_an_epoch, study.paths.trial("trial_0000").root)
            run_search(study, TWO_WORKERS, quiet_view())
            known = killing.result()
        (record,) = study.records
    assert (record.state, record.attempts) == (TrialState.SUCCEEDED, 2)
    assert [epoch.seconds for epoch in record.epochs[: len(known)]] == [epoch["seconds"] for epoch in known]
    with Study.open(finished_run.directory) as alone:
        assert [epoch.score for epoch in record.epochs] == [epoch.score for epoch in alone.records[1].epochs]


@pytest.mark.usefixtures("local_ray")
def test_workers_that_take_the_place_of_others_end_at_once() -> None:
    desk = start_desk()
    ray.get([desk.join.remote(rank) for rank in range(2)])
    with pytest.raises(RuntimeError, match="The workers of this trial were replaced"):
        ray.get(desk.join.remote(1))
    ray.kill(desk)


@pytest.mark.usefixtures("local_ray")
def test_data_that_a_node_lacks_end_the_process_with_a_word_to_the_driver(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    with pytest.raises(DataFault):
        train_here(assign(tmp_path / "trial_0000", data=str(tmp_path / "gone")), told.append)
    first, last = told
    assert json.loads(first[PLACES]) == {"worker 0": ray.get_runtime_context().get_node_id()}
    fault = NodeFault(**json.loads(last[NODE_FAULT]))
    assert (fault.process, fault.may_pass) == ("worker 0", False)
    assert "gone" in fault.reason


@pytest.mark.parametrize("nodes", [("one", "one"), ("one", "other")])
def test_checkpoints_go_from_nodes_where_no_worker_stores_them(
    nodes: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "cache"))
    assignment = replace(assign(tmp_path), num_workers=2, url=f"file://{tmp_path}/run")
    history = assignment.folder / "checkpoints/history.json"
    place = tmp_path / "run/trials/trial_0000/checkpoints/history.json"
    place.parent.mkdir(parents=True)
    place.write_text('["first epoch"]')
    with pytest.raises(TrialStopped), store_epochs(assignment, lambda epoch: None, 1, nodes):
        assert history.is_file()
        raise TrialStopped
    assert history.is_file() == (nodes[0] == nodes[1])


def test_progress_notes_are_few(tmp_path: Path) -> None:
    assert read_progress(tmp_path) == ""
    note = ProgressWriter(assign(tmp_path), rank=0)
    note("training", 1, 9)
    note("training", 2, 9)  # too soon
    assert read_progress(tmp_path) == "training 1/9"
    note.last_write = float("-inf")
    note("training", 3, 9)
    assert read_progress(tmp_path) == "training 3/9"
