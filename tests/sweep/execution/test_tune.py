"""Trials under Tune: what becomes of processes that die, of failures, and of neighbours."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
import ray
import torch
from ray.util.state import list_tasks
from safetensors.torch import load_file, save_file

from sweep.execution.cluster import ClusterInfo, TrialResources
from sweep.execution.dashboard import Dashboard
from sweep.execution.tune import run_search
from sweep.space import SearchSpace, build_space, load_space
from sweep.study.record import TrialState
from sweep.study.study import Study
from tests.support.real_runs import Materials, family, find_trial_process, quiet_view, wait_until
from tests.sweep.conftest import FinishedRun

ONE_CPU_EACH = TrialResources(num_workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent=2)


def build_study(directory: Path, finished_run: FinishedRun, **changes: Any) -> Study:
    """A study whose first two trials are those of the finished run; `models` is chosen from."""
    values = load_space(finished_run.directory / "space.yaml").to_mapping()
    if "models" in changes:
        del values["model"]
        values["search"] |= {"model": {"choice": list(changes["models"])}}
    return Study.create(directory, build_space(values | changes, "test"))


def read_epochs(directory: Path) -> list[dict[str, Any]]:
    path = directory / "checkpoints" / "history.json"
    history: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return history


def kill_trial(directory: Path) -> None:
    process = wait_until(lambda: find_trial_process(psutil.Process().pid, directory), f"{directory} is at work")
    process.kill()
    process.wait(timeout=60)


def kill_after_an_epoch(directory: Path) -> list[dict[str, Any]]:
    """Kill a trial's process once; returns what it had done by then."""
    wait_until(lambda: read_epochs(directory), "a trial had an epoch")
    kill_trial(directory)
    return read_epochs(directory)


@pytest.mark.usefixtures("local_ray")
def test_trials_whose_processes_die_are_retried_twice_and_those_whose_loss_is_not_finite_never(
    finished_run: FinishedRun, materials: Materials, tmp_path: Path
) -> None:
    """And trials give the same scores alone, beside another, and cut off and gone on with."""
    models = {"good": str(materials.model), "broken": str(save_broken_model(materials, tmp_path / "model"))}
    points = [
        {"freeze": "decoder_only", "learning_rate": 1e-3, "num_epochs": 6, "model": "good"},
        {"freeze": "full", "learning_rate": 3e-3, "num_epochs": 6, "model": "good"},
        {"freeze": "lora", "learning_rate": 2e-2, "num_epochs": 3, "model": "good"},
        {"freeze": "lora", "learning_rate": 2e-2, "num_epochs": 3, "model": "broken"},
    ]
    changes = {"models": models, "first_points": points, "trials": 4, "scheduler": "none"}
    with build_study(tmp_path / "run", finished_run, **changes) as study:
        killed_always, killed_once = (study.paths.trial(f"trial_{number:04d}").root for number in range(2))
        with ThreadPoolExecutor(2) as killers:
            view = quiet_view()
            killings = killers.submit(lambda: [kill_trial(killed_always) for _ in range(3)])
            killing = killers.submit(kill_after_an_epoch, killed_once)
            run_search(study, ONE_CPU_EACH, view)
            killings.result()
            known = killing.result()
        first, second, third, fourth = study.records
    assert (first.state, first.attempts) == (TrialState.FAILED, 3)
    assert first.reason.startswith("its process failed 3 times: ")
    assert (second.state, second.attempts) == (TrialState.SUCCEEDED, 2)
    assert (third.state, third.attempts) == (TrialState.SUCCEEDED, 1)
    assert (fourth.state, fourth.attempts) == (TrialState.FAILED, 1)
    assert fourth.reason.startswith("The loss was not finite at step 1 (")
    assert "learning_rate 0.02" in fourth.reason
    told = view._console.file.getvalue()  # type: ignore[attr-defined]
    assert told.count("trial_0000: its process died; another goes on from its last epoch") == 2
    assert told.count("trial_0001: its process died; another goes on from its last epoch") == 1
    num_known = len(known)
    assert 1 <= num_known < 6
    assert [epoch.seconds for epoch in second.epochs[:num_known]] == [epoch["seconds"] for epoch in known]
    assert f"{num_known} epochs done before" in (killed_once / "log.txt").read_text()
    with Study.open(finished_run.directory) as alone:
        assert [epoch.score for epoch in third.epochs] == [epoch.score for epoch in alone.records[0].epochs]
        assert [epoch.score for epoch in second.epochs] == [epoch.score for epoch in alone.records[1].epochs]
    assert not (tmp_path / "run" / "ray").exists()
    assert not (killed_always / "checkpoints" / "last").exists()
    assert len(family(psutil.Process().pid)) > 1  # Ray itself lives on


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_max_hours_ends_a_search_between_two_epochs(finished_run: FinishedRun, tmp_path: Path) -> None:
    """And a search that goes on ends as it would have."""
    points = [{"freeze": "full", "learning_rate": 3e-3, "num_epochs": 6}, {"freeze": "lora", "learning_rate": 2e-2}]
    with build_study(tmp_path / "run", finished_run, first_points=points, trials=2, scheduler="none") as study:
        one_at_once = replace(ONE_CPU_EACH, max_concurrent=1)
        study.clock.start()
        with ThreadPoolExecutor(1) as beside:
            ending = beside.submit(lambda: wait_until(lambda: study.records and study.records[0].epochs, "an epoch"))
            ending.add_done_callback(lambda _: setattr(study, "space", set_hours(study, 1e-9)))
            run_search(study, one_at_once, quiet_view())
            ending.result()
        (first,) = study.records
        assert (first.state, first.reason) == (TrialState.STOPPED, "max_hours 1e-09 is over")
        assert 1 <= first.epochs_done < 6
        assert study.best() == [first]
        run_search(study, one_at_once, quiet_view())  # no time is left
        assert len(study.records) == 1
        study.space = set_hours(study, 100.0)
        study.requeue_stopped()
        run_search(study, one_at_once, quiet_view())
        assert [record.state for record in study.records] == [TrialState.SUCCEEDED] * 2
        with Study.open(finished_run.directory) as alone:
            assert [epoch.score for epoch in first.epochs] == [epoch.score for epoch in alone.records[1].epochs]


