"""Move batches to the device, ahead of the step that needs them."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

_Item = TypeVar("_Item")
_Work = TypeVar("_Work")

DEVICE_LOCK = threading.Lock()
"""Held while a batch is copied to the device, so that none is copied while a CUDA graph is recorded."""


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device without waiting: through pinned memory if it is a GPU."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    with DEVICE_LOCK:
        return tensor.pin_memory().to(device, non_blocking=True)


def prefetch(
    make: Callable[[_Work], _Item], work: Iterable[_Work], device: torch.device
) -> Generator[_Item, None, None]:
    """Apply `make` to each item of `work` in order, for a GPU two items ahead in a separate thread."""
    if device.type != "cuda":
        yield from map(make, work)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead: deque[object] = deque()
        for item in work:
            ahead.append(pool.submit(make, item))
            if len(ahead) > 2:
                yield ahead.popleft().result()  # type: ignore[attr-defined]
        while ahead:
            yield ahead.popleft().result()  # type: ignore[attr-defined]
