"""What MedBLIP in 3D attended to while it wrote: queries to patches, words to queries.

Shape letters: B scans, Q queries, N tokens of a scan (a class token, then patches, x slowest), T tokens of an answer,
H heads, V words; R and C rows and columns of a language model's own attention.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner
from medcap_core.models.medblip3d.texts import Ids

Layers = tuple[Tensor, ...]


@dataclass(frozen=True)
class RecordedAnswer:
    """What a network attended to while answers were given to it token by token.

    `language` has for each decoder layer of the language model its whole attention (B, H, R, C): of its rows, `steps`
    (T of them) foretell the answer's tokens; of its columns, `places` (Q) are the image's. `bridge` has for each layer
    of the Q-Former that sees the scan (B, H, Q, N). Entry t of `logits` (B, T, V) foretells token t, and hangs on both
    in the graph where gradients are enabled.
    """

    language: Layers
    bridge: Layers
    logits: Tensor
    steps: slice
    places: slice


def build_recording_copy(captioner: MedBlip3dCaptioner) -> MedBlip3dCaptioner:
    """A copy with the same weights whose attention writes its scores out.

    Nothing but the query tokens takes part in training, which is enough for a graph to hang on all attention.
    """
    recorder = copy.deepcopy(captioner).eval().requires_grad_(False)
    network = recorder.network
    network.query_tokens.requires_grad_(True)
    network.qformer.set_attn_implementation("eager")
    network.language_model.set_attn_implementation("eager")
    for module in network.encoder.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = "eager"
    return recorder


def record_answer(recorder: MedBlip3dCaptioner, hidden_states: Tensor, prompt: Ids, ids: Tensor) -> RecordedAnswer:
    """Attention while the answers `ids` (B, T) to one prompt are given for encoded scans (B, N, D).

    `recorder` is a `build_recording_copy`; with gradients enabled the graph is kept.
    """
    network: Any = recorder.network
    seen = network.qformer(
        query_embeds=network.query_tokens.expand(len(hidden_states), -1, -1),
        encoder_hidden_states=network.image_norm(hidden_states),
        output_attentions=True,
    )
    embedded = recorder.embed_prompt(seen.last_hidden_state, prompt)
    start = len(prompt)
    places = slice(start, start + recorder.num_queries)
    given = ids[:, :-1]
    inputs: dict[str, Tensor] = {}
    if recorder.start_id is None:
        embedded = torch.cat([embedded, network.get_input_embeddings()(given)], dim=1)
        steps = slice(places.stop - 1, places.stop - 1 + ids.shape[1])  # the last image token foretells the first word
    else:
        inputs["decoder_input_ids"] = nn.functional.pad(given, (1, 0), value=recorder.start_id)
        steps = slice(0, ids.shape[1])
    mask = embedded.new_ones(embedded.shape[:2], dtype=torch.int64)
    told = network.language_model(
        inputs_embeds=embedded, attention_mask=mask, use_cache=False, output_attentions=True, **inputs
    )
    language = told.attentions if recorder.start_id is None else told.cross_attentions
    logits = told.logits[:, -ids.shape[1] :]
    return RecordedAnswer(tuple(language), tuple(seen.cross_attentions), logits, steps, places)


@torch.no_grad()
def record_encoder(recorder: MedBlip3dCaptioner, pixels: Tensor, *, with_attention: bool) -> tuple[Tensor, Layers]:
    """Hidden states (B, N, D) of uint8 scans (B, 1, S, S, S), and where wanted each block's attention (B, H, N, N).

    The latter is empty where the blocks do not tell it.
    """
    attentions: list[Tensor] = []
    modules = _find_attention(recorder) if with_attention else []
    handles = [module.register_forward_hook(_Listener(attentions)) for module in modules]
    try:
        hidden_states = recorder.encode_images(pixels)
    finally:
        for handle in handles:
            handle.remove()
    num_blocks = len(recorder.network.encoder.blocks)
    return hidden_states, tuple(attentions) if len(attentions) == num_blocks else ()


def _find_attention(recorder: MedBlip3dCaptioner) -> list[nn.Module]:
    """The attention of each block; BLIP's towers and ViT name it differently."""
    found = []
    for block in recorder.network.encoder.blocks:
        own = [getattr(block, name) for name in ("self_attn", "attention") if hasattr(block, name)]
        found += [getattr(module, "attention", module) for module in own]
    return found


class _Listener:
    """Notes the scores, second of what an attention module gives."""

    def __init__(self, attentions: list[Tensor]) -> None:
        self.attentions = attentions

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, tuple) and len(output) > 1 and output[1] is not None:
            self.attentions.append(output[1])
