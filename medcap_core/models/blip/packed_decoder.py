"""BLIP's text decoder over the words of captions alone: nothing is computed for padding.

Captions of a batch differ in length, and every layer but attention takes words one by one. So the words of all captions
stand in one row, and are laid out by caption only where attention needs it. Weights, layers and arithmetic are those of
transformers' `BlipTextLMHeadModel`; attention goes through PyTorch's fused kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medcap_core.models.captioner import TokenizedCaptions

_ROUNDED_WORDS = 4
"""Where the length of captions is rounded up, for few distinct shapes, so is the number of words: to a multiple of this
many a caption. Of captions of 24 +- 12 words that computes 8% more; at batches of 3 to 128, 96% or more of the steps of
a trial of 40,000 images have shapes that came before, 83% to 97% of one of 6,000 (simulated).
"""

_CLEARLY_LESS = 0.6
"""At this share of the other's multiplications, matrix products of more but smaller matrices still win."""


class PackedCaptions(TokenizedCaptions):
    """Captions whose batches also say where their words stand."""

    def batch(
        self,
        positions: Sequence[int] | NDArray[np.int64],
        pad_to_multiple: int = 1,
        *,
        unlabelled: bool = False,
        alike: Sequence[NDArray[np.int64]] = (),
    ) -> tuple[Tensor, ...]:
        """`(input_ids, labels, slots)`, int64: (B, T), (B, T) and (W).

        `slots` are the places in the B x T, row by row, of the words that foretell another: all but the last of each
        caption, and places of padding up to a multiple of words where one is asked for.
        """
        input_ids, labels = super().batch(positions, pad_to_multiple, unlabelled=unlabelled, alike=alike)
        lengths = self._count_words(positions)
        is_word = np.arange(input_ids.shape[1]) < lengths[:, None]
        slots = np.flatnonzero(is_word)
        parts = (positions, *alike)
        num_words = max(int(self._count_words(part).sum()) for part in parts)
        if pad_to_multiple > 1:
            multiple = _round_up(_ROUNDED_WORDS * max(map(len, parts)), pad_to_multiple)
            num_words = _round_up(num_words, multiple)
        padding = np.flatnonzero(~is_word)[: num_words - len(slots)]
        return input_ids, labels, torch.from_numpy(np.concatenate([slots, padding]))

    def _count_words(self, positions: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """How many words of each caption foretell another, at least 1."""
        return np.array([max(len(self.ids[position]) - 1, 1) for position in positions])


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass(frozen=True)
class Layout:
    """Where W words stand in `num_rows` captions of `length` places each."""

    slots: Tensor
    num_rows: int
    length: int

    @property
    def positions(self) -> Tensor:
        """The place of each word in its caption: (W)."""
        return self.slots % self.length

    def spread(self, words: Tensor, num_heads: int) -> Tensor:
        """Words (W, D) by caption and head: (B, H, T, D / H); zero where no word stands."""
        padded = words.new_zeros(self.num_rows * self.length, words.shape[-1]).index_copy_(0, self.slots, words)
        return _split_heads(padded.view(self.num_rows, self.length, -1), num_heads)

    def gather(self, spread: Tensor) -> Tensor:
        """The words (W, D) of what lies by caption and head: (B, H, T, D / H)."""
        return spread.transpose(1, 2).reshape(self.num_rows * self.length, -1).index_select(0, self.slots)


def foretell_words(text_decoder: Any, encoder_hidden_states: Tensor, input_ids: Tensor, slots: Tensor) -> Tensor:
    """Logits (W, V) of the token after each of the words at `slots` of `input_ids` (B, T), given images (B, N, D).

    Every word before one of `slots` in its caption must be among them.
    """
    layout = Layout(slots, *input_ids.shape)
    embeddings = text_decoder.bert.embeddings
    hidden = embeddings(input_ids.flatten()[slots][None], position_ids=layout.positions[None])[0]
    for layer in text_decoder.bert.encoder.layer:
        hidden = layer.attention.output(_attend_to_past(layer.attention.self, hidden, layout), hidden)
        seen = _attend_to_images(layer.crossattention.self, hidden, encoder_hidden_states, layout)
        hidden = layer.crossattention.output(seen, hidden)
        hidden = layer.output(layer.intermediate(hidden), hidden)
    logits: Tensor = text_decoder.cls(hidden)
    return logits


def _attend_to_past(attention: Any, hidden: Tensor, layout: Layout) -> Tensor:
    projections = (attention.query, attention.key, attention.value)
    query, key, value = (layout.spread(linear(hidden), attention.num_attention_heads) for linear in projections)
    return layout.gather(
        functional.scaled_dot_product_attention(query, key, value, dropout_p=_dropout(attention), is_causal=True)
    )


def _attend_to_images(attention: Any, hidden: Tensor, encoder_hidden_states: Tensor, layout: Layout) -> Tensor:
    query = layout.spread(attention.query(hidden), attention.num_attention_heads)
    if _is_dearer_by_image(attention, encoder_hidden_states, layout.length):
        return layout.gather(_attend_by_word(attention, query, encoder_hidden_states))
    key, value = (
        _split_heads(linear(encoder_hidden_states), attention.num_attention_heads)
        for linear in (attention.key, attention.value)
    )
    return layout.gather(functional.scaled_dot_product_attention(query, key, value, dropout_p=_dropout(attention)))


def _is_dearer_by_image(attention: Any, encoder_hidden_states: Tensor, num_words: int) -> bool:
    """Whether keys and values of an image's tokens cost clearly more than `_attend_by_word`; timed on CPUs alone.

    An image has hundreds of tokens, a short caption a few dozen: then its words had better be brought to the image
    tokens' own space than each of these to that of the words. Compared are the multiplications by which the two ways
    differ; where neither weights nor images get gradients the ways cost about the same.
    """
    if encoder_hidden_states.device.type != "cpu":
        return False
    is_plain = type(attention.key) is nn.Linear and type(attention.value) is nn.Linear  # without LoRA factors
    gives_gradients = attention.key.weight.requires_grad or encoder_hidden_states.requires_grad
    if not is_plain or not gives_gradients or _dropout(attention):
        return False
    num_image_tokens, width = encoder_hidden_states.shape[1], attention.all_head_size
    by_word = num_words * (attention.num_attention_heads * num_image_tokens + width)
    return bool(by_word < _CLEARLY_LESS * num_image_tokens * width)


def _attend_by_word(attention: Any, query: Tensor, encoder_hidden_states: Tensor) -> Tensor:
    """Cross-attention of queries (B, H, T, D / H) over images (B, N, E) without keys and values: (B, H, T, D / H).

    A score q (W x + b) is (q W) x + q b, and a mean of values W x + b is W times the mean of x, plus b. DeepSeek-V2
    (arXiv 2405.04434) absorbs the projections of a latent cache in this way.
    """
    num_images, num_heads, num_words, head_width = query.shape
    key, value = (linear.weight.unflatten(0, (num_heads, head_width)) for linear in (attention.key, attention.value))
    query = query * head_width**-0.5
    sought = torch.einsum("bhtd,hde->bhte", query, key).flatten(1, 2)
    # The same for all tokens of an image, so that softmax does without it; the bias keeps its gradient, which is zero.
    offset = torch.einsum("bhtd,hd->bht", query, attention.key.bias.unflatten(0, (num_heads, head_width))).flatten(1)
    scores = torch.baddbmm(offset[..., None], sought, encoder_hidden_states.transpose(1, 2))
    seen = (scores.softmax(2) @ encoder_hidden_states).view(num_images, num_heads, num_words, -1)
    value_bias: Tensor = attention.value.bias.unflatten(0, (num_heads, 1, head_width))
    return torch.einsum("bhte,hde->bhtd", seen, value) + value_bias


def _split_heads(projected: Tensor, num_heads: int) -> Tensor:
    """(B, T, D) -> (B, H, T, D / H)."""
    num_rows, num_tokens, width = projected.shape
    return projected.view(num_rows, num_tokens, num_heads, width // num_heads).transpose(1, 2)


def _dropout(attention: Any) -> float:
    return float(attention.dropout.p) if attention.training else 0.0
