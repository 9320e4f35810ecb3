"""Choose the device, precision and threads of a process, and manage its memory."""

import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import psutil
import torch
from torch import nn

from medcap_core.config import FreezeMode, TrialConfig

_FEW_PARAMETERS = 20_000_000
"""phantom-blip (1.7 million) generates captions several times faster on one thread than on two; BLIP-base does not."""

_MODES_THAT_ADD = frozenset(
    {FreezeMode.ZERO_SHOT, FreezeMode.LORA, FreezeMode.PATCH_AND_BRIDGE, FreezeMode.PATCH_AND_BRIDGE_LORA}
)
"""Modes that change no pre-trained weight."""

_LARGEST_HEAP_BLOCK_BYTES, _MOST_KEPT_BYTES = 32 << 20, 512 << 20
"""The largest block that glibc takes from its heap, and how much of the heap it keeps when that is free."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""As in glibc's malloc.h."""

_NO_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Messages of allocators without an exception type: the CPU's; the CUDA driver's and cuBLAS's, which allocate outside
PyTorch's allocator when processes share a GPU."""


def current_device() -> torch.device:
    """Return the accelerator this process may use, else the CPU; of several local workers the one of its rank."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device(accelerator.type, local_rank % torch.accelerator.device_count())


def choose_precision(config: TrialConfig, device: torch.device) -> torch.dtype:
    """Choose the dtype of matrix products: as configured; `auto` is bf16 on CUDA devices that support it, else float32.

    With weights in bf16 it is always bf16.
    """
    if config.precision == "auto":
        if config.weights_dtype == "bf16":
            return torch.bfloat16
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether `device` is a CPU that multiplies bf16 (AVX512-BF16 or AMX), as far as PyTorch knows."""
    found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.9 has none
    return device.type == "cpu" and any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def choose_frozen_dtype(config: TrialConfig, device: torch.device) -> torch.dtype:
    """Choose the dtype of a large model's frozen weights on `device`: bf16 or float32.

    `auto` is bf16 where matrix products are; trained weights are always float32.
    """
    if config.weights_dtype == "fp32" or choose_precision(config, device) is not torch.bfloat16:
        return torch.float32
    return torch.bfloat16


def choose_load_dtype(config: TrialConfig, device: torch.device) -> torch.dtype:
    """Choose the dtype in which a large model's weights are loaded.

    If a trial changes some of them, the checkpoint's float32 values are loaded and frozen ones are cast afterwards. If
    it changes none (zero_shot, lora), or only those of MedBLIP in 3D that are float32 in any case, all are loaded in
    their final dtype.
    """
    if config.freeze in _MODES_THAT_ADD or config.quantization != "none":
        return choose_frozen_dtype(config, device)
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Build a mixed-precision context in `dtype`, with weights in float32; a null context for float32."""
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def is_small(module: nn.Module) -> bool:
    """Return whether a model lies on a CPU and has so few parameters that several threads slow generation down."""
    sizes = [(parameter.numel(), parameter.device.type) for parameter in module.parameters()]
    return all(kind == "cpu" for _, kind in sizes) and sum(size for size, _ in sizes) <= _FEW_PARAMETERS


@contextmanager
def one_thread_if_small(module: nn.Module) -> Iterator[None]:
    """Use one thread while a small model generates a few tokens at a time."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1 if is_small(module) else num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def keep_freed_memory() -> None:
    """Keep glibc from returning memory to the system after each step: it comes back zeroed, page by page."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT_BYTES)


def release_memory() -> None:
    """Free the memory of a finished trial, recorded CUDA graphs included, for the next one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error was caused by lack of memory; a failed CUDA graph recording hides its cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError | MemoryError) or any(sign in str(cause) for sign in _NO_MEMORY):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def is_lost_device(error: BaseException) -> bool:
    """Return whether an accelerator failed or is gone, other than by lack of memory."""
    is_gone = isinstance(error, torch.AcceleratorError) or "No CUDA GPUs are available" in str(error)
    return is_gone and not is_out_of_memory(error)


class PeakMemory:
    """Peak memory of a trial in bytes: allocated tensors on CUDA; on a CPU the sampled resident set of the process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak_bytes = 0
        if device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]  # the counters exist only then
            torch.cuda.reset_peak_memory_stats(device)

    def sample(self) -> int:
        """Take a sample and return the peak so far."""
        if self.device.type == "cuda":
            self.peak_bytes = int(torch.cuda.max_memory_allocated(self.device))
        else:
            self.peak_bytes = max(self.peak_bytes, int(psutil.Process().memory_info().rss))
        return self.peak_bytes
