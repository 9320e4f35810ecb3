"""Where a captioner of volumes looked when it answered: maps of its queries and of the words it wrote over the patches.

A word attends to the image's tokens, each of which is what one query found; a query attends to patches. A word's map is
the mean of the queries' maps, each by the word's share of attention to it.

Shape letters: B scans, Q queries, N tokens of a scan, n patches along each axis of the volume, T tokens of an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcap_core.attention.maps import (
    DEFAULT_WAY,
    AttentionMethod,
    AttentionWay,
    build_maps,
    check_layer,
    compute_rollout,
    join_words,
)
from medcap_core.config import TrialConfig
from medcap_core.errors import ModelFault
from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner
from medcap_core.models.medblip3d.recording import (
    Layers,
    RecordedAnswer,
    build_recording_copy,
    record_answer,
    record_encoder,
)
from medcap_core.runtime.device import autocast, choose_precision

Patch = tuple[int, int, int]


@dataclass(frozen=True)
class VolumeWord:
    """One whole word of an answer.

    `queries`, float32 (Q,), is how its attention to the image is shared out among the queries, `map`, float32
    (n, n, n), among the patches, axes x, y, z as the volume's; both not negative and summing to one.
    """

    text: str
    queries: NDArray[np.float32]
    map: NDArray[np.float32]


@dataclass(frozen=True)
class ExplainedAnswer:
    """A generated answer, or a report where `question` is None; punctuation belongs to the word before it.

    `query_maps`, float32 (Q, n, n, n), is where each query looked: each map sums to one.
    """

    question: str | None
    answer: str
    words: tuple[VolumeWord, ...]
    query_maps: NDArray[np.float32]

    @property
    def map(self) -> NDArray[np.float32]:
        """The mean of the words' maps (n, n, n); of all queries where nothing was written."""
        maps: NDArray[np.float32] = np.mean([word.map for word in self.words] or self.query_maps, axis=0)
        return maps

    @property
    def queries(self) -> NDArray[np.float32]:
        """The mean of the words' shares of the queries (Q,); even where nothing was written."""
        even = np.full(len(self.query_maps), 1 / len(self.query_maps), dtype=np.float32)
        shares: NDArray[np.float32] = np.mean([word.queries for word in self.words] or [even], axis=0)
        return shares


def find_peak(values: NDArray[np.float32]) -> Patch:
    """The patch (x, y, z) at which a map (n, n, n) is strongest, the first of several."""
    x, y, z = (int(place) for place in np.unravel_index(int(values.argmax()), values.shape))
    return x, y, z


def count_language_layers(captioner: MedBlip3dCaptioner) -> int:
    """How many decoder layers the language model has, any of which `AttentionWay.layer` may name."""
    settings = captioner.text_config
    names = ("num_decoder_layers", "decoder_layers", "num_hidden_layers")
    return next(int(getattr(settings, name)) for name in names if getattr(settings, name, None) is not None)


class VolumeExplainer:
    """A captioner of volumes and a copy of it whose attention can be recorded."""

    def __init__(self, captioner: MedBlip3dCaptioner, config: TrialConfig) -> None:
        self.captioner = captioner.eval()
        self.config = config
        self.recorder = build_recording_copy(captioner)
        self.num_layers = count_language_layers(captioner)

    def explain(
        self,
        pixels: NDArray[np.uint8],
        questions: Sequence[Sequence[str | None]],
        ways: Sequence[AttentionWay] = (DEFAULT_WAY,),
    ) -> dict[AttentionWay, list[list[ExplainedAnswer]]]:
        """Answer the questions on each of a few uint8 scans (B, 1, S, S, S) as in a run, and map each word.

        `questions[i]` are those on scan i, None for its report; answers come in their order. All methods average over
        heads; `way.layer` is one of the language model, while the Q-Former's are always averaged. `cross_attention`
        and `cumulative` differ in the words' attention alone; `gradient` weighs a word's attention by the gradient of
        its log-probability and the queries' by that of the whole answer's; `rollout` traces what a query looked at back
        through the encoder. Attention is computed in float32 where the weights are. Raises ConfigFault for a layer the
        model has not got, ModelFault for `rollout` through an encoder that does not tell its attention.
        """
        device = next(self.captioner.parameters()).device
        volumes = torch.from_numpy(pixels).to(device)
        answers: dict[AttentionWay, list[dict[str | None, ExplainedAnswer]]] = {
            way: [{} for _ in pixels] for way in ways
        }
        needs_encoder = any(way.method is AttentionMethod.ROLLOUT for way in ways)
        hidden_states, encoder = record_encoder(self.recorder, volumes, with_attention=needs_encoder)
        with torch.inference_mode(), autocast(device, choose_precision(self.config, device)):
            found = self.captioner.network.query_scans(self.captioner.encode_images(volumes))
        for question in dict.fromkeys(text for own in questions for text in own):
            rows = [row for row, own in enumerate(questions) if question in own]
            prompt = self.captioner.build_prompt(question)
            with torch.inference_mode(), autocast(device, choose_precision(self.config, device)):
                ids = self.captioner.write_ids(found[rows], prompt, self.config)
            ids = ids.clone()  # what was made in inference mode cannot take part in a graph
            with torch.set_grad_enabled(any(way.method is AttentionMethod.GRADIENT for way in ways)):
                recorded = record_answer(self.recorder, hidden_states[rows], prompt, ids)
            for way in ways:
                explained = self._explain(recorded, tuple(layer[rows] for layer in encoder), question, ids, way)
                for row, answer in zip(rows, explained, strict=True):
                    answers[way][row][question] = answer
        return {
            way: [[own[text] for text in texts] for own, texts in zip(rows_of, questions, strict=True)]
            for way, rows_of in answers.items()
        }

    def _explain(
        self, recorded: RecordedAnswer, encoder: Layers, question: str | None, ids: Tensor, way: AttentionWay
    ) -> list[ExplainedAnswer]:
        side = self.captioner.geometry.size // int(self.captioner.network.config.patch_size)
        query_maps = build_maps(weigh_patches(recorded, encoder, ids, self.captioner.end_id, way), (side,) * 3)
        shares = build_maps(weigh_queries(recorded, ids, way), (self.captioner.num_queries,))
        tokenizer = self.captioner.processor.tokenizer
        return [
            _compose(tokenizer, self.captioner.end_id, question, *one)
            for one in zip(ids.tolist(), shares, query_maps, strict=True)
        ]


