"""The workers of one trial: who am I, and what do the others hold. Everything is known from torch itself."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist


@dataclass(frozen=True)
class Workers:
    """This worker's `rank` among `size` workers; a trial without a process group is rank 0 of 1."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this worker scores, reports and writes checkpoints."""
        return self.rank == 0

    def gather(self, item: Any) -> list[Any]:
        """Every worker's `item` in order of rank, on every worker."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def broadcast(self, item: Any) -> Any:
        """Rank 0's `item`, on every worker; also keeps the others waiting until rank 0 has it."""
        if self.size == 1:
            return item
        box = [item]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def current_workers() -> Workers:
    """The workers of the process group this process is in, if any."""
    if dist.is_available() and dist.is_initialized():
        return Workers(dist.get_rank(), dist.get_world_size())
    return Workers()
