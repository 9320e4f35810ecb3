"""Very small random vision-language models of transformers in true Hub format, their tokenizers built here."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import (
    AutoModelForImageTextToText,
    BertTokenizerFast,
    CLIPImageProcessor,
    Gemma3Config,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ImageProcessorPil,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GotOcr2ImageProcessor,
    Idefics2Config,
    Idefics2ImageProcessor,
    Idefics2Processor,
    Idefics3Config,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    SiglipImageProcessor,
    SmolVLMConfig,
)

from tests.support.tiny_blip import VOCABULARY
from tests.support.tiny_models import MEAN, STD, build, build_byte_tokenizer

WIDTH, MLP, LAYERS, HEADS, POSITIONS = 32, 56, 2, 4, 128
VISION_WIDTH, VISION_MLP = 24, 40
SPREAD = 0.3

TEXT = {
    "hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": 2, "head_dim": WIDTH // HEADS, "max_position_embeddings": POSITIONS,
    "initializer_range": SPREAD,
}  # fmt: skip
TOWER = {
    "hidden_size": VISION_WIDTH, "intermediate_size": VISION_MLP, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": 48, "patch_size": 16, "initializer_range": SPREAD,
}  # fmt: skip
QWEN_TOWER = {
    "depth": 2, "hidden_size": 32, "intermediate_size": VISION_MLP, "num_heads": 4, "out_hidden_size": WIDTH,
    "patch_size": 12, "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": SPREAD,
}  # fmt: skip
COLOURS = {"image_mean": MEAN, "image_std": STD}
SQUARE = {"size": {"height": 48, "width": 48}} | COLOURS
CROPPED = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}} | COLOURS
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS_CHAT = CHAT.replace("<|im_end|>", "<end_of_utterance>").replace("IMAGE", "<image>")
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_tokenizer(*tokens: str, **roles: str) -> PreTrainedTokenizerFast:
    tokenizer = build_byte_tokenizer(begins=False)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    added = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, **({"pad_token": "<|endoftext|>"} | roles)
    )
    added.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return added


def build_network(config: Any, seed: int, make: Callable[[Any], Any]) -> Any:
    network = build(lambda: make(config), seed, SPREAD)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if any(word in name for word in ("projector", "connector", "merger", "projection")):
            spread = 4 * SPREAD  # so that the image is heard among the words
        elif "embed_tokens" in name or "word_embeddings" in name:
            spread = SPREAD / 4  # where they are the head's too, else one word repeats
        else:
            continue
        torch.nn.init.normal_(parameter, std=spread, generator=generator)
    return network


def save_checkpoint(
    directory: Path,
    config: Any,
    tokenizer: Any,
    parts: list[Any],
    seed: int,
    make: Callable[[Any], Any] = AutoModelForImageTextToText.from_config,
    ends: list[int] | None = None,
) -> Path:
    """Save a network with its processor, or its parts where that cannot be made without torchvision."""
    network = build_network(config, seed, make)
    network.generation_config.eos_token_id = ends or tokenizer.eos_token_id
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    for part in (network, *parts):
        part.save_pretrained(directory)
    return directory


def save_qwen(config_class: Any, vision: dict[str, Any], directory: Path, *, seed: int, **text: Any) -> Path:
    names = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = build_tokenizer(*names, eos_token="<|im_end|>")
    ids = dict(zip(names, tokenizer.convert_tokens_to_ids(list(names)), strict=True))
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}
    config = config_class(
        text_config=TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope} | text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    images = Qwen2VLImageProcessor(patch_size=vision["patch_size"], merge_size=2, **COLOURS)
    tokenizer.chat_template = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return save_checkpoint(directory, config, tokenizer, [images, tokenizer], seed, ends=[ids["<|im_end|>"], 0])


def save_tiny_qwen3_5(directory: Path, *, seed: int = 0) -> Path:
    """Layers of linear attention beside one of full attention."""
    from transformers import Qwen3_5Config  # younger than the family's other models

    text = {
        "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "linear_num_key_heads": 4, "linear_num_value_heads": 4,
    }  # fmt: skip
    return save_qwen(Qwen3_5Config, QWEN_TOWER | {"num_position_embeddings": 16}, directory, seed=seed, **text)


def save_tiny_idefics3(directory: Path, *, config_class: Any = Idefics3Config, seed: int = 0) -> Path:
    """Idefics3, or SmolVLM; an image of 48 pixels is 4 tokens, one of 96 is split into 4 and a whole."""
    parts = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    special = ("<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>")
    tokenizer = build_tokenizer(*special, "<global-img>", *parts, eos_token="<end_of_utterance>")
    config = config_class(
        text_config={"model_type": "llama", "pad_token_id": 0, "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"patch_size": 12},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    images = Idefics3ImageProcessor(size={"longest_edge": 192}, max_image_size={"longest_edge": 48}, **COLOURS)
    processor = Idefics3Processor(images, tokenizer, 4, chat_template=IDEFICS_CHAT)
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


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
    size = {"shortest_edge": 24, "longest_edge": 48}
    images = Idefics2ImageProcessor(size=size, do_image_splitting=False, **COLOURS)
    processor = Idefics2Processor(images, tokenizer, 4, chat_template=IDEFICS_CHAT)
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


def save_tiny_paligemma(directory: Path, *, seed: int = 0) -> Path:
    tokenizer = build_tokenizer("<bos>", "<eos>", "<image>", bos_token="<bos>", eos_token="<eos>")
    images = SiglipImageProcessor(**SQUARE)
    images.image_seq_length = 9
    processor = PaliGemmaProcessor(images, tokenizer)  # it adds tokens
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", "pad_token_id": 0, "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"model_type": "siglip_vision_model", "projection_dim": WIDTH, "vision_use_head": False},
        projection_dim=WIDTH,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


def save_tiny_gemma3(directory: Path, *, seed: int = 0) -> Path:
    roles = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
    special = ("<bos>", "<eos>", "<|im_start|>", "<|im_end|>", *roles.values())
    tokenizer = build_tokenizer(*special, bos_token="<bos>", eos_token="<eos>")
    tokenizer._set_model_specific_special_tokens(roles)
    config = Gemma3Config(
        text_config={"pad_token_id": 0, "vocab_size": len(tokenizer), "sliding_window": 32} | TEXT,
        vision_config=TOWER | {"patch_size": 12, "vision_use_head": False},
        mm_tokens_per_image=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_id=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_id=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )
    template = "{{ bos_token }}" + CHAT.replace("IMAGE", "<start_of_image>")
    images = Gemma3ImageProcessor(image_seq_length=4, **SQUARE)
    processor = Gemma3Processor(images, tokenizer, template, image_seq_length=4)
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


def save_tiny_gemma4(directory: Path, *, seed: int = 0) -> Path:
    """Embeddings for each layer, keys and values shared by the last two, a part for sounds; an image is 64 tokens."""
    roles = {"boi_token": "<|image>", "image_token": "<|image|>", "eoi_token": "<image|>"}
    roles |= {"boa_token": "<|audio>", "audio_token": "<|audio|>", "eoa_token": "<audio|>"}
    special = ("<bos>", "<eos>", "<|im_start|>", "<|im_end|>", *roles.values(), "<|video|>")
    tokenizer = build_tokenizer(*special, bos_token="<bos>", eos_token="<eos>")
    tokenizer._set_model_specific_special_tokens(roles)
    ids = dict(zip(special, tokenizer.convert_tokens_to_ids(list(special)), strict=True))
    text = {
        "vocab_size": len(tokenizer), "vocab_size_per_layer_input": len(tokenizer), "hidden_size_per_layer_input": 8,
        "num_hidden_layers": 3, "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_kv_shared_layers": 1, "global_head_dim": 16, "sliding_window": 32, "max_position_embeddings": 512,
        "use_bidirectional_attention": "vision",
    }  # fmt: skip
    vision = {
        "num_hidden_layers": 2, "num_key_value_heads": 4, "head_dim": 8, "patch_size": 3, "pooling_kernel_size": 2,
        "position_embedding_size": 32, "use_clipped_linears": True,
    }  # fmt: skip
    config = Gemma4Config(
        text_config=TEXT | text,
        vision_config={key: value for key, value in TOWER.items() if key != "image_size"} | vision,
        audio_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "output_proj_dims": 16},
        **{f"{name}_id": ids[token] for name, token in roles.items()},
        video_token_id=ids["<|video|>"],
    )
    tokenizer.chat_template = "{{ bos_token }}" + CHAT.replace("IMAGE", "<|image|>")
    save_checkpoint(directory, config, tokenizer, [tokenizer], seed)
    parts = {
        "image_processor": Gemma4ImageProcessorPil(patch_size=3, pooling_kernel_size=2, max_soft_tokens=70).to_dict(),
        "feature_extractor": Gemma4AudioFeatureExtractor(fft_length=512).to_dict(),
        "video_processor": {"video_processor_type": "Gemma4VideoProcessor", "num_frames": 8},
    }
    settings = {"processor_class": "Gemma4Processor", "image_seq_length": 70}
    (directory / "processor_config.json").write_text(json.dumps(settings | parts, default=lambda value: value.tolist()))
    return directory


def save_tiny_llava(
    directory: Path,
    *,
    classes: tuple[Any, Any, Any] = (LlavaConfig, CLIPImageProcessor, LlavaProcessor),
    seed: int = 0,
    **points: Any,
) -> Path:
    """As llava-1.5: a CLIP tower read before its last layer, without its class token.

    With `points` as llava-1.6: the image whole and in parts, with a new-line token after each row of patches.
    """
    config_class, images_class, processor_class = classes
    tokenizer = build_tokenizer("</s>", "<image>", eos_token="</s>")
    processor = processor_class(
        images_class(**CROPPED, **points), tokenizer, patch_size=16, vision_feature_select_strategy="default",
        chat_template=VICUNA, num_additional_image_tokens=1,
    )  # fmt: skip
    config = config_class(
        text_config={"model_type": "llama", "pad_token_id": 0, "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"model_type": "clip_vision_model", "projection_dim": VISION_WIDTH},
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **points,
    )
    return save_checkpoint(directory, config, tokenizer, [processor], seed)


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
    images = LlavaOnevisionImageProcessor(image_grid_pinpoints=points, **SQUARE)
    tokenizer.chat_template = CHAT.replace("IMAGE", "<image>\n")
    save_checkpoint(directory, config, tokenizer, [images, tokenizer], seed)
    settings = {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 9}
    settings["vision_feature_select_strategy"] = "full"
    (directory / "processor_config.json").write_text(json.dumps(settings))
    return directory


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
    tokenizer.chat_template = CHAT.replace("IMAGE", "<IMG_CONTEXT>\n")
    images = GotOcr2ImageProcessor(crop_to_patches=False, **SQUARE)
    save_checkpoint(directory, config, tokenizer, [images, tokenizer], seed)
    settings = {"processor_class": "InternVLProcessor", "image_seq_length": 4}
    (directory / "processor_config.json").write_text(json.dumps(settings))
    return directory


def save_tiny_git(directory: Path, *, seed: int = 0) -> Path:
    tokenizer = BertTokenizerFast(vocab=VOCABULARY)
    config = GitConfig(
        vision_config=TOWER, vocab_size=len(VOCABULARY), hidden_size=WIDTH, intermediate_size=MLP,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, max_position_embeddings=40, initializer_range=SPREAD,
        bos_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    tokenizer.eos_token = "[SEP]"
    processor = GitProcessor(CLIPImageProcessor(**CROPPED), tokenizer)
    return save_checkpoint(directory, config, tokenizer, [processor], seed, GitForCausalLM)


MAKERS: dict[str, Callable[..., Path]] = {
    "qwen2_5_vl": partial(save_qwen, Qwen2_5_VLConfig, QWEN_TOWER | {"window_size": 48, "fullatt_block_indexes": [1]}),
    "qwen3_vl": partial(
        save_qwen,
        Qwen3VLConfig,
        QWEN_TOWER | {"depth": 3, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
    ),
    "idefics3": save_tiny_idefics3,
    "smolvlm": partial(save_tiny_idefics3, config_class=SmolVLMConfig),
    "paligemma": save_tiny_paligemma,
    "gemma3": save_tiny_gemma3,
    "gemma4": save_tiny_gemma4,
    "llava": save_tiny_llava,
    "git": save_tiny_git,
}
FURTHER: dict[str, Callable[..., Path]] = {
    "qwen2_vl": partial(
        save_qwen,
        Qwen2VLConfig,
        {
            "depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "mlp_ratio": 2, "num_heads": 4, "patch_size": 12,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": SPREAD,
        },
    ),
    "qwen3_5": save_tiny_qwen3_5,
    "llava_next": partial(
        save_tiny_llava,
        classes=(LlavaNextConfig, LlavaNextImageProcessor, LlavaNextProcessor),
        image_grid_pinpoints=[[96, 96], [48, 96]],
    ),
    "llava_onevision": save_tiny_llava_onevision,
    "internvl": save_tiny_internvl,
    "idefics2": save_tiny_idefics2,
}  # fmt: skip
"""Models that no line of the family was written for."""
