"""Optimizer and learning-rate schedule of a trial."""

import math

import torch
from torch import nn

from medcap_core.config import TrialConfig


def build_optimizer(module: nn.Module, config: TrialConfig) -> torch.optim.AdamW:
    """Build AdamW over the trained parameters; biases, norms and other vectors are not decayed."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    on_cuda = any(parameter.is_cuda for parameter in trained)
    return torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ],
        # On CUDA the rate is a tensor, so that a recorded step reads its present value.
        lr=torch.tensor(config.learning_rate, device=trained[0].device) if on_cuda else config.learning_rate,
        fused=True,
        capturable=on_cuda,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrialConfig, step: int, num_steps: int) -> None:
    """Set the learning rate of `step` (from 0) of the `num_steps` of the whole trial."""
    rate = config.learning_rate * compute_rate_factor(step, num_steps, config)
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def compute_rate_factor(step: int, num_steps: int, config: TrialConfig) -> float:
    """Compute the share of `config.learning_rate` at `step` (from 0) of `num_steps`.

    It rises linearly over `warmup_fraction` of all steps, then falls to zero, linearly or by a cosine.
    """
    warmup_steps = math.ceil(config.warmup_fraction * num_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    if config.schedule == "linear":
        return max(1.0 - done, 0.0)
    return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
