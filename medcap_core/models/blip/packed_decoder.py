"""BLIP's text decoder over packed captions: nothing is computed for padding.

Captions of a batch differ in length, and every layer but attention acts on single tokens. So the tokens of all captions
are packed in one row, and padded by caption only for attention. Weights, layers and arithmetic are those of
transformers' `BlipTextLMHeadModel`; attention uses PyTorch's fused kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medcap_core.data.batches import Positions, Rows
from medcap_core.models.tokens import TokenizedCaptions, round_up

_ROUNDED_TOKENS = 4
"""Where the length of captions is rounded up, for few distinct shapes, the number of tokens is rounded up to a multiple
of this times the number of captions. With captions of 24 +- 12 tokens that computes 8% more; at batch sizes of 3 to
128, at least 96% of the steps of a trial of 40,000 images have a shape seen before, 83% to 97% of one of 6,000
(simulated).
"""

_CLEARLY_LESS = 0.6
"""Below this ratio of multiplications, matrix products of more but smaller matrices are still faster."""


class PackedCaptions(TokenizedCaptions):
    """Captions whose batches also hold the slots of their tokens."""

    def batch(
        self, positions: Rows, pad_to_multiple: int = 1, *, unlabelled: bool = False, alike: Sequence[Positions] = ()
    ) -> tuple[Tensor, ...]:
        """Pad to `(input_ids, labels, slots)`, int64 (B, T), (B, T) and (W).

        `slots` are indices into the flattened (B, T): all but the last token of each caption, and padding up to a
        rounded number of tokens where `pad_to_multiple` is above 1.
        """
        input_ids, labels = super().batch(positions, pad_to_multiple, unlabelled=unlabelled, alike=alike)
        is_token = np.arange(input_ids.shape[1]) < self._count_inputs(positions)[:, None]
        slots = np.flatnonzero(is_token)
        parts = (positions, *alike)
        num_tokens = max(int(self._count_inputs(part).sum()) for part in parts)
        if pad_to_multiple > 1:
            multiple = round_up(_ROUNDED_TOKENS * max(map(len, parts)), pad_to_multiple)
            num_tokens = round_up(num_tokens, multiple)
        padding = np.flatnonzero(~is_token)[: num_tokens - len(slots)]
        return input_ids, labels, torch.from_numpy(np.concatenate([slots, padding]))

    def _count_inputs(self, positions: Rows) -> NDArray[np.int64]:
        """Count the tokens of each caption that precede another, at least 1."""
        return np.array([max(len(self.ids[position]) - 1, 1) for position in positions])


@dataclass(frozen=True)
class Layout:
    """The slots of W tokens in `num_rows` captions of `length` tokens each."""

    slots: Tensor
    num_rows: int
    length: int

    def spread(self, tokens: Tensor, num_heads: int) -> Tensor:
        """Unpack tokens (W, D) by caption and head: (B, H, T, D / H), zero at padding."""
        padded = tokens.new_zeros(self.num_rows * self.length, tokens.shape[-1]).index_copy_(0, self.slots, tokens)
        return _split_heads(padded.view(self.num_rows, self.length, -1), num_heads)

    def gather(self, spread: Tensor) -> Tensor:
        """Pack (B, H, T, D / H) to tokens (W, D)."""
        return spread.transpose(1, 2).reshape(self.num_rows * self.length, -1).index_select(0, self.slots)


def compute_packed_logits(text_decoder: Any, encoder_hidden_states: Tensor, input_ids: Tensor, slots: Tensor) -> Tensor:
    """Compute next-token logits (W, V) at `slots` of `input_ids` (B, T), given images (B, N, D).

    `slots` must include every token that precedes one of them in its caption.
    """
    layout = Layout(slots, *input_ids.shape)
    embeddings = text_decoder.bert.embeddings
    hidden = embeddings(input_ids.flatten()[slots][None], position_ids=(slots % layout.length)[None])[0]
    for layer in text_decoder.bert.encoder.layer:
        hidden = layer.attention.output(_attend_to_past(layer.attention.self, hidden, layout), hidden)
        context = _attend_to_images(layer.crossattention.self, hidden, encoder_hidden_states, layout)
        hidden = layer.crossattention.output(context, hidden)
        hidden = layer.output(layer.intermediate(hidden), hidden)
    logits: Tensor = text_decoder.cls(hidden)
    return logits


def _attend_to_past(attention: Any, hidden: Tensor, layout: Layout) -> Tensor:
    projections = (attention.query, attention.key, attention.value)
    query, key, value = (layout.spread(linear(hidden), attention.num_attention_heads) for linear in projections)
    context = functional.scaled_dot_product_attention(query, key, value, dropout_p=_dropout(attention), is_causal=True)
    return layout.gather(context)


def _attend_to_images(attention: Any, hidden: Tensor, encoder_hidden_states: Tensor, layout: Layout) -> Tensor:
    query = layout.spread(attention.query(hidden), attention.num_attention_heads)
    if _is_absorbing_cheaper(attention, encoder_hidden_states, layout.length):
        return layout.gather(_attend_absorbed(attention, query, encoder_hidden_states))
    states = (linear(encoder_hidden_states) for linear in (attention.key, attention.value))
    key, value = (_split_heads(projected, attention.num_attention_heads) for projected in states)
    return layout.gather(functional.scaled_dot_product_attention(query, key, value, dropout_p=_dropout(attention)))


def _is_absorbing_cheaper(attention: Any, encoder_hidden_states: Tensor, num_tokens: int) -> bool:
    """Check whether `_attend_absorbed` is clearly cheaper than keys and values of all image tokens; on CPUs alone.

    An image has hundreds of tokens, a short caption a few dozen. Compares the multiplications in which the two methods
    differ; without gradients of weights or images both cost about the same.
    """
    is_plain = type(attention.key) is nn.Linear and type(attention.value) is nn.Linear  # without LoRA factors
    gives_gradients = is_plain and (attention.key.weight.requires_grad or encoder_hidden_states.requires_grad)
    if encoder_hidden_states.device.type != "cpu" or not gives_gradients or _dropout(attention):
        return False
    num_image_tokens, width = encoder_hidden_states.shape[1], attention.all_head_size
    absorbed = num_tokens * (attention.num_attention_heads * num_image_tokens + width)
    return bool(absorbed < _CLEARLY_LESS * num_image_tokens * width)


def _attend_absorbed(attention: Any, query: Tensor, encoder_hidden_states: Tensor) -> Tensor:
    """Attend with queries (B, H, T, D / H) to images (B, N, E) without keys and values: (B, H, T, D / H).

    A score q (W x + b) is (q W) x + q b, and a mean of values W x + b is W times the mean of x, plus b.
    """
    num_images, num_heads, num_tokens, head_width = query.shape
    key, value = (linear.weight.unflatten(0, (num_heads, head_width)) for linear in (attention.key, attention.value))
    query = query * head_width**-0.5
    absorbed_query = torch.einsum("bhtd,hde->bhte", query, key).flatten(1, 2)
    # The same for all tokens of an image, so softmax is unaffected; it keeps the bias in the graph, with zero gradient.
    offset = torch.einsum("bhtd,hd->bht", query, attention.key.bias.unflatten(0, (num_heads, head_width))).flatten(1)
    scores = torch.baddbmm(offset[..., None], absorbed_query, encoder_hidden_states.transpose(1, 2))
    context = (scores.softmax(2) @ encoder_hidden_states).view(num_images, num_heads, num_tokens, -1)
    value_bias: Tensor = attention.value.bias.unflatten(0, (num_heads, 1, head_width))
    return torch.einsum("bhte,hde->bhtd", context, value) + value_bias


def _split_heads(projected: Tensor, num_heads: int) -> Tensor:
    """Split (B, T, D) into heads, (B, H, T, D / H)."""
    num_rows, num_tokens, width = projected.shape
    return projected.view(num_rows, num_tokens, num_heads, width // num_heads).transpose(1, 2)


def _dropout(attention: Any) -> float:
    return float(attention.dropout.p) if attention.training else 0.0
