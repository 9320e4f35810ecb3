"""ViT-GPT2: a vision transformer and a GPT-2 that cross-attends to it, `VisionEncoderDecoderModel` of transformers."""

import copy
import logging
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    GPT2LMHeadModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    VisionTextDualEncoderProcessor,
)

from medcap_core.errors import ModelFault
from medcap_core.models.generation import SpecialTokens
from medcap_core.models.loading.weights import (
    LoadOptions,
    check_tokenizer,
    load_image_processor,
    load_whole_network,
    read_size,
    resize_positions,
)
from medcap_core.models.lora_targets import build_lora_patterns
from medcap_core.models.search.captioner import SearchedCaptioner
from medcap_core.models.vit_gpt2.search_decoder import Gpt2Decoder
from medcap_core.runtime.checkpoints import load_pretrained

log = logging.getLogger(__name__)

_NEW_WEIGHTS_SEED = 0
"""Fixed, so that new layers between vision tower and decoder, part of the base model, are the same in every trial."""


class ViTGpt2Captioner(SearchedCaptioner):
    """`VisionEncoderDecoderModel` of transformers with a GPT-2 decoder; every token attends to the patches.

    The encoder is any ViT-like tower (ViT, DeiT, Swin, BEiT, DINOv2). The LoRA target sets `query_key` and
    `query_value` are the same, as GPT-2 has query, key and value in one matrix: both adapt all three.
    """

    family = "vit-gpt2"
    encoder_name = "encoder"
    takes_vision_model = True
    freeze_rules = (
        (r"^encoder\.(pooler\.|embeddings\.mask_token$)", "unused"),
        (r"^encoder\.", "encoder"),
        # Present where the widths differ; part of the decoder, like the keys and values of BLIP's cross-attention.
        (r"^enc_to_dec_proj\.", "decoder"),
        (r"^decoder\.", "decoder"),
    )
    lora_patterns = build_lora_patterns(r"decoder\.transformer\.h")
    # query, key and value are the names in earlier releases of transformers 5.
    vision_lora_pattern = r"encoder\..*\.(q_proj|k_proj|v_proj|query|key|value)"

    def __init__(self, network: Any, processor: Any) -> None:
        super().__init__(network, processor, read_size(network.config.encoder.image_size))
        self.num_positions = int(network.config.decoder.n_positions)
        self.special_tokens = _find_special_tokens(network, processor.tokenizer)

    @classmethod
    def load(cls, source: str, options: LoadOptions) -> Self:
        """Load a ViT-GPT2, see `Captioner.load`.

        `source` is a `VisionEncoderDecoderModel`, or a plain GPT-2 if `options.vision_model` names a vision tower for
        it. Existing cross-attention is kept under a new tower; other connecting layers are initialised at random.
        """
        config = load_pretrained(AutoConfig, source)
        _check_config(config, options, source)
        if options.vision_model is None:
            network = load_whole_network(VisionEncoderDecoderModel, source, dtype=options.dtype)
        else:
            network = _join(_load_decoder(config, source), options.vision_model, source)
        image_processor = load_image_processor(options.vision_model or source)
        tokenizer = load_pretrained(AutoTokenizer, source)
        check_tokenizer(tokenizer, int(network.config.decoder.vocab_size), source)
        resize_positions(network.encoder, network.config.encoder, options.image_size, options.vision_model or source)
        return cls(network, VisionTextDualEncoderProcessor(image_processor, tokenizer))  # type: ignore[no-untyped-call]

    def _project(self, encoder_hidden_states: Tensor) -> Tensor:
        """Project the tower's output to the decoder's width where they differ."""
        projected: Tensor = getattr(self.network, "enc_to_dec_proj", nn.Identity())(encoder_hidden_states)
        return projected

    def compute_logits(self, encoder_hidden_states: Tensor, input_ids: Tensor) -> Tensor:
        """Compute next-token logits, see `Captioner.compute_logits`."""
        logits: Tensor = self.decode(encoder_hidden_states, input_ids).logits
        return logits

    def decode(self, encoder_hidden_states: Tensor, input_ids: Tensor, **options: bool) -> Any:
        """Run the GPT-2, see `SearchedCaptioner.decode`."""
        projected = self._project(encoder_hidden_states)
        return self.network.decoder(input_ids=input_ids, encoder_hidden_states=projected, use_cache=False, **options)

    def build_decoder(self, encoder_hidden_states: Tensor) -> Gpt2Decoder:
        """Build the search decoder, see `SearchedCaptioner.build_decoder`."""
        return Gpt2Decoder(self.network.decoder, self._project(encoder_hidden_states))


