"""The 3D patch embedding of MedBLIP started from that of a 2D encoder.

Departs from the published code, which starts it at random. Two things then reach frozen blocks and queries from the
first step: patches as bright as those that the blocks were trained on, and where each patch lies. Positions as faint as
usual beside them (0.02) are found out only slowly, and everything in a head is found by its place.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medcap_core.models.medblip3d.network import MedBlip3dNetwork


@torch.no_grad()
def inflate_embeddings(network: MedBlip3dNetwork, vision_tower: Any, mean: list[float], std: list[float]) -> None:
    """Set patch embedding and positions of `network` by those of `vision_tower`.

    The patch embedding sees a slab that is the same in all slices as the 2D one sees its slice in gray, normalised by
    `mean` and `std` (of pixels from 0 to 1, one each for red, green and blue). A patch's position is that of its place
    in the plane, to which a new one for its height is added, as loud as those of the plane are. Draws random numbers.
    """
    encoder, config = network.encoder, network.config
    embeddings = vision_tower.embeddings
    convolution = getattr(embeddings, "patch_embedding", None) or embeddings.patch_embeddings.projection
    weight, bias = _fold_normalisation(convolution, torch.tensor(mean), torch.tensor(std))
    patch = config.patch_size
    flat = interpolate(weight, size=(patch, patch), mode="bilinear", antialias=True)
    flat *= weight[0, 0].numel() / patch**2  # the response to a constant patch stays
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
    """Weight (D, 1, p, p) and bias (D) that make of gray pixels what the convolution makes of normalised RGB ones."""
    weight = convolution.weight.float() / std.view(1, 3, 1, 1)
    bias = -(weight * mean.view(1, 3, 1, 1)).sum((1, 2, 3))
    if convolution.bias is not None:
        bias = bias + convolution.bias.float()
    return weight.sum(1, keepdim=True), bias
