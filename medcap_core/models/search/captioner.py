"""Captioners whose text decoder attends to the encoder's tokens and is searched by `search_captions`."""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from medcap_core.config import TrialConfig
from medcap_core.models.captioner import Captioner, RecordedAttention
from medcap_core.models.search.beam import search_captions
from medcap_core.models.search.decoding import TextDecoder


class SearchedCaptioner(Captioner):
    """A captioner with cross-attention in each layer of its text decoder."""

    cross_attention = "decoder"

    @abstractmethod
    def build_decoder(self, encoder_hidden_states: Tensor) -> TextDecoder:
        """Build the search decoder for images (B, N, D), with the present weights."""

    @abstractmethod
    def decode(self, encoder_hidden_states: Tensor, input_ids: Tensor, **options: bool) -> Any:
        """Run transformers' text decoder on whole captions (B, T), without a cache."""

    def generate_ids(self, encoder_hidden_states: Tensor, config: TrialConfig) -> tuple[Tensor, int]:
        """Generate ids, see `Captioner.generate_ids`."""
        prompt = torch.tensor(self._prompt_ids(config.prompt), device=encoder_hidden_states.device)
        decoder, tokens = self.build_decoder(encoder_hidden_states), self.special_tokens
        return search_captions(decoder, prompt, config, end_id=tokens.end, pad_id=tokens.pad), len(prompt)

    def record_attention(self, pixels: Tensor, input_ids: Tensor, *, with_encoder: bool) -> RecordedAttention:
        """Record attention, see `Captioner.record_attention`."""
        with torch.no_grad():
            encoded = self.encoder(pixel_values=self.scale_pixels(pixels), output_attentions=with_encoder)
        decoded = self.decode(encoded.last_hidden_state, input_ids, output_attentions=True)
        side = math.isqrt(encoded.last_hidden_state.shape[1])  # special tokens may precede the square of patches
        return RecordedAttention(
            decoded.cross_attentions, tuple(encoded.attentions or ()), decoded.logits, (side, side)
        )
