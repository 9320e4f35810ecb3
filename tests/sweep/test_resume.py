import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from optuna.storages import RDBStorage

from medcap_core.errors import ConfigFault, RunFault
from sweep.space import dump_space, load_space
from sweep.study import locked_run, paths
from sweep.study.record import TrialState
from sweep.study.study import Study
from tests.support import REPOSITORY
from tests.support.small_runs import (
    CONDITIONAL,
    Create,
    Trainer,
    essence,
    fixed_length,
    next_trial,
    optuna_essence,
    report_of,
    run_one,
    space,
)


def test_ctrl_c_keeps_everything_and_cut_off_trials_go_on_first(create: Create) -> None:
    study = create(space())
    Trainer().run(study, most_trials=1)
    one, two = study.propose(), study.propose()
    assert one and two
    study.start(two.name)
    study.report(two.name, report_of(two, 1, 1.0))
    study.stop_unfinished("interrupted")
    table = pd.read_csv(study.directory / "trials.csv")
    assert list(table["state"]) == ["SUCCEEDED", "STOPPED", "STOPPED"]
    assert list(table["reason"][1:]) == ["interrupted"] * 2
    study.close()
    with Study.open(study.directory) as again:
        assert again.num_remaining == 4
        resumed = [again.propose(), again.propose()]
        assert [(r.name, r.config, r.attempts, r.state) for r in resumed if r] == [
            (one.name, one.config, 0, TrialState.PENDING),
            (two.name, two.config, 1, TrialState.PENDING),
        ]
        assert [epoch.score for epoch in again.record(two.name).epochs] == [1.0]
        following = next_trial(again)
        assert following.name == "trial_0003"


def test_failed_trials_are_tried_again_when_asked_for(create: Create) -> None:
    study = create(space(trials=3, sampler="random", scheduler="none"))
    run_one(study, 2.0)
    record = next_trial(study)
    study.report(record.name, report_of(record, 1, 1.0))
    checkpoints = study.paths.trial(record.name).root / "checkpoints"
    checkpoints.mkdir()
    study.finish(record.name, TrialState.FAILED, "no memory")
    study.close()
    with Study.open(study.directory) as again:
        assert again.num_remaining == 1
    with Study.open(study.directory, retry_failed=True) as again:
        assert again.num_remaining == 2
        assert not checkpoints.exists()
        retried = next_trial(again)
        assert (retried.name, retried.config, retried.epochs) == (record.name, record.config, [])
        again.report(retried.name, report_of(retried, 1, 3.0))
        again.finish(retried.name, TrialState.SUCCEEDED)
        run_one(again, 1.0)
    table = pd.read_csv(study.directory / "trials.csv")
    assert list(table["state"]) == ["SUCCEEDED"] * 3
    assert [values for *_, values in optuna_essence(study.directory)] == [[2.0], [3.0], [1.0]]


def test_a_run_goes_on_with_other_values_of_keys_that_change_no_result(create: Create) -> None:
    study = create(space())
    Trainer().run(study, most_trials=1)
    cut_off = next_trial(study)
    study.start(cut_off.name)
    study.close()
    changes = ["max_bad_record_share=0.4", "resources.max_concurrent=3", "keep_checkpoints=true"]
    changes.append("checkpoint_every_epoch=true")
    with Study.open(study.directory, set_values=changes) as again:
        assert load_space(study.paths.space).resources.max_concurrent == "auto"  # a fault may still come
        again.write_space()
        resumed, new = again.propose(), again.propose()
        assert resumed and new
        assert resumed.name == cut_off.name
        assert [record.config.max_bad_record_share for record in again.records] == [0.05, 0.4, 0.4]
        assert [record.config.checkpoint_every_epoch for record in again.records] == [False, True, True]
    with Study.open(study.directory) as later:
        assert (later.space.resources.max_concurrent, later.space.keep_checkpoints) == (3, True)
        assert later.space.fixed["max_bad_record_share"] == 0.4


@pytest.mark.parametrize("item", ["seed=1", "learning_rate=1e-3", "resources.workers_per_trial=2", "trails=3"])
def test_a_run_goes_on_with_what_may_change_results(create: Create, item: str) -> None:
    study = create(space())
    study.close()
    with pytest.raises(ConfigFault, match="as results may depend on it; leave it out, or start a new run"):
        Study.open(study.directory, set_values=[item])
    Study.open(study.directory).close()  # it is not locked