def set_hours(study: Study, max_hours: float) -> SearchSpace:
    return study.space.model_copy(update={"max_hours": max_hours})


def save_broken_model(materials: Materials, folder: Path) -> Path:
    """A model whose loss is NaN."""
    folder.mkdir()
    for path in materials.model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.startswith("text_decoder") and name.endswith("LayerNorm.weight"))
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_dashboard_shows_trials_by_name_and_their_figures(local_ray: ClusterInfo) -> None:
    dashboard = Dashboard("lora-007")
    trial: Any = SimpleNamespace(config={"trial": "trial_0007", "label": "lora r8 lr1e-3"}, trial_id="a7")
    dashboard.on_trial_start(0, [], trial)
    dashboard.on_trial_result(0, [], trial, {"epoch": 3, "score": 0.5, "validation_loss": None})

    def find_state() -> str | None:
        tasks = list_tasks(address=local_ray.dashboard_url, filters=[("name", "=", "trial_0007 lora r8 lr1e-3")])
        return tasks[0].state if tasks else None

    def read_metrics() -> list[str]:
        (node,) = ray.nodes()
        with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}") as answer:
            lines = answer.read().decode().splitlines()
        # Other tests leave theirs in the same Ray.
        return [
            line for line in lines if line.startswith("ray_medcap_") and 'run="lora-007",trial="trial_0007"' in line
        ]

    wait_until(lambda: find_state() == "RUNNING", "the trial was shown")
    dashboard.on_trial_complete(0, [], trial)
    wait_until(lambda: find_state() == "FINISHED", "the trial was shown to have ended")
    lines = wait_until(read_metrics, "metrics were exported")
    dashboard.close()
    assert {(line.split("{")[0], line.split()[-1]) for line in lines} == {
        ("ray_medcap_epoch", "3.0"), ("ray_medcap_score", "0.5")
    }  # fmt: skip
