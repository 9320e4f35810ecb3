"""Log trials to TensorBoard, MLflow or Weights & Biases by a callback of Tune.

Everything stays under the run directory, unless the user's environment says otherwise (`MLFLOW_TRACKING_URI`,
`WANDB_MODE`). A trial that continues after a stop reports its past epochs again: TensorBoard's files of it are written
anew, MLflow and Weights & Biases have another run for it.
"""

import math
import os
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback

from medcap_core.errors import RunFault, first_line
from medcap_core.training.epoch_report import EpochReport
from sweep.execution.dashboard import NotPickled
from sweep.process.log_target import LogTarget
from sweep.study.study import Study


class ExperimentLog(NotPickled, Callback):
    """Passes the events of trials to the callback of one target.

    If that fails, one message is shown, nothing more is logged, and the trials continue.
    """

    def __init__(self, study: Study, target: LogTarget, show: Callable[[str], None]) -> None:
        self.target = target
        self.show = show
        self.logger: LoggerCallback | None = build_logger(study, target)
        try:
            self.logger.setup()
        except Exception as error:
            raise RunFault(f"--log-to {self._describe(error)}; mend that, or leave --log-to out.") from error

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Log the start of a trial in a process, for the first time or again; its parameters without paths."""
        config = trial.config
        trial.config = _name_paths({name: value for name, value in config.items() if name != "directory"})
        try:
            self._pass_on("on_trial_start", iteration, trials, trial)
        finally:
            trial.config = config

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Log the metrics of an epoch; failures are left out, and the config, which was logged at the start."""
        if "epoch" in result:
            metrics = {name: value for name, value in result.items() if name != "config"}
            self._pass_on("on_trial_result", iteration, trials, trial, metrics)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Log the end of a trial that finished or was stopped."""
        self._pass_on("on_trial_complete", iteration, trials, trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Log the end of a trial whose process died once more than it is retried."""
        self._pass_on("on_trial_error", iteration, trials, trial)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Wait for what a target has still to write."""
        self._pass_on("on_experiment_end", trials)

    def _pass_on(self, event: str, *values: Any) -> None:
        if self.logger is None:
            return
        try:
            getattr(self.logger, event)(*values)
        except Exception as error:  # noqa: BLE001  # whatever the target's package raises
            self.logger = None
            self.show(f"--log-to {self._describe(error)}; the run goes on without it.")

    def _describe(self, error: Exception) -> str:
        return f"{self.target.value}: {textwrap.shorten(first_line(error).rstrip('. '), 300)}"


class TensorBoardLogger(LoggerCallback):
    """Writes metrics and searched values to `<run>/tensorboard/<trial>`.

    Ray's own callback writes where Tune keeps its state, which is deleted at the end of a run.
    """

    def __init__(self, study: Study) -> None:
        import tensorboardX.summary  # type: ignore[import-untyped]

        self.study = study
        self.library = tensorboardX
        self.writers: dict[str, Any] = {}
        self.metrics: dict[str, dict[str, float]] = {}

    def log_trial_start(self, trial: Trial) -> None:
        """Begin the files of a trial anew."""
        name = trial.config["trial"]
        if name in self.writers:  # its process died
            self.writers.pop(name).close()
        folder = self.study.directory / LogTarget.TENSORBOARD.value / name
        shutil.rmtree(folder, ignore_errors=True)
        self.writers[name] = self.library.SummaryWriter(str(folder), flush_secs=1)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Write the finite numbers of an epoch, the score under the objective's name."""
        name = trial.config["trial"]
        names = {field: field for field in EpochReport.model_fields if field not in ("epoch", "parts")}
        names["score"] = self.study.space.objective.column
        figures = {shown: result[field] for field, shown in names.items()} | result["parts"]
        known = figures.items()
        self.metrics[name] = {shown: value for shown, value in known if value is not None and math.isfinite(value)}
        for shown, value in self.metrics[name].items():
            self.writers[name].add_scalar(shown, value, result["epoch"])

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Write the searched values beside the last metrics, for TensorBoard's table of them."""
        name = trial.config["trial"]
        writer = self.writers.pop(name)
        for summary in self.library.summary.hparams(self.study.record(name).point, self.metrics.pop(name, {})):
            writer.file_writer.add_summary(summary)
        writer.close()


def _name_paths(value: Any) -> Any:
    """Return a trial's parameters without the folders of this machine; data and models go by their names alone."""
    if isinstance(value, dict):
        return {name: _name_paths(part) for name, part in value.items()}
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def build_logger(study: Study, target: LogTarget) -> LoggerCallback:
    """Build the callback of a target: Ray's own for MLflow and Weights & Biases."""
    name = study.directory.name
    if target is LogTarget.TENSORBOARD:
        return TensorBoardLogger(study)
    if target is LogTarget.MLFLOW:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        folder = study.directory / target.value
        folder.mkdir(exist_ok=True)
        return MLflowLoggerCallback(
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db",
            experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME") or name,
        )
    from ray.air.integrations.wandb import WandbLoggerCallback

    return WandbLoggerCallback(
        project=os.environ.get("WANDB_PROJECT") or study.space.name,
        group=name,
        mode=os.environ["WANDB_MODE"],  # a cluster's processes have an environment of their own
        dir=str(study.directory),
    )
