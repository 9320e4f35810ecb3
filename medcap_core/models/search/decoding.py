"""Text decoders with cross-attention for beam search: their arithmetic without a call for each module.

One token of a few beams is so little work that calling modules, projecting query, key and value separately, casting
weights and copying the caches of beams cost more than the arithmetic. Here matrices with the same input are one, LoRA
factors are folded in, weights are cast once, and an image's keys and values are computed once for all its beams.

Shape letters as in `search.beam`; Q tokens an image in a call, N encoder tokens an image, D width, H heads.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

_ROOM = 128
"""Initial slots of an image, doubled whenever they are full."""


class TextDecoder(ABC):
    """A text decoder with its images, and a cache of the tokens read, by slots; weights are copied at construction.

    A family adds its token embedding, its layers and its output head.
    """

    def __init__(self, layers: "Sequence[DecodingLayer]", encoder_hidden_states: Tensor, dtype: torch.dtype) -> None:
        """Compute keys and values of the images (B, N, width of the encoder), not repeated for beams."""
        self.layers = layers
        self.dtype = dtype
        for layer in layers:
            layer.set_images(encoder_hidden_states)
        self.num_images = len(encoder_hidden_states)
        self.num_slots = self.num_positions = 0

    @staticmethod
    def choose_dtype(network: Any, device: torch.device) -> torch.dtype:
        """Return the dtype of a network's matrix products under the current autocast."""
        return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else network.dtype

    @abstractmethod
    def embed(self, tokens: Tensor, positions: slice) -> Tensor:
        """Embed tokens (B, Q), all at one position or each at its own, to hidden states (B, Q, D)."""

    @abstractmethod
    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Compute logits (..., V) of the last layer's hidden states (..., D)."""

    def begin(self, prompt: Tensor) -> Tensor:
        """Read the prompt (P,), the same for every image, into the first P slots; returns the next logits (B, V)."""
        visible = torch.ones(len(prompt), len(prompt), dtype=torch.bool, device=prompt.device).tril()[None]
        hidden = self._read(prompt.expand(self.num_images, -1), len(prompt), visible)
        return self.compute_logits(hidden[:, -1])

    def step(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Read one token of each beam (B, K) into the next K slots; returns the next logits (B, K, V).

        `visible` is bool (B, K, S): the slots of each beam's past tokens and of the new one. S is at least the number
        of slots in use; an unused slot is visible to no beam.
        """
        return self.compute_logits(self._read(tokens, 1, visible))

    def move_images(self, targets: Tensor, origins: Tensor, num_images: int) -> None:
        """Copy images `origins` over images `targets`, then keep the first `num_images`."""
        self.num_images = num_images
        for layer in self.layers:
            layer.move_images(targets, origins, num_images)

    def _read(self, tokens: Tensor, num_positions: int, visible: Tensor) -> Tensor:
        """Read tokens (B, Q) into the next slots and return their hidden states (B, Q, D)."""
        hidden = self.embed(tokens, slice(self.num_positions, self.num_positions + num_positions))
        mask = torch.zeros_like(visible, dtype=self.dtype).masked_fill_(~visible, -torch.inf)[:, None]
        for layer in self.layers:
            hidden = layer.read(hidden, self.num_slots, mask)
        self.num_positions += num_positions
        self.num_slots += tokens.shape[1]
        return hidden


class DecodingLayer(ABC):
    """A layer with the keys and values of encoder tokens, `images` (2, B, H, N, D / H), and of past tokens, `past`."""

    images: Tensor
    past: Tensor  # (2, B, H, S or more, D / H)
    query_key_value: "FoldedLinear"
    own_output: "FoldedLinear"
    image_query: "FoldedLinear"
    image_key_value: "FoldedLinear"
    image_output: "FoldedLinear"

    def __init__(self, num_heads: int) -> None:
        self.num_heads = num_heads

    @abstractmethod
    def read(self, hidden: Tensor, first_slot: int, mask: Tensor) -> Tensor:
        """Transform hidden states (B, Q, D) to (B, Q, D); `mask` (1 or B, 1, Q, S) is added to attention scores."""

    def set_images(self, encoder_hidden_states: Tensor) -> None:
        """Compute `images` of states (B, N, width of the encoder), and allocate `past`."""
        self.images = self._split(self.image_key_value(encoder_hidden_states), 2).contiguous()
        _, num_images, num_heads, _, head_width = self.images.shape
        self.past = self.images.new_zeros(2, num_images, num_heads, _ROOM, head_width)

    def attend_to_past(self, hidden: Tensor, first_slot: int, mask: Tensor) -> Tensor:
        """Apply self-attention to states (B, Q, D), which are written to the slots from `first_slot` on: (B, Q, D)."""
        own = self._split(self.query_key_value(hidden), 3)
        num_slots = mask.shape[3]
        while num_slots > self.past.shape[3]:
            self.past = torch.cat([self.past, torch.zeros_like(self.past)], dim=3)
        self.past[:, :, :, first_slot : first_slot + hidden.shape[1]] = own[1:]
        return self.own_output(_attend(own[0], self.past[:, :, :, :num_slots], mask))

    def attend_to_images(self, hidden: Tensor) -> Tensor:
        """Apply cross-attention to states (B, Q, D): (B, Q, D)."""
        (query,) = self._split(self.image_query(hidden), 1)
        return self.image_output(_attend(query, self.images, None))

    def move_images(self, targets: Tensor, origins: Tensor, num_images: int) -> None:
        """Move and drop images, see `TextDecoder.move_images`."""
        for rows in (self.images, self.past):
            rows[:, targets] = rows[:, origins]
        self.images, self.past = self.images[:, :num_images], self.past[:, :num_images]

    def _split(self, projected: Tensor, num_parts: int) -> Tensor:
        """Split (B, Q, parts x D) into (parts, B, H, Q, D / H)."""
        num_images, num_queries, _ = projected.shape
        return projected.view(num_images, num_queries, num_parts, self.num_heads, -1).permute(2, 0, 3, 1, 4)


def _attend(query: Tensor, key_value: Tensor, mask: Tensor | None) -> Tensor:
    """Attend with scaled queries (B, H, Q, D / H) to keys and values (2, B, H, S, D / H): (B, Q, D)."""
    key, value = key_value.unbind(0)
    if query.device.type == "cpu":  # its fused kernel is slower with few queries
        scores = query @ key.transpose(2, 3)
        context = (scores if mask is None else scores.add_(mask)).softmax(3) @ value
    else:
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
    return context.transpose(1, 2).flatten(2)


class FoldedLinear:
    """Linear layers with the same input, joined in `dtype`; the first `num_scaled` outputs are times `scale`."""

    def __init__(
        self, modules: Sequence[nn.Module], dtype: torch.dtype, *, num_scaled: int = 0, scale: float = 1.0
    ) -> None:
        weights, biases = zip(*map(_fold, modules), strict=True)
        weight, bias = (parts[0] if len(modules) == 1 else torch.cat(parts) for parts in (weights, biases))
        if num_scaled:
            factors = weight.new_ones(len(weight))
            factors[:num_scaled] = scale
            weight, bias = weight * factors[:, None], bias * factors
        self.weight, self.bias = weight.to(dtype), None if bias is None else bias.to(dtype)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Apply to inputs (..., D)."""
        return functional.linear(inputs, self.weight, self.bias)


def _fold(module: Any) -> tuple[Tensor, Tensor | None]:
    """Return weight (outputs, inputs) and bias of a linear layer, LoRA factors included."""
    weight, base = module.weight, module
    if isinstance(module, LoraLinear):
        if any(module.use_dora.values()):  # also scales the weight itself
            module = copy.deepcopy(module)
            module.merge()
            weight = module.weight
        base = module.get_base_layer()
        if not module.merged and not module.disable_adapters:
            with torch.autocast(weight.device.type, enabled=False):
                weight = sum((module.get_delta_weight(name) for name in module.active_adapters), weight)
    return (weight.T if isinstance(base, Conv1D) else weight), module.bias


class FoldedNorm:
    """Layer normalisation with the weights of a module."""

    def __init__(self, module: nn.LayerNorm) -> None:
        self.settings = module.normalized_shape, module.weight, module.bias, module.eps

    def __call__(self, inputs: Tensor) -> Tensor:
        """Apply to inputs (..., D)."""
        return functional.layer_norm(inputs, *self.settings)
