"""The events of trials in TensorBoard's files; what is shown when a log fails or its package is absent."""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.logger import LoggerCallback
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from medcap_core.errors import ConfigFault, RunFault
from sweep.execution.experiment_log import ExperimentLog, TensorBoardLogger
from sweep.execution.trial import FAILURE
from sweep.process import log_target
from sweep.process.log_target import LogTarget, prepare_log
from sweep.study.record import TrialRecord
from sweep.study.study import Study
from tests.support.real_runs import wait_until
from tests.support.small_runs import figures_of, space

Points = list[tuple[int, float]]


def read_events(folder: Path) -> Iterator[Any]:
    """The events of all event files of a folder; they are in the TFRecord format."""
    for path in folder.glob("events.out.tfevents.*"):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event()
            event.ParseFromString(data[12 : 12 + length])
            yield event
            data = data[16 + length :]


def read_points(folder: Path, tag: str) -> Points:
    """(step, value) of one scalar, by step."""
    return sorted(
        (event.step, value.simple_value)
        for event in read_events(folder)
        for value in event.summary.value
        if value.tag == tag
    )


def read_hyperparameters(folder: Path) -> set[str]:
    """The names of the values that TensorBoard's table of trials shows."""
    contents = [value.metadata.plugin_data.content for event in read_events(folder) for value in event.summary.value]
    starts = [HParamsPluginData.FromString(content).session_start_info for content in contents if content]
    return {name for start in starts for name in start.hparams}


def name_trial(record: TrialRecord) -> Any:
    """What a callback reads of Tune's trial."""
    return SimpleNamespace(config={"trial": record.name})


class HashableTrial:
    """What Ray's own callbacks read of Tune's trial."""

    def __init__(self, record: TrialRecord) -> None:
        self.config = {"trial": record.name} | record.point
        self.trial_id = record.name

    def __str__(self) -> str:
        return self.trial_id


@pytest.fixture
def running(create: Callable[..., Study]) -> tuple[Study, TrialRecord]:
    study = create(space(trials=1, sampler="random", scheduler="none"))
    record = study.propose()
    assert record is not None
    study.start(record.name)
    return study, record


def log_epochs(log: ExperimentLog, record: TrialRecord, *scores: float) -> None:
    for epoch, score in enumerate(scores, start=1):
        log.on_trial_result(0, [], name_trial(record), figures_of(record, epoch, score))


