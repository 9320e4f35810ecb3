"""Very small random vision-language models whose processors need torchvision, in true Hub format."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    Cohere2VisionConfig,
    Cohere2VisionImageProcessor,
    Cohere2VisionProcessor,
    DeepseekVLConfig,
    DeepseekVLImageProcessor,
    DeepseekVLProcessor,
    Gemma4UnifiedAudioFeatureExtractor,
    Gemma4UnifiedConfig,
    Gemma4UnifiedImageProcessor,
    Gemma4UnifiedProcessor,
    Gemma4UnifiedVideoProcessor,
    JanusConfig,
    JanusImageProcessor,
    JanusProcessor,
    Lfm2VlConfig,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
    Llama4Config,
    Llama4ImageProcessor,
    Llama4Processor,
    Mistral3Config,
    Molmo2Config,
    Molmo2ImageProcessor,
    Molmo2Processor,
    Molmo2VideoProcessor,
    PerceptionLMConfig,
    PerceptionLMImageProcessor,
    PerceptionLMProcessor,
    PerceptionLMVideoProcessor,
    PixtralImageProcessor,
    PixtralProcessor,
    Qwen3VLMoeConfig,
)

from tests.support.tiny_vlms import (
    CHAT,
    COLOURS,
    HEADS,
    MLP,
    QWEN_TOWER,
    SPREAD,
    SQUARE,
    TEXT,
    TOWER,
    VISION_MLP,
    VISION_WIDTH,
    WIDTH,
    build_tokenizer,
    save_checkpoint,
    save_qwen,
)

TURNS = ("<|im_start|>", "<|im_end|>")


def build_chat_tokenizer(image: str, *tokens: str, **roles: str) -> Any:
    """A tokenizer whose chat template writes `image`; `roles` are names of tokens that its processor reads."""
    tokenizer = build_tokenizer(*TURNS, *tokens, *roles.values(), eos_token="<|im_end|>")
    tokenizer._set_model_specific_special_tokens(roles)
    tokenizer.chat_template = CHAT.replace("IMAGE", image)
    return tokenizer


def save_tiny_mistral3(directory: Path, *, seed: int = 0) -> Path:
    """Pixtral's tower and processor: a break token after each row of merged patches, an end token after the last."""
    tokenizer = build_chat_tokenizer("[IMG]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    config = Mistral3Config(
        text_config={"model_type": "mistral", "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"model_type": "pixtral", "patch_size": 12},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    images = PixtralImageProcessor(size={"longest_edge": 48}, patch_size={"height": 12, "width": 12}, **COLOURS)
    processor = PixtralProcessor(
        images, tokenizer, patch_size=12, spatial_merge_size=2, chat_template=tokenizer.chat_template
    )
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


def save_tiny_cohere2_vision(directory: Path, *, seed: int = 0) -> Path:
    roles = {"boi_token": "<|START_OF_IMG|>", "eoi_token": "<|END_OF_IMG|>", "image_token": "<|IMG_PATCH|>"}
    tokenizer = build_chat_tokenizer("<|IMG_PATCH|>", **roles, img_line_break_token="<|IMG_LINE_BREAK|>")
    config = Cohere2VisionConfig(
        text_config={"model_type": "cohere2", "vocab_size": len(tokenizer), "sliding_window": 32} | TEXT,
        vision_config=TOWER | {"model_type": "siglip_vision_model", "patch_size": 12, "vision_use_head": False},
        alignment_intermediate_size=VISION_MLP,
        image_token_id=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    images = Cohere2VisionImageProcessor(patch_size=2, **SQUARE)  # tokens a side of a tile
    processor = Cohere2VisionProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


def save_tiny_lfm2_vl(directory: Path, *, seed: int = 0) -> Path:
    """Convolutions beside one layer of attention; patches without an order of their own, with a mask."""
    roles = {"image_token": "<image>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>"}
    tokenizer = build_chat_tokenizer("<image>", **roles, image_thumbnail_token="<|img_thumbnail|>")
    config = Lfm2VlConfig(
        text_config={
            "model_type": "lfm2", "vocab_size": len(tokenizer), "layer_types": ["full_attention", "conv"],
            "block_ff_dim": VISION_MLP, "block_auto_adjust_ff_dim": False,
        } | TEXT,
        vision_config={
            "model_type": "siglip2_vision_model", "num_patches": 16, "vision_use_head": False, "patch_size": 12,
        } | {key: value for key, value in TOWER.items() if key not in ("image_size", "patch_size")},
        projector_hidden_size=VISION_MLP,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    images = Lfm2VlImageProcessor(
        encoder_patch_size=12, tile_size=48, min_image_tokens=4, max_image_tokens=4, size={"height": 48, "width": 48}
    )
    processor = Lfm2VlProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


def save_tiny_llama4(directory: Path, *, seed: int = 0) -> Path:
    """Experts in every second layer; the forward pass of transformers 5.24 fails."""
    special = ("<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>")
    tokenizer = build_chat_tokenizer("<|image|>", *special, "<|tile_y_separator|>")
    config = Llama4Config(
        text_config=TEXT | {
            "vocab_size": len(tokenizer), "intermediate_size_mlp": VISION_MLP, "num_local_experts": 2,
            "interleave_moe_layer_step": 2, "pad_token_id": 0,
        },
        vision_config=TOWER | {
            "intermediate_size": 4 * VISION_WIDTH, "projector_input_dim": WIDTH, "projector_output_dim": WIDTH,
            "vision_output_dim": WIDTH, "patch_size": 12, "num_attention_heads": 3,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
    )  # fmt: skip
    images = Llama4ImageProcessor(**SQUARE)
    processor = Llama4Processor(images, tokenizer, patch_size=12, chat_template=tokenizer.chat_template)
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


def save_tiny_molmo2(directory: Path, *, seed: int = 0) -> Path:
    """The image whole and in overlapping crops, pooled by attention, added to the tokens' own embeddings."""
    special = ("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>", "<frame_end>")
    tokenizer = build_chat_tokenizer("<|image|>", *special, "<im_low>", "<|image|>", "<|video|>")
    names = {"image_start": "<im_start>", "low_res_image_start": "<low_res_im_start>", "image_end": "<im_end>"}
    names |= {"frame_start": "<frame_start>", "frame_end": "<frame_end>"}
    vision = {"hidden_size": VISION_WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": 6}
    config = Molmo2Config(
        text_config=TEXT | {"vocab_size": len(tokenizer), "additional_vocab_size": 0},
        vision_config=vision
        | {"num_hidden_layers": 3, "intermediate_size": VISION_MLP, "image_size": [48, 48], "patch_size": 12},
        adapter_config=vision
        | {"vision_feature_layer": [2, 1], "intermediate_size": VISION_MLP, "text_hidden_size": WIDTH},
        image_patch_id=tokenizer.convert_tokens_to_ids("<im_patch>"),
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    images = Molmo2ImageProcessor(patch_size=12, overlap_margins=[1, 1], **SQUARE)
    processor = Molmo2Processor(images, Molmo2VideoProcessor(), tokenizer, tokenizer.chat_template)
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


def save_tiny_gemma4_unified(directory: Path, *, seed: int = 0) -> Path:
    """No tower: each patch is projected by itself."""
    roles = {"boi_token": "<|image>", "image_token": "<|image|>", "eoi_token": "<image|>"}
    roles |= {"boa_token": "<|audio>", "audio_token": "<|audio|>", "eoa_token": "<audio|>"}
    tokenizer = build_chat_tokenizer("<|image|>", "<|video|>", **roles)
    config = Gemma4UnifiedConfig(
        text_config=TEXT | {
            "vocab_size": len(tokenizer), "layer_types": ["sliding_attention", "full_attention"],
            "global_head_dim": 16, "sliding_window": 32, "max_position_embeddings": 512,
        },
        vision_config={
            "patch_size": 3, "pooling_kernel_size": 2, "mm_embed_dim": VISION_WIDTH, "mm_posemb_size": 80,
            "output_proj_dims": VISION_WIDTH, "initializer_range": SPREAD,
        },
        audio_config={"output_proj_dims": 16, "audio_embed_dim": 16},
        **{f"{name}_id": tokenizer.convert_tokens_to_ids(roles[name]) for name in roles.keys() - {"eoa_token"}},
        eoa_token_index=tokenizer.convert_tokens_to_ids("<audio|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
    )  # fmt: skip
    images = Gemma4UnifiedImageProcessor(patch_size=3, pooling_kernel_size=2, max_soft_tokens=70)
    sounds, videos = Gemma4UnifiedAudioFeatureExtractor(), Gemma4UnifiedVideoProcessor()
    processor = Gemma4UnifiedProcessor(sounds, images, tokenizer, videos, tokenizer.chat_template)
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


def save_tiny_perception_lm(directory: Path, *, seed: int = 0) -> Path:
    """A tower of timm, which has no size of images in its config; the image whole and in four tiles."""
    tokenizer = build_chat_tokenizer("<|image|>", image_token="<|image|>", video_token="<|video|>")
    config = PerceptionLMConfig(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer)} | TEXT,
        vision_config={
            "model_type": "timm_wrapper", "architecture": "vit_pe_core_tiny_patch16_384", "do_pooling": False,
            "num_classes": 0, "hidden_size": VISION_WIDTH, "initializer_range": SPREAD,
            "model_args": {
                "img_size": [48, 48], "patch_size": 12, "embed_dim": VISION_WIDTH, "depth": 2, "num_heads": 2,
                "global_pool": "", "use_post_transformer_norm": False, "ref_feat_shape": [4, 4],
            },
        },
        projector_pooling_ratio=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
    )  # fmt: skip
    images = PerceptionLMImageProcessor(tile_size=48, max_num_tiles=4, **SQUARE)
    processor = PerceptionLMProcessor(
        PerceptionLMVideoProcessor(), images, tokenizer, patch_size=12, chat_template=tokenizer.chat_template
    )
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


def save_tiny_deepseek_vl(directory: Path, *, seed: int = 0) -> Path:
    tokenizer = build_chat_tokenizer("<image_placeholder>", image_token="<image_placeholder>")
    config = DeepseekVLConfig(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
    )
    processor = DeepseekVLProcessor(DeepseekVLImageProcessor(**SQUARE), tokenizer, tokenizer.chat_template, 9)
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


def save_tiny_janus(directory: Path, *, seed: int = 0) -> Path:
    """Parts that draw images beside those that read them."""
    roles = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = build_chat_tokenizer("<image_placeholder>", **roles)
    config = JanusConfig(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"projection_dim": WIDTH, "mlp_ratio": 2.0, "num_image_tokens": 9},
        vq_config={
            "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "latent_channels": 32,
            "num_embeddings": 16, "projection_dim": WIDTH, "image_token_embed_dim": WIDTH,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
    )  # fmt: skip
    processor = JanusProcessor(
        JanusImageProcessor(**SQUARE), tokenizer, chat_template=tokenizer.chat_template, num_image_tokens=9
    )
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


WITH_TORCHVISION: dict[str, Callable[..., Path]] = {
    "mistral3": save_tiny_mistral3,
    "cohere2_vision": save_tiny_cohere2_vision,
    "lfm2_vl": save_tiny_lfm2_vl,
    "molmo2": save_tiny_molmo2,
    "gemma4_unified": save_tiny_gemma4_unified,
    "perception_lm": save_tiny_perception_lm,
    "deepseek_vl": save_tiny_deepseek_vl,
    "janus": save_tiny_janus,
    "qwen3_vl_moe": partial(
        save_qwen,
        Qwen3VLMoeConfig,
        QWEN_TOWER | {"depth": 3, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=MLP,
    ),
}


def with_torchvision(*without: str) -> list[Any]:
    """The names of these models but `without`, as parameters of a test that is skipped without torchvision."""
    missing = [name for name in ("torchvision", "timm") if find_spec(name) is None]
    marks = [pytest.mark.slow, pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")]
    return [pytest.param(name, marks=marks) for name in WITH_TORCHVISION if name not in without]
