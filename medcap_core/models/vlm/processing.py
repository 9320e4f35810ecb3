"""Processors of vision-language models, of images and texts alone, for square images of one size, and their prompts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, Idefics3Processor, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import VIDEO_PROCESSOR_NAME
from transformers.utils.hub import cached_file

from medcap_core.errors import ModelFault
from medcap_core.models.loading.weights import (
    check_patches,
    list_square_sizes,
    load_image_processor,
    read_size,
    takes_any_size,
)
from medcap_core.runtime.checkpoints import load_pretrained

FREE_SIZE = 448
"""Largest default side in pixels of a model that takes any; 256 tokens of Qwen2.5-VL and 196 of Qwen3-VL."""

INSTRUCTION = "Describe this image."
"""Asked of a model with a chat template where the config has no prompt."""

_CAPTION = "CAPTION"
_OTHER_PROCESSORS: dict[str, Any] = {
    "smolvlm": Idefics3Processor,  # the same for images; its own needs num2words, for videos
}
"""`model_type` -> the processor to use instead of the one that transformers names."""


class _ImageTextParts(ProcessorMixin):
    """Hold the settings of a processor's parts for videos and sounds in place of the parts themselves."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]

    def __init__(self, *parts: Any, **named_parts: Any) -> None:
        names: list[str] = super().get_attributes()  # type: ignore[no-untyped-call]
        named_parts |= dict(zip(names, parts, strict=False))
        for name in set(names) - set(self.get_attributes()):
            if settings := named_parts.pop(name, None):
                setattr(self, name, settings)  # written out again
        super().__init__(**named_parts)  # type: ignore[no-untyped-call]


def load_processor(source: str, config: Any) -> Any:
    """Load the processor of a checkpoint without its parts for videos, which need torchvision, and for sounds.

    Raises ModelFault for a model without a processor of images and texts.
    """
    if type(config) not in PROCESSOR_MAPPING:
        raise ModelFault(f"model {source}: transformers has no processor of images and texts for {config.model_type}.")
    named: Any = _OTHER_PROCESSORS.get(config.model_type) or PROCESSOR_MAPPING[type(config)]
    settings, _ = named.get_processor_dict(source)
    parts = {"image_processor": load_image_processor(source), "tokenizer": load_pretrained(AutoTokenizer, source)}
    settings.setdefault("chat_template", parts["tokenizer"].chat_template)
    if "video_processor" in named.get_attributes() and not settings.get("video_processor"):
        settings["video_processor"] = _read_video_settings(source, parts["image_processor"])
    own: Any = type(named.__name__, (named, _ImageTextParts), {})  # saved under this name
    return own.from_args_and_dict([parts.get(name) for name in named.get_attributes()], settings)


def _read_video_settings(source: str, image_processor: Any) -> dict[str, Any]:
    """Read the settings of the video part, which are written out again with the processor."""
    path = cached_file(source, VIDEO_PROCESSOR_NAME, _raise_exceptions_for_missing_entries=False)
    if path is not None:
        settings: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        return settings
    images = type(image_processor).__name__.removesuffix("Pil")
    return {"video_processor_type": images.replace("Image", "Video")}  # what transformers then takes


def choose_image_size(config: Any, images: Any, wanted: int | None, source: str) -> int:
    """Choose the side of the images in pixels: `wanted`, else that of training, the tower's own, or `FREE_SIZE`.

    Raises ModelFault where the model cannot take images of the wanted size.
    """
    if sizes := list_square_sizes(images):
        size = wanted or next(size for size, tokens in sizes.items() if tokens == images.max_soft_tokens)
        if size not in sizes:
            raise ModelFault(
                f"image_size {size}: {config.model_type} models see squares of {', '.join(map(str, sizes))} pixels; "
                f"give one of these for model {source}, or leave image_size out."
            )
        return size
    tower_size: Any = getattr(config.vision_config, "image_size", None)
    if not takes_any_size(images):
        own = images.size["height"] if tower_size is None else read_size(tower_size)
        if wanted not in (None, own):
            raise ModelFault(
                f"image_size {wanted}: {config.model_type} models see images of one size; leave image_size out of "
                f"model {source}, which takes its own {own} pixels."
            )
        return own
    merged = getattr(images, "merge_size", getattr(config, "spatial_merge_size", None))  # Qwen-VL's, Pixtral's
    step = read_size(config.vision_config.patch_size) * int(merged) if merged else 1
    own = FREE_SIZE - FREE_SIZE % step if tower_size is None else read_size(tower_size)
    size = int(getattr(images, "square_size", own) if wanted is None else wanted)
    check_patches(size, step, source)
    return size


