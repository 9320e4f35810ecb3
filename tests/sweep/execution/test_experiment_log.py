"""What TensorBoard is told of a run, through Ray's own callback; and what is said where a package is absent."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from medcap_core.errors import ConfigFault, RunFault
from sweep.execution.experiment_log import ExperimentLog
from sweep.execution.tune import LogCallback
from sweep.process import log_target
from sweep.process.log_target import LogTarget, prepare_log
from sweep.study.record import TrialState
from sweep.study.study import Study
from tests.support.small_runs import report_of, space

Points = list[tuple[int, float]]


def read_points(folder: Path, tag: str) -> Points:
    """(step, value) of one scalar from all event files of a folder, by step; they are in the TFRecord format."""
    points = []
    for path in folder.glob("events.out.tfevents.*"):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event()
            event.ParseFromString(data[12 : 12 + length])
            points += [(event.step, value.simple_value) for value in event.summary.value if value.tag == tag]
            data = data[16 + length :]
    return sorted(points)


def test_each_epoch_is_told_once_over_stops_and_resumes(create: Callable[..., Study]) -> None:
    study = create(space(trials=2, sampler="random", scheduler="none"))
    record = study.propose()
    assert record is not None
    study.start(record.name)
    log = ExperimentLog(study, LogTarget.TENSORBOARD)
    log.connect()
    log.start(record.name)
    for epoch, score in ((1, 0.5), (2, float("nan"))):
        report = report_of(record, epoch, score)
        study.report(record.name, report)
        log.take_epoch(record.name, record.epochs[-1].model_dump())
        log.take_epoch(record.name, record.epochs[-1].model_dump())  # a retried trial tells its past
    log.close()
    study.finish(record.name, TrialState.STOPPED, "interrupted")

    study.report(record.name, report_of(record, 3, 1.5))  # while no log was asked for
    resumed = ExperimentLog(study, LogTarget.TENSORBOARD)
    resumed.start(record.name)
    study.report(record.name, report_of(record, 4, 2.5))
    resumed.take_epoch(record.name, record.epochs[-1].model_dump())
    resumed.end(record.name, failed=False)
    resumed.close()

    folder = study.directory / "tensorboard" / record.name
    assert read_points(folder, "ray/tune/cider") == [(1, 0.5), (3, 1.5), (4, 2.5)]
    assert [step for step, _ in read_points(folder, "ray/tune/seconds")] == [1, 2, 3, 4]
    assert read_points(folder, "ray/tune/score") == []
    assert sorted(path.name for path in folder.parent.iterdir()) == ["logged.json", record.name]


class LostTarget:
    """A target's callback whose server goes away after a trial's start."""

    def __init__(self) -> None:
        self.num_calls = 0

    def setup(self) -> None:
        self.num_calls += 1

    def log_trial_start(self, trial: object) -> None:
        self.num_calls += 1

    def log_trial_result(self, iteration: int, trial: object, result: object) -> None:
        self.num_calls += 1
        raise ConnectionError("Max retries exceeded.\nTraceback of many lines")


def test_a_log_that_fails_on_the_way_takes_no_trial_with_it(create: Callable[..., Study]) -> None:
    study = create(space(trials=1, sampler="random", scheduler="none"))
    record = study.propose()
    assert record is not None
    study.start(record.name)
    target, said = LostTarget(), []
    log = ExperimentLog(study, LogTarget.TENSORBOARD)
    log._logger = target
    listener = LogCallback(log, SimpleNamespace(message=said.append))  # type: ignore[arg-type]
    trial = SimpleNamespace(config={"trial": record.name})
    listener.on_trial_start(0, [], trial)  # type: ignore[arg-type]
    for epoch in (1, 2):
        study.report(record.name, report_of(record, epoch, 0.5))
        listener.on_trial_result(0, [], trial, record.epochs[-1].model_dump())  # type: ignore[arg-type]
    listener.on_trial_complete(0, [], trial)  # type: ignore[arg-type]
    listener.close()
    assert said == ["--log-to tensorboard: Max retries exceeded; the run goes on without it."]
    assert target.num_calls == 3


def test_a_log_that_cannot_be_reached_is_a_fault(create: Callable[..., Study], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConnectionError("")

    log = ExperimentLog(create(space(trials=1)), LogTarget.TENSORBOARD)
    monkeypatch.setattr(log._logger, "setup", refuse)
    with pytest.raises(RunFault, match=r"^--log-to tensorboard: ConnectionError; mend that, or leave --log-to out\.$"):
        log.connect()


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
