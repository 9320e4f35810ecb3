"""How a run stands, read beside it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweep.space import SearchSpace
from sweep.status import app
from sweep.study.record import TrialState
from sweep.study.study import Study
from tests.support.reported_runs import fill, finish
from tests.support.small_runs import fixed_length, next_trial, report_of


@pytest.fixture
def study(empty_runs: Callable[[Path, SearchSpace], Study], tmp_path: Path) -> Study:
    return empty_runs(tmp_path / "run", fixed_length(4, trials=3, scheduler="none"))


def call(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.stdout, done.stderr


def run_two(study: Study) -> None:
    """End one trial of four epochs, and report two of a second one; an epoch takes a second."""
    for num_epochs, score in ((4, 0.5), (2, 0.75)):
        record = next_trial(study)
        study.start(record.name)
        for epoch in range(1, num_epochs + 1):
            study.report(record.name, report_of(record, epoch, score * epoch / num_epochs))
        if num_epochs == 4:
            study.finish(record.name, TrialState.SUCCEEDED)


def test_a_run_that_goes_on_is_read_beside_it(study: Study) -> None:
    run_two(study)
    code, text, _ = call(study.directory, "--json")
    found = json.loads(text)
    assert code == 0
    assert (found["state"], found["num_trials"], found["objective"]) == ("running", 3, "CIDEr")
    assert found["trials"] == {"RUNNING": 1, "SUCCEEDED": 1}
    assert [(trial["trial"], trial["epochs_done"], trial["num_epochs"]) for trial in found["running"]] == [
        ("trial_0001", 2, 4)
    ]
    assert (found["best"]["trial"], found["best"]["best_score"]) == ("trial_0001", 0.75)
    assert found["seconds_left"] == pytest.approx(2 + 4)
    assert found["faults"] == []
    lines = call(study.directory)[1].splitlines()
    assert lines[0] == f"Run      {study.directory.resolve()}: running"
    assert lines[1] == "Trials   1 RUNNING, 1 SUCCEEDED, of 3"
    assert lines[2].startswith("Best     trial_0001 (")
    assert lines[3].endswith("epoch 2 of 4, last CIDEr 0.750")
    assert lines[4] == "Left     about 0:06 for the search, without the test split"


def test_a_stopped_run_has_no_running_trials(study: Study) -> None:
    run_two(study)
    study.close()
    found = json.loads(call(study.directory, "--json")[1])
    assert (found["state"], found["running"], found["seconds_left"]) == ("not ended", [], None)
    assert found["budget"] == ""
    space = study.paths.space
    space.write_text(space.read_text().replace("max_hours: null", "max_hours: 0.5"))
    study.paths.run_seconds.write_text("1800.5")
    lines = call(study.directory)[1].splitlines()
    assert lines[-1].startswith("Ended    The search ended by max_hours 0.5: 1 of 3 trials are over")


def test_a_finished_run_has_its_best_trial(study: Study) -> None:
    fill(study)
    best = study.best()[0].name
    directory = finish(study)
    study.close()
    found = json.loads(call(directory, "--json")[1])
    assert (found["state"], found["best"]["trial"]) == ("finished", best)


def test_a_run_without_a_trial_and_a_folder_that_is_none(study: Study, tmp_path: Path) -> None:
    found = json.loads(call(study.directory, "--json")[1])
    assert (found["best"], found["trials"], found["seconds_left"]) == (None, {}, None)
    code, text, said = call(tmp_path)
    assert (code, text) == (2, "")
    assert "is not a run directory" in said
