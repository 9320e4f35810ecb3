"""How the workers of one trial find each other on a single machine: by a file, so that no port is opened.

PyTorch's usual rendezvous, a TCPStore, listens on all interfaces whatever it is told.
"""

import tempfile
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from ray.train.backend import BackendConfig
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend


def choose_torch_config(backend: str) -> TorchConfig:
    """By a file where Ray has one node; over TCP where workers may lie on several."""
    is_alone = sum(node["Alive"] for node in ray.nodes()) == 1
    return FileRendezvous(backend=backend) if is_alone else TorchConfig(backend=backend)


@dataclass
class FileRendezvous(TorchConfig):
    """`TorchConfig` whose process group begins at a file of this machine."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Ray asks this for what sets the group up."""
        return _FileBackend


class _FileBackend(_TorchBackend):
    def __init__(self) -> None:
        # Not in the run directory, which may lie on a network drive that knows no locks.
        self.meeting_place = Path(tempfile.gettempdir()) / f"medcap-{uuid.uuid4().hex}"

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Join the workers into one process group."""
        assert isinstance(backend_config, TorchConfig)
        worker_group.execute(_set_torch_distributed_env_vars)
        joined = [
            worker_group.execute_single_async(
                rank, _join, backend_config.backend, rank, len(worker_group), self.meeting_place,
                backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]  # fmt: skip
        ray.get(joined)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Leave the group, and nothing behind."""
        super().on_shutdown(worker_group, backend_config)
        self.meeting_place.unlink(missing_ok=True)


def _join(backend: str, rank: int, world_size: int, meeting_place: Path, timeout_seconds: int) -> None:
    """Runs in each worker."""
    dist.init_process_group(
        backend,
        init_method=meeting_place.as_uri(),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
    )
