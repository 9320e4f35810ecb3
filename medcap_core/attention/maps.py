"""Maps over an image's patches of where a captioner looked when it wrote each word of a text.

Where the decoder attends to the encoder's tokens, its attention is the map. Where it attends to the queries of a
bridge, a word's map is the mean of the queries' maps, each by the word's share of attention to it.

Shape letters: B images, T tokens of a text (the given ones too), K image tokens that the decoder attends to (N, or Q
queries), N encoder tokens an image, H heads, R rows and C columns of a layer's attention.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcap_core.attention.explained import ExplainedText, WordMap, join_words
from medcap_core.config import TrialConfig
from medcap_core.errors import ConfigFault, ModelFault
from medcap_core.models import Captioner
from medcap_core.models.captioner import RecordedAttention
from medcap_core.runtime.device import autocast, choose_precision
from medcap_core.runtime.progress import Progress, ignore_progress

BATCH_SIZE = 8
"""Images at once: attention of all layers and heads is kept for each."""


class AttentionMethod(StrEnum):
    """How attention becomes a map of a word.

    `cross_attention`: the decoder's attention to the image in the step that wrote the word. `cumulative`: the same,
    averaged over all steps up to that one, because a decoder looks before it writes and keeps what it saw. `gradient`:
    attention in all steps times the gradient of the word's log-probability, positive parts only, as in Chefer et al.
    (arXiv 2103.15679), but without their relevance of the layers between. `rollout`: as `cross_attention`, each encoder
    token traced back to the patches it was mixed from by attention rollout through the vision tower (Abnar and Zuidema,
    arXiv 2005.00928).

    A bridge's attention to the patches is averaged over its layers; `gradient` weighs it by the gradient of the whole
    text's log-probability, and `rollout` traces it back instead of the decoder's.
    """

    CROSS_ATTENTION = "cross_attention"
    CUMULATIVE = "cumulative"
    GRADIENT = "gradient"
    ROLLOUT = "rollout"


@dataclass(frozen=True)
class MapSettings:
    """A method, and the decoder layer it looks at: counted from 1, next to the embeddings; None is the mean of all."""

    method: AttentionMethod = AttentionMethod.CUMULATIVE
    layer: int | None = None

    @property
    def layer_name(self) -> str:
        """As given on the command line."""
        return "mean" if self.layer is None else str(self.layer)


DEFAULT_SETTINGS = MapSettings()


def explain_texts(
    captioner: Captioner,
    pixels: NDArray[np.uint8],
    config: TrialConfig,
    settings: MapSettings = DEFAULT_SETTINGS,
    questions: Sequence[str | None] | None = None,
    progress: Progress = ignore_progress,
    what: str = "explaining captions",
) -> list[ExplainedText]:
    """Write a text on each image as in a run, and map each word of it.

    `pixels` is uint8 (B, *row shape of the captioner's geometry). Where `questions` names one for an image its answer
    is written, else its caption or report. Maps are averaged over heads. Raises ConfigFault for a layer the model has
    not got, ModelFault for a family whose attention cannot be shown or that answers no questions.
    """
    recorder = captioner.build_recording_copy()
    questions = questions or [None] * len(pixels)
    explained: dict[int, ExplainedText] = {}
    for question in dict.fromkeys(questions):  # equal prompts need no padding
        prompt = config.prompt if question is None else captioner.format_question(question)
        asked = config.model_copy(update={"prompt": prompt})
        for model in (captioner, recorder):
            model.set_prompt(prompt)
        rows = [row for row, own in enumerate(questions) if own == question]
        for start in range(0, len(rows), BATCH_SIZE):
            part = rows[start : start + BATCH_SIZE]
            explained |= zip(part, _explain_batch(captioner, recorder, pixels[part], asked, settings), strict=True)
            progress(what, len(explained), len(pixels))
    captioner.set_prompt(config.prompt)
    return [explained[row] for row in range(len(pixels))]


def _explain_batch(
    captioner: Captioner, recorder: Captioner, pixels: NDArray[np.uint8], config: TrialConfig, settings: MapSettings
) -> list[ExplainedText]:
    images = torch.from_numpy(pixels).to(next(captioner.parameters()).device)
    input_ids, num_given = generate_ids(captioner, images, config)
    recorded = record(recorder, images, input_ids, settings)
    maps, maps_of_queries = compute_maps(recorded, input_ids, settings)
    tokenizer, num_layers = captioner.processor.tokenizer, len(recorded.decoder)
    explained = []
    for row, ids in enumerate(input_ids.tolist()):
        text, words = join_words(tokenizer, ids, num_given, maps[row], config)
        own = None if maps_of_queries is None else maps_of_queries[row]
        if own is not None:  # a word's map is the mean of the queries' maps by its shares of the queries
            words = tuple(WordMap(w.text, np.tensordot(w.map, own, 1).astype(np.float32), w.map) for w in words)
        explained.append(ExplainedText(text, words, recorded.grid, num_layers, own))
    return explained


@torch.inference_mode()
def generate_ids(captioner: Captioner, pixels: Tensor, config: TrialConfig) -> tuple[Tensor, int]:
    """Generate token ids (B, T) of the texts the model writes, given tokens included, and count the given ones."""
    captioner.eval()
    with autocast(pixels.device, choose_precision(config, pixels.device)):
        return captioner.generate_ids(captioner.encode_images(pixels), config)


def record(recorder: Captioner, pixels: Tensor, input_ids: Tensor, settings: MapSettings) -> RecordedAttention:
    """Record the attention that a method needs; `recorder` is a captioner's `build_recording_copy()`.

    Computed in the precision of the weights.
    """
    # Tensors made in inference mode cannot take part in a graph.
    pixels, input_ids = pixels.clone(), input_ids.clone()
    with torch.set_grad_enabled(settings.method is AttentionMethod.GRADIENT):
        return recorder.record_attention(pixels, input_ids, with_encoder=settings.method is AttentionMethod.ROLLOUT)


def compute_maps(
    recorded: RecordedAttention, input_ids: Tensor, settings: MapSettings
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Compute what tokens 1 to T - 1 of `input_ids` (B, T) were written from, each map of sum one.

    Returns maps over patches, (B, T - 1, *grid), and None; or over a bridge's queries, (B, T - 1, Q), and the queries'
    own maps over patches, (B, Q, *grid). Raises ConfigFault, ModelFault.
    """
    num_layers = len(recorded.decoder)
    if settings.layer is not None and not 1 <= settings.layer <= num_layers:
        raise ConfigFault(
            f"--layer {settings.layer}: the model's decoder has {num_layers} layers; give 1 to {num_layers}, or mean."
        )
    input_ids = input_ids.clone()
    weights = weigh_tokens(recorded, input_ids, settings)
    if not recorded.bridge:
        return build_maps(weights, recorded.grid), None
    patches = weigh_patches(recorded, input_ids, settings.method)
    return build_maps(weights, weights.shape[-1:]), build_maps(patches, recorded.grid)


def weigh_tokens(recorded: RecordedAttention, input_ids: Tensor, settings: MapSettings) -> Tensor:
    """Weigh the image tokens by what tokens 1 to T - 1 of `input_ids` (B, T) drew from them: (B, T - 1, K)."""
    layers = recorded.decoder if settings.layer is None else (recorded.decoder[settings.layer - 1],)
    if settings.method is AttentionMethod.GRADIENT:
        log_probabilities = _compute_log_probabilities(recorded, input_ids)
        weights = [  # an image depends on no other, so the sum over a batch serves each of them
            _weigh_by_gradient(log_probabilities[:, step].sum(), layers)[:, recorded.steps, recorded.places].sum(1)
            for step in range(log_probabilities.shape[1])
        ]
        return torch.stack(weights, dim=1)
    attention = _average(layers)[:, recorded.steps, recorded.places]
    if settings.method is AttentionMethod.CUMULATIVE:
        steps = torch.arange(1, attention.shape[1] + 1, device=attention.device)
        return attention.cumsum(1) / steps[:, None]
    if settings.method is AttentionMethod.ROLLOUT and not recorded.bridge:
        return _trace_back(attention, recorded.encoder)
    return attention


def weigh_patches(recorded: RecordedAttention, input_ids: Tensor, method: AttentionMethod) -> Tensor:
    """Weigh the encoder's tokens by what each query of the bridge drew from them: (B, Q, N)."""
    if method is AttentionMethod.GRADIENT:
        log_probabilities = _compute_log_probabilities(recorded, input_ids)
        if recorded.is_text is not None:
            log_probabilities = log_probabilities * recorded.is_text
        return _weigh_by_gradient(log_probabilities.sum(), recorded.bridge)
    attention = _average(recorded.bridge)
    return _trace_back(attention, recorded.encoder) if method is AttentionMethod.ROLLOUT else attention


def _average(layers: Sequence[Tensor]) -> Tensor:
    """Average attention (B, H, R, C) over layers and heads: (B, R, C)."""
    return torch.stack([layer.float().mean(1) for layer in layers]).mean(0).detach()


def _trace_back(attention: Tensor, encoder: Sequence[Tensor]) -> Tensor:
    """Trace attention to encoder tokens (B, R, N) back to what these were mixed from. Raises ModelFault."""
    if not encoder or any(layer.shape[-1] != attention.shape[-1] for layer in encoder):
        raise ModelFault(
            "--method rollout needs a vision tower whose patches all attend to each other and whose attention can be "
            "read, which this model's is not; give another method."
        )
    return attention @ compute_rollout(encoder)


def compute_rollout(attentions: Sequence[Tensor]) -> Tensor:
    """Compute attention rollout of an encoder's layers (B, H, N, N): (B, N, N), each row of sum one.

    Half of each layer's output is taken to come through the residual connection.
    """
    identity = torch.eye(attentions[0].shape[-1], device=attentions[0].device)
    mixed = identity.expand(len(attentions[0]), -1, -1)
    for attention in attentions:
        mixed = (attention.mean(1) + identity) / 2 @ mixed
    return mixed


def _compute_log_probabilities(recorded: RecordedAttention, input_ids: Tensor) -> Tensor:
    """Compute the log-probability of tokens 1 to T - 1 given those before: (B, T - 1)."""
    logits = recorded.logits[:, recorded.steps].float()
    return logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]


def _weigh_by_gradient(target: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """Average the positive parts of attention times the gradient of `target` over layers and heads: (B, R, C)."""
    gradients = torch.autograd.grad(target, layers, retain_graph=True)
    products = [(layer * gradient).relu().float() for layer, gradient in zip(layers, gradients, strict=True)]
    return torch.stack(products).mean((0, 2)).detach()


def build_maps(weights: Tensor, grid: tuple[int, ...]) -> NDArray[np.float32]:
    """Turn weights over encoder tokens (B, T, N) into maps over patches (B, T, *grid), each of sum one.

    Patches are the last of the tokens; those before them (a class token) are left out. Where no patch has any weight
    the map is even.
    """
    num_patches = math.prod(grid)
    patches = weights.detach()[..., -num_patches:].double()
    total = patches.sum(-1, keepdim=True)
    even = torch.full_like(patches, 1 / num_patches)
    maps = torch.where(total > 0, patches / total.clamp_min(torch.finfo(torch.float64).tiny), even)
    shaped: NDArray[np.float32] = maps.reshape(*maps.shape[:2], *grid).float().cpu().numpy()
    return shaped
