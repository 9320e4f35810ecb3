"""What benchmarks share: the machine, its clock and its matrix products, processes of their own, printed tables."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

import torch
import transformers

from medcap_core.runtime.device import current_device

_Result = TypeVar("_Result")
_Arguments = ParamSpec("_Arguments")


def describe_machine() -> str:
    """Device, threads and versions in one line."""
    device = current_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}, transformers {transformers.__version__}, {time.strftime('%Y-%m-%d')}"


def synchronize() -> None:
    """Wait for the device, if there is one to wait for."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def time_call(call: Callable[[], object], repeats: int = 3, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a call, the least of `repeats` after one to warm up, the device's work included."""
    call()
    synchronize()
    seconds = []
    for _ in range(repeats):
        started = clock()
        call()
        synchronize()
        seconds.append(clock() - started)
    return min(seconds)


def measure_matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of large square matrix products: the floor under every arithmetic."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / time_call(lambda: left @ right, repeats=5)


def run_apart(call: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
    """Call a function of a module in a fresh process, whose imports are done before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *args, **kwargs).result()


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print one table in Markdown, row by row as they come; numbers are rounded to three digits."""
    print(f"| {' | '.join(header)} |", f"| {' | '.join('---' for _ in header)} |", sep="\n", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(_show, row))} |", flush=True)
    print(flush=True)


def _show(value: object) -> str:
    """Format a cell: a number to three digits, or to the unit where it is larger; None as a dash."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "-" if value is None else str(value)


def tell(text: str) -> None:
    """Print progress on standard error, apart from the tables."""
    print(text, file=sys.stderr, flush=True)
