"""Record what MedBLIP in 3D attends to while it writes: its queries to patches, its language model to the queries.

Shape letters: B scans, Q queries, N tokens of a scan (a class token, then patches, x slowest), T of a text, H heads.
"""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medcap_core.models.captioner import RecordedAttention

if TYPE_CHECKING:
    from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner


def record_attention(
    recorder: "MedBlip3dCaptioner", pixels: Tensor, input_ids: Tensor, *, with_encoder: bool
) -> RecordedAttention:
    """Record attention of uint8 scans (B, 1, S, S, S) and reports (B, T), see `Captioner.record_attention`.

    The first of the T tokens stands for prompt and image. A decoder-only language model sees the image in its
    self-attention, of which whole layers are kept: gradients flow through these.
    """
    network: Any = recorder.network
    hidden_states, encoder = _record_encoder(recorder, pixels, with_attention=with_encoder)
    seen = network.qformer(
        query_embeds=network.query_tokens.expand(len(hidden_states), -1, -1),
        encoder_hidden_states=network.image_norm(hidden_states),
        output_attentions=True,
    )
    prompt, ids = recorder.report_prompt, input_ids[:, 1:]
    embedded = recorder.embed_prompt(seen.last_hidden_state, prompt)
    places = slice(len(prompt), len(prompt) + recorder.num_queries)
    inputs: dict[str, Tensor] = {}
    if not recorder.is_encoder_decoder:
        embedded = torch.cat([embedded, network.get_input_embeddings()(ids[:, :-1])], dim=1)
        steps = slice(places.stop - 1, places.stop - 1 + ids.shape[1])  # the last query predicts the first token
    else:
        inputs["decoder_input_ids"] = input_ids[:, :-1]
        steps = slice(0, ids.shape[1])
    output = network.language_model(
        inputs_embeds=embedded,
        attention_mask=embedded.new_ones(embedded.shape[:2], dtype=torch.int64),
        use_cache=False,
        output_attentions=True,
        **inputs,
    )
    side = recorder.geometry.size // int(network.config.patch_size)
    is_end = (ids == recorder.special_tokens.end).long()
    return RecordedAttention(
        decoder=tuple(output.cross_attentions if recorder.is_encoder_decoder else output.attentions),
        encoder=encoder,
        logits=output.logits,
        grid=(side, side, side),
        bridge=tuple(seen.cross_attentions),
        steps=steps,
        places=places,
        is_text=is_end.cumsum(1) == is_end,
    )


@torch.no_grad()
def _record_encoder(
    recorder: "MedBlip3dCaptioner", pixels: Tensor, *, with_attention: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Encode uint8 scans (B, 1, S, S, S): hidden states (B, N, D), and if wanted attention (B, H, N, N) of blocks."""
    attentions: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, tuple) and len(output) > 1 and output[1] is not None:
            attentions.append(output[1])

    with ExitStack() as hooks:
        for block in recorder.network.encoder.blocks if with_attention else ():
            own = next(getattr(block, name) for name in ("self_attn", "attention") if hasattr(block, name))  # BLIP, ViT
            hooks.callback(getattr(own, "attention", own).register_forward_hook(keep).remove)
        hidden_states = recorder.encode_images(pixels)
    # Not all blocks return it.
    return hidden_states, tuple(attentions) if len(attentions) == len(recorder.network.encoder.blocks) else ()
