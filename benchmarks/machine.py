"""What the benchmarks ran on, and how fast it multiplies matrices."""

import time
from collections.abc import Callable

import torch
import transformers

from medcap_core.runtime.device import current_device


def describe_machine() -> str:
    """Device, threads and versions in one line."""
    device = current_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}, transformers {transformers.__version__}, {time.strftime('%Y-%m-%d')}"


def synchronize() -> None:
    """Wait for the device, if there is one to wait for."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def time_call(call: Callable[[], object], repeats: int = 3) -> float:
    """Seconds of a call, the least of `repeats` after one to warm up, the device's work included."""
    call()
    synchronize()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def measure_matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of large square matrix products: the floor under every arithmetic."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / time_call(lambda: left @ right, repeats=5)