def _check_config(config: Any, options: LoadOptions, source: str) -> None:
    is_gpt2 = config.model_type == "gpt2"
    if is_gpt2 and options.vision_model is None:
        raise ModelFault(
            f"model {source}: a GPT-2 alone sees no image; give vision_model, such as "
            "google/vit-base-patch16-224-in21k, or a whole ViT-GPT2 as model."
        )
    if not is_gpt2 and config.decoder.model_type != "gpt2":
        raise ModelFault(
            f"model {source}: its decoder is a {config.decoder.model_type}; give a VisionEncoderDecoderModel whose "
            "decoder is a GPT-2."
        )


def _load_decoder(config: Any, source: str) -> GPT2LMHeadModel:
    """Load the GPT-2 of a checkpoint with cross-attention, new if the checkpoint has none."""
    decoder: GPT2LMHeadModel
    if config.model_type == "vision-encoder-decoder":
        decoder = load_whole_network(VisionEncoderDecoderModel, source, dtype=torch.float32).decoder
        return decoder
    own = copy.deepcopy(config)
    own.is_decoder = own.add_cross_attention = True
    new = r"\.(crossattention|ln_cross_attn)\."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_NEW_WEIGHTS_SEED)
        decoder = load_whole_network(GPT2LMHeadModel, source, may_lack=new, config=own, dtype=torch.float32)
    log.warning("model %s: it has no cross-attention; that starts from random weights (seed 0)", source)
    return decoder


def _join(decoder: GPT2LMHeadModel, vision_model: str, source: str) -> VisionEncoderDecoderModel:
    encoder = load_pretrained(AutoModel, vision_model, use_safetensors=True, dtype=torch.float32)
    width = getattr(encoder.config, "hidden_size", None)
    if encoder.main_input_name != "pixel_values" or not isinstance(width, int):
        raise ModelFault(
            f"vision_model {vision_model}: its model_type '{encoder.config.model_type}' is no ViT-like vision tower; "
            "give a ViT, DeiT, Swin, BEiT or DINOv2."
        )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config)
    config.decoder_start_token_id = decoder.config.bos_token_id
    config.eos_token_id = config.pad_token_id = decoder.config.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_NEW_WEIGHTS_SEED)
        network = VisionEncoderDecoderModel(config=config, encoder=encoder, decoder=decoder)
    key, to = f"model {source}", decoder.config.hidden_size
    log.warning("%s: its vision tower is now that of %s, which the decoder has not learnt yet", key, vision_model)
    if hasattr(network, "enc_to_dec_proj"):
        log.warning("%s: a projection from %d to %d starts from random weights (seed 0)", key, width, to)
    return network


def _find_special_tokens(network: Any, tokenizer: Any) -> SpecialTokens:
    """Find begin, end and padding token, which checkpoints keep in different files."""
    sources = (network.generation_config, network.config, network.config.decoder, tokenizer)

    def find(*names: str) -> int | None:
        found = (getattr(source, name, None) for name in names for source in sources)
        return next((int(value) for value in found if isinstance(value, int)), None)

    begin, end = find("decoder_start_token_id", "bos_token_id"), find("eos_token_id")
    if begin is None or end is None:
        raise ModelFault(
            f"model {network.name_or_path}: neither config.json nor the tokenizer says which tokens begin and end a "
            "caption; set decoder_start_token_id and eos_token_id in its config.json."
        )
    pad = find("pad_token_id")
    return SpecialTokens(begin, end, end if pad is None else pad, start=begin)
