"""Trial processes that start, and import what trials need, while the driver still prepares the data.

Left to itself, Ray starts a process when Tune asks for one, with environment variables that Tune adds, and the process
imports torch, transformers and Ray Tune only when it unpickles its trial.
"""

import logging

import grpc  # type: ignore[import-untyped]
import ray
from ray.runtime_env import RuntimeEnv

PRELOADED_MODULE = "sweep.execution.trial_imports"
SECONDS_KEPT = 24 * 3600
SECONDS_TO_ANSWER = 10.0

logger = logging.getLogger(__name__)


def start_ready_processes(count: int, environment: RuntimeEnv | None) -> None:
    """Ask the Ray of this machine to start `count` processes that Tune's trials will take, in their `environment`.

    By a call that Ray makes itself but does not promise to keep: where it is gone, or fails, trials start as late as
    they would without it.
    """
    if environment is None:
        return
    try:
        from ray._private.grpc_utils import init_grpc_channel
        from ray._private.utils import get_runtime_env_info
        from ray.core.generated.common_pb2 import Language  # type: ignore[attr-defined]  # generated
        from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest  # type: ignore[attr-defined]
        from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

        node = next(node for node in ray.nodes() if node["Alive"])
        request = PrestartWorkersRequest(
            language=Language.Value("PYTHON"),
            job_id=bytes.fromhex(ray.get_runtime_context().get_job_id()),
            runtime_env_info=get_runtime_env_info(environment),
            keep_alive_duration_secs=SECONDS_KEPT,
            num_workers=count,
        )
        channel = init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}")
        NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=SECONDS_TO_ANSWER)
        channel.close()
    except (ImportError, AttributeError, grpc.RpcError) as error:
        logger.warning("trial processes cannot be started ahead: %s", error)


def find_trial_environment() -> RuntimeEnv | None:
    """What Tune asks of the processes of its trials; Ray gives it those alone that were started with the same.

    Imports Tune, which takes most of a second. None where this Tune keeps it elsewhere.
    """
    try:
        from ray.tune.execution.class_cache import _ActorClassCache

        return RuntimeEnv(**_ActorClassCache().get(_Anything)._default_options["runtime_env"])
    except (ImportError, AttributeError, KeyError) as error:
        logger.warning("trial processes cannot be started ahead: %s", error)
        return None


class _Anything:
    pass
