"""The attention of BLIP's vision tower through PyTorch's fused kernels.

Same weights and arithmetic as transformers' own layers; attention scores are never written out, so there are no maps.
"""

from typing import Any

from torch import Tensor, nn
from transformers.models.blip.modeling_blip import BlipAttention


def fuse_attention(vision_model: Any, *, fused: bool = True) -> None:
    """Let every attention layer of a vision tower use the fused kernels, or for attention maps transformers' own."""
    for layer in vision_model.encoder.layers:
        layer.self_attn.__class__ = FusedVisionAttention if fused else BlipAttention


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
