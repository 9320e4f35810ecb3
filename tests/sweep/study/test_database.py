"""`study.db`: damaged, locked, gone, of another run; the records hold all of it."""

import shutil
import sqlite3

import pytest

from medcap_core.errors import RunFault
from sweep.study import database as database_module
from sweep.study.database import build_history
from sweep.study.study import Study
from tests.support.small_runs import Create, Trainer, essence, next_trial, optuna_essence, read_optuna, space


def test_a_missing_database_is_made_anew_from_the_records(create: Create) -> None:
    study = create(space())
    Trainer().run(study, most_trials=4)
    study.close()
    before = optuna_essence(study.directory)
    (study.directory / "study.db").unlink()
    Study.open(study.directory).close()
    assert optuna_essence(study.directory) == before
    assert len(before) == 4


@pytest.mark.parametrize("content", [b"not a database at all" * 300, b"", None])
def test_a_damaged_database_is_moved_aside_and_made_anew(create: Create, content: bytes | None) -> None:
    study = create(space())
    Trainer().run(study, most_trials=4)
    study.close()
    before = optuna_essence(study.directory)
    database = study.directory / "study.db"
    damaged = database.read_bytes()[:9000] if content is None else content
    database.write_bytes(damaged)
    lines: list[str] = []
    with Study.open(study.directory) as again:
        again.tell(lines.append)
    (line,) = lines
    assert line.startswith("study.db was damaged (")
    assert optuna_essence(study.directory) == before
    assert (study.directory / "study.db.damaged").read_bytes() == damaged


def test_a_locked_database_stops_nothing_and_is_caught_up(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "SECONDS_TO_WAIT", 0.01)
    undisturbed, study = create(space(), "undisturbed"), create(space())
    for one in (undisturbed, study):
        Trainer().run(one, most_trials=1)
    study.close()
    reader = sqlite3.connect(study.directory / "study.db")
    reader.execute("BEGIN EXCLUSIVE")
    lines: list[str] = []
    with Study.open(study.directory) as again:
        again.tell(lines.append)
        for one in (undisturbed, again):
            Trainer().run(one, most_trials=2)
        assert essence(again) == essence(undisturbed)
        assert lines == [
            "study.db cannot be written (database is locked); the search goes on without it, and it is caught up when "
            "it can be, at the latest by --resume"
        ]
        reader.close()
    assert optuna_essence(study.directory) == optuna_essence(undisturbed.directory)
    assert len(lines) == 1


@pytest.mark.slow
def test_a_database_that_is_damaged_meanwhile_is_made_anew(create: Create) -> None:
    study = create(space())
    lines: list[str] = []
    study.tell(lines.append)
    Trainer().run(study, most_trials=1)
    (study.directory / "study.db").write_bytes(b"no database" * 1000)
    Trainer().run(study, most_trials=2)
    assert len(optuna_essence(study.directory)) == 3
    assert len(lines) == 1


@pytest.mark.parametrize("name", ["study.db", ".study.db.tmp"])
def test_a_folder_in_the_place_of_the_database_stops_nothing(create: Create, name: str) -> None:
    study = create(space())
    Trainer().run(study, most_trials=1)
    study.close()
    (study.directory / "study.db").unlink()
    (study.directory / name).mkdir()
    lines: list[str] = []
    with Study.open(study.directory) as again:
        again.tell(lines.append)
        Trainer().run(again, most_trials=1)
    assert len(lines) == 1
    assert "study.db cannot be written" in lines[0]


def test_the_sampler_sees_what_the_database_holds(create: Create) -> None:
    points = [{"freeze": "full", "learning_rate": rate, "num_epochs": 2} for rate in (1e-3, 9e-4, 8e-4, 1e-5)]
    study = create(space(trials=9, first_points=points))
    Trainer().run(study, most_trials=6)
    next_trial(study)
    shown = [
        (trial.state, trial.params, trial.distributions, trial.intermediate_values, trial.values)
        for trial in build_history(study.records)
    ]
    assert shown == [
        (trial.state, trial.params, trial.distributions, trial.intermediate_values, trial.values)
        for trial in read_optuna(study.directory)
    ]
    assert len({state for state, *_ in shown}) == 3


def test_a_database_of_another_run_is_refused(create: Create) -> None:
    one, other = create(space()), create(space(seed=8, first_points=[]), "other")
    for study in (one, other):
        Trainer().run(study, most_trials=1)
        study.close()
    shutil.copy(other.directory / "study.db", one.directory / "study.db")
    with pytest.raises(RunFault, match=r"the two are not of one run\. Move study\.db away"):
        Study.open(one.directory)
