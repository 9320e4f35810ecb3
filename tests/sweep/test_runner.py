"""The steps of a run that need no trials: what a fault leaves, and a run in which nothing succeeded."""

import io
from concurrent.futures import Future

import pytest
from rich.console import Console

from medcap_core.data.prepare import TooManyBadRecords
from medcap_core.errors import ConfigFault
from sweep import runner
from sweep.execution.cluster import TrialResources
from sweep.execution.launch import Launch
from sweep.runner import EveryTrialFailed, choose_best, discard_unused
from sweep.space import Resources, build_space
from sweep.study.directory import check_new_directory
from sweep.study.record import TrialState
from tests.support.real_runs import quiet_view
from tests.support.small_runs import Create, next_trial, report_of

ONE = TrialResources(num_workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent=1)


def test_what_a_fault_left_empty_is_removed(create: Create) -> None:
    study = create(build_space({"name": "any"}, "test"), "unused")
    study.paths.skipped_records.write_text("split,id,reason\n")
    (study.directory / "ray" / "tune").mkdir(parents=True)  # of a start that was killed
    discard_unused(study, TooManyBadRecords("5 of 9"))
    assert list(study.directory.iterdir()) == [study.paths.skipped_records]
    check_new_directory(study.directory)  # the same command begins there once the records are mended
    discard_unused(study, ConfigFault("no"))
    assert not study.directory.exists()


def test_a_run_with_trials_is_kept(create: Create) -> None:
    study = create(build_space({"name": "any"}, "test"))
    study.propose()
    discard_unused(study, ConfigFault("no"))
    assert (study.directory / "trials" / "trial_0000" / "trial.json").is_file()


def test_troubles_after_the_end_are_said_where_the_user_looks(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> TrialResources:
        raise ConfigFault("no")

    monkeypatch.setattr(runner, "prepare", refuse)
    study, seen = create(build_space({"name": "any"}, "test")), io.StringIO()
    with pytest.raises(ConfigFault):
        runner.run_study(study, Launch(Future(), Resources(), 1, None), Console(file=seen))
    record = next_trial(study)
    for seconds in (5.0, 7.0):  # the first epoch once more: its checkpoint was lost
        study.report(record.name, report_of(record, 1, 0.5, seconds=seconds))
    assert "trial_0000: begins anew" in seen.getvalue()


def test_an_interrupted_run_says_how_to_go_on_where_it_was(
    create: Create, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> TrialResources:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "prepare", interrupt)
    study = create(build_space({"name": "any"}, "test"))
    with pytest.raises(KeyboardInterrupt):
        runner.run_study(study, Launch(Future(), Resources(), 1, "head:6379"), Console())
    assert f"--resume {study.address} --address head:6379\n" in capfd.readouterr().out


def test_a_run_whose_time_is_over_says_how_to_go_on_where_it_was(
    create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("prepare", "run_search", "end_run"):
        monkeypatch.setattr(runner, name, lambda *_: ONE)
    study = create(build_space({"name": "any", "max_hours": 1e-9}, "test"))
    with pytest.raises(EveryTrialFailed, match=r"--resume .* --address head:6379 --set max_hours=2e-09$"):
        runner.run_study(study, Launch(Future(), Resources(), 1, "head:6379"), Console(file=io.StringIO()))


def test_a_run_without_a_model_says_why(create: Create) -> None:
    search = {"learning_rate": {"uniform": [0.1, 0.2]}}
    study = create(build_space({"name": "any", "search": search, "trials": 3}, "test"))
    for reason in ("No memory left.", "The loss was not finite.", "No memory left."):
        record = next_trial(study)
        study.start(record.name)
        study.finish(record.name, TrialState.FAILED, reason)
    with pytest.raises(EveryTrialFailed, match=r"gave a model: No memory left\. / The loss was not finite\.$"):
        choose_best(study, ONE, quiet_view(), "")
