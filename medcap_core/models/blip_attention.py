"""BLIP's attention through PyTorch's fused kernels.

Same weights and arithmetic as transformers' own layers; attention scores are never written out, so there are no maps.
"""

from typing import Any

from torch import Tensor, nn
from transformers import BlipForConditionalGeneration
from transformers.cache_utils import Cache
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
        """Hidden states (B, T, D) -> (B, T, D)."""
        if past_key_values is not None:  # transformers' own `generate`
            return super().forward(
                hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask, past_key_values
            )
        is_cross = encoder_hidden_states is not None
        seen = encoder_hidden_states if is_cross else hidden_states
        query, key, value = (
            self._split_heads(projected) for projected in (self.query(hidden_states), self.key(seen), self.value(seen))
        )
        mask = encoder_attention_mask if is_cross else attention_mask
        dropout = self.dropout.p if self.training else 0.0
        context = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return context.transpose(1, 2).flatten(2), None

    def _split_heads(self, projected: Tensor) -> Tensor:
        num_rows, num_tokens, _width = projected.shape
        return projected.view(num_rows, num_tokens, self.num_attention_heads, self.attention_head_size).transpose(1, 2)