@dataclass(frozen=True)
class Prompt:
    """What precedes a caption: the tokens of instruction and image, and what the network reads beside them.

    `ids` (1, P) has the image's tokens among the text's; `token_types` are other inputs of that shape, `image_inputs`
    those of one image but for `pixel_values`, of shape `pixel_shape`. A caption follows `opening` and ends in `end_id`.
    """

    ids: Tensor
    token_types: dict[str, Tensor]
    image_inputs: dict[str, Tensor]
    pixel_shape: tuple[int, ...]
    opening: str
    end_id: int | None

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.ids.shape[1]


def lay_out_prompt(processor: Any, prompt: str, size: int, accepted: set[str]) -> Prompt:
    """Lay out the prompt for any image of `size` pixels a side; `accepted` are the inputs that the network takes.

    With a chat template the prompt is the user's turn and a caption the assistant's; without one it follows the image.
    """
    blank = Image.new("RGB", (size, size))
    opening, end_id = "", None
    if processor.chat_template:
        text = {"type": "text", "text": prompt.strip() or INSTRUCTION}
        user = {"role": "user", "content": [{"type": "image", "image": blank}, text]}
        inputs = processor.apply_chat_template(
            [user], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        opening, end_id = _read_answer_layout(processor, user)
    else:
        inputs = processor(text=[f"{processor.image_token}{prompt.strip()}"], images=[blank], return_tensors="pt")
    ids = inputs["input_ids"]
    others = {
        name: value
        for name, value in inputs.items()
        if name in accepted and name not in ("input_ids", "attention_mask", "labels", "pixel_values")
    }
    return Prompt(
        ids=ids,
        token_types={name: value for name, value in others.items() if value.shape == ids.shape},
        image_inputs={name: value for name, value in others.items() if value.shape != ids.shape},
        pixel_shape=tuple(inputs["pixel_values"].shape),
        opening=opening,
        end_id=end_id,
    )


def _read_answer_layout(processor: Any, user: dict[str, Any]) -> tuple[str, int | None]:
    """Read what a chat template puts before an answer, and the special token that ends it, if any."""
    answer = {"role": "assistant", "content": [{"type": "text", "text": _CAPTION}]}
    asked = processor.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    answered = processor.apply_chat_template([user, answer], tokenize=False)
    opening, _, closing = answered.removeprefix(asked).partition(_CAPTION)
    ids = processor.tokenizer(closing, add_special_tokens=False).input_ids
    special = set(processor.tokenizer.added_tokens_decoder) | set(processor.tokenizer.all_special_ids)
    end_id = next((token for token in ids if token in special), None)
    return (opening if answered.startswith(asked) else ""), end_id


def prepare_pixels(processor: Any, pixels: Tensor, accepted: set[str]) -> dict[str, Tensor]:
    """Prepare pixels (B, 3, S, S) in 0 .. 255 on any device by the image processor, on the CPU."""
    images = list(pixels.detach().round().to(torch.uint8).cpu().numpy())
    settings = getattr(processor, "images_kwargs", {}) | {"input_data_format": "channels_first", "return_tensors": "pt"}
    prepared = processor.image_processor(images, **settings)
    return {name: value.to(pixels.device) for name, value in prepared.items() if name in accepted}
