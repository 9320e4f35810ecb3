"""Telling TensorBoard, MLflow or Weights & Biases of a run, through Ray's own callbacks.

Ray's callbacks see our trials in place of Tune's: under our names, in the run directory, counted by our epochs. What
has been told is noted in `<run>/<target>/logged.json`, so a resumed run appends and repeats nothing.

Everything stays under the run directory, unless the user's own environment says otherwise (`MLFLOW_TRACKING_URI`,
`WANDB_MODE`).
"""

import json
import os
import textwrap
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap_core.errors import RunFault
from medcap_core.runtime.files import write_json_atomically
from sweep.process.log_target import LogTarget
from sweep.study.record import EPOCH_FIELDS
from sweep.study.study import Study

WANDB_SECONDS = 60
"""How long a run waits at its end for Weights & Biases."""


@dataclass(frozen=True, eq=False)
class LoggedTrial:
    """A trial as Ray's callbacks see it; the names of its fields are those of Tune's trials."""

    name: str
    trial_id: str
    local_path: str
    experiment_dir_name: str
    config: dict[str, Any]
    evaluated_params: dict[str, Any]

    def init_local_path(self) -> None:
        """Make its folder."""
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self.name


class ExperimentLog:
    """Tells one target of a study's trials, each epoch once."""

    def __init__(self, study: Study, target: LogTarget) -> None:
        self._study = study
        self._target = target
        self._folder = study.directory / target.value
        self._folder.mkdir(exist_ok=True)
        self._logged = self._read_logged()
        self._open: dict[str, LoggedTrial] = {}
        self._logger = _build_logger(study, target, self._folder)

    def connect(self) -> None:
        """Connect to the target. Raises RunFault where that fails."""
        try:
            self._logger.setup()
        except Exception as error:
            raise RunFault(f"--log-to {self.describe_fault(error)}; mend that, or leave --log-to out.") from error

    def describe_fault(self, error: Exception) -> str:
        """The target and the first line of what its package says, without a full stop."""
        first_line = next(iter(str(error).splitlines()), "").rstrip(". ") or type(error).__name__
        return f"{self._target.value}: {textwrap.shorten(first_line, 300)}"

    def start(self, trial: str) -> None:
        """A trial has begun, or goes on; what the target does not know of it yet is told first."""
        if trial not in self._open:
            self._open[trial] = self._view(trial)
        view = self._open[trial]
        view.init_local_path()
        if self._target is LogTarget.MLFLOW and "run" in self._note(trial):
            self._logger._trial_runs[view] = self._note(trial)["run"]  # goes on with the run it had
        self._logger.log_trial_start(view)
        if self._target is LogTarget.MLFLOW:
            self._note(trial)["run"] = self._logger._trial_runs[view]
        for epoch in self._study.record(trial).epochs:
            self.take_epoch(trial, epoch.model_dump())

    def take_epoch(self, trial: str, epoch: Mapping[str, Any]) -> None:
        """Tell of one epoch (`EPOCH_FIELDS`); one that was told before is left out."""
        number = int(epoch["epoch"])
        if number <= self._note(trial)["epochs"]:
            return
        names = {name: name for name in EPOCH_FIELDS} | {"score": self._study.space.metric}
        result = {names[name]: epoch[name] for name in EPOCH_FIELDS if name != "epoch" and epoch[name] is not None}
        self._logger.log_trial_result(number, self._open[trial], result | {"training_iteration": number})
        self._note(trial)["epochs"] = number
        self._write_logged()

    def end(self, trial: str, *, failed: bool) -> None:
        """A trial is over, or is left to a resume."""
        view = self._open.pop(trial, None)
        if view is not None:
            self._logger.log_trial_end(view, failed=failed)
            self._write_logged()

    def close(self) -> None:
        """End what is still open, such as after Ctrl-C."""
        for trial in list(self._open):
            self.end(trial, failed=True)
        self._logger.on_experiment_end(trials=[])

    def _view(self, trial: str) -> LoggedTrial:
        record = self._study.record(trial)
        folder = self._folder / trial if self._target is LogTarget.TENSORBOARD else self._folder
        return LoggedTrial(
            name=trial,
            trial_id=self._note(trial)["id"],
            local_path=str(folder),
            experiment_dir_name=self._study.directory.name,
            config=record.config.model_dump(mode="json"),
            evaluated_params=record.point,
        )

    def _note(self, trial: str) -> dict[str, Any]:
        return self._logged.setdefault(trial, {"id": uuid.uuid4().hex[:12], "epochs": 0})

    def _read_logged(self) -> dict[str, dict[str, Any]]:
        try:
            content: dict[str, dict[str, Any]] = json.loads((self._folder / "logged.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return content

    def _write_logged(self) -> None:
        write_json_atomically(self._folder / "logged.json", self._logged)


def _build_logger(study: Study, target: LogTarget, folder: Path) -> Any:
    """Ray's callback for the target. Untyped, since Ray leaves some of its methods so."""
    name = study.directory.name
    if target is LogTarget.TENSORBOARD:
        from ray.tune.logger import TBXLoggerCallback

        logger = TBXLoggerCallback()
        # Files are named by the second: a trial that goes on within it would take the place of its own past.
        writer = logger._summary_writer_cls
        logger._summary_writer_cls = lambda *args, **kwargs: writer(
            *args, filename_suffix=f".{uuid.uuid4().hex[:8]}", **kwargs
        )
        return logger
    if target is LogTarget.MLFLOW:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db"
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or name
        return MLflowLoggerCallback(tracking_uri=address, experiment_name=experiment)
    from ray.air.integrations.wandb import WandbLoggerCallback

    return WandbLoggerCallback(
        project=os.environ.get("WANDB_PROJECT") or study.space.name,
        group=name,
        upload_timeout=WANDB_SECONDS,
        mode=os.environ[
            "WANDB_MODE"
        ],  # said here as well, since a cluster's processes have an environment of their own
        dir=str(study.directory),
        resume="allow",
    )
