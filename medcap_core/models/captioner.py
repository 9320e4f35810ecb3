"""The interface of all captioner families.

Shape letters: B images, T caption tokens (padded), N encoder tokens an image, D encoder width, S pixels a side,
V entries of the vocabulary.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig

from medcap_core.config import LoraTargets, TrialConfig
from medcap_core.data.batches import DrawnCaptions, TokenizedTexts
from medcap_core.data.images import ImageGeometry
from medcap_core.data.records import Record
from medcap_core.errors import ModelFault
from medcap_core.models import generation
from medcap_core.models.generation import SpecialTokens
from medcap_core.models.loading.weights import LoadOptions, load_image_processor, read_size, set_image_size
from medcap_core.models.tokens import TokenizedCaptions, sum_token_losses
from medcap_core.models.wordpiece import decode_texts
from medcap_core.runtime.checkpoints import load_pretrained


@dataclass(frozen=True)
class RecordedAttention:
    """What a network attended to while a text was given to it token by token.

    H heads, R and C rows and columns of a layer's attention, Q queries of a bridge. `decoder` has the attention (B, H,
    R, C) of each decoder layer: of its rows, and of those of `logits` (B, R, V), `steps` predict tokens 1 to T - 1; of
    its columns, `places` are the image's: the N encoder tokens, or the Q queries. `bridge` has for each layer that sees
    the image (B, H, Q, N), and is empty without a bridge. `encoder` has for each encoder layer (B, H, N, N), and is
    empty where not asked for. The last of the N encoder tokens are the image's patches: rows x columns, or those along
    x, y and z. `is_text` (B, T - 1) is 0 at what comes after a text's end.
    """

    decoder: tuple[Tensor, ...]
    encoder: tuple[Tensor, ...]
    logits: Tensor
    grid: tuple[int, ...]
    bridge: tuple[Tensor, ...] = ()
    steps: slice = field(default_factory=lambda: slice(-1))
    places: slice | Tensor = field(default_factory=lambda: slice(None))
    is_text: Tensor | None = None


class EncoderCache:
    """Hash and output shape of a frozen encoder, shared by every in-memory copy of one loaded captioner."""

    hash: str | None = None
    token_shape: tuple[int, int] | None = None

    def __deepcopy__(self, memo: object) -> "EncoderCache":
        return self


class Captioner(nn.Module, ABC):
    """An image captioner: a transformers model, its processor, and all that a trial needs of both.

    `freeze_rules` are ordered (pattern, part): "encoder" is the vision tower, "decoder" generates the caption, "bridge"
    connects them in some families, and "unused" does not affect captions and is never trained. The first pattern found
    in a parameter's name decides, and every parameter must match one. `lora_patterns` maps each target set to the
    pattern that a module's name must match in full; `vision_lora_pattern` is the one for the vision tower.

    `cross_attention` is the part that attends to the encoder's tokens: with "decoder" each token of a caption does, so
    its attention can be shown over the image; with "bridge" only the bridge's queries do, which the tokens read.
    """

    family: ClassVar[str]
    cross_attention: ClassVar[Literal["decoder", "bridge"]]
    is_large: ClassVar[bool] = False
    """Whether the family has billions of parameters: frozen weights may be in bf16 or quantized, and are not copied."""
    takes_vision_model: ClassVar[bool] = False  # whether another vision tower can be named
    can_quantize: ClassVar[bool] = False  # whether its language model can be loaded in 4 or 8 bits
    can_record_steps: ClassVar[bool] = False  # whether training steps can be replayed as CUDA graphs
    can_checkpoint: ClassVar[bool] = False  # whether transformers can compute activations again in the backward pass
    answers_questions: ClassVar[bool] = False  # whether the family can `answer`, which classification metrics need
    is_encoder_decoder: bool = False  # whether the language model reads image and instruction by an encoder of its own
    decoder_has_generate: ClassVar[bool] = False
    """Whether transformers' `generate` runs that of the text decoder, with the decoder's own defaults."""
    loader: ClassVar[str] = "transformers' from_pretrained"  # the function that loads a saved model
    encoded_parts: ClassVar[frozenset[str]] = frozenset({"patches", "encoder"})
    """The parts that `encode_images` runs: where one is trained, its output is not cached."""
    encoder_name: str  # of the vision tower in the network
    caption_tokens: ClassVar[type[TokenizedCaptions]] = TokenizedCaptions  # what `tokenize` builds
    uncalled_parts: ClassVar[frozenset[str]] = frozenset()
    """The parts whose layers `forward` computes without calling them, so that FSDP2 shards them all as one."""
    freeze_rules: tuple[tuple[str, str], ...]
    lora_patterns: ClassVar[dict[LoraTargets, str]]
    vision_lora_pattern: ClassVar[str]

    network: Any  # a transformers PreTrainedModel, whose methods are not typed
    processor: Any
    geometry: ImageGeometry
    special_tokens: SpecialTokens
    num_positions: int | None = None
    """Most tokens of prompt and caption, the image's taken off; None for relative positions without a limit."""
    pixel_scale: Tensor  # (1, 3, 1, 1), with pixel_shift: rescaling and normalisation in one multiply-add
    pixel_shift: Tensor

    def __init__(self, network: Any, processor: Any, image_size: int) -> None:
        """Wrap a network that takes images of `image_size` pixels a side, and set the processor to it."""
        super().__init__()
        self.encoder_cache = EncoderCache()
        self.network = network
        self.processor = processor
        self._take_images(image_size)

    def _take_images(self, image_size: int) -> None:
        """Set the processor to this image size, and store the normalisation of pixels."""
        images = self.processor.image_processor
        self.geometry = set_image_size(images, image_size)
        normalises = getattr(images, "do_normalize", True)
        mean = torch.tensor(images.image_mean if normalises else [0.0] * 3)
        std = torch.tensor(images.image_std if normalises else [1.0] * 3)
        # (x / 255 - mean) / std
        self.register_buffer("pixel_scale", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_shift", (-mean / std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    @abstractmethod
    def load(cls, source: str, options: LoadOptions) -> "Captioner":
        """Load a checkpoint in Hub format from a folder or Hub name.

        Raises OSError where the checkpoint cannot be found, ModelFault where it or the options do not fit.
        """

    @classmethod
    def read_geometry(cls, source: str, image_size: int | None) -> ImageGeometry:
        """Read the pixels a checkpoint takes, without its weights. Raises as `load`."""
        settings = load_pretrained(AutoConfig, source)
        vision = getattr(settings, "vision_config", getattr(settings, "encoder", settings))
        own_size = getattr(vision, "image_size", None)
        if own_size is None:
            raise ModelFault(f"model {source}: its config.json names no image_size, so it sees no images.")
        return set_image_size(load_image_processor(source), image_size or read_size(own_size))

    def set_prompt(self, prompt: str) -> None:
        """Set the constant prompt of a config; a no-op for families that read it in the caption alone."""

    @property
    def encoder(self) -> nn.Module:
        """The image encoder, put in eval mode where it is frozen."""
        encoder: nn.Module = self.network.get_submodule(self.encoder_name)
        return encoder

    def list_encoding_modules(self) -> list[nn.Module]:
        """List the modules that `encode_images` runs, whose weights its output depends on."""
        return [self.encoder]

    def describe_encoding(self) -> str:
        """Describe the settings that the output of `encode_images` depends on, beside size and normalisation."""
        config = getattr(self.encoder, "config", None)
        return config.to_json_string() if config else ""

    def tokenize(self, captions: Sequence[str], config: TrialConfig) -> TokenizedCaptions:
        """Tokenize prompt and captions, cut to `config.max_caption_tokens`; a cut caption keeps its end token."""
        given, opening = self._prompt_ids(config.prompt), "" if self.is_encoder_decoder else config.prompt.strip()
        texts = [f"{opening} {caption}".strip() for caption in captions]
        rows = self.processor.tokenizer(texts, add_special_tokens=False).input_ids
        num_tokens = config.max_caption_tokens - 2
        ids = [np.asarray([given[0], *row[:num_tokens], self.special_tokens.end]) for row in rows]
        return self.caption_tokens(ids, len(given), self.special_tokens.pad)

    def _prompt_ids(self, prompt: str) -> list[int]:
        """Return the first ids of a caption: begin token and prompt; an encoder-decoder reads its prompt apart."""
        first = self.special_tokens.start if self.is_encoder_decoder else self.special_tokens.begin
        assert first is not None
        return [first, *([] if self.is_encoder_decoder else self._tokenize_text(prompt.strip()))]

    def _tokenize_text(self, text: str) -> list[int]:
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def tokenize_records(self, records: Sequence[Record], config: TrialConfig) -> TokenizedTexts:
        """Tokenize the texts of a training step: the records' captions, and more in some families.

        Of several captions of an image one is drawn in each epoch.
        """
        texts = self.tokenize([caption for record in records for caption in record.references], config)
        counts = np.array([len(record.references) for record in records], dtype=np.int64)
        return texts if len(texts.ids) == len(records) else DrawnCaptions(texts, counts, config.seed)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode uint8 pixels (B, 3, S, S), normalised on the device, to hidden states (B, N, D)."""
        hidden_states: Tensor = self.encoder(pixel_values=self.scale_pixels(pixels)).last_hidden_state
        return hidden_states

    @abstractmethod
    def compute_logits(self, encoder_hidden_states: Tensor, input_ids: Tensor) -> Tensor:
        """Compute next-token logits (B, T, V) of `input_ids` (B, T) given images (B, N, D): entry t is of token t + 1.

        Captions of encoder-decoder language models begin with the decoder's start token.
        """

    def generate(self, encoder_hidden_states: Tensor, config: TrialConfig) -> list[str]:
        """Generate one caption for each image (B, N, D), without the prompt."""
        ids, num_given = self.generate_ids(encoder_hidden_states, config)
        return decode_texts(self.processor.tokenizer, ids[:, num_given:], config)

    @abstractmethod
    def generate_ids(self, encoder_hidden_states: Tensor, config: TrialConfig) -> tuple[Tensor, int]:
        """Generate the ids (B, T) of one caption for each image (B, N, D), and count those of the prompt among them.

        By beam search with the settings of `config`, never the checkpoint's.
        """

    def find_cut(self, captions: Sequence[str], config: TrialConfig) -> list[bool]:
        """Find which generated captions were cut at `max_new_tokens`: those of as many tokens, without an end token.

        They are tokenized again, which differs by a token where a model spells a word in an uncommon way.
        """
        ids = self.processor.tokenizer(list(captions), add_special_tokens=False).input_ids
        return [len(row) >= config.max_new_tokens for row in ids]

    def answer(self, encoder_hidden_states: Tensor, questions: Sequence[str], config: TrialConfig) -> list[str]:
        """Generate the answer to one question for each image (B, N, D).

        Raises ModelFault for a family that does not answer questions.
        """
        raise self._without_answers()

    def compute_class_scores(self, encoder_hidden_states: Tensor, question: str, answers: Sequence[str]) -> Tensor:
        """Compute the similarity of images (B, N, D) to a question with each possible answer: (B, number of answers).

        The highest is the class by similarity, without generation. Raises ModelFault as `answer`.
        """
        raise self._without_answers()

    def format_question(self, question: str) -> str:
        """Build the prompt that the model answers. Raises ModelFault as `answer` does."""
        raise self._without_answers()

    def _without_answers(self) -> ModelFault:
        return ModelFault(
            f"Models of the family '{self.family}' answer no questions; choose one that does, such as medblip3d."
        )

    def build_recording_copy(self) -> Self:
        """Build a copy that can `record_attention`, in eval mode; it shares the memory of the weights.

        Of its parameters the token embeddings alone require gradients, which puts all attention of a decoder into the
        graph. Raises ModelFault for a family without attention maps.
        """
        if type(self).record_attention is Captioner.record_attention:
            raise ModelFault(
                f"Models of the family '{self.family}' have no attention from words to image patches that could be "
                "shown; choose a run whose best model has a decoder with cross-attention, such as BLIP or ViT-GPT2."
            )
        shared = {
            id(value): nn.Parameter(value.detach(), requires_grad=False) if value.is_floating_point() else value
            for value in self.parameters()
        }
        recorder = copy.deepcopy(self, shared).eval()
        recorder.network.get_input_embeddings().requires_grad_(True)
        recorder.network.set_attn_implementation("eager")
        return recorder

    def record_attention(self, pixels: Tensor, input_ids: Tensor, *, with_encoder: bool) -> RecordedAttention:
        """Record the attention under teacher forcing with captions (B, T) of uint8 pixels (B, 3, S, S).

        With gradients enabled, `logits` depend on `decoder` and `bridge` in the graph. Call it on what
        `build_recording_copy` returns, which refuses a family without attention maps.
        """
        raise NotImplementedError

    def set_generation_defaults(self, config: TrialConfig) -> None:
        """Set the search settings of `config`, for the `generation_config.json` of a saved checkpoint."""
        self.network.generation_config = generation.build_generation_config(config, self.special_tokens)

    def check(self, config: TrialConfig) -> None:
        """Raise ModelFault if `config` does not fit the model (such as captions longer than its positions)."""
        num_given, beside_image = len(self._prompt_ids(config.prompt)), self.cross_attention == "bridge"
        generation.check_caption_lengths(config, num_given, self.num_positions, beside_image=beside_image)

    def forward(self, images: Tensor, *texts: Tensor, label_smoothing: float, encoded: bool) -> Tensor:
        """Compute the sum, not the mean, of the token losses, () float32, so that parts of a batch add up exactly.

        `images` is uint8 pixels (B, 3, S, S), or encoder hidden states (B, N, D) if `encoded`; `texts` is a batch of
        `tokenize_records`.
        """
        input_ids, labels = texts
        hidden_states = images if encoded else self.encode_images(images)
        logits = self.compute_logits(hidden_states, input_ids)
        return sum_token_losses(logits[:, :-1], labels[:, 1:], label_smoothing)

    def scale_pixels(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 pixels (B, 3, S, S) to float32."""
        return torch.addcmul(self.pixel_shift, pixels.float(), self.pixel_scale)

    def save(self, directory: Path) -> None:
        """Write model and processor in Hub format (safetensors)."""
        directory.mkdir(parents=True, exist_ok=True)
        self.network.save_pretrained(directory)
        if self.decoder_has_generate:
            generation.write_decoder_defaults(
                directory, self.network.generation_config, self.network.config.text_config
            )
        self.processor.save_pretrained(directory)
