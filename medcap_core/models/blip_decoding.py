"""BLIP's text decoder for `beam_search`: the arithmetic of its layers without a call for each of them.

A word of a few beams is so little work that calling modules, projecting query, key and value apart, casting weights and
copying what beams remember cost more than the arithmetic. Here matrices that read the same input are one, LoRA factors
are folded in, weights are cast once, and an image's keys and values are computed once for all its beams.

Shape letters as in `beam_search`; D width, H heads, N encoder tokens an image.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

_ROOM = 128
"""Slots an image has to begin with; twice as many whenever they are full."""


class BlipDecoder:
    """See `beam_search.Decoder`."""

    def __init__(self, text_decoder: Any, encoder_hidden_states: Tensor) -> None:
        """`text_decoder` is a `BlipTextLMHeadModel`; `encoder_hidden_states` is (B, N, D), not repeated for beams.

        Weights are taken as they are now, and in the dtype of matrix products under the autocast in force.
        """
        kind = encoder_hidden_states.device.type
        self.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else text_decoder.dtype
        embeddings, head = text_decoder.bert.embeddings, text_decoder.cls.predictions
        with torch.autocast(kind, enabled=False):
            self.layers = [_Layer(layer, self.dtype) for layer in text_decoder.bert.encoder.layer]
            self.transform = _Linear([head.transform.dense], self.dtype)
            self.head = _Linear([head.decoder], self.dtype)
        self.words, self.positions = embeddings.word_embeddings.weight, embeddings.position_embeddings.weight
        self.first_norm, self.head_norm = _Norm(embeddings.LayerNorm), _Norm(head.transform.LayerNorm)
        self.activation = head.transform.transform_act_fn
        for layer in self.layers:
            layer.look_at(encoder_hidden_states)
        self.num_images = len(encoder_hidden_states)
        self.num_slots = self.num_positions = 0

    def begin(self, prompt: Tensor) -> Tensor:
        """See `Decoder.begin`."""
        self.num_positions = len(prompt)
        visible = torch.ones(len(prompt), len(prompt), dtype=torch.bool, device=prompt.device).tril()[None]
        hidden = self._read(prompt.expand(self.num_images, -1), self.positions[: len(prompt)], visible)
        return self._foretell(hidden[:, -1])

    def step(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """See `Decoder.step`."""
        hidden = self._read(tokens, self.positions[self.num_positions], visible)
        self.num_positions += 1
        return self._foretell(hidden)

    def move_images(self, places: Tensor, origins: Tensor, num_images: int) -> None:
        """See `Decoder.move_images`."""
        self.num_images = num_images
        for layer in self.layers:
            for rows in (layer.images, layer.past):
                rows[:, places] = rows[:, origins]
            layer.images, layer.past = layer.images[:, :num_images], layer.past[:, :num_images]

    def _read(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Take tokens (B, Q) into the next slots; their hidden states (B, Q, D)."""
        hidden = self.first_norm(functional.embedding(tokens, self.words) + positions)
        mask = torch.zeros_like(visible, dtype=self.dtype).masked_fill_(~visible, -torch.inf)[:, None]
        for layer in self.layers:
            hidden = layer.read(hidden, self.num_slots, mask)
        self.num_slots += tokens.shape[1]
        return hidden

    def _foretell(self, hidden: Tensor) -> Tensor:
        return self.head(self.head_norm(self.activation(self.transform(hidden))))


