"""GPT-2 with cross-attention for beam search; see `search.decoding`."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medcap_core.models.search.decoding import DecodingLayer, FoldedLinear, FoldedNorm, TextDecoder


class Gpt2Decoder(TextDecoder):
    """The arithmetic of transformers' `GPT2LMHeadModel` with cross-attention."""

    def __init__(self, decoder: Any, encoder_hidden_states: Tensor) -> None:
        """Build the decoder for images (B, N, D), as wide as the decoder and not repeated for beams."""
        dtype = self.choose_dtype(decoder, encoder_hidden_states.device)
        self.token_embeddings, self.positions = decoder.transformer.wte.weight, decoder.transformer.wpe.weight
        self.norm, self.head = FoldedNorm(decoder.transformer.ln_f), FoldedLinear([decoder.lm_head], dtype)
        super().__init__([_Gpt2Layer(block, dtype) for block in decoder.transformer.h], encoder_hidden_states, dtype)

    def embed(self, tokens: Tensor, positions: slice) -> Tensor:
        """Embed tokens (B, Q), see `TextDecoder.embed`."""
        positioned: Tensor = functional.embedding(tokens, self.token_embeddings) + self.positions[positions]
        return positioned

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Compute logits, see `TextDecoder.compute_logits`."""
        return self.head(self.norm(hidden))


class _Gpt2Layer(DecodingLayer):
    """A layer that normalises before each part."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        own, cross, mlp = block.attn, block.crossattention, block.mlp
        super().__init__(own.num_heads)
        self.query_key_value = FoldedLinear([own.c_attn], dtype, num_scaled=own.embed_dim, scale=own.scaling)
        self.image_query = FoldedLinear([cross.q_attn], dtype, num_scaled=cross.embed_dim, scale=cross.scaling)
        self.image_key_value = FoldedLinear([cross.c_attn], dtype)
        self.own_output, self.image_output = FoldedLinear([own.c_proj], dtype), FoldedLinear([cross.c_proj], dtype)
        self.own_norm, self.image_norm = FoldedNorm(block.ln_1), FoldedNorm(block.ln_cross_attn)
        self.widen, self.activation = FoldedLinear([mlp.c_fc], dtype), mlp.act
        self.narrow, self.norm = FoldedLinear([mlp.c_proj], dtype), FoldedNorm(block.ln_2)

    def read(self, hidden: Tensor, first_slot: int, mask: Tensor) -> Tensor:
        hidden = hidden + self.attend_to_past(self.own_norm(hidden), first_slot, mask)
        hidden = hidden + self.attend_to_images(self.image_norm(hidden))
        return hidden + self.narrow(self.activation(self.widen(self.norm(hidden))))
