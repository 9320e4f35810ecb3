"""Initialisation of MedBLIP's 3D patch and position embeddings from those of a 2D encoder.

The published code initialises them at random. Inflated ones match, from the first step, the scale of the patches that
the frozen blocks were trained on. Random positions of the usual scale (0.02) are weak beside them and learnt slowly,
though findings in a head depend on location.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medcap_core.models.medblip3d.network import MedBlip3dNetwork


@torch.no_grad()
def inflate_embeddings(network: MedBlip3dNetwork, vision_tower: Any, mean: list[float], std: list[float]) -> None:
    """Set patch and position embeddings of `network` from those of `vision_tower`.

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
