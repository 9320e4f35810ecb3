"""Vision-language models of transformers: Qwen-VL, SmolVLM, PaliGemma, Gemma, LLaVA and others of that form.

A vision tower, a projector and a decoder-only language model that reads the projected image among the tokens of a
prompt. Every image is a square of one size, so each has the same number of tokens and the same prompt.
"""

import functools
import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_MAPPING

from medcap_core.config import TrialConfig
from medcap_core.data.images import ImageGeometry
from medcap_core.errors import MedcapError, ModelFault, first_line
from medcap_core.models.captioner import Captioner
from medcap_core.models.generation import SpecialTokens, check_caption_lengths
from medcap_core.models.loading.quantization import load_quantized
from medcap_core.models.loading.weights import (
    LoadOptions,
    check_tokenizer,
    load_image_processor,
    set_image_size,
)
from medcap_core.models.lora_targets import build_lora_patterns
from medcap_core.models.tokens import TokenizedCaptions, sum_token_losses
from medcap_core.models.vlm import recording
from medcap_core.models.vlm.processing import Prompt, choose_image_size, lay_out_prompt, load_processor, prepare_pixels
from medcap_core.runtime.checkpoints import load_pretrained
from medcap_core.runtime.device import is_out_of_memory

_TOWERS = {"gemma4_unified": "model.embed_vision"}
"""`model_type` -> what stands in for a vision tower where there is none."""

_VISION_LAYERS = "q_proj|k_proj|v_proj|o_proj|out_proj|qkv|proj|query|key|value"


