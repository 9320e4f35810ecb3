"""Fused attention is transformers' own arithmetic, and can be undone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BlipForConditionalGeneration
from transformers.models.blip.modeling_blip import BlipAttention

from medcap_core.models.blip.captioner import FusedVisionAttention, fuse_attention
from tests.support.tiny_blip import VISION_WIDTH


@pytest.fixture
def plain(tiny_blip: Path) -> BlipForConditionalGeneration:
    return BlipForConditionalGeneration.from_pretrained(tiny_blip, attn_implementation="eager").eval()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_every_layer_is_fused_and_back(plain: BlipForConditionalGeneration) -> None:
    for fused, kind in ((True, FusedVisionAttention), (False, BlipAttention)):
        fuse_attention(plain.vision_model, fused=fused)
        assert [type(layer.self_attn) for layer in plain.vision_model.encoder.layers] == [kind] * 3


def test_vision_attention(plain: BlipForConditionalGeneration) -> None:
    layer = plain.vision_model.encoder.layers[1].self_attn
    hidden_states = draw(2, 7, VISION_WIDTH)
    expected = layer(hidden_states)[0]
    fuse_attention(plain.vision_model)
    torch.testing.assert_close(layer(hidden_states)[0], expected, atol=1e-5, rtol=0)
