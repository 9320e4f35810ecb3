"""Join the workers of one trial into a process group through a file, so that no port is opened on a single machine.

PyTorch's default rendezvous, a TCPStore, listens on all interfaces whatever address it is given.
"""

import os
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch.distributed as dist
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig
from ray.train.torch import TorchConfig

from sweep.execution.nodes import is_one_machine

SECONDS_TO_LEAVE = 30.0


def choose_torch_config(backend: str) -> TorchConfig:
    """Choose a file where Ray has one node, TCP where workers may lie on several."""
    return FileRendezvous(backend=backend) if is_one_machine() else TorchConfig(backend=backend)


@dataclass
class FileRendezvous(TorchConfig):
    """A `TorchConfig` whose process group meets at a file of this machine."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Return the class that sets the group up; Ray Train asks for it."""
        return _FileBackend


class _FileBackend(Backend):
    share_cuda_visible_devices = True

    def __init__(self) -> None:
        # Not in the run directory, which may lie on a network drive without locks.
        self.meeting_place = Path(tempfile.gettempdir()) / f"medcap-{uuid.uuid4().hex}"

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Join the workers into one process group."""
        assert isinstance(backend_config, TorchConfig)
        joined = [
            worker_group.execute_single_async(
                rank, _join, backend_config.backend, rank, len(worker_group), self.meeting_place,
                backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]  # fmt: skip
        ray.get(joined)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Leave the group, and no file behind."""
        try:
            with suppress(GetTimeoutError):  # the processes end in any case
                ray.get(worker_group.execute_async(dist.destroy_process_group), timeout=SECONDS_TO_LEAVE)
        finally:
            self.meeting_place.unlink(missing_ok=True)


def _join(backend: str, rank: int, world_size: int, meeting_place: Path, timeout_seconds: int) -> None:
    os.environ["LOCAL_RANK"] = str(ray.train.get_context().get_local_rank())  # `current_device` reads it
    dist.init_process_group(
        backend,
        init_method=meeting_place.as_uri(),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
    )
