"""Composition of MedBLIP in 3D from a named 2D encoder and a named language model."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, Blip2QFormerConfig

from medcap_core.errors import ModelFault
from medcap_core.models.loading.load_faults import name_load_faults
from medcap_core.models.loading.weights import LoadOptions, load_image_processor, load_whole_network
from medcap_core.models.medblip3d.network import VISION_TOWERS, MedBlip3dConfig, MedBlip3dNetwork, find_blocks
from medcap_core.runtime.checkpoints import load_pretrained

_WHOLE_MODELS = {"blip": "blip_vision_model", "blip-2": "blip_2_vision_model"}
"""Captioners whose vision tower can be used, by the prefix `vision_model.` of their weights."""
_NEW_WEIGHTS_SEED = 20230518
"""Fixed, so that the new weights, part of the base model, are the same in every trial and process."""
_MOST_QFORMER_LAYERS = 12
_LARGEST_QFORMER_WIDTH = 768
_HEAD_WIDTH = 64
_INITIALIZER_RANGE = 0.02
"""Of BERT at the largest width."""


def compose_network(options: LoadOptions) -> tuple[MedBlip3dNetwork, Any]:
    """Compose a network of the pre-trained parts in `options` and new weights between them; also its tokenizer.

    Raises ModelFault where the parts do not fit.
    """
    assert options.vision_model is not None and options.language_model is not None
    with name_load_faults(f"vision_model {options.vision_model}", options.vision_model):
        vision_tower = load_vision_tower(options.vision_model, options.dtype)
        pixels = load_image_processor(options.vision_model)
    with name_load_faults(f"language_model {options.language_model}", options.language_model):
        language_model = load_language_model(options.language_model, options.dtype)
        tokenizer = load_tokenizer(options.language_model)
    volume_size = options.image_size or MedBlip3dConfig().volume_size
    patch_size = options.patch_size or MedBlip3dConfig().patch_size
    if volume_size % patch_size:
        raise ModelFault(
            f"image_size {volume_size} is no multiple of patch_size {patch_size}; give "
            f"{volume_size - volume_size % patch_size or patch_size}, or another patch_size."
        )
    config = MedBlip3dConfig(
        vision_config=vision_tower.config.to_dict(),
        qformer_config=build_qformer_config(vision_tower, language_model, options.qformer_layers),
        text_config=language_model.config.to_dict(),
        volume_size=volume_size,
        patch_size=patch_size,
        num_query_tokens=options.num_queries or MedBlip3dConfig().num_query_tokens,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_NEW_WEIGHTS_SEED)
        network = MedBlip3dNetwork(config, vision_tower, language_model)
        inflate_embeddings(network, vision_tower, pixels.image_mean, pixels.image_std)
        # Image tokens start with the standard deviation of token embeddings: larger ones would outweigh positions and
        # text tokens in a language model that was not trained on them.
        spread = float(network.language_model.get_input_embeddings().weight.detach().float().std())
        projection = network.language_projection
        nn.init.normal_(projection.weight, std=spread / projection.in_features**0.5)
    return network, tokenizer


def build_qformer_config(vision_tower: Any, language_model: Any, num_layers: int | None) -> dict[str, Any]:
    """Build the config of a BERT-base Q-Former as in the paper, narrower and shallower for a small encoder.

    The spread of the new weights is BERT's at BERT's width and grows as the width shrinks, which keeps the scale of a
    layer's output: at a width of 128, BERT's own spread learns nothing for hundreds of steps.
    """
    width = min(_LARGEST_QFORMER_WIDTH, vision_tower.config.hidden_size)
    config = Blip2QFormerConfig(
        vocab_size=language_model.get_input_embeddings().num_embeddings,
        hidden_size=width,
        num_hidden_layers=num_layers or min(_MOST_QFORMER_LAYERS, len(find_blocks(vision_tower))),
        num_attention_heads=max(1, width // _HEAD_WIDTH),
        intermediate_size=4 * width,
        hidden_dropout_prob=0.0,  # BERT's 0.1 suits its trained weights; new ones learn far more slowly with it
        attention_probs_dropout_prob=0.0,
        initializer_range=_INITIALIZER_RANGE * (_LARGEST_QFORMER_WIDTH / width) ** 0.5,
        encoder_hidden_size=vision_tower.config.hidden_size,
        use_qformer_text_input=True,
        pad_token_id=language_model.config.pad_token_id or 0,
    )
    values: dict[str, Any] = config.to_dict()
    return values


def load_vision_tower(source: str, dtype: torch.dtype) -> Any:
    """Load the 2D encoder of a BLIP, a BLIP-2 or a ViT from a folder or the Hub. Raises ModelFault for others."""
    config = load_pretrained(AutoConfig, source)
    model_type = _WHOLE_MODELS.get(config.model_type, config.model_type)
    if model_type not in VISION_TOWERS:
        raise ModelFault(
            f"vision_model {source} is a {config.model_type}; medblip3d takes the blocks of a BLIP, a BLIP-2 or a ViT."
        )
    _, tower_class = VISION_TOWERS[model_type]
    options = {}
    if config.model_type in _WHOLE_MODELS:
        options = {"config": config.vision_config, "key_mapping": {r"^vision_model\.": ""}}
    if model_type == "vit":
        options["add_pooling_layer"] = False
    return load_whole_network(tower_class, source, dtype=dtype, **options)


def load_tokenizer(source: str) -> Any:
    """Load a language model's tokenizer. Raises ModelFault where a package it needs is not installed."""
    try:
        return load_pretrained(AutoTokenizer, source)
    except ImportError as error:
        raise ModelFault(
            f"language_model {source}: its tokenizer needs a package that is not installed "
            f"({' '.join(str(error).split())}); BioGPT's is sacremoses: pip install 'medcap-sweep[biogpt]'."
        ) from error


