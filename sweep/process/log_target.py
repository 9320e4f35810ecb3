"""The targets of `--log-to` and their setup before Ray starts; imports little, since the command line reads it."""

import os
from enum import StrEnum
from importlib.util import find_spec

from medcap_core.errors import ConfigFault


class LogTarget(StrEnum):
    """A target of `--log-to`."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


_PACKAGES = {LogTarget.TENSORBOARD: "tensorboardX", LogTarget.MLFLOW: "mlflow", LogTarget.WANDB: "wandb"}
# Medical images and captions stay on this machine: no upload, no telemetry. The user's own values stay.
_ENVIRONMENT = {
    LogTarget.TENSORBOARD: {},
    # Give up on a dead server after seconds; MLflow's default is minutes for each call.
    LogTarget.MLFLOW: {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"},
    LogTarget.WANDB: {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"},
}


def prepare_log(target: LogTarget) -> None:
    """Set the environment variables of the target's package, before Ray starts, whose processes inherit them.

    Raises ConfigFault where the package is not installed.
    """
    if find_spec(_PACKAGES[target]) is None:
        wanted = "tensorboardX" if target is LogTarget.TENSORBOARD else f"-e '.[{target.value}]'"
        raise ConfigFault(
            f"--log-to {target.value} needs the package {_PACKAGES[target]}, which is not installed; get it by "
            f"pip install {wanted} in the project's folder, or leave --log-to out."
        )
    for name, value in _ENVIRONMENT[target].items():
        os.environ.setdefault(name, value)
