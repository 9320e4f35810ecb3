"""Set the environment variables that Ray and the Hub read, before Ray is imported; the user's own values stay."""

import os
import sys

_DEFAULTS = {
    # Medical images and captions stay on this machine: no telemetry.
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # The run has its own table and records instead of Tune's.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # `interrupts` handles Ctrl-C.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Time for a stopped trial to release its process; after the default of 2 s the next trial would be lost.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "300",
    "RAY_TRAIN_V2_ENABLED": "1",
    # Where a node is preempted, the trial moves, and other workers begin it.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # The dashboard's page of Ray Train lists groups of workers.
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    # A trial that asks for no GPU sees none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}

# The network interface between the workers of one trial; by default that of the machine's host name.
_WORKER_INTERFACE = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

# Despite its name it also decides on Linux whether Ray's servers listen beyond loopback.
_LISTEN_BEYOND_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


CARRIED_VARIABLES = (
    *_DEFAULTS, "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN_PATH", "MEDCAP_CACHE",
    "MEDCAP_STORAGE_TIMEOUT", "WANDB_MODE", "WANDB_ERROR_REPORTING", "WANDB_SILENT",
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AZURE_STORAGE_ACCOUNT_NAME",
)  # fmt: skip
"""Variables copied to the processes on other nodes of a cluster; no credentials, since Ray's dashboard shows them."""


def set_environment(address: str | None) -> None:
    """Set the defaults; without a cluster to join, all of Ray's servers listen on loopback alone."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not (address or os.environ.get("RAY_ADDRESS")):
        os.environ.setdefault(_LISTEN_BEYOND_LOOPBACK, "0")
        for name in _WORKER_INTERFACE:
            os.environ.setdefault(name, "lo0" if sys.platform == "darwin" else "lo")