def test_a_table_that_is_gone_is_made_anew(create: Create) -> None:
    study = create(space())
    run_one(study, 2.0)
    study.close()
    table = study.directory / "trials.csv"
    before = table.read_bytes()
    table.unlink()
    with Study.open(study.directory):
        assert table.read_bytes() == before


def test_data_or_models_that_are_gone_are_named(create: Create, tmp_path: Path) -> None:
    study = create(space(data=str(tmp_path)))
    study.check_sources()
    study.space = study.space.model_copy(update={"model": str(tmp_path / "model")})
    with pytest.raises(RunFault, match=r"model is not there any more; put it back, or a link to where it is now"):
        study.check_sources()


def test_what_was_let_go_is_proposed_again_in_the_same_run(create: Create) -> None:
    study = create(space())
    Trainer().run(study, most_trials=1)
    one, two = study.propose(), study.propose()
    assert one and two
    study.finish(one.name, TrialState.SUCCEEDED)
    study.stop_unfinished("interrupted")
    assert study.num_remaining == 2
    study.requeue_stopped()
    assert study.num_remaining == 3
    again = study.propose()
    assert again is two
    assert again.state is TrialState.PENDING


def test_a_trial_told_to_stop_just_before_a_kill_is_told_so_again(create: Create) -> None:
    study = create(fixed_length(4))
    for _ in range(3):
        run_one(study, 2.0, 2.0, 2.0, 2.0)
    record = next_trial(study)
    assert not study.report(record.name, report_of(record, 1, 1.0))
    study.close()
    with Study.open(study.directory) as again:
        resumed = next_trial(again)
        assert resumed.name == record.name
        assert not again.report(resumed.name, report_of(resumed, 1, 1.0))


