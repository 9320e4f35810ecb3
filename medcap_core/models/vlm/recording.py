"""Record what the words of a vision-language model attend to: the tokens of the image among those of the prompt.

Shape letters: B images, T tokens of a text, P tokens of the prompt, K image tokens among them, H heads.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medcap_core.errors import ModelFault
from medcap_core.models.captioner import RecordedAttention

if TYPE_CHECKING:
    from medcap_core.models.vlm.captioner import VlmCaptioner

_ROW_BY_ROW = frozenset(
    {
        "cohere2_vision", "deepseek_vl", "gemma3", "gemma4", "gemma4_unified", "git", "idefics3", "internvl", "janus",
        "lfm2_vl", "llava", "mistral3", "paligemma", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_vl", "qwen3_vl_moe",
        "smolvlm",
    }
)  # fmt: skip
"""`model_type`s whose image tokens were found to lie row by row where their patches do; latents of a resampler do not.
"""

TRIED = _ROW_BY_ROW | {
    "aya_vision", "glm4v", "idefics2", "llava_next", "llava_onevision", "molmo2", "perception_lm", "vipllava",
}  # fmt: skip
"""`model_type`s whose captions were found to be those of plain transformers."""


def record_attention(
    recorder: "VlmCaptioner", pixels: Tensor, input_ids: Tensor, *, with_encoder: bool
) -> RecordedAttention:
    """Record attention, see `Captioner.record_attention`; the tower's is never read.

    The first of the T tokens stands for the prompt with its image. Layers without attention scores, as of linear
    attention, are left out. Raises ModelFault where the image's tokens are not known to be a square of patches.
    """
    model_type, name = recorder.network.config.model_type, recorder.network.name_or_path
    if model_type not in _ROW_BY_ROW:
        raise ModelFault(
            f"model {name}: it is not known on which patches the image tokens of a {model_type} lie, so no map is "
            f"drawn; there are maps for {', '.join(sorted(_ROW_BY_ROW))}."
        )
    with torch.no_grad():
        encoded = recorder.encode_images(pixels)
    prompt = recorder.prompt_layout.ids.to(input_ids.device)
    places = recorder.find_image_places(encoded.shape[1])
    side = math.isqrt(len(places))
    if side**2 != len(places):
        raise ModelFault(
            f"model {name}: an image of {recorder.geometry.size} pixels is {len(places)} "
            "tokens here, which are no square of patches that a map could be drawn on; give a run whose image_size "
            "the model does not split into parts."
        )
    ids = torch.cat([prompt.expand(len(input_ids), -1), input_ids[:, 1:]], dim=1)
    output = recorder.run(encoded, ids, 0, output_attentions=True)
    layers = tuple(layer for layer in output.attentions if layer is not None)
    start = layers[0].shape[-1] - ids.shape[1] + prompt.shape[1] - 1  # the prompt's last token predicts the first word
    return RecordedAttention(
        decoder=layers,
        encoder=(),  # the projector mixes patches, so nothing can be traced back through the tower
        logits=output.logits,
        grid=(side, side),
        steps=slice(start, start + input_ids.shape[1] - 1),
        places=places,
    )
