"""Very small random captioners of each family, in true Hub format, their tokenizers built here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from tests.support.tiny_blip import IMAGE_SIZE, PATCH_SIZE, VOCABULARY, WORDS

VISION_WIDTH, VISION_MLP, VISION_LAYERS = 24, 40, 3
BRIDGE_WIDTH, BRIDGE_MLP, BRIDGE_LAYERS, NUM_QUERIES = 20, 28, 2, 5
TEXT_WIDTH, TEXT_MLP, TEXT_LAYERS = 32, 56, 2
MAX_POSITIONS = 40
MEAN, STD = [0.5, 0.45, 0.4], [0.25, 0.3, 0.35]
"""Other than any default, so that it shows where they are not used."""

_VISION = {
    "hidden_size": VISION_WIDTH, "intermediate_size": VISION_MLP, "num_hidden_layers": VISION_LAYERS,
    "num_attention_heads": 4, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE,
}  # fmt: skip
_QFORMER = {
    "hidden_size": BRIDGE_WIDTH, "intermediate_size": BRIDGE_MLP, "num_hidden_layers": BRIDGE_LAYERS,
    "num_attention_heads": 4, "max_position_embeddings": 16, "vocab_size": len(VOCABULARY),
    "encoder_hidden_size": VISION_WIDTH,
}  # fmt: skip


def _all_words() -> list[str]:
    return " ".join(WORDS).split()


def build_byte_tokenizer(*, begins: bool) -> transformers.PreTrainedTokenizerFast:
    """As GPT-2's and OPT's: words with the space before them, other text byte by byte.

    With `begins` it opens each text with `</s>` and has OPT's special tokens; else the one token of GPT-2.
    """
    special = ["<s>", "<pad>", "</s>", "<unk>"] if begins else ["<|endoftext|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    merges: list[tuple[str, str]] = []
    # A merge that comes first wins: with those that begin with the space each word becomes one token.
    for space in ("\u0120", ""):  # as ByteLevel writes it
        for text in (space + word for word in _all_words()):
            for end in range(2, len(text) + 1):
                if (pair := (text[: end - 1], text[end - 1])) not in merges:
                    merges.append(pair)
                vocabulary.setdefault(text[:end], len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if not begins:
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, **dict.fromkeys(_TOKEN_ROLES, "<|endoftext|>")
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


_TOKEN_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


def build_t5_tokenizer() -> transformers.T5Tokenizer:
    """A Unigram tokenizer whose pieces are the words, and letters for all others."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("\u2581", -8.0)]
    pieces += [(f"\u2581{word}", -2.0) for word in dict.fromkeys(_all_words())]
    pieces += [(letter, -7.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0)


def _start_at_random(network: torch.nn.Module, spread: float) -> None:
    """Query tokens, biases and norms start as constants; other values show mistakes in them."""
    for name, parameter in network.named_parameters():
        if name.startswith("language_projection."):  # loud enough to be heard among the words
            torch.nn.init.normal_(parameter, std=4 * spread)
        elif parameter.ndim < 2 or name == "query_tokens":
            torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=spread)


def build(make: Callable[[], Any], seed: int, spread: float) -> Any:
    """Make a network with the random state of `seed`, biases and norms at random too."""
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
        _start_at_random(network, spread)
    return network


def save_tiny_blip2(
    directory: Path, language_model: str = "opt", *, instruct: bool = False, seed: int = 0, spread: float = 0.5
) -> Path:
    """BLIP-2, or InstructBLIP with `instruct`, over an OPT (`opt`) or a FLAN-T5 (`t5`)."""
    images = transformers.BlipImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=MEAN, image_std=STD
    )
    tokenizer = build_t5_tokenizer() if language_model == "t5" else build_byte_tokenizer(begins=True)
    if instruct:
        processor: Any = transformers.InstructBlipProcessor(
            images, tokenizer, transformers.BertTokenizerFast(vocab=VOCABULARY), num_query_tokens=NUM_QUERIES
        )
    else:
        processor = transformers.Blip2Processor(images, tokenizer, num_query_tokens=NUM_QUERIES)
    spreads = {"initializer_range": spread}
    config = (transformers.InstructBlipConfig if instruct else transformers.Blip2Config)(
        vision_config=_VISION | spreads,
        qformer_config=_QFORMER | spreads,
        text_config=_describe_language_model(language_model, tokenizer, spread),
        num_query_tokens=NUM_QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=spread,
    )
    network_class = (
        transformers.InstructBlipForConditionalGeneration if instruct else transformers.Blip2ForConditionalGeneration
    )
    build(lambda: network_class(config), seed, spread).save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def _describe_language_model(kind: str, tokenizer: Any, spread: float) -> dict[str, Any]:
    if kind == "t5":
        return {
            "model_type": "t5", "vocab_size": len(tokenizer), "d_model": TEXT_WIDTH, "d_kv": 8, "d_ff": TEXT_MLP,
            "num_layers": TEXT_LAYERS, "num_heads": 4, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
            "decoder_start_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
            "initializer_factor": 4 * spread,
        }  # fmt: skip
    return {
        "model_type": "opt", "vocab_size": len(tokenizer), "hidden_size": TEXT_WIDTH, "ffn_dim": TEXT_MLP,
        "num_hidden_layers": TEXT_LAYERS, "num_attention_heads": 4, "word_embed_proj_dim": TEXT_WIDTH,
        "max_position_embeddings": MAX_POSITIONS, "bos_token_id": 2, "pad_token_id": 1,
        # The published model ends a caption with a line end.
        "eos_token_id": tokenizer("\n", add_special_tokens=False).input_ids[0], "init_std": spread,
    }  # fmt: skip