class VlmCaptioner(Captioner):
    """`AutoModelForImageTextToText` of transformers.

    A config's prompt is the instruction: the user's turn of a chat, or the text after the image. It and the image have
    no loss and are not counted in `max_caption_tokens`. `encode_images` gives what the language model reads: the
    projected tokens of an image, with Qwen3-VL's for deeper layers beside them.
    """

    family = "vlm"
    cross_attention = "bridge"
    is_large = True
    can_checkpoint = True
    can_quantize = True
    encoded_parts = frozenset({"encoder", "bridge"})

    _network_class: ClassVar[Any] = AutoModelForImageTextToText

    prompt_layout: Prompt

    def __init__(self, network: Any, processor: Any, image_size: int) -> None:
        super().__init__(network, processor, image_size)
        self._find_parts()
        self._special_tokens = _find_special_tokens(network, processor.tokenizer)
        self._are_listed: list[bool] = []  # how transformers returns the features of images: a list, or one tensor
        self._accepted = set(inspect.signature(network.forward).parameters)
        self.set_prompt("")

    def _find_parts(self) -> None:
        """Set freeze rules and LoRA patterns by the names of tower and language model."""
        network = self.network
        names = {module: name for name, module in network.named_modules()}
        self.encoder_name = _TOWERS.get(network.config.model_type) or names[network.get_encoder(modality="image")]
        vision, text = re.escape(self.encoder_name), re.escape(names[network.get_decoder()])
        self.freeze_rules = (
            *((rf"^{vision}\.{pattern}", "unused") for pattern in find_unused(network.config)),
            (rf"^{vision}\..*(merger|multimodal_embedder)", "bridge"),  # projectors within the tower
            (rf"^{vision}\.", "encoder"),
            (rf"^({text}|lm_head)\.", "decoder"),
            (r"^model\.(\w*audio|vqmodel|generation_)", "unused"),  # of sounds; of Janus, that draw images
            (r"^model\.", "bridge"),
        )
        self._set_lora_patterns(text, rf"{vision}\..*att\w*")

    def _set_lora_patterns(self, decoder: str, vision_attention: str) -> None:
        """Set the LoRA patterns by those of the names of the language model and of the tower's attention."""
        # Of the architecture, not of the class.
        self.lora_patterns = build_lora_patterns(decoder)  # type: ignore[misc]
        self.vision_lora_pattern = rf"{vision_attention}\.(.*\.)?({_VISION_LAYERS})(\.linear)?"  # type: ignore[misc]

    @classmethod
    def load(cls, source: str, options: LoadOptions) -> Self:
        """Load the model, see `Captioner.load`; `image_size` is for models that take images of any size."""
        config = load_pretrained(AutoConfig, source)
        cls._check_architecture(config, source)
        processor = load_processor(source, config)
        size = choose_image_size(config, processor.image_processor, options.image_size, source)
        network = load_quantized(cls._network_class, source, options)
        check_tokenizer(processor.tokenizer, network.get_input_embeddings().num_embeddings, source)
        if config.model_type in recording.TRIED:
            return cls(network, processor, size)
        try:
            captioner = cls(network, processor, size)
            blank = torch.zeros(1, *captioner.geometry.row_shape, device=network.device)
            with torch.inference_mode():
                captioner.compute_logits(captioner.encode_images(blank), captioner.prompt_layout.ids.to(network.device))
        except Exception as error:  # whatever an architecture unlike the others raises
            if isinstance(error, MedcapError) or is_out_of_memory(error):
                raise
            raise ModelFault(
                f"model {source}: a {config.model_type} was never tried here and does not read an image as others do "
                f"({first_line(error).rstrip('.')}); give one that docs/models.md names."
            ) from error
        return captioner

    @classmethod
    def _check_architecture(cls, config: Any, source: str) -> None:
        network_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
        bases = (network_class, MODEL_MAPPING.get(type(config), network_class))
        reads_images = getattr(config, "vision_config", None) and any(
            hasattr(base, "get_image_features") for base in bases
        )
        reads_more = hasattr(config, "visual_indicator_token_ids")  # Ovis2: embeddings around each image
        if config.is_encoder_decoder or not reads_images or reads_more:
            raise ModelFault(
                f"model {source}: a {config.model_type} has no decoder-only language model that reads an image as "
                "tokens and nothing else; give one that has, such as a qwen3_vl, smolvlm, paligemma, gemma3 or llava."
            )

    @classmethod
    def read_geometry(cls, source: str, image_size: int | None) -> ImageGeometry:
        """Read the pixels a checkpoint takes, see `Captioner.read_geometry`."""
        images = load_image_processor(source)
        size = choose_image_size(load_pretrained(AutoConfig, source), images, image_size, source)
        return set_image_size(images, size)

    def list_encoding_modules(self) -> list[nn.Module]:
        """List tower and projector, see `Captioner.list_encoding_modules`."""
        decoder = self.network.get_decoder()
        return [module for module in self.network.base_model.children() if module is not decoder]

    def describe_encoding(self) -> str:
        """Describe tower and image processor, see `Captioner.describe_encoding`."""
        return super().describe_encoding() + str(self.processor.image_processor.to_json_string())

    def set_prompt(self, prompt: str) -> None:
        """Lay out the instruction around an image, see `Captioner.set_prompt`."""
        self.prompt = prompt
        self.prompt_layout = self._lay_out(prompt)
        own, end = self._special_tokens, self.prompt_layout.end_id
        # As the chat template ends an answer, else the first of the checkpoint's.
        self.special_tokens = own if end is None else replace(own, end=end)

    def _lay_out(self, prompt: str) -> Prompt:
        return lay_out_prompt(self.processor, prompt, self.geometry.size, self._accepted)

    def check(self, config: TrialConfig) -> None:
        """Check the caption lengths, see `Captioner.check`."""
        text_config = self.network.config.get_text_config()
        num_positions = int(text_config.max_position_embeddings) - self.prompt_layout.length
        check_caption_lengths(config, 0, num_positions, beside_image=True)

    # Captions as tokens

    def tokenize(self, captions: Sequence[str], config: TrialConfig) -> TokenizedCaptions:
        """Tokenize captions after the prompt, see `Captioner.tokenize`; a cut caption keeps its end token."""
        assert config.prompt == self.prompt, "set_prompt comes before tokenize"
        begin, opening = self.prompt_layout.ids[0].tolist(), self.prompt_layout.opening
        num_tokens = config.max_caption_tokens - 1
        rows = self.processor.tokenizer([f"{opening}{text}" for text in captions], add_special_tokens=False).input_ids
        ids = [np.asarray([*begin, *row[:num_tokens], self.special_tokens.end]) for row in rows]
        return TokenizedCaptions(ids, len(begin), self.special_tokens.pad, num_uncounted=len(begin))

    # From images to captions

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode pixels by tower and projector, see `Captioner.encode_images`."""
        base = self.network.base_model
        accepted = set(inspect.signature(base.get_image_features).parameters)
        found = base.get_image_features(**prepare_pixels(self.processor, pixels, accepted), return_dict=True)
        parts = [found.pooler_output, *(getattr(found, "deepstack_features", None) or ())]
        self._are_listed = [isinstance(part, list | tuple) for part in parts]
        return torch.cat([_stack(part, len(pixels)) for part in parts], dim=-1)

    @contextmanager
    def _seeing(self, encoded: Tensor) -> Iterator[dict[str, Tensor]]:
        """Let the network read the encoded images (B, N, D), and yield the inputs that announce them.

        transformers calls `get_image_features`, a public method, for them; that gives these meanwhile, for each beam
        where it is called after the images were repeated.
        """
        base, layout = self.network.base_model, self.prompt_layout
        own = base.get_image_features
        if not self._are_listed:  # all features so far came from a store
            with torch.no_grad(), torch.random.fork_rng():
                self.encode_images(torch.zeros(1, *self.geometry.row_shape, device=encoded.device))

        @functools.wraps(own)
        def give(*args: Any, **inputs: Any) -> BaseModelOutputWithPooling:
            num_rows = len(args[0] if args else inputs["pixel_values"])
            times = num_rows // (layout.pixel_shape[0] * len(encoded))
            whole = encoded.repeat_interleave(times, 0).chunk(len(self._are_listed), dim=-1)
            pooled, *deep = [
                list(part) if is_list else part for part, is_list in zip(whole, self._are_listed, strict=True)
            ]
            output = BaseModelOutputWithPooling(pooler_output=pooled)  # type: ignore[arg-type]
            if deep:  # transformers 5.0 has these in one row
                output.deepstack_features = [part.flatten(0, 1) if isinstance(part, Tensor) else part for part in deep]
            return output

        base.get_image_features = give
        try:
            rows = len(encoded)
            shape = (layout.pixel_shape[0] * rows, *([1] * (len(layout.pixel_shape) - 1)))
            images = {name: value.to(encoded.device) for name, value in layout.image_inputs.items()}
            yield {
                "pixel_values": torch.zeros(shape, device=encoded.device),
                **{name: value.repeat(rows, *([1] * (value.ndim - 1))) for name, value in images.items()},
            }
        finally:
            del base.get_image_features

    def run(self, encoded: Tensor, input_ids: Tensor, num_logits: int, *, output_attentions: bool = False) -> Any:
        """Run the network on prompt and caption (B, T), for the last `num_logits` next-token logits; 0 is for all."""
        num_new = input_ids.shape[1] - self.prompt_layout.length
        with self._seeing(encoded) as images:
            return self.network(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),  # padding follows the caption, which no token of it sees
                **images,
                **self._token_types(len(input_ids), num_new, input_ids.device),
                use_cache=False,
                logits_to_keep=num_logits,
                output_attentions=output_attentions,
            )

    def _token_types(self, rows: int, num_new: int, device: torch.device) -> dict[str, Tensor]:
        """Return the token types of the prompt and of `num_new` tokens after it, each (B, P + new)."""
        types = {}
        for name, value in self.prompt_layout.token_types.items():
            # PaliGemma's prompt is 0 throughout, which is read in both directions, and its answer 1.
            follows = int(name == "token_type_ids" and not value.any())
            new = value.new_full((1, num_new), follows)
            types[name] = torch.cat([value, new], dim=1).to(device).expand(rows, -1)
        return types

    def compute_logits(self, encoder_hidden_states: Tensor, input_ids: Tensor) -> Tensor:
        """Compute next-token logits, see `Captioner.compute_logits`."""
        logits: Tensor = self.run(encoder_hidden_states, input_ids, input_ids.shape[1]).logits
        return logits

    def forward(self, images: Tensor, *texts: Tensor, label_smoothing: float, encoded: bool) -> Tensor:
        """Compute the sum of the token losses, see `Captioner.forward`; the prompt's logits are not computed."""
        input_ids, labels = texts
        start = self.prompt_layout.length
        encoded_images = images if encoded else self.encode_images(images)
        logits = self.run(encoded_images, input_ids, labels.shape[1] - start + 1).logits
        return sum_token_losses(logits[:, :-1], labels[:, start:], label_smoothing)

    def generate_ids(self, encoder_hidden_states: Tensor, config: TrialConfig) -> tuple[Tensor, int]:
        """Generate ids, see `Captioner.generate_ids`; the first token stands for the prompt and its image."""
        assert config.prompt == self.prompt, "set_prompt comes before generate"
        self.set_generation_defaults(config)
        rows, device = len(encoder_hidden_states), encoder_hidden_states.device
        prompt = self.prompt_layout.ids.to(device).expand(rows, -1)
        with self._seeing(encoder_hidden_states) as images:
            generated = self.network.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                **images,
                **self._token_types(rows, 0, device),
            )
        return generated[:, prompt.shape[1] - 1 :], 1

    # Attention

    def find_image_places(self, num_tokens: int) -> Tensor:
        """Find the places of the image's `num_tokens` tokens, as encoded, among those that attention is over: (K,)."""
        places: Tensor = (self.prompt_layout.ids[0] == self.network.config.image_token_id).nonzero()[:, 0]
        assert len(places) == num_tokens
        return places

    record_attention = recording.record_attention


