"""What Ray and the Hub read from the environment, set before Ray is imported; whatever the user has set stays."""

import os
import sys

_DEFAULTS = {
    # Medical images and what is said of them stay here: no telemetry.
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # The run's own table and record take the place of Tune's.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # Ctrl-C is ours to handle.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # How long a stopped trial may take to hand its process on; after 2 s, the default, the next trial would be lost.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "300",
    "RAY_TRAIN_V2_ENABLED": "1",
    # How often a trial of several workers looks after them: an epoch's report waits for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # A trial that asks for no GPU sees none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}

# Through which interface the workers of one trial talk; by themselves they take that of the machine's name.
_WORKER_INTERFACE = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

# Named for other systems, but it decides on Linux too whether Ray's own servers listen beyond loopback.
_LISTEN_BEYOND_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


CARRIED_VARIABLES = (
    *_DEFAULTS, "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN_PATH", "MEDCAP_CACHE",
    "WANDB_MODE", "WANDB_ERROR_REPORTING", "WANDB_SILENT",
)  # fmt: skip
"""What the processes on other nodes of a cluster take over from here."""


def set_environment(address: str | None) -> None:
    """Set the defaults; without a cluster to join, everything Ray starts listens on loopback alone."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not (address or os.environ.get("RAY_ADDRESS")):
        os.environ.setdefault(_LISTEN_BEYOND_LOOPBACK, "0")
        for name in _WORKER_INTERFACE:
            os.environ.setdefault(name, "lo0" if sys.platform == "darwin" else "lo")
