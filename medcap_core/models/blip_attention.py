"""BLIP's attention through PyTorch's fused kernels, and images shared by the beams of a caption.

Same weights and arithmetic as transformers' own layers; attention scores are never written out, so there are no maps.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BlipForConditionalGeneration
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.models.blip.modeling_blip import BlipAttention
from transformers.models.blip.modeling_blip_text import BlipTextSelfAttention


def fuse_attention(network: BlipForConditionalGeneration) -> None:
    """Let every attention layer of a BLIP use the fused kernels."""
    _choose_attention(network, FusedVisionAttention, FusedTextAttention)


def unfuse_attention(network: BlipForConditionalGeneration) -> None:
    """Undo `fuse_attention`, for attention maps."""
    _choose_attention(network, BlipAttention, BlipTextSelfAttention)


def _choose_attention(network: Any, vision: type[nn.Module], text: type[nn.Module]) -> None:
    for layer in network.vision_model.encoder.layers:
        layer.self_attn.__class__ = vision
    for layer in network.text_decoder.bert.encoder.layer:
        layer.attention.self.__class__ = text
        layer.crossattention.self.__class__ = text


class FusedVisionAttention(BlipAttention):
    """The vision tower's self-attention."""

    def forward(self, hidden_states: Tensor, **_: object) -> tuple[Tensor, None]:  # type: ignore[override]
        """Hidden states (B, N, D) -> (B, N, D)."""
        num_images, num_tokens, _width = hidden_states.shape
        mixed = self.qkv(hidden_states).view(num_images, num_tokens, 3, self.num_heads, self.head_dim)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout.p if self.training else 0.0
        context = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=self.scale)
        return self.projection(context.transpose(1, 2).flatten(2)), None


class FusedTextAttention(BlipTextSelfAttention):
    """The text decoder's self-attention and cross-attention."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **_: object,
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states (B, T, D) -> (B, T, D); with a `SharedImageCache` B is images x beams."""
        if past_key_values is not None and not isinstance(past_key_values, SharedImageCache):
            return super().forward(  # a cache of transformers' own making
                hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask, past_key_values
            )
        query = self._split_heads(self.query(hidden_states))
        if encoder_hidden_states is None:
            key, value = self.project(hidden_states)
            if past_key_values is not None:
                key, value = past_key_values.self_attention_cache.update(key, value, self.layer_idx)
            context = self._attend(query, key, value, attention_mask)
        elif past_key_values is not None:
            key, value = past_key_values.images[self.layer_idx]
            # The beams of an image attend as if they were further tokens of one caption.
            num_heads, num_tokens, head_dim = query.shape[1:]
            by_image = query.view(len(key), -1, num_heads, num_tokens, head_dim).transpose(1, 2)
            context = self._attend(by_image.flatten(2, 3), key, value, None)
            context = context.view(by_image.shape).transpose(1, 2).flatten(0, 1)
        else:
            context = self._attend(query, *self.project(encoder_hidden_states), encoder_attention_mask)
        return context.transpose(1, 2).flatten(2), None

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, N, head width) of states (B, N, D)."""
        return self._split_heads(self.key(states)), self._split_heads(self.value(states))

    def _split_heads(self, projected: Tensor) -> Tensor:
        num_rows, num_tokens, _width = projected.shape
        return projected.view(num_rows, num_tokens, self.num_attention_heads, self.attention_head_size).transpose(1, 2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.dropout.p if self.training else 0.0
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


class SharedImageCache(EncoderDecoderCache):
    """What beam search keeps of past tokens and of the images.

    Keys and values of an image are computed once and shared by its beams. Reordering beams leaves them alone: a beam
    only ever takes over another beam of its own image.
    """

    def __init__(self, network: BlipForConditionalGeneration, encoder_hidden_states: Tensor) -> None:
        """`encoder_hidden_states` is (images, N, D), not repeated for beams."""
        layers: Any = network.text_decoder.bert.encoder.layer
        super().__init__(DynamicCache(), DynamicCache())
        self.images = [layer.crossattention.self.project(encoder_hidden_states) for layer in layers]

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Reorder the beams' past tokens."""
        self.self_attention_cache.reorder_cache(beam_idx)
