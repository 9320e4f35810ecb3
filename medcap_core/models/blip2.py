"""BLIP-2 (Li et al., arXiv 2301.12597) and InstructBLIP (Dai et al., arXiv 2305.06500).

A vision tower, a bridge (query tokens that attend to its patches in the Q-Former, and a projection) and a language
model that reads the projected queries before the text: decoder-only (OPT, LLaMA) or encoder-decoder (FLAN-T5).
"""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import (
    Blip2ForConditionalGeneration,
    Blip2Processor,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
)

from medcap_core.config import TrialConfig
from medcap_core.errors import ModelFault
from medcap_core.models.captioner import Captioner
from medcap_core.models.generation import build_generation_config, read_special_tokens
from medcap_core.models.loading.quantization import load_quantized
from medcap_core.models.loading.weights import LoadOptions, check_tokenizer, resize_positions
from medcap_core.models.lora_targets import build_lora_patterns
from medcap_core.runtime.checkpoints import load_pretrained


class Blip2Captioner(Captioner):
    """`Blip2ForConditionalGeneration` of transformers.

    A config's prompt is the beginning of every caption for a decoder-only language model, and an instruction to the
    encoder of an encoder-decoder. Departs from transformers' `forward`: padding and prompt have no loss, and cached
    encoder hidden states can replace the vision tower.
    """

    family = "blip-2"
    cross_attention = "bridge"
    is_large = True
    can_checkpoint = True
    can_quantize = True
    decoder_has_generate = True
    encoder_name = "vision_model"
    freeze_rules: tuple[tuple[str, str], ...] = (
        (r"^vision_model\.", "encoder"),
        (r"^(query_tokens$|qformer\.|language_projection\.)", "bridge"),
        (r"^language_model\.", "decoder"),
    )
    lora_patterns = build_lora_patterns("language_model")
    vision_lora_pattern = r"vision_model\..*\.self_attn\.(qkv|projection)"

    _network_class: ClassVar[Any] = Blip2ForConditionalGeneration
    _processor_class: ClassVar[Any] = Blip2Processor

    instruction_ids: Tensor
    """Ids of the instruction to an encoder-decoder language model, after the image: (1, P)."""

    def __init__(self, network: Any, processor: Any) -> None:
        super().__init__(network, processor, int(network.config.vision_config.image_size))
        self.num_queries = int(network.config.num_query_tokens)
        self.is_encoder_decoder = not network.config.use_decoder_only_language_model
        if not self.is_encoder_decoder:
            self.num_positions = int(network.config.text_config.max_position_embeddings) - self.num_queries
        self.special_tokens = read_special_tokens(
            network.config.text_config, is_encoder_decoder=self.is_encoder_decoder
        )
        self.register_buffer("instruction_ids", torch.empty(1, 0, dtype=torch.int64), persistent=False)
        self.set_prompt("")

    @classmethod
    def load(cls, source: str, options: LoadOptions) -> Self:
        """Load the model, see `Captioner.load`; another `image_size` resizes the position embedding for good."""
        network = load_quantized(cls._network_class, source, options)
        processor = load_pretrained(cls._processor_class, source)
        # Some checkpoints have it in the model's config alone; the processor needs it to lay out a prompt.
        processor.num_query_tokens = int(network.config.num_query_tokens)
        check_tokenizer(processor.tokenizer, network.get_input_embeddings().num_embeddings, source)
        resize_positions(network.vision_model, network.config.vision_config, options.image_size, source)
        return cls(network, processor)

    def set_prompt(self, prompt: str) -> None:
        """Set the instruction, see `Captioner.set_prompt`."""
        self.prompt = prompt
        ids = self.processor.tokenizer(prompt.strip()).input_ids if self.is_encoder_decoder else []
        self.instruction_ids = torch.tensor([ids], dtype=torch.int64, device=self.instruction_ids.device)

    def _query_images(self, encoder_hidden_states: Tensor) -> Any:
        """Compute the query outputs: (B, N, D) -> (B, Q, width of the Q-Former)."""
        num_images = len(encoder_hidden_states)
        return self.network.qformer(
            query_embeds=self.network.query_tokens.expand(num_images, -1, -1),
            encoder_hidden_states=encoder_hidden_states,
            **self._instruct_queries(num_images),
        ).last_hidden_state[:, : self.num_queries]

    def _instruct_queries(self, num_images: int) -> dict[str, Tensor]:
        """Return what else the Q-Former reads."""
        return {}

    def _embed(self, encoder_hidden_states: Tensor, input_ids: Tensor) -> Tensor:
        """Embed the language model's input, projected queries and then ids (B, T): (B, Q + T, its width)."""
        tokens = self.network.get_input_embeddings()(input_ids)
        projected = self.network.language_projection(self._query_images(encoder_hidden_states))
        return torch.cat([projected.to(tokens.dtype), tokens], dim=1)

    def compute_logits(self, encoder_hidden_states: Tensor, input_ids: Tensor) -> Tensor:
        """Compute next-token logits, see `Captioner.compute_logits`."""
        given, inputs = input_ids, {}
        if self.is_encoder_decoder:
            given, inputs = self.instruction_ids.expand(len(input_ids), -1), {"decoder_input_ids": input_ids}
        embedded = self._embed(encoder_hidden_states, given)
        logits: Tensor = self.network.language_model(inputs_embeds=embedded, use_cache=False, **inputs).logits
        return logits[:, -input_ids.shape[1] :]

    def generate_ids(self, encoder_hidden_states: Tensor, config: TrialConfig) -> tuple[Tensor, int]:
        """Generate ids, see `Captioner.generate_ids`."""
        assert config.prompt == self.prompt, "set_prompt comes before generate"
        num_images, device = len(encoder_hidden_states), encoder_hidden_states.device
        prompt = torch.tensor([self._prompt_ids(config.prompt)], device=device)
        given = self.instruction_ids if self.is_encoder_decoder else prompt
        embedded = self._embed(encoder_hidden_states, given.expand(num_images, -1))
        inputs = {"inputs_embeds": embedded, "attention_mask": embedded.new_ones(embedded.shape[:2], dtype=torch.int64)}
        if not self.is_encoder_decoder:
            # With the ids, as in transformers, a repetition penalty includes the prompt.
            image_id = self.network.config.image_token_index
            image_id = self.special_tokens.pad if image_id is None else int(image_id)
            images = given.new_full((1, self.num_queries), image_id)
            inputs["input_ids"] = torch.cat([images, given], dim=1).expand(num_images, -1)
        settings = build_generation_config(config, self.special_tokens)
        generated = self.network.language_model.generate(**inputs, generation_config=settings)
        return generated, 0 if self.is_encoder_decoder else embedded.shape[1]


