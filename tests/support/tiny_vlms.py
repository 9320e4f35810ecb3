"""Very small random vision-language models of transformers in true Hub format, their tokenizers built here."""

from collections.abc import Callable
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
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    Idefics3Config,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlavaConfig,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
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
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": WIDTH // HEADS,
    "max_position_embeddings": POSITIONS,
    "initializer_range": SPREAD,
}
TOWER = {
    "hidden_size": VISION_WIDTH,
    "intermediate_size": VISION_MLP,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 48,
    "patch_size": 16,
    "initializer_range": SPREAD,
}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
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


def build_network(config: Any, seed: int, make: Callable[[Any], Any] = AutoModelForImageTextToText.from_config) -> Any:
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
    processor: Any,
    seed: int,
    make: Callable[[Any], Any] = AutoModelForImageTextToText.from_config,
) -> Path:
    network = build_network(config, seed, make)
    network.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    network.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    network.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def save_qwen(
    directory: Path, config_class: Any, vision: dict[str, Any], seed: int, text: dict[str, Any] | None = None
) -> Path:
    names = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = build_tokenizer(*names, eos_token="<|im_end|>")
    ids = dict(zip(names, tokenizer.convert_tokens_to_ids(list(names)), strict=True))
    config = config_class(
        text_config=TEXT
        | {
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0},
        }
        | (text or {}),
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    network = build_network(config, seed)
    network.generation_config.eos_token_id = [ids["<|im_end|>"], 0]
    network.generation_config.pad_token_id = 0
    network.save_pretrained(directory)
    # Its processor has a video part, which needs torchvision: image part and tokenizer are saved as the Hub has them.
    Qwen2VLImageProcessor(
        patch_size=vision["patch_size"], merge_size=2, image_mean=MEAN, image_std=STD
    ).save_pretrained(directory)
    tokenizer.chat_template = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    tokenizer.save_pretrained(directory)
    return directory


def save_tiny_qwen2_5_vl(directory: Path, *, seed: int = 0) -> Path:
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": VISION_MLP, "num_heads": 4, "out_hidden_size": WIDTH,
        "patch_size": 12, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 48,
        "fullatt_block_indexes": [1], "initializer_range": SPREAD,
    }  # fmt: skip
    return save_qwen(directory, Qwen2_5_VLConfig, vision, seed)


def save_tiny_qwen3_vl(directory: Path, *, seed: int = 0) -> Path:
    vision = {
        "depth": 3, "hidden_size": 32, "intermediate_size": VISION_MLP, "num_heads": 4, "out_hidden_size": WIDTH,
        "patch_size": 12, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1], "initializer_range": SPREAD,
    }  # fmt: skip
    return save_qwen(directory, Qwen3VLConfig, vision, seed)


def save_tiny_idefics3(directory: Path, *, smol: bool = False, seed: int = 0) -> Path:
    """Idefics3, or SmolVLM; an image of 48 pixels is 4 tokens, one of 96 is split into 4 and a whole."""
    parts = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    special = ("<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>")
    tokenizer = build_tokenizer(*special, "<global-img>", *parts, eos_token="<end_of_utterance>")
    config = (SmolVLMConfig if smol else Idefics3Config)(
        text_config={"model_type": "llama", "pad_token_id": 0, "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"patch_size": 12},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    images = Idefics3ImageProcessor(
        size={"longest_edge": 192}, max_image_size={"longest_edge": 48}, image_mean=MEAN, image_std=STD
    )
    template = CHAT.replace("<|im_end|>", "<end_of_utterance>").replace("IMAGE", "<image>")
    return save_checkpoint(directory, config, Idefics3Processor(images, tokenizer, 4, chat_template=template), seed)


def save_tiny_paligemma(directory: Path, *, seed: int = 0) -> Path:
    tokenizer = build_tokenizer("<bos>", "<eos>", "<image>", bos_token="<bos>", eos_token="<eos>")
    images = SiglipImageProcessor(size={"height": 48, "width": 48}, image_mean=MEAN, image_std=STD)
    images.image_seq_length = 9
    processor = PaliGemmaProcessor(images, tokenizer)
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", "pad_token_id": 0, "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"model_type": "siglip_vision_model", "projection_dim": WIDTH, "vision_use_head": False},
        projection_dim=WIDTH,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return save_checkpoint(directory, config, processor, seed)


def save_tiny_gemma3(directory: Path, *, seed: int = 0) -> Path:
    roles = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
    special = ("<bos>", "<eos>", "<|im_start|>", "<|im_end|>", *roles.values())
    tokenizer = build_tokenizer(*special, bos_token="<bos>", eos_token="<eos>")
    tokenizer._set_model_specific_special_tokens(roles)
    images = Gemma3ImageProcessor(size={"height": 48, "width": 48}, image_seq_length=4, image_mean=MEAN, image_std=STD)
    template = "{{ bos_token }}" + CHAT.replace("IMAGE", "<start_of_image>")
    config = Gemma3Config(
        text_config={"pad_token_id": 0, "vocab_size": len(tokenizer), "sliding_window": 32} | TEXT,
        vision_config=TOWER | {"image_size": 48, "patch_size": 12, "vision_use_head": False},
        mm_tokens_per_image=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_id=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_id=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )
    return save_checkpoint(directory, config, Gemma3Processor(images, tokenizer, template, image_seq_length=4), seed)


def save_tiny_llava(directory: Path, *, seed: int = 0) -> Path:
    """As llava-1.5: a CLIP tower read before its last layer, without its class token."""
    tokenizer = build_tokenizer("</s>", "<image>", eos_token="</s>")
    images = CLIPImageProcessor(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, image_mean=MEAN, image_std=STD
    )
    processor = LlavaProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="default", chat_template=VICUNA,
        num_additional_image_tokens=1,
    )  # fmt: skip
    config = LlavaConfig(
        text_config={"model_type": "llama", "pad_token_id": 0, "vocab_size": len(tokenizer)} | TEXT,
        vision_config=TOWER | {"model_type": "clip_vision_model", "projection_dim": VISION_WIDTH},
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return save_checkpoint(directory, config, processor, seed)


def save_tiny_git(directory: Path, *, seed: int = 0) -> Path:
    tokenizer = BertTokenizerFast(vocab=VOCABULARY)
    images = CLIPImageProcessor(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, image_mean=MEAN, image_std=STD
    )
    config = GitConfig(
        vision_config=TOWER, vocab_size=len(VOCABULARY), hidden_size=WIDTH, intermediate_size=MLP,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, max_position_embeddings=40, initializer_range=SPREAD,
        bos_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    tokenizer.eos_token = "[SEP]"
    return save_checkpoint(directory, config, GitProcessor(images, tokenizer), seed, GitForCausalLM)


MAKERS: dict[str, Callable[..., Path]] = {
    "qwen2_5_vl": save_tiny_qwen2_5_vl,
    "qwen3_vl": save_tiny_qwen3_vl,
    "idefics3": save_tiny_idefics3,
    "smolvlm": lambda directory, seed=0: save_tiny_idefics3(directory, smol=True, seed=seed),
    "paligemma": save_tiny_paligemma,
    "gemma3": save_tiny_gemma3,
    "llava": save_tiny_llava,
    "git": save_tiny_git,
}
