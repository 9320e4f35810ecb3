"""BLIP's text decoder for beam search; see `search.decoding`."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medcap_core.models.search.decoding import DecodingLayer, FoldedLinear, FoldedNorm, TextDecoder


class BlipDecoder(TextDecoder):
    """The arithmetic of transformers' `BlipTextLMHeadModel`."""

    def __init__(self, text_decoder: Any, encoder_hidden_states: Tensor) -> None:
        """Build the decoder for images (B, N, width of the encoder), not repeated for beams."""
        dtype = self.choose_dtype(text_decoder, encoder_hidden_states.device)
        embeddings, head = text_decoder.bert.embeddings, text_decoder.cls.predictions
        self.token_embeddings, self.positions = embeddings.word_embeddings.weight, embeddings.position_embeddings.weight
        self.first_norm, self.head_norm = FoldedNorm(embeddings.LayerNorm), FoldedNorm(head.transform.LayerNorm)
        self.transform, self.activation = FoldedLinear([head.transform.dense], dtype), head.transform.transform_act_fn
        self.head = FoldedLinear([head.decoder], dtype)
        layers = [_BlipLayer(layer, dtype) for layer in text_decoder.bert.encoder.layer]
        super().__init__(layers, encoder_hidden_states, dtype)

    def embed(self, tokens: Tensor, positions: slice) -> Tensor:
        """Embed tokens (B, Q), see `TextDecoder.embed`."""
        return self.first_norm(functional.embedding(tokens, self.token_embeddings) + self.positions[positions])

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Compute logits, see `TextDecoder.compute_logits`."""
        return self.head(self.head_norm(self.activation(self.transform(hidden))))


class _BlipLayer(DecodingLayer):
    """A layer that normalises after each sum."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        own, cross = layer.attention, layer.crossattention
        super().__init__(own.self.num_attention_heads)
        queries = {"num_scaled": own.self.all_head_size, "scale": own.self.attention_head_size**-0.5}
        self.query_key_value = FoldedLinear([own.self.query, own.self.key, own.self.value], dtype, **queries)
        self.image_query = FoldedLinear([cross.self.query], dtype, **queries)
        self.image_key_value = FoldedLinear([cross.self.key, cross.self.value], dtype)
        self.own_output, self.image_output = (FoldedLinear([part.output.dense], dtype) for part in (own, cross))
        self.own_norm, self.image_norm = FoldedNorm(own.output.LayerNorm), FoldedNorm(cross.output.LayerNorm)
        self.widen = FoldedLinear([layer.intermediate.dense], dtype)
        self.activation = layer.intermediate.intermediate_act_fn
        self.narrow, self.norm = FoldedLinear([layer.output.dense], dtype), FoldedNorm(layer.output.LayerNorm)

    def read(self, hidden: Tensor, first_slot: int, mask: Tensor) -> Tensor:
        hidden = self.own_norm(self.attend_to_past(hidden, first_slot, mask) + hidden)
        hidden = self.image_norm(self.attend_to_images(hidden) + hidden)
        return self.norm(self.narrow(self.activation(self.widen(hidden))) + hidden)
