"""What `max_hours` ends, what it leaves, and how the run goes on."""

import time
from pathlib import Path

import pytest

from medcap_core.errors import ConfigFault
from sweep.execution.ledger import Ledger
from sweep.study.record import TrialRecord, TrialState
from sweep.study.results import load_results
from sweep.study.stopping import RunClock, describe_budget_end
from sweep.study.study import Study
from sweep.study.test_results import TestResults
from tests.support.real_runs import quiet_view
from tests.support.small_runs import Create, figures_of, fixed_length, next_trial, run_one

OVER, NOT_OVER = 1e-12, 1000.0


def set_hours(study: Study, max_hours: float) -> None:
    study.space = study.space.model_copy(update={"max_hours": max_hours})


def start(study: Study) -> tuple[Ledger, TrialRecord]:
    record = next_trial(study)
    study.start(record.name)
    return Ledger(study, quiet_view(9)), record


def test_pauses_between_starts_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    path = tmp_path / "run_seconds.txt"
    first = RunClock(path)
    now[0] = 150.0
    first.stop()
    assert not path.exists()
    first.start()
    now[0] = 170.5
    first.keep()
    now[0] = 172.0
    first.keep()  # too early
    assert float(path.read_text()) == 20.5  # what is left of a run that is killed now
    first.stop()
    now[0] = 1000.0
    second = RunClock(path)
    assert first.seconds == second.seconds == 22.0
    second.start()
    now[0] = 1001.0
    assert second.seconds == 23.0
    path.write_text("no number")
    assert RunClock(path).seconds == 0.0


def test_running_epochs_finish_and_no_other_begins(create: Create) -> None:
    study = create(fixed_length(2, max_hours=NOT_OVER, scheduler="none", trials=4))
    study.clock.start()
    (ledger, first), (_, second) = start(study), start(study)
    assert ledger.take_result(first.name, figures_of(first, 1, 0.5))
    set_hours(study, OVER)
    assert ledger.take_result(first.name, figures_of(first, 2, 0.75))  # its last epoch: it ends by itself
    assert not ledger.take_result(second.name, figures_of(second, 1, 2.0))
    ledger.end(first.name)
    ledger.end(second.name)
    ledger.stop_unfinished()  # as at the end of every search
    assert (first.state, first.reason) == (TrialState.SUCCEEDED, "")
    assert (second.state, second.reason) == (TrialState.STOPPED, "max_hours 1e-12 is over")
    assert study.propose() is None
    assert study.best() == [second]  # it has a model, of its first epoch
    assert describe_budget_end(study.space, study.records, study.clock.seconds, "runs/a-001") == (
        "The search ended by max_hours 1e-12: 1 of 4 trials are over, 1 stopped between two epochs; to go on: "
        "python -m sweep.run --resume runs/a-001 --set max_hours=2e-12"
    )
    study.close()
    with Study.open(study.directory, set_values=["max_hours=1000"]) as again:
        assert describe_budget_end(again.space, again.records, again.clock.seconds, "") == ""
        ledger, record = start(again)
        assert record.name == second.name
        assert ledger.take_result(record.name, figures_of(record, 1, 2.0))  # told again
        assert ledger.take_result(record.name, figures_of(record, 2, 1.0))
        ledger.end(record.name)
        assert (record.state, record.reason, record.epochs_done) == (TrialState.SUCCEEDED, "", 2)
        assert again.propose() is not None
    with pytest.raises(ConfigFault, match="max_hours"):
        Study.open(study.directory, set_values=["max_hours=0"])


def test_the_report_says_what_ended_the_search(create: Create) -> None:
    study = create(fixed_length(1, max_hours=OVER, trials=3))
    set_hours(study, NOT_OVER)
    run_one(study, 1.0)
    study.clock.start()
    study.close()
    results = load_results(study.directory)
    assert results.run_seconds > 0
    said = describe_budget_end(results.space, results.records, results.run_seconds, "run")
    assert said.startswith("The search ended by max_hours 1e-12: 1 of 3 trials are over; to go on: ")


def test_a_better_epoch_after_a_resume_is_tested_anew(create: Create) -> None:
    study = create(fixed_length(3, scheduler="none", trials=2))
    ledger, record = start(study)
    ledger.take_result(record.name, figures_of(record, 1, 1.0))
    study.finish(record.name, TrialState.STOPPED, "max_hours 1 is over")
    study.rescore(record.name, 0.75)
    scores = {"CIDEr": 0.5}
    results = TestResults(trials={record.name: scores}, best_trial=record.name, best=scores)
    results.subgroups = results.facts = {record.name: {}, "best": {}}
    study.write_test_metrics(results)
    for path in (study.paths.trial(record.name).predictions, study.paths.best_model_trial):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{record.name}\n")
    study.requeue_stopped()
    assert study.propose() is record
    ledger.take_result(record.name, figures_of(record, 2, 0.25))
    assert study.read_test_metrics().trials.keys() == {record.name}  # its best epoch is what it was
    ledger.take_result(record.name, figures_of(record, 3, 1.5))
    assert study.read_test_metrics() == TestResults(earlier_looks=1)
    assert record.whole_validation_score is None
    assert not study.paths.trial(record.name).predictions.exists()
    assert not study.paths.best_model_trial.exists()