class SnapshotEachWrite:
    """Copies the run directory and the trainer's checkpoints before every write, as a kill there leaves them."""

    def __init__(self, study: Study, trainer: Trainer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.study, self.trainer, self.folder = study, trainer, folder
        self.snapshots: list[tuple[Path, dict[str, list[float]], set[str]]] = []
        for owner, name in (
            (paths, "write_json_atomically"),
            (locked_run, "replace_text"),
            (RDBStorage, "create_new_trial"),
            (RDBStorage, "set_trial_intermediate_value"),
            (RDBStorage, "set_trial_state_values"),
        ):
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name)))

    def wrap(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def take_snapshot_and_write(*args: Any, **kwargs: Any) -> Any:
            copy = self.folder / f"kill-{len(self.snapshots):03d}"
            shutil.copytree(self.study.directory, copy)
            checkpoints = {trial: list(done) for trial, done in self.trainer.checkpoints.items()}
            self.snapshots.append((copy, checkpoints, finished_on_disk(copy)))
            return write(*args, **kwargs)

        return take_snapshot_and_write


def finished_on_disk(directory: Path) -> set[str]:
    states = {path.parent.name: json.loads(path.read_text())["state"] for path in directory.glob("trials/*/trial.json")}
    return {trial for trial, state in states.items() if state in ("SUCCEEDED", "PRUNED", "FAILED")}


@pytest.mark.slow
def test_a_kill_between_any_two_writes_loses_and_repeats_nothing(
    create: Create, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [{"freeze": "full", "learning_rate": rate, "num_epochs": 2} for rate in (1e-3, 9e-4, 8e-4, 1e-5)]
    study = create(space(trials=5, first_points=points))
    trainer = Trainer()
    with monkeypatch.context() as patch:
        recorder = SnapshotEachWrite(study, trainer, tmp_path, patch)
        trainer.run(study)
    study.close()
    expected, expected_optuna = essence(study), optuna_essence(study.directory)
    assert {record.state for record in study.records} == {TrialState.SUCCEEDED, TrialState.PRUNED}
    assert len(recorder.snapshots) > 30
    for directory, kept, finished in recorder.snapshots:
        resumed = Trainer()
        resumed.checkpoints = kept
        trained_before = sum(len(done) for done in kept.values())
        with Study.open(directory) as again:
            assert {record.name for record in again.records if record.state.is_final} == finished
            assert again.num_remaining == 5 - len(finished)
            resumed.run(again)
            assert essence(again) == expected, directory.name
        assert finished.isdisjoint(resumed.proposed), directory.name
        assert len(resumed.trained) == len(trainer.trained) - trained_before, directory.name
        assert optuna_essence(directory) == expected_optuna, directory.name


def test_the_system_gives_the_lock_back_after_kill_9(create: Create) -> None:
    study = create(space())
    study.close()
    code = """
        import os, signal, sys
        from pathlib import Path
        from sweep.study.study import Study
        study = Study.open(Path(sys.argv[1]))
        study.start(study.propose().name)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(study.directory)]
    root = REPOSITORY
    ended = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, check=False)
    assert ended.returncode == -signal.SIGKILL
    with Study.open(study.directory) as again:
        assert [(record.state, record.reason) for record in again.records] == [(TrialState.STOPPED, "cut off")]
        resumed = next_trial(again)
        assert (resumed.name, resumed.attempts) == ("trial_0000", 1)


def test_a_write_that_fails_leaves_the_old_file_and_no_half_trial(
    create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = create(space())
    Trainer().run(study, most_trials=1)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            study.propose()
    assert [record.name for record in study.records] == ["trial_0000"]
    study.close()
    with Study.open(study.directory) as again:
        assert [record.name for record in again.records] == ["trial_0000"]


def test_two_drivers_cannot_hold_one_run(create: Create) -> None:
    study = create(space())
    with pytest.raises(RunFault, match="is in use by another"):
        Study.open(study.directory)
    study.close()
    Study.open(study.directory).close()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("space.yaml", b"name: [", r"space\.yaml"),
        ("space.yaml", b"name: small\nsearch: {rank: {choice: [1, 2]}}\n", r"space\.yaml.*rank"),
        ("trials/trial_0001/trial.json", b"{", r"trial_0001/trial\.json: cannot be read"),
        ("trials/trial_0000/trial.json", None, r"trial_0000/trial\.json is missing; restore it"),
        ("trials/trial_0001/trial.json", None, r"trial_0001/trial\.json is missing; restore it"),
    ],
)
def test_a_damaged_run_is_named_and_its_lock_given_back(
    create: Create, name: str, content: bytes | None, message: str
) -> None:
    study = create(space())
    Trainer().run(study, most_trials=2)
    study.close()
    path = study.directory / name
    whole = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(RunFault, match=message.replace("is missing", "(record .* )?is missing")):
            Study.open(study.directory)
    path.write_bytes(whole)
    with Study.open(study.directory) as again:
        assert essence(again) == essence(study)


@pytest.mark.parametrize(
    "changes",
    [
        {"fixed": {"batch_size": 4}},
        {"search": CONDITIONAL["search"] | {"freeze": {"choice": ["lora", "full"]}}},
        {"search": CONDITIONAL["search"] | {"num_epochs": {"int": [2, 6]}}},
        {"search": CONDITIONAL["search"] | {"label_smoothing": {"uniform": [0.0, 0.2]}}},
        {"search": {"num_epochs": {"choice": [2, 3]}}, "first_points": []},
        {"search": {"num_epochs": {"grid": [2, 3]}}, "sampler": "grid", "first_points": []},
        {"data": "elsewhere/images"},
        {"seed": 8},
    ],
)
def test_a_space_that_was_changed_by_hand_is_refused(create: Create, changes: dict[str, Any]) -> None:
    study = create(space())
    study.propose()
    study.close()
    (study.directory / "space.yaml").write_text(dump_space(space(name="any", **changes)))
    with pytest.raises(RunFault, match=r"space\.yaml was changed since trial_0000 was drawn"):
        Study.open(study.directory)


def test_what_does_not_touch_a_trial_may_be_changed_by_hand(create: Create) -> None:
    study = create(space())
    study.propose()
    study.close()
    (study.directory / "space.yaml").write_text(dump_space(space(name="any", trials=6, test="all")))
    with Study.open(study.directory) as again:
        assert again.num_wanted == 6
