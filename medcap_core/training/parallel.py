"""How the workers of a trial share its model: each holds it whole (DDP), or a shard of it (FSDP2).

With FSDP2 (`fully_shard`; Zhao et al., arXiv 2304.11277) each of n workers holds an n-th of every weight, its gradient
and its optimizer state. The weights of a transformer layer are gathered when it is computed, forward and backward, and
freed after it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from medcap_core.config import TrialConfig
from medcap_core.errors import ModelFault
from medcap_core.models import Captioner
from medcap_core.models.tuning import find_part
from medcap_core.runtime.device import choose_precision
from medcap_core.runtime.workers import Workers


def share_model(captioner: Captioner, config: TrialConfig, workers: Workers) -> nn.Module:
    """Let several workers train the captioner, by `config.parallel`; returns the module to call in training.

    The captioner, on its device, is the same on every worker. FSDP2 shards it in place, before an optimizer is built.
    """
    if config.parallel == "ddp":
        return DistributedDataParallel(captioner, gradient_as_bucket_view=True)
    scalars = [name for name, parameter in captioner.network.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise ModelFault(
            f"parallel fsdp: it shards no scalar, as parameter {scalars[0]} of this {captioner.family} model is; use "
            "parallel: ddp."
        )
    device = next(captioner.parameters()).device
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)  # where FSDP2 gathers weights
    shard_model(captioner, init_device_mesh(device.type, (workers.size,)), choose_precision(config, device))
    return captioner


def shard_model(captioner: Captioner, mesh: DeviceMesh, precision: torch.dtype) -> None:
    """Shard the captioner over a mesh of one dimension, each layer by itself, for forward passes in `precision`."""
    # Inputs are left to autocast, so that sums over layers stay float32 as on one device.
    policy = MixedPrecisionPolicy(
        param_dtype=None if precision is torch.float32 else precision,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    layers = [
        module
        for name, module in captioner.network.named_modules()
        if isinstance(module, GradientCheckpointingLayer)
        and find_part(captioner, f"{name}.") not in captioner.uncalled_parts
    ]
    for module in (*layers, captioner):
        fully_shard(module, mesh=mesh, mp_policy=policy)


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Give each worker the whole weights meanwhile, so that they may run different numbers of forward passes.

    All workers enter and leave it together.
    """
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            # The backward pass follows that of the root at once.
            part.set_reshard_after_forward(part is not module, recurse=False)


def gather_tensors(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Gather sharded tensors one after another, whole, on the CPU of a worker that is to `keep` them.

    All workers call it with the same names; those that keep none get an empty dict.
    """
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = whole.cpu()
    return found


def shard_like(whole: Tensor, other: Tensor) -> Tensor:
    """Return this worker's shard of `whole`, a tensor that all workers have, where `other` of its shape is sharded."""
    if not isinstance(other, DTensor) or whole.shape != other.shape:
        return whole
    return distribute_tensor(whole.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
