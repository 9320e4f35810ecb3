"""Freeze modes and LoRA: which parameters a trial trains.

| mode           | trained                                                                                   |
| -------------- | ----------------------------------------------------------------------------------------- |
| `full`         | every parameter that affects captions                                                     |
| `encoder_only` | the image side: the vision tower and, where there is one, the bridge                      |
| `bridge_only`  | BLIP-2 and InstructBLIP: query tokens, Q-Former and projection, as in their training;     |
|                | vision-language models: the projector;                                                    |
|                | MedBLIP in 3D: the same, with the patch embedding frozen too, so that features are cached |
| `patch_and_bridge` | MedBLIP in 3D, as published: patch embedding with its positions, MedQFormer, projections |
| `patch_and_bridge_lora` | the same, and low-rank factors on the language model                             |
| `decoder_only` | the text decoder, with its cross-attention and token embeddings                           |
| `lora`         | low-rank factors on the named linear layers (Hu et al., 2021, arXiv 2106.09685), by peft  |
| `zero_shot`    | nothing                                                                                   |
"""

import re
import warnings
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.errors import ModelFault
from medcap_core.models import Captioner

_TRAINED_PARTS: dict[FreezeMode, frozenset[str]] = {
    FreezeMode.FULL: frozenset({"patches", "encoder", "bridge", "decoder"}),
    FreezeMode.ENCODER_ONLY: frozenset({"patches", "encoder", "bridge"}),
    FreezeMode.BRIDGE_ONLY: frozenset({"bridge"}),
    FreezeMode.PATCH_AND_BRIDGE: frozenset({"patches", "bridge"}),
    FreezeMode.PATCH_AND_BRIDGE_LORA: frozenset({"patches", "bridge"}),
    FreezeMode.LORA: frozenset(),
    FreezeMode.DECODER_ONLY: frozenset({"decoder"}),
    FreezeMode.ZERO_SHOT: frozenset(),
}


VISION_PARTS = frozenset({"patches", "encoder"})
LORA_MODES = frozenset({FreezeMode.LORA, FreezeMode.PATCH_AND_BRIDGE_LORA})
_MODES_OF_PATCHES = frozenset({FreezeMode.PATCH_AND_BRIDGE, FreezeMode.PATCH_AND_BRIDGE_LORA})


@dataclass(frozen=True)
class TuningSummary:
    """The number of trained parameters, and the peft model of LoRA modes."""

    trainable_parameters: int
    total_parameters: int
    peft_model: PeftModel | None


def encoder_is_frozen(config: TrialConfig) -> bool:
    """Check that no parameter of the vision tower is trained."""
    if config.lora_vision and config.freeze in LORA_MODES:
        return False
    return not _TRAINED_PARTS[config.freeze] & VISION_PARTS


def features_are_fixed(captioner: Captioner, config: TrialConfig) -> bool:
    """Check that no parameter is trained that `encode_images` depends on, so that its output can be cached."""
    return encoder_is_frozen(config) and not _TRAINED_PARTS[config.freeze] & captioner.encoded_parts


def apply_tuning(captioner: Captioner, config: TrialConfig) -> TuningSummary:
    """Set `requires_grad` of every parameter by `config.freeze`, insert LoRA factors, cast trained weights to float32.

    Raises ModelFault where LoRA targets match nothing, a parameter matches no freeze rule, or the model lacks the
    bridge or the 3D patch embedding to train.
    """
    if config.freeze is FreezeMode.BRIDGE_ONLY and captioner.cross_attention != "bridge":
        raise ModelFault(
            f"freeze bridge_only: a {captioner.family} model has no bridge between its encoder and its decoder; use "
            "encoder_only or decoder_only, or a model with a bridge, such as BLIP-2."
        )
    own_weights = [
        (name, parameter, find_part(captioner, name)) for name, parameter in captioner.network.named_parameters()
    ]
    if config.freeze in _MODES_OF_PATCHES and not any(part == "patches" for _, _, part in own_weights):
        raise ModelFault(
            f"freeze {config.freeze}: a {captioner.family} model has no 3D patch embedding; use another mode, or model "
            "medblip3d."
        )
    peft_model = _insert_lora(captioner, config) if config.freeze in LORA_MODES else None
    if config.freeze is not FreezeMode.LORA:
        for _, parameter, part in own_weights:
            is_trained = part in _TRAINED_PARTS[config.freeze]
            if is_trained or parameter.requires_grad:  # quantized weights are neither
                parameter.requires_grad_(is_trained)
            if is_trained and parameter.dtype is not torch.float32:
                parameter.data = parameter.data.float()  # read in bf16 beside quantized ones
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in captioner.parameters()]
    return TuningSummary(
        trainable_parameters=sum(size for size, trained in sizes if trained),
        total_parameters=sum(size for size, _ in sizes),
        peft_model=peft_model,
    )


def find_part(captioner: Captioner, name: str) -> str:
    """Find the part of the model that a parameter of `captioner.network` is of. Raises ModelFault without a rule."""
    for pattern, part in captioner.freeze_rules:
        if re.search(pattern, name):
            return part
    raise ModelFault(f"model family {captioner.family}: no freeze rule decides parameter {name}; add one to its file.")


def _insert_lora(captioner: Captioner, config: TrialConfig) -> PeftModel:
    patterns = [captioner.lora_patterns[config.lora_targets]]
    patterns += [captioner.vision_lora_pattern] if config.lora_vision else []
    modules = captioner.network.named_modules()
    linear_names = [name for name, module in modules if isinstance(module, nn.Linear | Conv1D)]
    targets = set[str]()
    for pattern in patterns:
        if not (matched := {name for name in linear_names if re.fullmatch(pattern, name)}):
            raise ModelFault(
                f"lora_targets {config.lora_targets}: no linear layer of the {captioner.family} model matches "
                f"'{pattern}'; choose another target set."
            )
        targets |= matched
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.resolved_lora_alpha,  # type: ignore[arg-type]  # peft only divides it by r
        lora_dropout=config.lora_dropout,
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        target_modules=sorted(targets),
    )
    with warnings.catch_warnings():
        # GPT-2's matrices are transposed; peft handles that, with a warning for each layer.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        return get_peft_model(captioner.network, settings)


def disable_input_casting(captioner: Captioner) -> None:
    """Give LoRA factors the inputs of their layer uncast, for training under autocast.

    peft casts inputs to the factors' float32, and autocast casts them back: a copy of all image tokens for each
    cross-attention.
    """
    for module in captioner.modules():
        if isinstance(module, BaseTunerLayer):
            # peft.helpers.disable_input_dtype_casting does the same within a context.
            module.cast_input_dtype_enabled = False  # type: ignore[assignment]  # mypy takes every attribute of a module for a tensor


def cast_frozen(captioner: Captioner, dtype: torch.dtype) -> None:
    """Cast a large model's frozen weights to `dtype`; trained weights and the small bridge stay float32."""
    if not captioner.is_large or dtype is torch.float32:
        return
    for name, parameter in captioner.network.named_parameters():
        is_bridge = find_part(captioner, name) in ("bridge", "unused")
        if not parameter.requires_grad and parameter.dtype is torch.float32 and not is_bridge:
            parameter.data = parameter.data.to(dtype)


def merge_tuning(captioner: Captioner, summary: TuningSummary) -> None:
    """Merge LoRA factors into the weights they adapt; a no-op for the other modes."""
    if summary.peft_model is not None:
        captioner.network = summary.peft_model.merge_and_unload()
