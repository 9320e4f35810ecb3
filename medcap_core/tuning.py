"""Freeze modes and LoRA: which parameters a trial trains.

| mode           | trained                                                                                   |
| -------------- | ----------------------------------------------------------------------------------------- |
| `full`         | every parameter                                                                           |
| `encoder_only` | the vision tower                                                                          |
| `decoder_only` | the text decoder, its cross-attention and word embeddings included                        |
| `lora`         | low-rank factors on the named linear layers (Hu et al., 2021, arXiv 2106.09685), by peft  |
| `zero_shot`    | nothing                                                                                   |
"""

import re
from dataclasses import dataclass

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.errors import ModelFault
from medcap_core.models import Captioner

_TRAINED_PARTS: dict[FreezeMode, frozenset[str]] = {
    FreezeMode.FULL: frozenset({"encoder", "decoder"}),
    FreezeMode.ENCODER_ONLY: frozenset({"encoder"}),
    FreezeMode.DECODER_ONLY: frozenset({"decoder"}),
    FreezeMode.ZERO_SHOT: frozenset(),
}


@dataclass(frozen=True)
class TuningSummary:
    """What is trained, in parameters."""

    trainable_parameters: int
    total_parameters: int
    peft_model: PeftModel | None


def encoder_is_frozen(config: TrialConfig) -> bool:
    """Whether no parameter of the vision tower changes, so that its output may be computed once an image."""
    if config.freeze is FreezeMode.LORA:
        return not config.lora_vision
    return "encoder" not in _TRAINED_PARTS[config.freeze]


def apply_tuning(captioner: Captioner, config: TrialConfig) -> TuningSummary:
    """Set `requires_grad` on every parameter as `config.freeze` says; for `lora`, insert the factors.

    Raises ModelFault where LoRA targets match nothing or a freeze rule leaves a parameter undecided.
    """
    peft_model = None
    if config.freeze is FreezeMode.LORA:
        peft_model = _insert_lora(captioner, config)
    else:
        trained_parts = _TRAINED_PARTS[config.freeze]
        for name, parameter in captioner.network.named_parameters():
            parameter.requires_grad_(_find_part(captioner, name) in trained_parts)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in captioner.parameters()]
    return TuningSummary(
        trainable_parameters=sum(size for size, trained in sizes if trained),
        total_parameters=sum(size for size, _ in sizes),
        peft_model=peft_model,
    )


def _find_part(captioner: Captioner, name: str) -> str:
    for pattern, part in captioner.freeze_rules:
        if re.search(pattern, name):
            return part
    raise ModelFault(f"model family {captioner.family}: no freeze rule decides parameter {name}; add one to its file.")


def _insert_lora(captioner: Captioner, config: TrialConfig) -> PeftModel:
    patterns = [captioner.lora_patterns[config.lora_targets]]
    if config.lora_vision:
        patterns.append(captioner.vision_lora_pattern)
    linear_names = [name for name, module in captioner.network.named_modules() if isinstance(module, nn.Linear)]
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in linear_names):
            raise ModelFault(
                f"lora_targets {config.lora_targets}: no linear layer of the {captioner.family} model matches "
                f"'{pattern}'; choose another target set."
            )
    return get_peft_model(
        captioner.network,
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.resolved_lora_alpha,  # type: ignore[arg-type]  # peft only divides it by r
            lora_dropout=config.lora_dropout,
            target_modules="|".join(f"({pattern})" for pattern in patterns),
        ),
    )


def merge_tuning(captioner: Captioner, summary: TuningSummary) -> None:
    """Fold LoRA factors into the weights they adapt, leaving a plain model; nothing to do for the other modes."""
    if summary.peft_model is not None:
        captioner.network = summary.peft_model.merge_and_unload()
