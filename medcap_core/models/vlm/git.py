"""GIT (Wang et al., arXiv 2205.14100): a CLIP tower, a projection and a text decoder that reads image and caption."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import GitForCausalLM
from transformers.modeling_outputs import BaseModelOutput

from medcap_core.models.vlm.captioner import VlmCaptioner
from medcap_core.models.vlm.processing import Prompt, prepare_pixels


class GitCaptioner(VlmCaptioner):
    """`GitForCausalLM` of transformers.

    The image's tokens precede the text's without ids of their own, and a config's prompt begins every caption.
    `encode_images` gives the tower's output, before the projection.
    """

    family = "git"
    is_large = False
    can_checkpoint = False
    can_quantize = False
    encoded_parts = frozenset({"encoder"})
    encoder_name = "git.image_encoder"
    freeze_rules = (
        (r"^git\.image_encoder\.", "encoder"),
        (r"^git\.visual_projection\.", "bridge"),
        (r"^git\.img_temporal_embedding\.", "unused"),  # of videos
        (r"^(git\.(embeddings|encoder)|output)\.", "decoder"),
    )

    _network_class: ClassVar[Any] = GitForCausalLM

    @classmethod
    def _check_architecture(cls, config: Any, source: str) -> None:
        """Check nothing: the model type says it all."""

    def _find_parts(self) -> None:
        self._set_lora_patterns(r"git\.encoder\.layer", r"git\.image_encoder\..*\.self_attn")

    def list_encoding_modules(self) -> list[nn.Module]:
        """List the tower alone, see `Captioner.list_encoding_modules`."""
        return [self.encoder]

    def _lay_out(self, prompt: str) -> Prompt:
        """Lay out the beginning of every caption."""
        tokenizer, size = self.processor.tokenizer, self.geometry.size
        words = tokenizer(prompt.strip(), add_special_tokens=False).input_ids
        ids = torch.tensor([[tokenizer.cls_token_id, *words]])
        return Prompt(ids, {}, {}, (1, 3, size, size), opening="", end_id=tokenizer.sep_token_id)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode pixels by the vision tower alone, see `Captioner.encode_images`."""
        accepted = set(inspect.signature(self.encoder.forward).parameters)
        hidden_states: Tensor = self.encoder(**prepare_pixels(self.processor, pixels, accepted)).last_hidden_state
        return hidden_states

    @contextmanager
    def _seeing(self, encoded: Tensor) -> Iterator[dict[str, Tensor]]:
        """Let the tower give the encoded images (B, N, D), see `VlmCaptioner._seeing`."""
        tower = self.encoder

        def give(pixel_values: Tensor, **_: Any) -> BaseModelOutput:
            repeated = encoded.repeat_interleave(len(pixel_values) // len(encoded), 0)
            return BaseModelOutput(last_hidden_state=repeated)

        tower.forward = give
        try:
            yield {"pixel_values": torch.zeros(len(encoded), 1, 1, 1, device=encoded.device)}
        finally:
            del tower.forward

    def find_image_places(self, num_tokens: int) -> Tensor:
        """Find the patches, see `VlmCaptioner.find_image_places`: after a class token, before the text."""
        return torch.arange(1, num_tokens)
