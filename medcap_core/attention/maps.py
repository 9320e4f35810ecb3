"""Where a captioner looked when it wrote each word: maps over the image's patches.

Shape letters: B images, T caption tokens, N encoder tokens an image, R rows and C columns of patches, H heads.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medcap_core.config import TrialConfig
from medcap_core.data.records import fold_white_space
from medcap_core.errors import ConfigFault, ModelFault
from medcap_core.models import Captioner
from medcap_core.models.captioner import RecordedAttention
from medcap_core.runtime.device import autocast, choose_precision

BATCH_SIZE = 8
"""Images at once: attention of all layers and heads is kept for each."""

_UNFINISHED = "\ufffd"  # what byte-level tokenizers decode a part of a letter to

PEAK_PIXELS = 96
"""How finely peaks are looked for, a side."""


class AttentionMethod(StrEnum):
    """How attention becomes a map of a word.

    `cross_attention`: the decoder's attention to the encoder's tokens in the step that wrote the word. `cumulative`:
    the same, averaged over all steps up to that one, because a decoder looks before it writes and keeps what it saw.
    `gradient`: attention in all steps times the gradient of the word's log-probability, positive parts only, as in
    Chefer et al. (arXiv 2103.15679), but without their relevance of the layers between. `rollout`: as
    `cross_attention`, each encoder token traced back to the patches it was mixed from by attention rollout through the
    vision tower (Abnar and Zuidema, arXiv 2005.00928).
    """

    CROSS_ATTENTION = "cross_attention"
    CUMULATIVE = "cumulative"
    GRADIENT = "gradient"
    ROLLOUT = "rollout"


@dataclass(frozen=True)
class AttentionWay:
    """A method, and the decoder layer it looks at: counted from 1, next to the embeddings; None is the mean of all."""

    method: AttentionMethod = AttentionMethod.CUMULATIVE
    layer: int | None = None

    @property
    def layer_name(self) -> str:
        """As given on the command line."""
        return "mean" if self.layer is None else str(self.layer)


DEFAULT_WAY = AttentionWay()


@dataclass(frozen=True)
class WordMap:
    """One whole word and its map: float32 (R, C), not negative, summing to one."""

    text: str
    map: NDArray[np.float32]

    @property
    def peak(self) -> tuple[float, float]:
        """Where the map, drawn smoothly, is strongest: (x, y) as shares of the image's width and height."""
        smooth = enlarge_map(self.map, (PEAK_PIXELS, PEAK_PIXELS))
        row, column = divmod(int(smooth.argmax()), PEAK_PIXELS)
        return (column + 0.5) / PEAK_PIXELS, (row + 0.5) / PEAK_PIXELS


@dataclass(frozen=True)
class ExplainedCaption:
    """A generated caption and its words; punctuation belongs to the word before it."""

    caption: str
    words: tuple[WordMap, ...]


