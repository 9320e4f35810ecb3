"""Fused attention is transformers' own arithmetic, and can be undone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BlipForConditionalGeneration
from transformers.models.blip.modeling_blip import BlipAttention
from transformers.models.blip.modeling_blip_text import BlipTextSelfAttention

from medcap_core.models.blip_attention import (
    FusedTextAttention,
    FusedVisionAttention,
    fuse_attention,
    unfuse_attention,
)
from tests.tiny_blip import TEXT_WIDTH, VISION_WIDTH


@pytest.fixture
def plain(tiny_blip: Path) -> BlipForConditionalGeneration:
    return BlipForConditionalGeneration.from_pretrained(tiny_blip, attn_implementation="eager").eval()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_every_layer_is_fused_and_back(plain: BlipForConditionalGeneration) -> None:
    for change, vision, text in (
        (fuse_attention, FusedVisionAttention, FusedTextAttention),
        (unfuse_attention, BlipAttention, BlipTextSelfAttention),
    ):
        change(plain)
        kinds = [
            type(module) for module in plain.modules() if isinstance(module, BlipAttention | BlipTextSelfAttention)
        ]
        assert kinds == [vision] * 3 + [text] * 4


def test_vision_attention(plain: BlipForConditionalGeneration) -> None:
    layer = plain.vision_model.encoder.layers[1].self_attn
    hidden_states = draw(2, 7, VISION_WIDTH)
    expected = layer(hidden_states)[0]
    fuse_attention(plain)
    torch.testing.assert_close(layer(hidden_states)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_cross", [False, True])
def test_text_attention(plain: BlipForConditionalGeneration, is_cross: bool) -> None:
    layer = plain.text_decoder.bert.encoder.layer[1]
    attention = (layer.crossattention if is_cross else layer.attention).self
    mask = torch.full((5, 5), torch.finfo(torch.float32).min).triu(1)[None, None]
    given = {"encoder_hidden_states": draw(3, 11, VISION_WIDTH)} if is_cross else {"attention_mask": mask}
    hidden_states = draw(3, 5, TEXT_WIDTH)
    expected = attention(hidden_states, **given)[0]
    fuse_attention(plain)
    torch.testing.assert_close(attention(hidden_states, **given)[0], expected, atol=1e-5, rtol=0)