def load_language_model(source: str, dtype: torch.dtype) -> Any:
    """Load a decoder-only or encoder-decoder language model from a folder or the Hub. Raises ModelFault for others."""
    config = load_pretrained(AutoConfig, source)
    model_class: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if config.model_type in _WHOLE_MODELS or type(config) not in model_class._model_mapping:
        raise ModelFault(
            f"language_model {source} is a {config.model_type}, which is no language model; give a decoder-only one "
            "(GPT-2, BioGPT) or an encoder-decoder (FLAN-T5)."
        )
    return load_whole_network(model_class, source, dtype=dtype)


def refuse_other_parts(source: str, options: LoadOptions) -> None:
    """Raise ModelFault where `options` asks for other parts or sizes than the saved model has."""
    config = load_pretrained(MedBlip3dConfig, source)
    faults = [
        f"model {source} has its own {name}; remove {name}, which is for model medblip3d."
        for name in ("vision_model", "language_model", "qformer_layers")
        if getattr(options, name) is not None
    ]
    own = {"image_size": "volume_size", "patch_size": "patch_size", "num_queries": "num_query_tokens"}
    faults += [
        f"model {source} has {name} {getattr(config, field)}; give that or leave {name} out."
        for name, field in own.items()
        if getattr(options, name) not in (None, getattr(config, field))
    ]
    if faults:
        raise ModelFault(faults)


@torch.no_grad()
def inflate_embeddings(network: MedBlip3dNetwork, vision_tower: Any, mean: list[float], std: list[float]) -> None:
    """Set patch and position embeddings of `network` from those of `vision_tower`; the published code draws them.

    Inflated ones match, from the first step, the scale of the patches that the frozen blocks were trained on. Positions
    of the usual scale (0.02) are weak beside them and learnt slowly, though findings in a head depend on location.

    On a volume of identical slices the 3D patch embedding equals the 2D one on a gray slice, normalised by `mean` and
    `std` (per RGB channel, of pixels in [0, 1]). A patch's position is its 2D position in the plane plus a random one
    for its height, of the same standard deviation. Draws from the global generator.
    """
    encoder, config = network.encoder, network.config
    embeddings = vision_tower.embeddings
    convolution = getattr(embeddings, "patch_embedding", None) or embeddings.patch_embeddings.projection
    weight, bias = _fold_normalisation(convolution, torch.tensor(mean), torch.tensor(std))
    patch = config.patch_size
    flat = interpolate(weight, size=(patch, patch), mode="bilinear", antialias=True)
    flat *= weight[0, 0].numel() / patch**2  # keeps the response to a constant patch
    encoder.patch_embedding.weight.copy_(flat[..., None].expand(-1, -1, -1, -1, patch) / patch)
    assert encoder.patch_embedding.bias is not None
    encoder.patch_embedding.bias.copy_(bias)

    positions = getattr(embeddings, "position_embedding", None)
    positions = (embeddings.position_embeddings if positions is None else positions).float()  # (1, 1 + n * n, D)
    side, count, width = math.isqrt(positions.shape[1] - 1), config.volume_size // patch, positions.shape[2]
    square = positions[:, 1:].view(1, side, side, width).permute(0, 3, 1, 2)
    plane = interpolate(square, size=(count, count), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
    heights = plane.std() * torch.randn(count, width)
    encoder.position_embedding[:, 1:] = (plane[:, :, None] + heights).reshape(1, count**3, width)
    encoder.position_embedding[:, :1] = positions[:, :1]


def _fold_normalisation(convolution: Any, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Compute weight (D, 1, p, p) and bias (D) that act on gray pixels as the convolution on normalised RGB."""
    weight = convolution.weight.float() / std.view(1, 3, 1, 1)
    bias = -(weight * mean.view(1, 3, 1, 1)).sum((1, 2, 3))
    if convolution.bias is not None:
        bias = bias + convolution.bias.float()
    return weight.sum(1, keepdim=True), bias