def test_the_paths_of_this_machine_are_not_sent(running: tuple[Study, TrialRecord]) -> None:
    study, record = running
    sent: list[dict[str, Any]] = []

    class Recorder(LoggerCallback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            sent.append(trial.config)

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            sent.append(result)

    log = ExperimentLog(study, LogTarget.TENSORBOARD, pytest.fail)
    log.logger = Recorder()
    config = {"data": "/home/someone/hospital", "model": "owner/name", "learning_rate": 1e-3}
    given = {"trial": record.name, "config": config, "directory": "/home/someone/runs/a"}
    trial, figures = SimpleNamespace(config=given), figures_of(record, 1, 0.5)
    log.on_trial_start(0, [], trial)  # type: ignore[arg-type]
    log.on_trial_result(0, [], name_trial(record), figures | {"config": {"directory": "/home/someone"}})
    assert sent == [{"trial": record.name, "config": config | {"data": "hospital"}}, figures]
    assert trial.config is given


def test_mlflow_gets_the_scores_and_the_config(
    running: tuple[Study, TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs pip install 'medcap-sweep[mlflow]'")
    study, record = running
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    log = ExperimentLog(study, LogTarget.MLFLOW, pytest.fail)
    trial = HashableTrial(record)
    log.on_trial_start(0, [], trial)
    for epoch, score in enumerate((0.5, 0.75), start=1):
        result = figures_of(record, epoch, score) | {"training_iteration": epoch, "config": trial.config}
        log.on_trial_result(0, [], trial, result)
    log.on_trial_complete(0, [], trial)
    client = mlflow.MlflowClient(f"sqlite:///{study.directory}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name(study.directory.name)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {name: str(value) for name, value in trial.config.items()}
    history = client.get_metric_history(run.info.run_id, "score")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.75)]
    mlflow.set_tracking_uri(None)


def test_each_epoch_is_logged_once_over_stops_and_resumes(running: tuple[Study, TrialRecord]) -> None:
    study, record = running
    log = ExperimentLog(study, LogTarget.TENSORBOARD, pytest.fail)
    log.on_trial_start(0, [], name_trial(record))
    log_epochs(log, record, 0.5)
    log.on_trial_start(0, [], name_trial(record))  # in another process, which reports the past again
    log_epochs(log, record, 0.5, float("nan"))

    folder = study.directory / "tensorboard" / record.name
    wait_until(lambda: read_points(folder, "cider") == [(1, 0.5)], "it is on disk, though the trial was interrupted")
    resumed = ExperimentLog(study, LogTarget.TENSORBOARD, pytest.fail)
    resumed.on_trial_start(0, [], name_trial(record))
    log_epochs(resumed, record, 0.5, float("nan"), 1.5, 2.5)
    resumed.on_trial_result(0, [], name_trial(record), {FAILURE: "no memory"})
    resumed.on_trial_complete(0, [], name_trial(record))
    resumed.on_experiment_end([])

    assert read_points(folder, "cider") == [(1, 0.5), (3, 1.5), (4, 2.5)]
    assert [step for step, _ in read_points(folder, "seconds")] == [1, 2, 3, 4]
    assert read_points(folder, "score") == []
    assert read_hyperparameters(folder) == set(record.point)


def test_two_trials_are_logged_apart(create: Callable[..., Study]) -> None:
    study = create(space(trials=2, sampler="random", scheduler="none"))
    records = [record for record in (study.propose(), study.propose()) if record is not None]
    log = ExperimentLog(study, LogTarget.TENSORBOARD, pytest.fail)
    for record in records:
        log.on_trial_start(0, [], name_trial(record))
    for number, record in enumerate(records):
        log_epochs(log, record, 1.5 + number)
    log.on_trial_error(0, [], name_trial(records[0]))
    folder = study.directory / "tensorboard"
    expected = [[(1, 1.5)], [(1, 2.5)]]
    wait_until(lambda: [read_points(folder / record.name, "cider") for record in records] == expected, "both are there")


class LostTarget(LoggerCallback):
    """A target's callback whose server goes away after a trial's start."""

    def __init__(self) -> None:
        self.num_calls = 0

    def log_trial_start(self, trial: object) -> None:
        self.num_calls += 1

    def log_trial_result(self, iteration: int, trial: object, result: object) -> None:
        self.num_calls += 1
        raise ConnectionError("Max retries exceeded.\nTraceback of many lines")


def test_a_log_that_fails_stops_no_trial(running: tuple[Study, TrialRecord]) -> None:
    study, record = running
    target, messages = LostTarget(), list[str]()
    log = ExperimentLog(study, LogTarget.TENSORBOARD, messages.append)
    log.logger = target
    log.on_trial_start(0, [], name_trial(record))
    log_epochs(log, record, 0.5, 0.5)
    log.on_trial_complete(0, [], name_trial(record))
    log.on_experiment_end([])
    assert messages == ["--log-to tensorboard: Max retries exceeded; the run goes on without it."]
    assert target.num_calls == 2


def test_a_log_that_cannot_be_reached_is_a_fault(create: Callable[..., Study], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(logger: object) -> None:
        raise ConnectionError("")

    monkeypatch.setattr(TensorBoardLogger, "setup", refuse)
    with pytest.raises(RunFault, match=r"^--log-to tensorboard: ConnectionError; mend that, or leave --log-to out\.$"):
        ExperimentLog(create(space(trials=1)), LogTarget.TENSORBOARD, pytest.fail)


def test_an_absent_package_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_target, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigFault, match=r"^--log-to wandb needs the package wandb.*pip install -e '\.\[wandb\]' in the project's"
    ):
        prepare_log(LogTarget.WANDB)


def test_nothing_is_sent_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_target, "find_spec", lambda name: name)
    for name in {name for values in log_target._ENVIRONMENT.values() for name in values}:
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    prepare_log(LogTarget.WANDB)
    prepare_log(LogTarget.MLFLOW)
    assert (os.environ["WANDB_MODE"], os.environ["MLFLOW_DISABLE_TELEMETRY"]) == ("offline", "true")
    monkeypatch.setenv("WANDB_MODE", "online")
    prepare_log(LogTarget.WANDB)
    assert os.environ["WANDB_MODE"] == "online"