def save_tiny_gpt2(
    directory: Path,
    *,
    cross_attention: bool = False,
    num_positions: int = MAX_POSITIONS,
    seed: int = 0,
    spread: float = 0.5,
) -> Path:
    """A GPT-2 alone."""
    tokenizer = build_byte_tokenizer(begins=False)
    config = _describe_gpt2(tokenizer, spread, cross_attention)
    config.n_positions = num_positions
    network = build(lambda: transformers.GPT2LMHeadModel(config), seed, spread)
    network.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _describe_gpt2(tokenizer: Any, spread: float, cross_attention: bool) -> transformers.GPT2Config:
    return transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=TEXT_WIDTH, n_inner=TEXT_MLP, n_layer=TEXT_LAYERS, n_head=4,
        n_positions=MAX_POSITIONS, bos_token_id=0, eos_token_id=0, initializer_range=spread,
        is_decoder=cross_attention, add_cross_attention=cross_attention,
    )  # fmt: skip


def save_tiny_vit_gpt2(directory: Path, *, seed: int = 0, spread: float = 0.5) -> Path:
    """A ViT and a GPT-2 of another width, as nlpconnect/vit-gpt2-image-captioning lays them out."""
    tokenizer = build_byte_tokenizer(begins=False)
    encoder = transformers.ViTConfig(**_VISION, initializer_range=spread)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, _describe_gpt2(tokenizer, spread, True)
    )
    config.decoder_start_token_id = config.eos_token_id = config.pad_token_id = 0
    build(lambda: transformers.VisionEncoderDecoderModel(config), seed, spread).save_pretrained(directory)
    build_vit_processor().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def build_vit_processor() -> transformers.ViTImageProcessor:
    return transformers.ViTImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=MEAN, image_std=STD
    )


def save_tiny_tower(directory: Path, kind: str, *, seed: int = 0, spread: float = 0.5) -> Path:
    """A vision tower alone: `vit` (as wide as the text), `deit` or `swin`."""
    if kind == "swin":
        config: Any = transformers.SwinConfig(
            image_size=IMAGE_SIZE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=3,
            initializer_range=spread,
        )  # fmt: skip
        network = build(lambda: transformers.SwinModel(config), seed, spread)
    else:
        width = {"hidden_size": TEXT_WIDTH} if kind == "vit" else {}
        settings = _VISION | width | {"initializer_range": spread}
        name = "ViT" if kind == "vit" else "DeiT"
        made = getattr(transformers, f"{name}Config")(**settings)
        network = build(lambda: getattr(transformers, f"{name}Model")(made), seed, spread)
    network.save_pretrained(directory)
    processor: Any = build_vit_processor()
    if kind == "deit":
        crop = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        processor = transformers.DeiTImageProcessor(size={"height": 64, "width": 64}, crop_size=crop)
    processor.save_pretrained(directory)
    return directory


def save_tiny_biogpt(directory: Path, *, seed: int = 0, spread: float = 0.3) -> Path:
    """A BioGPT alone, its tokenizer's files as microsoft/biogpt has them: Moses words, then byte pairs that end so."""
    ends = [f"{word}</w>" for word in dict.fromkeys(_all_words())]
    letters = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz?:" for end in ("", "</w>")]
    merges: list[tuple[str, str]] = []
    pieces: list[str] = []
    for word in dict.fromkeys(_all_words()):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        for end in range(2, len(parts) + 1):
            pair = ("".join(parts[: end - 1]), parts[end - 1])
            if pair not in merges:
                merges.append(pair)
            pieces.append("".join(parts[:end]))
    vocabulary = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *letters, *pieces, *ends])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (directory / "merges.txt").write_text("\n".join(f"{left} {right} 1" for left, right in merges) + "\n")
    tokenizer = transformers.BioGptTokenizer(str(directory / "vocab.json"), str(directory / "merges.txt"))
    config = transformers.BioGptConfig(
        vocab_size=len(vocabulary), hidden_size=TEXT_WIDTH, intermediate_size=TEXT_MLP,
        num_hidden_layers=TEXT_LAYERS, num_attention_heads=4, max_position_embeddings=200,
        bos_token_id=0, pad_token_id=1, eos_token_id=2, initializer_range=spread,
    )  # fmt: skip
    build(lambda: transformers.BioGptForCausalLM(config), seed, spread).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_tiny_t5(directory: Path, *, seed: int = 0, spread: float = 0.5) -> Path:
    """A T5 of FLAN-T5's kind, alone."""
    tokenizer = build_t5_tokenizer()
    values = _describe_language_model("t5", tokenizer, spread)
    values.pop("model_type")
    build(
        lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**values)), seed, spread
    ).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
