"""BLIP captioners: a ViT encoder and a BERT-style decoder that cross-attends to it (Li et al., arXiv 2201.12086)."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import BlipForConditionalGeneration, BlipProcessor
from transformers.models.blip.modeling_blip import BlipAttention

from medcap_core.models.blip.packed_decoder import PackedCaptions, compute_packed_logits
from medcap_core.models.blip.search_decoder import BlipDecoder
from medcap_core.models.generation import SpecialTokens
from medcap_core.models.loading.weights import LoadOptions, check_tokenizer, load_whole_network, resize_positions
from medcap_core.models.lora_targets import build_lora_patterns
from medcap_core.models.search.captioner import SearchedCaptioner
from medcap_core.models.tokens import IGNORED_LABEL, sum_token_losses
from medcap_core.runtime.checkpoints import load_pretrained


class BlipCaptioner(SearchedCaptioner):
    """`BlipForConditionalGeneration` of transformers.

    Departs from its `forward` in three points: padding and prompt have no loss (in transformers padding has), nothing
    is computed for padding, and cached encoder hidden states can replace the vision tower.
    """

    family = "blip"
    can_record_steps = True
    decoder_has_generate = True
    encoder_name = "vision_model"
    caption_tokens = PackedCaptions
    uncalled_parts = frozenset({"decoder"})  # see `packed_decoder`
    freeze_rules = ((r"^vision_model\.", "encoder"), (r"^text_decoder\.", "decoder"))
    lora_patterns = build_lora_patterns("text_decoder")
    vision_lora_pattern = r"vision_model\..*\.self_attn\.(qkv|projection)"

    def __init__(self, network: Any, processor: BlipProcessor) -> None:
        super().__init__(network, processor, int(network.config.vision_config.image_size))
        text = network.config.text_config
        self.num_positions = int(text.max_position_embeddings)
        self.special_tokens = SpecialTokens(text.bos_token_id, text.sep_token_id, text.pad_token_id)
        fuse_attention(network.vision_model)

    @classmethod
    def load(cls, source: str, options: LoadOptions) -> Self:
        """Load a BLIP, see `Captioner.load`; another `image_size` resizes the position embedding for good."""
        network = load_whole_network(BlipForConditionalGeneration, source, dtype=options.dtype)
        processor = load_pretrained(BlipProcessor, source)
        check_tokenizer(processor.tokenizer, int(network.config.text_config.vocab_size), source)
        resize_positions(network.vision_model, network.config.vision_config, options.image_size, source)
        return cls(network, processor)

    def compute_logits(self, encoder_hidden_states: Tensor, input_ids: Tensor) -> Tensor:
        """Compute next-token logits, see `Captioner.compute_logits`."""
        slots = torch.arange(input_ids.numel(), device=input_ids.device)
        logits = compute_packed_logits(self.network.text_decoder, encoder_hidden_states, input_ids, slots)
        return logits.view(*input_ids.shape, -1)

    def forward(self, images: Tensor, *texts: Tensor, label_smoothing: float, encoded: bool) -> Tensor:
        """Compute the summed token loss, see `Captioner.forward`; `texts` is a batch of `PackedCaptions`."""
        input_ids, labels, slots = texts
        hidden_states = images if encoded else self.encode_images(images)
        logits = compute_packed_logits(self.network.text_decoder, hidden_states, input_ids, slots)
        next_labels = nn.functional.pad(labels.flatten()[1:], (0, 1), value=IGNORED_LABEL)
        return sum_token_losses(logits, next_labels[slots], label_smoothing)

    def build_decoder(self, encoder_hidden_states: Tensor) -> BlipDecoder:
        """Build the search decoder for images (B, N, D), with the present weights."""
        return BlipDecoder(self.network.text_decoder, encoder_hidden_states)

    def build_recording_copy(self) -> Self:
        """See `Captioner.build_recording_copy`; fused attention has no scores."""
        recorder = super().build_recording_copy()
        fuse_attention(recorder.network.vision_model, fused=False)
        return recorder

    def decode(self, encoder_hidden_states: Tensor, input_ids: Tensor, **options: bool) -> Any:
        """Run the text decoder, see `SearchedCaptioner.decode`."""
        num_tokens, lowest = input_ids.shape[1], torch.finfo(torch.float32).min
        causal_mask = torch.full((1, 1, num_tokens, num_tokens), lowest, device=input_ids.device).triu(1)
        return self.network.text_decoder(
            input_ids=input_ids,
            attention_mask=causal_mask,
            encoder_hidden_states=encoder_hidden_states,
            use_cache=False,
            **options,
        )


def fuse_attention(vision_model: Any, *, fused: bool = True) -> None:
    """Let every attention layer of a vision tower use the fused kernels, or for attention maps transformers' own."""
    for layer in vision_model.encoder.layers:
        layer.self_attn.__class__ = FusedVisionAttention if fused else BlipAttention


class FusedVisionAttention(BlipAttention):
    """The vision tower's self-attention by PyTorch's fused kernels, which write out no scores, so there are no maps.

    Same weights and arithmetic as in transformers.
    """

    def forward(self, hidden_states: Tensor, **_: object) -> tuple[Tensor, None]:  # type: ignore[override]
        """Hidden states (B, N, D) -> (B, N, D)."""
        num_images, num_tokens, _width = hidden_states.shape
        mixed = self.qkv(hidden_states).view(num_images, num_tokens, 3, self.num_heads, self.head_dim)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout.p if self.training else 0.0
        context = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=self.scale)
        return self.projection(context.transpose(1, 2).flatten(2)), None
