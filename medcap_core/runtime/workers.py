"""Rank and collective operations of the workers of one trial, from torch.distributed."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist


@dataclass(frozen=True)
class Workers:
    """This worker's `rank` among `size` workers; rank 0 of 1 without a process group."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Return whether this worker scores, reports and writes checkpoints."""
        return self.rank == 0

    def gather(self, item: Any) -> list[Any]:
        """Gather every worker's `item` in order of rank, on every worker."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def broadcast(self, item: Any) -> Any:
        """Send rank 0's `item` to every worker; the others wait until rank 0 has it."""
        if self.size == 1:
            return item
        box = [item]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def current_workers() -> Workers:
    """Return the workers of this process's group, rank 0 of 1 without a group."""
    if dist.is_available() and dist.is_initialized():
        return Workers(dist.get_rank(), dist.get_world_size())
    return Workers()
