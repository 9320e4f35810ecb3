"""4- and 8-bit weights through bitsandbytes, for the language models of large captioners."""

import importlib.util
from typing import Any

import torch

from medcap_core.errors import ConfigFault
from medcap_core.runtime.device import current_device

# Vision tower and bridge are a small share of the weights and decide what is seen, so they are not quantized.
_TOWERS_AND_BRIDGES = (
    "vision_model|vision_tower|visual|vision_encoder|qformer|language_projection|multi_modal_projector|connector|"
    "embed_vision|audio_tower|embed_audio"
)
NOT_QUANTIZED = [rf"(.*\.)?({_TOWERS_AND_BRIDGES})", "lm_head"]
"""Patterns of module names from their beginning."""


def build_quantization(quantization: str) -> dict[str, Any]:
    """Build the arguments of `from_pretrained` for `none`, `8bit` or `4bit`.

    Raises ConfigFault where this machine has no CUDA device or bitsandbytes is not installed.
    """
    if quantization == "none":
        return {}
    if not torch.cuda.is_available():
        raise ConfigFault(
            f"quantization {quantization}: needs a CUDA device and this process has none; use quantization: none."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigFault(
            f"quantization {quantization}: needs the package bitsandbytes; install it by "
            "pip install 'medcap-sweep[quantized]', or use quantization: none."
        )
    from transformers import BitsAndBytesConfig

    bits = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_8bit=quantization == "8bit",
        load_in_4bit=quantization == "4bit",
        llm_int8_skip_modules=NOT_QUANTIZED,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": bits, "device_map": {"": current_device()}}
