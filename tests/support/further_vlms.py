"""Very small random vision-language models that no line of the family was written for, as `tiny_vlms`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    GotOcr2ImageProcessor,
    Idefics2Config,
    Idefics2ImageProcessor,
    Idefics2Processor,
    InternVLConfig,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    Qwen2VLConfig,
)

from tests.support.tiny_models import MEAN, STD
from tests.support.tiny_vlms import (
    CHAT,
    SPREAD,
    TEXT,
    TOWER,
    VICUNA,
    VISION_MLP,
    VISION_WIDTH,
    WIDTH,
    build_network,
    build_tokenizer,
    save_checkpoint,
    save_qwen,
)


def _save_parts(directory: Path, config: Any, images: Any, tokenizer: Any, settings: dict[str, Any], seed: int) -> Path:
    """Save a checkpoint whose processor cannot be made without torchvision."""
    network = build_network(config, seed)
    network.generation_config.eos_token_id = tokenizer.eos_token_id
    network.generation_config.pad_token_id = 0
    network.save_pretrained(directory)
    images.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "processor_config.json").write_text(json.dumps(settings))
    return directory


def save_tiny_qwen2_vl(directory: Path, *, seed: int = 0) -> Path:
    vision = {
        "depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "mlp_ratio": 2, "num_heads": 4, "patch_size": 12,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": SPREAD,
    }  # fmt: skip
    return save_qwen(directory, Qwen2VLConfig, vision, seed)


def save_tiny_qwen3_5(directory: Path, *, seed: int = 0) -> Path:
    """Layers of linear attention beside one of full attention."""
    from transformers import Qwen3_5Config  # younger than the family's other models

    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": VISION_MLP, "num_heads": 4, "out_hidden_size": WIDTH,
        "patch_size": 12, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16,
        "initializer_range": SPREAD,
    }  # fmt: skip
    text = {
        "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "linear_num_key_heads": 4, "linear_num_value_heads": 4,
    }  # fmt: skip
    return save_qwen(directory, Qwen3_5Config, vision, seed, text)


def save_tiny_llava_next(directory: Path, *, seed: int = 0) -> Path:
    """As llava-1.6: the image whole and in parts, with a new-line token after each row of patches."""
    tokenizer = build_tokenizer("</s>", "<image>", eos_token="</s>")
    points = [[96, 96], [48, 96]]
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, image_grid_pinpoints=points, image_mean=MEAN,
        image_std=STD,
    )  # fmt: skip
    processor = LlavaNextProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="default", chat_template=VICUNA,
        num_additional_image_tokens=1,
    )  # fmt: skip
    config = LlavaNextConfig(
        text_config={"model_type": "llama", "pad_token_id": 0, "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"model_type": "clip_vision_model", "projection_dim": VISION_WIDTH},
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=points,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return save_checkpoint(directory, config, processor, seed)


def save_tiny_internvl(directory: Path, *, seed: int = 0) -> Path:
    roles = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    roles["video_token"] = "<video>"
    tokenizer = build_tokenizer("<|im_start|>", "<|im_end|>", *roles.values(), eos_token="<|im_end|>")
    tokenizer._set_model_specific_special_tokens(roles)
    config = InternVLConfig(
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"image_size": [48, 48], "patch_size": [12, 12]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = GotOcr2ImageProcessor(
        size={"height": 48, "width": 48}, crop_to_patches=False, image_mean=MEAN, image_std=STD
    )
    tokenizer.chat_template = CHAT.replace("IMAGE", "<IMG_CONTEXT>\n")
    settings = {"processor_class": "InternVLProcessor", "image_seq_length": 4}
    return _save_parts(directory, config, images, tokenizer, settings, seed)


def save_tiny_llava_onevision(directory: Path, *, seed: int = 0) -> Path:
    """As LLaVA-OneVision: a SigLIP tower, the image whole and in parts, with a new-line token after each row."""
    tokenizer = build_tokenizer("<|im_start|>", "<|im_end|>", "<image>", "<video>", eos_token="<|im_end|>")
    points = [[48, 48], [96, 96]]
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=points,
    )
    images = LlavaOnevisionImageProcessor(
        size={"height": 48, "width": 48}, image_grid_pinpoints=points, image_mean=MEAN, image_std=STD
    )
    tokenizer.chat_template = CHAT.replace("IMAGE", "<image>\n")
    settings = {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 9}
    settings["vision_feature_select_strategy"] = "full"
    return _save_parts(directory, config, images, tokenizer, settings, seed)


def save_tiny_idefics2(directory: Path, *, seed: int = 0) -> Path:
    """A perceiver reads the patches: its latents are the image's tokens."""
    special = ("<|im_start|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>")
    tokenizer = build_tokenizer(*special, eos_token="<end_of_utterance>")
    config = Idefics2Config(
        text_config={"model_type": "mistral", "pad_token_id": 0, "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"patch_size": 12},
        perceiver_config={
            "hidden_size": WIDTH, "resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 4,
            "resampler_head_dim": 8, "num_key_value_heads": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    images = Idefics2ImageProcessor(
        size={"shortest_edge": 24, "longest_edge": 48}, do_image_splitting=False, image_mean=MEAN, image_std=STD
    )
    template = CHAT.replace("<|im_end|>", "<end_of_utterance>").replace("IMAGE", "<image>")
    return save_checkpoint(directory, config, Idefics2Processor(images, tokenizer, 4, chat_template=template), seed)


FURTHER: dict[str, Callable[..., Path]] = {
    "qwen2_vl": save_tiny_qwen2_vl,
    "qwen3_5": save_tiny_qwen3_5,
    "llava_next": save_tiny_llava_next,
    "llava_onevision": save_tiny_llava_onevision,
    "internvl": save_tiny_internvl,
    "idefics2": save_tiny_idefics2,
}
