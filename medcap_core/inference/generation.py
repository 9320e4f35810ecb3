"""Captions, answers and class scores of the images of a split, divided over the workers and merged by position."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from medcap_core.config import TrialConfig
from medcap_core.data.batches import BatchMaker, ImageSource, Positions
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION
from medcap_core.models import Captioner
from medcap_core.runtime.device import autocast, choose_precision, is_small, one_thread_if_small
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.runtime.transfer import move, prefetch
from medcap_core.runtime.workers import Workers

_BATCHES_OF_SMALL_MODELS = 4
"""Batches generated at once by a small model on a CPU, where a token costs about the same for more images: 1.25 times
as many captions a second as in batches of 32 images."""


@dataclass(frozen=True)
class Request:
    """What is wanted of the images of a source: captions, answers to questions, similarities to classes.

    `questions` has for each image, in the order of the source, the questions on it, and is empty where none are asked.
    `classes` are possible answers to the question for the diagnosis.
    """

    captions: bool = False
    questions: tuple[tuple[str, ...], ...] = ()
    classes: tuple[str, ...] = ()

    def __or__(self, other: "Request") -> "Request":
        """Ask for both."""
        return Request(
            self.captions or other.captions, self.questions or other.questions, self.classes or other.classes
        )

    def part(self, positions: Positions) -> "Request":
        """Ask the same of some of the images, in the order given."""
        return replace(self, questions=self.questions and tuple(self.questions[index] for index in positions.tolist()))


@dataclass(frozen=True)
class ImagePrediction:
    """What a model predicts of one image; None or empty for what was not asked for.

    `answers` has one answer a question, `class_scores` the similarity to each class; `is_cut` says whether the caption
    was cut at `max_new_tokens`.
    """

    caption: str | None = None
    answers: list[str] = field(default_factory=list)
    class_scores: list[float] = field(default_factory=list)
    is_cut: bool | None = None

    @property
    def text(self) -> str:
        """The caption, where there is none the first answer."""
        return self.answers[0] if self.caption is None else self.caption


@dataclass(frozen=True)
class Variety:
    """How varied generated texts are: one text for most images, or none, is a collapsed model.

    `top_share` is the share of images with the most frequent text, `empty_share` of those without a word, `cut_share`
    of captions cut at `max_new_tokens`, None where that is not known.
    """

    num_distinct: int
    top_share: float
    empty_share: float
    cut_share: float | None = None


def compute_variety(texts: Sequence[str], is_cut: Sequence[bool | None] = ()) -> Variety:
    """Compute the variety of the texts of N > 0 images, and the share of those cut where all of that is known."""
    counts = Counter(texts)
    return Variety(
        num_distinct=len(counts),
        top_share=max(counts.values()) / len(texts),
        empty_share=counts[""] / len(texts),
        cut_share=is_cut.count(True) / len(is_cut) if is_cut and None not in is_cut else None,
    )


def count_at_once(captioner: Captioner, config: TrialConfig) -> int:
    """Count the images of one generation batch."""
    return config.eval_batch_size * (_BATCHES_OF_SMALL_MODELS if is_small(captioner) else 1)


@torch.inference_mode()
def generate_predictions(
    captioner: Captioner,
    images: ImageSource,
    request: Request,
    config: TrialConfig,
    workers: Workers | None = None,
    progress: Progress = ignore_progress,
    what: str = "images",
) -> list[ImagePrediction]:
    """Predict all that is asked of each image, in order, on every worker; an image is encoded once for all of it.

    Worker r of n takes positions r, r + n, ... without padding. Raises ModelFault for questions to a family that
    answers none.
    """
    if request.questions and len(request.questions) != len(images):
        raise ValueError(f"questions on {len(request.questions)} images, but there are {len(images)}")
    workers = workers or Workers()
    device = next(captioner.parameters()).device
    precision = choose_precision(config, device)
    own = np.arange(workers.rank, len(images), workers.size)
    captioner.eval()
    found: dict[int, ImagePrediction] = {}
    batches = _chunks(own, count_at_once(captioner, config))
    fetched = prefetch(lambda positions: move(images.fetch(positions), device), batches, device)
    for positions, tensor in zip(batches, fetched, strict=True):
        with autocast(device, precision):
            hidden_states = tensor if images.encoded else captioner.encode_images(tensor)
            with one_thread_if_small(captioner):
                predictions = _predict_batch(captioner, hidden_states, request.part(positions), config)
        found.update(zip(positions.tolist(), predictions, strict=True))
        progress(what, min(len(found) * workers.size, len(images)), len(images))
    merged: dict[int, ImagePrediction] = {}
    for part in workers.gather(found):
        merged |= part
    return [merged[position] for position in range(len(images))]


def _predict_batch(
    captioner: Captioner, hidden_states: Tensor, request: Request, config: TrialConfig
) -> list[ImagePrediction]:
    """Predict what is asked of the images of one batch, `hidden_states` (B, N, D)."""
    size = len(hidden_states)
    captions: list[str] | list[None] = [None] * size
    is_cut: list[bool] | list[None] = [None] * size
    if request.captions:
        captions = captioner.generate(hidden_states, config)
        is_cut = captioner.find_cut(captions, config)
    answers: list[list[str]] = [[] for _ in range(size)]
    for turn in range(max(map(len, request.questions), default=0)):
        rows = [row for row, own in enumerate(request.questions) if turn < len(own)]
        texts = captioner.answer(hidden_states[rows], [request.questions[row][turn] for row in rows], config)
        for row, text in zip(rows, texts, strict=True):
            answers[row].append(text)
    scores: list[list[float]] = [[] for _ in range(size)]
    if request.classes:
        scores = captioner.compute_class_scores(hidden_states, DIAGNOSIS_QUESTION, request.classes).float().tolist()
    return [ImagePrediction(*values) for values in zip(captions, answers, scores, is_cut, strict=True)]


@torch.inference_mode()
def compute_validation_loss(
    captioner: Captioner, batches: BatchMaker, config: TrialConfig, workers: Workers | None = None
) -> float:
    """Compute the mean loss a caption token over the whole split, without the label smoothing of training.

    Trials of different label smoothing are thus compared by one loss.
    """
    workers = workers or Workers()
    precision = choose_precision(config, batches.device)
    own = np.arange(workers.rank, len(batches.images), workers.size)
    captioner.eval()
    total = torch.zeros((), dtype=torch.float64, device=batches.device)
    for batch in prefetch(batches.make, _chunks(own, config.eval_batch_size), batches.device):
        with autocast(batches.device, precision):
            total += captioner(batch.images, *batch.texts, label_smoothing=0.0, encoded=batch.encoded)
    num_labels = batches.texts.count_labels(range(len(batches.images)))
    mean: float = sum(workers.gather(float(total))) / max(num_labels, 1)
    return mean


def _chunks(positions: Positions, size: int) -> list[Positions]:
    return [positions[start : start + size] for start in range(0, len(positions), size)]
