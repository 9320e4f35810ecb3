"""Trained captioners loaded from a trial's weights, and their export in Hub format."""

from functools import lru_cache
from pathlib import Path

import torch

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.models import Captioner, load_trial_captioner
from medcap_core.models.tuning import apply_tuning, cast_frozen, merge_tuning
from medcap_core.runtime.device import choose_frozen_dtype, choose_load_dtype, current_device
from medcap_core.training.checkpoint import load_weights

TRIAL_CONFIG_FILE = "trial_config.json"


def build_trained_captioner(config: TrialConfig, weights: Path | None, device: torch.device | None = None) -> Captioner:
    """Build the base model of `config` with the trained `weights`; None leaves it zero-shot.

    It is on the CPU, in the dtypes for `device` (None: the CPU). LoRA is merged unless the base is quantized or in
    bf16, where merging would round the factors. Raises RunFault where the weights do not fit the config.
    """
    device = device or torch.device("cpu")
    captioner = load_trial_captioner(config, device)
    if weights is not None and config.freeze is not FreezeMode.ZERO_SHOT:
        summary = apply_tuning(captioner, config)
        load_weights(captioner, weights)
        cast_frozen(captioner, choose_frozen_dtype(config, device))
        base_is_float32 = not captioner.is_large or choose_load_dtype(config, device) is torch.float32
        if config.quantization == "none" and base_is_float32:
            merge_tuning(captioner, summary)
    captioner.eval()
    return captioner


@lru_cache(maxsize=1)
def load_trained_captioner(config: TrialConfig, weights: Path | None) -> Captioner:
    """Load the trained captioner on this process's device; the last one is cached."""
    device = current_device()
    return build_trained_captioner(config, weights, device).to(device)


def export_captioner(config: TrialConfig, weights: Path | None, directory: Path) -> None:
    """Write the trained model and its processor for plain `from_pretrained` of transformers.

    The caption length and beams of `config` become the model's `generation_config`; the whole config is written to
    `trial_config.json`.
    """
    # Factors trained beside quantized or bf16 weights are merged into the checkpoint's own weights.
    whole = config.model_copy(update={"quantization": "none", "weights_dtype": "fp32"})
    captioner = build_trained_captioner(whole, weights)
    captioner.set_generation_defaults(config)
    captioner.save(directory)
    (directory / TRIAL_CONFIG_FILE).write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