class InstructBlipCaptioner(Blip2Captioner):
    """`InstructBlipForConditionalGeneration`: BLIP-2 whose Q-Former also reads the prompt, an instruction."""

    family = "instructblip"
    _network_class = InstructBlipForConditionalGeneration
    _processor_class = InstructBlipProcessor

    query_instruction_ids: Tensor
    """Ids of the instruction for the Q-Former, (1, P)."""

    def __init__(self, network: Any, processor: Any) -> None:
        super().__init__(network, processor)
        # The last layer's outputs at the instruction's tokens are not used.
        last = int(network.config.qformer_config.num_hidden_layers) - 1
        unused = rf"^qformer\.encoder\.layer\.{last}\.(intermediate|output)\."
        self.freeze_rules = ((unused, "unused"), *Blip2Captioner.freeze_rules)

    def set_prompt(self, prompt: str) -> None:
        """Set the instruction of Q-Former and language model, see `Captioner.set_prompt`."""
        super().set_prompt(prompt)
        ids = self.processor.qformer_tokenizer(prompt.strip()).input_ids
        self.register_buffer(
            "query_instruction_ids",
            torch.tensor([ids], dtype=torch.int64, device=self.instruction_ids.device),
            persistent=False,
        )

    def check(self, config: TrialConfig) -> None:
        """Check the lengths of captions and instruction, see `Captioner.check`."""
        super().check(config)
        longest = int(self.network.config.qformer_config.max_position_embeddings)
        num_tokens = len(self.processor.qformer_tokenizer(config.prompt.strip()).input_ids)
        if num_tokens > longest:
            raise ModelFault(
                f"the prompt has {num_tokens} tokens and the model's Q-Former {longest} positions; shorten the prompt."
            )

    def _instruct_queries(self, num_images: int) -> dict[str, Tensor]:
        return {"input_ids": self.query_instruction_ids.expand(num_images, -1)}