def _stack(features: Tensor | Sequence[Tensor], num_images: int) -> Tensor:
    """Stack the features of images of equal size, however transformers returns them: (B, N, D)."""
    whole = features if isinstance(features, Tensor) else torch.cat([*features])
    return whole.reshape(num_images, -1, whole.shape[-1])


def find_unused(config: Any) -> list[str]:
    """Find patterns of the tower's parameters that no caption depends on: those after the layer that is read."""
    unused = [r"(.*\.)?head\."]  # SigLIP's pooling
    layer = getattr(config, "vision_feature_layer", -1)
    if isinstance(layer, int) and layer < -1:
        last = int(config.vision_config.num_hidden_layers) + layer
        unused += [rf"(.*\.)?layers\.{index}\." for index in range(last + 1, config.vision_config.num_hidden_layers)]
        unused.append(r"(.*\.)?post_layernorm\.")
    elif "clip_vision_model" in config.vision_config.model_type:
        unused.append(r"(.*\.)?post_layernorm\.")
    return unused


def _find_special_tokens(network: Any, tokenizer: Any) -> SpecialTokens:
    """Find the end tokens and the padding token, which checkpoints keep in different files."""
    sources = (network.generation_config, network.config.get_text_config(), tokenizer)
    ends = next((found for source in sources if (found := getattr(source, "eos_token_id", None)) is not None), None)
    if ends is None:
        raise ModelFault(
            f"model {network.name_or_path}: neither its generation_config.json nor its tokenizer says which token ends "
            "a caption; set eos_token_id there."
        )
    end_ids = list(ends) if isinstance(ends, list | tuple) else [int(ends)]
    pads = (getattr(source, "pad_token_id", None) for source in sources)
    pad = next((found for found in pads if isinstance(found, int) and found >= 0), end_ids[0])
    return SpecialTokens(tokenizer.bos_token_id, end_ids[0], pad, other_ends=tuple(end_ids))
