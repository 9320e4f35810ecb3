"""4- and 8-bit weights through bitsandbytes, for the language models of large captioners."""

import importlib.util
from typing import Any

from medcap_core.errors import ConfigFault
from medcap_core.models.loading.weights import LoadOptions, load_whole_network
from medcap_core.runtime.device import current_device

# Vision tower and bridge are a small share of the weights and decide what is seen, so they are not quantized.
_TOWERS_AND_BRIDGES = (
    "vision_model|vision_tower|visual|vision_encoder|qformer|language_projection|multi_modal_projector|connector|"
    "embed_vision|audio_tower|embed_audio|aligner|vqmodel|generation_\\w+"
)
NOT_QUANTIZED = [rf"(.*\.)?({_TOWERS_AND_BRIDGES})", "lm_head"]
"""Patterns of module names from their beginning."""


def load_quantized(network_class: Any, source: str, options: LoadOptions) -> Any:
    """Load a transformers class by `load_whole_network` with the dtype and quantization of `options`.

    Raises ConfigFault where bitsandbytes is not installed, and ModelFault.
    """
    if options.quantization == "none":
        return load_whole_network(network_class, source, dtype=options.dtype)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigFault(
            f"quantization {options.quantization}: needs the package bitsandbytes; install it by "
            "pip install 'medcap-sweep[quantized]', or use quantization: none."
        )
    from transformers import BitsAndBytesConfig

    bits = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_8bit=options.quantization == "8bit",
        load_in_4bit=options.quantization == "4bit",
        llm_int8_skip_modules=NOT_QUANTIZED,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=options.dtype,
    )
    device_map = {"": current_device()}
    network = load_whole_network(
        network_class, source, dtype=options.dtype, quantization_config=bits, device_map=device_map
    )
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Else evaluation repacks the weights for a kernel of CPUs that gives no gradients (bitsandbytes 0.50).
            module.support_avx512bf16_for_cpu = False
    return network