class _Layer:
    """A layer with the keys and values of an image's tokens, `images` (2, B, H, N, D / H), and of past ones, `past`."""

    images: Tensor
    past: Tensor  # (2, B, H, S or more, D / H)

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        own, cross = layer.attention, layer.crossattention
        self.num_heads, head_width = own.self.num_attention_heads, own.self.attention_head_size
        scale = 1 / math.sqrt(head_width)
        self.query_key_value = _Linear([own.self.query, own.self.key, own.self.value], dtype, scale)
        self.own_output, self.own_norm = _Linear([own.output.dense], dtype), _Norm(own.output.LayerNorm)
        self.image_query = _Linear([cross.self.query], dtype, scale)
        self.image_key_value = _Linear([cross.self.key, cross.self.value], dtype)
        self.image_output, self.image_norm = _Linear([cross.output.dense], dtype), _Norm(cross.output.LayerNorm)
        self.widen, self.activation = _Linear([layer.intermediate.dense], dtype), layer.intermediate.intermediate_act_fn
        self.narrow, self.norm = _Linear([layer.output.dense], dtype), _Norm(layer.output.LayerNorm)

    def look_at(self, encoder_hidden_states: Tensor) -> None:
        """Compute `images` of states (B, N, D), and make room for what is read."""
        self.images = self._split(self.image_key_value(encoder_hidden_states), 2).contiguous()
        _, num_images, num_heads, _, head_width = self.images.shape
        self.past = self.images.new_zeros(2, num_images, num_heads, _ROOM, head_width)

    def read(self, hidden: Tensor, first_slot: int, mask: Tensor) -> Tensor:
        """Hidden states (B, Q, D) -> (B, Q, D); `mask`, added to scores, is (1 or B, 1, Q, S)."""
        own = self._split(self.query_key_value(hidden), 3)
        num_slots = mask.shape[3]
        while num_slots > self.past.shape[3]:
            self.past = torch.cat([self.past, torch.zeros_like(self.past)], dim=3)
        self.past[:, :, :, first_slot : first_slot + hidden.shape[1]] = own[1:]
        hidden = self.own_norm(self.own_output(_attend(own[0], self.past[:, :, :, :num_slots], mask)) + hidden)
        (query,) = self._split(self.image_query(hidden), 1)
        hidden = self.image_norm(self.image_output(_attend(query, self.images, None)) + hidden)
        return self.norm(self.narrow(self.activation(self.widen(hidden))) + hidden)

    def _split(self, projected: Tensor, num_parts: int) -> Tensor:
        """(B, Q, parts x D) -> (parts, B, H, Q, D / H)."""
        num_images, num_queries, _ = projected.shape
        return projected.view(num_images, num_queries, num_parts, self.num_heads, -1).permute(2, 0, 3, 1, 4)


def _attend(query: Tensor, key_value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled queries (B, H, Q, D / H) over keys and values (2, B, H, S, D / H) -> (B, Q, D)."""
    key, value = key_value.unbind(0)
    if query.device.type == "cpu":  # the fused kernel there is made for many queries and loses with a few
        scores = query @ key.transpose(2, 3)
        context = (scores if mask is None else scores.add_(mask)).softmax(3) @ value
    else:
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
    return context.transpose(1, 2).flatten(2)


class _Linear:
    """Linear layers that read the same input as one, in `dtype`; `scale` multiplies what the first of them gives."""

    def __init__(self, modules: Sequence[nn.Module], dtype: torch.dtype, scale: float = 1.0) -> None:
        weights, biases = map(list, zip(*(_fold(module) for module in modules), strict=True))
        if scale != 1.0:
            weights[0], biases[0] = weights[0] * scale, biases[0] * scale
        self.weight = (torch.cat(weights) if len(weights) > 1 else weights[0]).to(dtype)
        self.bias = (torch.cat(biases) if len(biases) > 1 else biases[0]).to(dtype)

    def __call__(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight, self.bias)


def _fold(module: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer, LoRA factors included."""
    weight = module.weight
    if isinstance(module, LoraLinear) and not module.merged and not module.disable_adapters:
        weight = sum((module.get_delta_weight(name) for name in module.active_adapters), weight)
    return weight, module.bias


class _Norm:
    """Layer normalisation."""

    def __init__(self, module: nn.LayerNorm) -> None:
        self.shape, self.epsilon = module.normalized_shape, module.eps
        self.weight, self.bias = module.weight, module.bias

    def __call__(self, inputs: Tensor) -> Tensor:
        return functional.layer_norm(inputs, self.shape, self.weight, self.bias, self.epsilon)
