"""BLIP captioners: a ViT encoder and a BERT-style decoder that cross-attends to it (Li et al., arXiv 2201.12086)."""

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BlipForConditionalGeneration, BlipProcessor, GenerationConfig

from medcap_core.config import LoraTargets, TrialConfig
from medcap_core.errors import ModelFault
from medcap_core.models.blip.packed_decoder import PackedCaptions, foretell_words
from medcap_core.models.blip.recording import fuse_attention, unfuse_attention
from medcap_core.models.blip.search_decoder import BlipDecoder
from medcap_core.models.captioner import IGNORED_LABEL, Captioner, RecordedAttention
from medcap_core.models.generation import build_generation_config, check_caption_lengths
from medcap_core.models.loading.weights import LoadOptions, check_tokenizer, load_whole_network, resize_positions
from medcap_core.models.search.beam import search_captions


class BlipCaptioner(Captioner):
    """`BlipForConditionalGeneration` as transformers has it.

    Departs from its own `forward` in three ways: padding and prompt carry no loss (transformers leaves padding in),
    nothing is computed for padding, and the vision tower can be left out where its output is known already.
    """

    family = "blip"
    cross_attention = "decoder"
    can_record_steps = True
    freeze_rules = ((r"^vision_model\.", "encoder"), (r"^text_decoder\.", "decoder"))
    lora_patterns: ClassVar = {
        LoraTargets.QUERY_KEY: r"text_decoder\..*\.self\.(query|key)",
        LoraTargets.QUERY_VALUE: r"text_decoder\..*\.self\.(query|value)",
        LoraTargets.ATTENTION: r"text_decoder\..*attention\.(self\.(query|key|value)|output\.dense)",
        LoraTargets.ATTENTION_MLP: (
            r"text_decoder\..*(attention\.(self\.(query|key|value)|output\.dense)|intermediate\.dense|\d+\.output\.dense)"
        ),
    }
    vision_lora_pattern = r"vision_model\..*\.self_attn\.(qkv|projection)"

    def __init__(self, network: Any, processor: BlipProcessor) -> None:
        super().__init__(network, processor, int(network.config.vision_config.image_size))
        fuse_attention(network.vision_model)

    @classmethod
    def load(cls, source: str, options: LoadOptions) -> Self:
        """See `Captioner.load`; another image size interpolates the position embedding for good, so a save keeps it."""
        if options.vision_model is not None or options.quantization != "none":
            raise ModelFault(
                f"model {source}: a BLIP keeps its own vision tower and is small enough as it is; remove vision_model "
                "and quantization."
            )
        network = load_whole_network(BlipForConditionalGeneration, source, dtype=options.dtype)
        processor = BlipProcessor.from_pretrained(source)
        check_tokenizer(processor.tokenizer, int(network.config.text_config.vocab_size), source)
        vision_config = network.config.vision_config
        if options.image_size is not None:
            resize_positions(network.vision_model, vision_config, options.image_size, source)
        return cls(network, processor)

    @property
    def encoder(self) -> nn.Module:
        """The vision tower."""
        vision_model: nn.Module = self.network.vision_model
        return vision_model

    def check(self, config: TrialConfig) -> None:
        """See `Captioner.check`."""
        num_positions = int(self.network.config.text_config.max_position_embeddings)
        check_caption_lengths(config, len(self._prompt_ids(config.prompt)), num_positions)

    def _prompt_ids(self, prompt: str) -> list[int]:
        """Begin token and prompt; the tokenizer's own end token is dropped."""
        ids = self.processor.tokenizer(prompt).input_ids[:-1] if prompt else [0]
        return [int(self.network.config.text_config.bos_token_id), *ids[1:]]

    def tokenize(self, captions: Sequence[str], config: TrialConfig) -> PackedCaptions:
        """See `Captioner.tokenize`; a cut caption keeps its end token, as in BLIP's own training."""
        text_config = self.network.config.text_config
        encoded = self.processor.tokenizer(
            [f"{config.prompt} {caption}" for caption in captions],
            truncation=True,
            max_length=config.max_caption_tokens,
            return_attention_mask=False,
        )
        ids = [np.asarray(row, dtype=np.int64) for row in encoded.input_ids]
        for row in ids:
            row[0] = text_config.bos_token_id
        return PackedCaptions(ids, len(self._prompt_ids(config.prompt)), int(text_config.pad_token_id))

    def encode_images(self, pixels: Tensor) -> Tensor:
        """See `Captioner.encode_images`."""
        hidden_states: Tensor = self.network.vision_model(pixel_values=self.scale_pixels(pixels)).last_hidden_state
        return hidden_states

    def compute_logits(self, encoder_hidden_states: Tensor, input_ids: Tensor) -> Tensor:
        """See `Captioner.compute_logits`."""
        slots = torch.arange(input_ids.numel(), device=input_ids.device)
        logits = foretell_words(self.network.text_decoder, encoder_hidden_states, input_ids, slots)
        return logits.view(*input_ids.shape, -1)

    def forward(self, images: Tensor, *texts: Tensor, label_smoothing: float, encoded: bool) -> Tensor:
        """See `Captioner.forward`; `texts` is a batch of `PackedCaptions`."""
        input_ids, labels, slots = texts
        hidden_states = images if encoded else self.encode_images(images)
        logits = foretell_words(self.network.text_decoder, hidden_states, input_ids, slots)
        next_labels = functional.pad(labels.flatten()[1:], (0, 1), value=IGNORED_LABEL)
        return functional.cross_entropy(
            logits.float(), next_labels[slots], label_smoothing=label_smoothing, reduction="sum"
        )

    def _generation_config(self, config: TrialConfig) -> GenerationConfig:
        text_config = self.network.config.text_config
        return build_generation_config(
            config,
            begin_id=text_config.bos_token_id,
            end_id=text_config.sep_token_id,
            pad_id=text_config.pad_token_id,
        )

    def set_generation_defaults(self, config: TrialConfig) -> None:
        """See `Captioner.set_generation_defaults`.

        A loaded BLIP uses them by `generate(pixel_values=..., generation_config=model.generation_config)`: without that
        argument transformers asks the text decoder, which has no defaults of its own.
        """
        self.network.generation_config = self._generation_config(config)

    def generate(self, encoder_hidden_states: Tensor, config: TrialConfig) -> list[str]:
        """See `Captioner.generate`; the search settings are `config`'s alone, never the checkpoint's."""
        ids, num_given = self.generate_ids(encoder_hidden_states, config)
        texts = self.processor.tokenizer.batch_decode(ids[:, num_given:].tolist(), skip_special_tokens=True)
        return [text.strip() for text in texts]

    def generate_ids(self, encoder_hidden_states: Tensor, config: TrialConfig) -> tuple[Tensor, int]:
        """See `Captioner.generate_ids`."""
        text_config = self.network.config.text_config
        prompt = torch.tensor(self._prompt_ids(config.prompt), device=encoder_hidden_states.device)
        ids = search_captions(
            self.build_decoder(encoder_hidden_states),
            prompt,
            len(encoder_hidden_states),
            config,
            end_id=text_config.sep_token_id,
            pad_id=text_config.pad_token_id,
        )
        return ids, len(prompt)

    def build_decoder(self, encoder_hidden_states: Tensor) -> BlipDecoder:
        """What writes the captions of images (B, N, D), with the weights it has now."""
        return BlipDecoder(self.network.text_decoder, encoder_hidden_states)

    def build_recording_copy(self) -> Self:
        """See `Captioner.build_recording_copy`; its vision tower writes the scores out again."""
        recorder = copy.deepcopy(self).eval().requires_grad_(True)
        unfuse_attention(recorder.network.vision_model)
        return recorder

    def record_attention(self, pixels: Tensor, input_ids: Tensor, *, with_encoder: bool) -> RecordedAttention:
        """See `Captioner.record_attention`."""
        with torch.no_grad():
            seen = self.network.vision_model(pixel_values=self.scale_pixels(pixels), output_attentions=with_encoder)
        told = self.network.text_decoder(
            input_ids=input_ids,
            attention_mask=_build_causal_mask(input_ids.shape[1], input_ids.device),
            encoder_hidden_states=seen.last_hidden_state,
            output_attentions=True,
            use_cache=False,
        )
        side = math.isqrt(seen.last_hidden_state.shape[1])  # a class token stands before the square of patches
        return RecordedAttention(told.cross_attentions, tuple(seen.attentions or ()), told.logits, (side, side))


def _build_causal_mask(num_tokens: int, device: torch.device) -> Tensor:
    """What is added to attention scores: 0 at a token and before it, the lowest float32 after it; (1, 1, T, T)."""
    lowest = torch.full((num_tokens, num_tokens), torch.finfo(torch.float32).min, device=device)
    return lowest.triu(1)[None, None]
