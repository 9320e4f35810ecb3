"""What `--log-to` takes, and what must be so before Ray starts; light, since the command line reads it first."""

import os
from enum import StrEnum
from importlib.util import find_spec

from medcap_core.errors import ConfigFault


class LogTarget(StrEnum):
    """What `--log-to` takes."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


_PACKAGES = {LogTarget.TENSORBOARD: "tensorboardX", LogTarget.MLFLOW: "mlflow", LogTarget.WANDB: "wandb"}
_INSTALL = {
    LogTarget.TENSORBOARD: "tensorboardX",
    LogTarget.MLFLOW: "-e '.[mlflow]'",
    LogTarget.WANDB: "-e '.[wandb]'",
}
# Medical images and what is said of them stay here: no upload and no telemetry. Whatever the user has set stays.
_ENVIRONMENT = {
    LogTarget.TENSORBOARD: {},
    # A server that is gone is given up after seconds; MLflow's own patience is minutes at each call.
    LogTarget.MLFLOW: {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"},
    LogTarget.WANDB: {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"},
}


def prepare_log(target: LogTarget) -> None:
    """Set what the target's package reads from the environment; before Ray starts, whose processes inherit it.

    Raises ConfigFault where the package is not installed.
    """
    if find_spec(_PACKAGES[target]) is None:
        raise ConfigFault(
            f"--log-to {target.value} needs the package {_PACKAGES[target]}, which is not installed; get it by "
            f"pip install {_INSTALL[target]} in the project's folder, or leave --log-to out."
        )
    for name, value in _ENVIRONMENT[target].items():
        os.environ.setdefault(name, value)