def enlarge_map(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map (R, C) as it is drawn: bicubic, to (width, height) pixels; float32 (height, width), not negative."""
    smooth = Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)
    enlarged: NDArray[np.float32] = np.maximum(np.asarray(smooth), 0)
    return enlarged


def explain_captions(
    captioner: Captioner,
    pixels: NDArray[np.uint8],
    config: TrialConfig,
    ways: Sequence[AttentionWay] = (DEFAULT_WAY,),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[AttentionWay, list[ExplainedCaption]]:
    """Caption uint8 images (B, 3, S, S) as in a run, and map each word of what was written in each of the ways.

    Maps are averaged over heads. Raises ConfigFault for a layer the model has not got, ModelFault for a family without
    such attention.
    """
    recorder = captioner.build_recording_copy()
    tokenizer = captioner.processor.tokenizer
    device = next(captioner.parameters()).device
    explained: dict[AttentionWay, list[ExplainedCaption]] = {way: [] for way in ways}
    for start in range(0, len(pixels), BATCH_SIZE):
        part = torch.from_numpy(pixels[start : start + BATCH_SIZE]).to(device)
        input_ids, num_given = generate_ids(captioner, part, config)
        for way in ways:
            maps = compute_token_maps(recorder, part, input_ids, way)
            for ids, token_maps in zip(input_ids.tolist(), maps, strict=True):
                explained[way].append(join_words(tokenizer, ids, num_given, token_maps))
        progress(min(start + BATCH_SIZE, len(pixels)), len(pixels))
    return explained


@torch.inference_mode()
def generate_ids(captioner: Captioner, pixels: Tensor, config: TrialConfig) -> tuple[Tensor, int]:
    """Token ids (B, T) of the captions the model writes, prompt included, and how many ids the prompt has."""
    captioner.eval()
    with autocast(pixels.device, choose_precision(config, pixels.device)):
        return captioner.generate_ids(captioner.encode_images(pixels), config)


def compute_token_maps(
    recorder: Captioner, pixels: Tensor, input_ids: Tensor, way: AttentionWay
) -> NDArray[np.float32]:
    """Maps (B, T - 1, R, C), each summing to one; the one at t says where the model looked to write id t + 1.

    `recorder` is a captioner's `build_recording_copy()`. Computed in float32.
    """
    # Tensors made in inference mode cannot take part in a graph.
    pixels, input_ids = pixels.clone(), input_ids.clone()
    with torch.set_grad_enabled(way.method is AttentionMethod.GRADIENT):
        recorded = recorder.record_attention(pixels, input_ids, with_encoder=way.method is AttentionMethod.ROLLOUT)
    check_layer(way.layer, len(recorded.cross))
    return build_maps(weigh_tokens(recorded, input_ids, way), recorded.grid)


def check_layer(layer: int | None, num_layers: int) -> None:
    """Raise ConfigFault for a layer that does not exist."""
    if layer is not None and not 1 <= layer <= num_layers:
        raise ConfigFault(
            f"--layer {layer}: the model's decoder has {num_layers} layers; give 1 to {num_layers}, or mean."
        )


def weigh_tokens(recorded: RecordedAttention, input_ids: Tensor, way: AttentionWay) -> Tensor:
    """Weights over encoder tokens (B, T - 1, N) of what was written after each id of `input_ids` (B, T)."""
    layers = list(recorded.cross) if way.layer is None else [recorded.cross[way.layer - 1]]
    if way.method is AttentionMethod.GRADIENT:
        return _weigh_by_gradient(layers, recorded.logits, input_ids)
    weights = torch.stack([cross.mean(1) for cross in layers]).mean(0)[:, :-1]
    if way.method is AttentionMethod.CUMULATIVE:
        steps = torch.arange(1, weights.shape[1] + 1, device=weights.device)
        return weights.cumsum(1) / steps[:, None]
    if way.method is AttentionMethod.ROLLOUT:
        if any(attention.shape[-1] != weights.shape[-1] for attention in recorded.encoder):
            raise ModelFault(
                "--method rollout needs a vision tower whose patches all attend to each other, and this model's do "
                "not; give another method."
            )
        return weights @ compute_rollout(recorded.encoder)
    return weights


def compute_rollout(attentions: Sequence[Tensor]) -> Tensor:
    """Attention rollout of an encoder's layers (B, H, N, N): (B, N, N), each row summing to one.

    Half of each layer's output is taken to come through the residual connection.
    """
    identity = torch.eye(attentions[0].shape[-1], device=attentions[0].device)
    mixed = identity.expand(len(attentions[0]), -1, -1)
    for attention in attentions:
        mixed = (attention.mean(1) + identity) / 2 @ mixed
    return mixed


def _weigh_by_gradient(layers: Sequence[Tensor], logits: Tensor, input_ids: Tensor) -> Tensor:
    """Positive parts of attention times gradient, mean over layers and heads, sum over steps: (B, T - 1, N)."""
    log_probabilities = logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    weights = []
    for step in range(log_probabilities.shape[1]):
        # An image's log-probability depends on no other image, so one pass serves the whole batch.
        gradients = torch.autograd.grad(log_probabilities[:, step].sum(), layers, retain_graph=True)
        products = [(cross * gradient).relu() for cross, gradient in zip(layers, gradients, strict=True)]
        weights.append(torch.stack(products).mean((0, 2)).sum(1).detach())
    return torch.stack(weights, dim=1)


def build_maps(weights: Tensor, grid: tuple[int, ...]) -> NDArray[np.float32]:
    """Weights over encoder tokens (B, T, N) to maps over patches (B, T, R, C), each summing to one.

    Patches are the last R x C encoder tokens; those before them (a class token) are left out. Where no patch has any
    weight the map is even. A `grid` of another number of axes gives maps with as many.
    """
    num_patches = math.prod(grid)
    patches = weights.detach()[..., -num_patches:].double()
    total = patches.sum(-1, keepdim=True)
    even = torch.full_like(patches, 1 / num_patches)
    maps = torch.where(total > 0, patches / total.clamp_min(torch.finfo(torch.float64).tiny), even)
    shaped: NDArray[np.float32] = maps.reshape(*maps.shape[:2], *grid).float().cpu().numpy()
    return shaped


def join_words(tokenizer: Any, ids: Sequence[int], num_given: int, maps: NDArray[np.float32]) -> ExplainedCaption:
    """The words that ids (T) decode to after the `num_given` of the prompt, each with the mean of its pieces' maps.

    `maps` is (T - 1, R, C), see `compute_token_maps`. Special tokens are left out, and so are the maps of punctuation;
    where it stands alone its text goes to the word before.
    """
    special = set(tokenizer.all_special_ids)
    kept = [position for position in range(num_given, len(ids)) if ids[position] not in special]
    text, spans = _find_spans(tokenizer, [ids[position] for position in kept])
    words: list[WordMap] = []
    for match in re.finditer(r"\S+", text):
        if words and not _has_letters(match[0]):
            words[-1] = replace(words[-1], text=words[-1].text + fold_white_space(match[0]))
            continue
        own = [
            (position, text[start:end])
            for position, (start, end) in zip(kept, spans, strict=True)
            if start < match.end() and end > match.start()
        ]
        with_letters = [position for position, piece in own if _has_letters(piece)]
        chosen = np.array(with_letters or [position for position, _ in own])
        words.append(WordMap(fold_white_space(match[0]), maps[chosen - 1].mean(0)))
    caption = fold_white_space(tokenizer.decode([ids[position] for position in kept], skip_special_tokens=True))
    return ExplainedCaption(caption, tuple(words))


def _find_spans(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """What ids decode to, and where in it the text of each lies: from start to before end.

    By decoding ever more of them, which holds for word pieces and for byte-level pieces alike; each byte of a letter
    spans that letter.
    """
    spans: list[tuple[int, int]] = []
    text, start = "", 0
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False)
        end = len(text.rstrip(_UNFINISHED))
        spans.append((start, max(end, start + 1)))
        start = end
    return text, spans


def _has_letters(text: str) -> bool:
    return any(letter.isalnum() for letter in text)


def count_layers(captioner: Captioner, pixels: NDArray[np.uint8], config: TrialConfig) -> int:
    """How many decoder layers attend to the image; `pixels` is at least one image (B, 3, S, S)."""
    image = torch.from_numpy(pixels[:1]).to(next(captioner.parameters()).device)
    input_ids, _ = generate_ids(captioner, image, config)
    with torch.no_grad():
        recorded = captioner.build_recording_copy().record_attention(image, input_ids.clone(), with_encoder=False)
    return len(recorded.cross)
