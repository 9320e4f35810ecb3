"""Make full use of a CPU: all of its vector units for matrix products, and memory that is not handed back each step.

PyTorch gives float32 matrix products on x86 to MKL, which leaves AVX-512 unused on processors that are not Intel's.
oneDNN, which PyTorch brings too and takes for convolutions, uses it and needs half the time there.
"""

import ctypes
import inspect
import platform
import warnings
from pathlib import Path

import torch
from torch import Tensor

_LEAST_MULTIPLICATIONS = 1 << 20
"""Below it oneDNN's dearer calls, about 10 us each, outweigh its faster arithmetic."""

_LARGEST_FROM_HEAP, _MOST_KEPT = 32 << 20, 512 << 20
"""Bytes: the largest block that glibc takes from its heap; how much of that, when free, it keeps for the next step."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""As in glibc's malloc.h."""

_overrides: list[torch.library.Library] = []
"""Operators of PyTorch are overridden as long as this lives."""


def use_cpu_fully() -> None:
    """Set this process up; for programs, never for an import. Other float32 roundings, the same arithmetic.

    On a machine where it gains nothing, nothing is changed. To be called once or more.
    """
    _keep_freed_memory()
    if not _overrides and _leaves_vectors_unused() and _onednn_agrees():
        override_products()


def override_products() -> None:
    """Let oneDNN compute the large float32 products of matrices in this process, forward and backward."""
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that operators are overridden
        for operator, override in _OVERRIDES.items():
            library.impl(operator, override, "CPU", allow_override=True)  # type: ignore[no-untyped-call]
    _overrides.append(library)


def restore_products() -> None:
    """Undo `override_products`."""
    while _overrides:
        _overrides.pop()._destroy()  # type: ignore[no-untyped-call]


def name_products() -> str:
    """Who computes the large float32 products of matrices in this process; results differ by roundings."""
    return "oneDNN" if _overrides else "PyTorch's default"


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    if _suits_onednn(left, right):
        return _linear(left, right.t(), None)
    result: Tensor = torch.ops.aten.mm.out(left, right, out=left.new_empty(0))
    return result


def _multiply_and_add(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    is_bias = added.dtype is torch.float32 and added.shape == right.shape[1:] and added.is_contiguous()
    if is_bias and beta == alpha == 1 and _suits_onednn(left, right):
        return _linear(left, right.t(), added)
    out = left.new_empty(0)
    result: Tensor = torch.ops.aten.addmm.out(added, left, right, beta=beta, alpha=alpha, out=out)
    return result


def _multiply_each(left: Tensor, right: Tensor) -> Tensor:
    if not _batch_suits_onednn(left, right):
        result: Tensor = torch.ops.aten.bmm.out(left, right, out=left.new_empty(0))
        return result
    out = left.new_empty(len(left), left.shape[1], right.shape[2])
    for own, rows, columns in zip(out, left, right, strict=True):
        own.copy_(_linear(rows, columns.t(), None))
    return out


def _multiply_and_add_each(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if beta == alpha == 1 and added.dtype is torch.float32 and _batch_suits_onednn(left, right):
        return _multiply_each(left, right).add_(added)
    out = left.new_empty(0)
    result: Tensor = torch.ops.aten.baddbmm.out(added, left, right, beta=beta, alpha=alpha, out=out)
    return result


_OVERRIDES = {
    "mm": _multiply, "addmm": _multiply_and_add, "bmm": _multiply_each, "baddbmm": _multiply_and_add_each,
}  # fmt: skip


def _batch_suits_onednn(left: Tensor, right: Tensor) -> bool:
    return left.dim() == right.dim() == 3 and 0 < len(left) == len(right) and _suits_onednn(left[0], right[0])


def _suits_onednn(left: Tensor, right: Tensor) -> bool:
    return (
        left.dtype is right.dtype is torch.float32
        and left.dim() == right.dim() == 2
        and left.shape[1] == right.shape[0]
        and left.shape[0] * right.numel() >= _LEAST_MULTIPLICATIONS
    )


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows (M, K) by weight (N, K), plus bias (N): (M, N), by the operator that torch.compile takes for its own."""
    is_dense = weight.is_contiguous() or weight.t().is_contiguous()
    dense = weight if is_dense else weight.contiguous()  # oneDNN takes many times as long else; rows it copies
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, dense, bias, "none", [], "")
    return result


def _leaves_vectors_unused() -> bool:
    """Whether MKL computes here, on a processor with AVX-512 on which it does not use it."""
    has_mkl, has_onednn = torch.backends.mkl.is_available(), torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_mkl and has_onednn and "AVX512" in torch.backends.cpu.get_cpu_capability() and not _is_from_intel()


def _is_from_intel() -> bool:
    """By Linux's own list; elsewhere it is taken for one."""
    processors = Path("/proc/cpuinfo")
    return not processors.is_file() or "GenuineIntel" in processors.read_text(encoding="utf-8", errors="replace")


def _onednn_agrees() -> bool:
    """Whether this PyTorch has the operator, and it computes what MKL does; it is not promised to stay as it is."""
    if "allow_override" not in inspect.signature(torch.library.Library.impl).parameters:
        return False
    left, right, bias = torch.arange(35.0).view(5, 7), torch.arange(56.0).view(7, 8), torch.arange(8.0)
    try:
        return all(
            torch.allclose(_linear(rows, columns.t(), bias), torch.addmm(bias, rows, columns))
            for rows in (left, left.t().contiguous().t(), left.repeat(1, 2)[:, :7])
            for columns in (right, right.t().contiguous().t(), right.repeat(1, 2)[:, :8])
        )
    except (AttributeError, RuntimeError, TypeError):
        return False


def _keep_freed_memory() -> None:
    """Keep glibc from giving free memory back to the system after each step, which clears it again for the next."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
