"""Optimizer and learning-rate schedule of a trial."""

import math
from itertools import product

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from medcap_core.config import TrialConfig
from medcap_core.models import Captioner
from medcap_core.models.tuning import VISION_PARTS, find_part


def build_optimizer(captioner: Captioner, config: TrialConfig) -> torch.optim.AdamW:
    """Build AdamW over the trained parameters; biases, norms and other vectors are not decayed.

    The vision tower has groups of its own where `vision_learning_rate` is not 1; they come last.
    """
    trained: list[tuple[nn.Parameter, float]] = []
    for name, parameter in captioner.network.named_parameters():
        if parameter.requires_grad:
            is_vision = find_part(captioner, name) in VISION_PARTS
            trained.append((parameter, config.vision_learning_rate if is_vision else 1.0))
    # A sharded model's steps are not recorded.
    may_record = any(parameter.is_cuda and not isinstance(parameter, DTensor) for parameter, _ in trained)
    groups = []
    for scale, is_matrix in product(dict.fromkeys((1.0, config.vision_learning_rate)), (True, False)):
        rate = config.learning_rate * scale
        groups.append(
            {
                "params": [own for own, other in trained if other == scale and (own.ndim >= 2) is is_matrix],
                "weight_decay": config.weight_decay if is_matrix else 0.0,
                "rate_scale": scale,
                # On CUDA the rate is a tensor, so that a recorded step reads its present value.
                "lr": torch.tensor(rate, device=trained[0][0].device) if may_record else rate,
            }
        )
    return torch.optim.AdamW(groups, fused=True, capturable=may_record)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrialConfig, step: int, num_steps: int) -> None:
    """Set the learning rate of `step` (from 0) of the `num_steps` of the whole trial."""
    factor = compute_rate_factor(step, num_steps, config)
    for group in optimizer.param_groups:
        rate = config.learning_rate * factor * group["rate_scale"]
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def compute_rate_factor(step: int, num_steps: int, config: TrialConfig) -> float:
    """Compute the share of `config.learning_rate` at `step` (from 0) of `num_steps`.

    It rises linearly over `warmup_fraction` of all steps, then falls linearly to zero, or by a cosine to
    `min_learning_rate`.
    """
    warmup_steps = math.ceil(config.warmup_fraction * num_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    if config.schedule == "linear":
        return max(1.0 - done, 0.0)
    lowest = config.min_learning_rate / config.learning_rate
    return lowest + (1.0 - lowest) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
