"""Weights, tokenizer and image size of a checkpoint, which must be complete."""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoImageProcessor

from medcap_core.data.images import ImageGeometry
from medcap_core.errors import ModelFault
from medcap_core.runtime.checkpoints import load_pretrained


@dataclass(frozen=True)
class LoadOptions:
    """Options of loading a checkpoint.

    `image_size` in pixels a side and `vision_model`, a Hub name or folder of another vision tower, default to the
    checkpoint's own; `dtype` is the dtype of the weights; `quantization` is none, 8bit or 4bit. The others are for
    MedBLIP in 3D: `language_model` a Hub name or folder, `patch_size` in voxels a side.
    """

    image_size: int | None = None
    vision_model: str | None = None
    dtype: torch.dtype = torch.float32
    quantization: str = "none"
    language_model: str | None = None
    num_queries: int | None = None
    patch_size: int | None = None
    qformer_layers: int | None = None


def load_whole_network(network_class: Any, source: str, *, may_lack: str = r"(?!)", **options: Any) -> Any:
    """Load a transformers class from safetensors by `from_pretrained`, which gets `options`.

    Raises ModelFault where the weights lack a tensor of config.json or have it in another shape, unless the pattern
    `may_lack` is found in its name: such a tensor is initialised at random.
    """
    loaded: Any = load_pretrained(
        network_class,
        source,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported below, with the missing ones
        **options,
    )
    network, report = loaded
    absent = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    absent = {key for key in absent if not re.search(may_lack, key)}
    if absent:
        raise ModelFault(
            f"model {source}: {len(absent)} tensors of the captioner that config.json describes (such as "
            f"{min(absent)}) are not in its weights or have another shape there; give a whole checkpoint saved "
            f"from {network_class.__name__}."
        )
    return network


def check_tokenizer(tokenizer: Any, vocab_size: int, source: str) -> None:
    """Raise ModelFault for a tokenizer that does not fit; without its file one loads with special tokens alone."""
    num_words = len(tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens))
    if not num_words or len(tokenizer) > vocab_size:
        raise ModelFault(
            f"model {source}: its tokenizer knows {num_words} words, its decoder has a vocabulary of {vocab_size}; "
            "give the checkpoint its own tokenizer.json."
        )


def load_image_processor(source: str) -> Any:
    """Load the image processor of a folder or Hub model."""
    return load_pretrained(AutoImageProcessor, source)


def set_image_size(image_processor: Any, size: int) -> ImageGeometry:
    """Set an image processor to stretch images to a square of `size` pixels, and return that geometry.

    The centre crop of some processors is switched off, since a finding may lie at the border. Those that
    keep an image's shape get bounds that leave such squares as they are.
    """
    if sizes := list_square_sizes(image_processor):
        image_processor.max_soft_tokens = sizes[size]
        return ImageGeometry(size=size, resample=int(image_processor.resample))
    bounds = dict(image_processor.size)
    if not takes_any_size(image_processor):
        image_processor.size = {"height": size, "width": size}
    else:
        if bounds.get("shortest_edge") is not None:  # Qwen-VL's, which merge patches, in pixels of the whole image
            bound = size**2 if hasattr(image_processor, "merge_size") else size
            image_processor.size = {"shortest_edge": bound, "longest_edge": bound}
        else:
            image_processor.size = {"longest_edge": size}
        image_processor.square_size = size  # saved with it, since these bounds do not always tell
    if getattr(image_processor, "do_center_crop", False):
        image_processor.do_center_crop = False
    return ImageGeometry(size=size, resample=int(image_processor.resample))


def list_square_sizes(image_processor: Any) -> dict[int, int]:
    """List the sides in pixels of the squares a processor makes within each budget of tokens it may be given.

    Gemma 4's; empty for others, whose size is set in pixels.
    """
    if not hasattr(image_processor, "max_soft_tokens"):
        return {}
    side = int(image_processor.patch_size) * int(image_processor.pooling_kernel_size)
    return {math.isqrt(tokens) * side: tokens for tokens in (70, 140, 280, 560, 1120)}


def takes_any_size(image_processor: Any) -> bool:
    """Check whether a processor gives images of any size and shape, within bounds, rather than of one."""
    return dict(image_processor.size).get("longest_edge") is not None


def read_size(image_size: int | list[int] | tuple[int, ...]) -> int:
    """Read the pixels a side from a config value that may be (height, width)."""
    return int(image_size if isinstance(image_size, int) else image_size[0])


def check_patches(size: int, patch_size: int, source: str) -> None:
    """Raise ModelFault if the patches do not fill an image of `size` pixels a side."""
    if size % patch_size:
        raise ModelFault(
            f"image_size {size} is no multiple of the {patch_size}-pixel patches of model {source}; "
            f"give {size - size % patch_size or patch_size}."
        )


def resize_positions(vision_model: Any, config: Any, size: int | None, source: str) -> None:
    """Interpolate the position embedding of a vision tower to `size` pixels a side, in place; None is its own size.

    transformers does the same in each forward pass. `config` is the tower's. Raises ModelFault where it has none.
    """
    embeddings, own_size = vision_model.embeddings, read_size(config.image_size)
    if size is None or size == own_size:
        return
    name = "position_embedding" if hasattr(embeddings, "position_embedding") else "position_embeddings"  # BLIP, ViT
    positions = getattr(embeddings, name, None)
    if not isinstance(positions, nn.Parameter) or not hasattr(embeddings, "interpolate_pos_encoding"):
        raise ModelFault(
            f"image_size {size}: the vision tower {source} ({config.model_type}) has no position embedding that could "
            f"be interpolated; leave image_size out, which takes its own {own_size} pixels."
        )
    patch_size = int(config.patch_size)
    check_patches(size, patch_size, source)
    num_patches = (size // patch_size) ** 2
    num_positions = positions.shape[1] - (own_size // patch_size) ** 2 + num_patches
    with torch.no_grad():
        resized = embeddings.interpolate_pos_encoding(torch.empty(1, num_positions, positions.shape[2]), size, size)
    resized = nn.Parameter(resized.clone().to(positions.dtype), requires_grad=positions.requires_grad)
    setattr(embeddings, name, resized)
    sizes = {"image_size": size, "num_patches": num_patches, "num_positions": num_positions}
    for part in (embeddings, getattr(embeddings, "patch_embeddings", embeddings)):
        for key in sizes.keys() & vars(part).keys():
            setattr(part, key, (size, size) if isinstance(getattr(part, key), tuple) else sizes[key])
    config.image_size = size