def _compose(
    tokenizer: object,
    begin_id: int,
    question: str | None,
    ids: list[int],
    shares: NDArray[np.float32],
    query_maps: NDArray[np.float32],
) -> ExplainedAnswer:
    """Whole words of the tokens `ids` (T), whose shares of the queries are (T, Q), laid on `query_maps`."""
    told = join_words(tokenizer, [begin_id, *ids], 1, shares)
    words = tuple(
        VolumeWord(word.text, word.map, np.tensordot(word.map, query_maps, axes=1).astype(np.float32))
        for word in told.words
    )
    return ExplainedAnswer(question, told.caption, words, query_maps)


def weigh_queries(recorded: RecordedAnswer, ids: Tensor, way: AttentionWay) -> Tensor:
    """Weights of the queries (B, T, Q) when each of the answer's tokens `ids` (B, T) was written.

    In a decoder-only language model these are what its self-attention gives to the image's places. Raises ConfigFault.
    """
    check_layer(way.layer, len(recorded.language))
    layers = recorded.language if way.layer is None else (recorded.language[way.layer - 1],)
    if way.method is AttentionMethod.GRADIENT:
        log_probabilities = _compute_log_probabilities(recorded, ids)
        weights = [
            _weigh_by_gradient(log_probabilities[:, step].sum(), layers)[:, recorded.steps, recorded.places].sum(1)
            for step in range(ids.shape[1])
        ]
        return torch.stack(weights, dim=1)
    attention = torch.stack([layer.float().mean(1) for layer in layers]).mean(0)
    attention = attention[:, recorded.steps, recorded.places].detach()
    if way.method is AttentionMethod.CUMULATIVE:
        steps = torch.arange(1, attention.shape[1] + 1, device=attention.device)
        return attention.cumsum(1) / steps[:, None]
    return attention


def weigh_patches(recorded: RecordedAnswer, encoder: Layers, ids: Tensor, end_id: int, way: AttentionWay) -> Tensor:
    """Weights of the encoder's tokens (B, Q, N) to each query; `encoder` is its attention, for rollout.

    Raises ModelFault.
    """
    if way.method is AttentionMethod.GRADIENT:
        is_after = (ids == end_id).cumsum(1) - (ids == end_id).long() > 0
        told = _compute_log_probabilities(recorded, ids).masked_fill(is_after, 0)
        return _weigh_by_gradient(told.sum(), recorded.bridge)
    attention = torch.stack([layer.float().mean(1) for layer in recorded.bridge]).mean(0).detach()
    if way.method is AttentionMethod.ROLLOUT:
        if not encoder:
            raise ModelFault(
                "--method rollout needs an encoder that tells its attention, and this model's does not; give another "
                "method."
            )
        return attention @ compute_rollout(encoder)
    return attention


def _compute_log_probabilities(recorded: RecordedAnswer, ids: Tensor) -> Tensor:
    """Of each token (B, T)."""
    return recorded.logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]


def _weigh_by_gradient(target: Tensor, layers: Layers) -> Tensor:
    """Positive parts of attention times the gradient of `target`, mean over layers and heads: (B, R, C).

    A scan's log-probability depends on no other scan, so the sum over a batch serves each of them.
    """
    gradients = torch.autograd.grad(target, layers, retain_graph=True)
    products = [(layer * gradient).relu().float() for layer, gradient in zip(layers, gradients, strict=True)]
    return torch.stack(products).mean((0, 2)).detach()
