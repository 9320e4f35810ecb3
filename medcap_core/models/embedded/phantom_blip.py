"""The starting point of the embedded base model: a small BLIP with random weights, in Hub format.

A small copy of Salesforce/blip-image-captioning-base (https://huggingface.co/Salesforce/blip-image-captioning-base):
BlipForConditionalGeneration with BlipImageProcessor and a lower-casing WordPiece tokenizer whose `[DEC]` begins every
caption. Training it on the general phantom domain gives `phantom-blip`.
"""

import re
from importlib.resources import files
from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from medcap_core.data.phantoms.wording import list_phrases

_PATCH_SIZE = 16  # pixels
_HIDDEN_SIZE = 128
_INTERMEDIATE_SIZE = 320
_NUM_HEADS = 4
_NUM_VISION_LAYERS = 4
_NUM_TEXT_LAYERS = 3
_INITIALIZER_RANGE = 0.06  # BERT's 0.02 suits a width of 768; narrow layers learn far more slowly with it
_MAX_TOKENS = 256

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789" + "ßæðøþłıœđ" + "αβγδεζηθικλμνξοπρσςτυφχψω" + "µ°±×÷²³¹½¼¾ªº"
_MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~" + "“”‘’„‚«»‹›–—‐‑‒―…•·′″¡¿§¶©®™†‡" + "≤≥≈≠≡∞√∑∆∂−←→↑↓↔∼⁄€£¥¢¬¨¯´¸"
_WORD = re.compile(r"[^\W_]+")


def build_vocabulary() -> dict[str, int]:
    """Build token -> id: special tokens, letters and marks alone and inside words, phantom words, asset words."""
    characters = [*_LETTERS, *_MARKS]
    tokens = [*_SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    for phrase in list_phrases():
        tokens += _WORD.findall(phrase.lower())
    text = (files("medcap_core") / "assets" / "phantom-blip-words.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        for word in line.split() if not line.startswith("#") or line.startswith("##") else ():
            tokens += [word] if word.startswith("##") else _WORD.findall(word)
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _build_config(vocabulary: dict[str, int], image_size: int) -> BlipConfig:
    sizes = {
        "hidden_size": _HIDDEN_SIZE,
        "intermediate_size": _INTERMEDIATE_SIZE,
        "num_attention_heads": _NUM_HEADS,
        "projection_dim": _HIDDEN_SIZE,
        "initializer_range": _INITIALIZER_RANGE,
    }
    return BlipConfig(
        text_config={
            **sizes,
            "num_hidden_layers": _NUM_TEXT_LAYERS,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": _MAX_TOKENS,
            "bos_token_id": vocabulary["[DEC]"],
            "eos_token_id": vocabulary["[SEP]"],
            "sep_token_id": vocabulary["[SEP]"],
            "pad_token_id": vocabulary["[PAD]"],
        },
        vision_config={
            **sizes,
            "num_hidden_layers": _NUM_VISION_LAYERS,
            "image_size": image_size,
            "patch_size": _PATCH_SIZE,
        },
        projection_dim=_HIDDEN_SIZE,
        image_text_hidden_size=_HIDDEN_SIZE,
        initializer_range=_INITIALIZER_RANGE,
    )


def _build_processor(vocabulary: dict[str, int], image_size: int) -> BlipProcessor:
    tokenizer = BertTokenizer(
        vocab=vocabulary,
        do_lower_case=True,
        bos_token="[DEC]",
        additional_special_tokens=["[ENC]"],
        model_max_length=_MAX_TOKENS,
    )
    images = BlipImageProcessor(size={"height": image_size, "width": image_size})
    return BlipProcessor(image_processor=images, tokenizer=tokenizer)  # type: ignore[no-untyped-call]


def build_phantom_blip(directory: Path, *, seed: int, image_size: int = 96) -> None:
    """Write a small BLIP with random weights and its processor to `directory`, in Hub format with safetensors.

    `image_size` is in pixels a side, a multiple of 16. The same seed gives the same weights; the caller's random state
    is unchanged. `generate` stops after 20 new tokens unless given `max_new_tokens`, as BLIP's text decoder takes its
    limits from the call alone.
    """
    if image_size <= 0 or image_size % _PATCH_SIZE:
        raise ValueError(f"image_size must be a positive multiple of {_PATCH_SIZE}, but it is {image_size}")
    vocabulary = build_vocabulary()
    config = _build_config(vocabulary, image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlipForConditionalGeneration(config)
    model.save_pretrained(directory)
    _build_processor(vocabulary, image_size).save_pretrained(directory)
