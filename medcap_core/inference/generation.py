"""Captions or answers for the images of a split, shared out over the workers and put together again by position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from medcap_core.config import TrialConfig
from medcap_core.data.batches import BatchMaker, ImageSource, MicroBatch, Positions
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION
from medcap_core.models import Captioner
from medcap_core.runtime.device import autocast, choose_precision, is_small, threads_for_words
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.runtime.transfer import move, prefetch
from medcap_core.runtime.workers import Workers

_Told = TypeVar("_Told")

_BATCHES_OF_SMALL_MODELS = 4
"""What a word costs a small model on a CPU hardly depends on how few images are still searched: so many batches at once
write 1.25 times as many captions a second as one of 32 images."""


def generate_captions(
    captioner: Captioner,
    images: ImageSource,
    config: TrialConfig,
    workers: Workers | None = None,
    progress: Progress = ignore_progress,
    what: str = "captions",
) -> list[str]:
    """One caption for each image of the source, in order, on every worker."""

    def write(hidden_states: Tensor, _: Positions) -> list[str]:
        return captioner.generate(hidden_states, config)

    return _generate(captioner, images, config, write, workers, progress, what)


def count_at_once(captioner: Captioner, config: TrialConfig) -> int:
    """How many images words are generated for at once."""
    return config.eval_batch_size * (_BATCHES_OF_SMALL_MODELS if is_small(captioner) else 1)


@dataclass(frozen=True)
class ImageAnswers:
    """What a model says of one image: an answer to each question, and how near it lies to each class in question.

    `class_scores` is empty where no classes were asked for.
    """

    texts: list[str]
    class_scores: list[float]


def generate_answers(
    captioner: Captioner,
    images: ImageSource,
    questions: Sequence[Sequence[str]],
    config: TrialConfig,
    workers: Workers | None = None,
    progress: Progress = ignore_progress,
    what: str = "answers",
    classes: Sequence[str] = (),
) -> list[ImageAnswers]:
    """The answers to each image's own questions, in order, on every worker; an image is encoded once for all of them.

    With `classes`, the possible answers to the question for the diagnosis, also the similarity to each.
    """
    if len(questions) != len(images):
        raise ValueError(f"questions on {len(questions)} images, but there are {len(images)}")

    def write(hidden_states: Tensor, positions: Positions) -> list[ImageAnswers]:
        asked = [questions[position] for position in positions.tolist()]
        texts: list[list[str]] = [[] for _ in asked]
        for turn in range(max(map(len, asked))):
            rows = [row for row, own in enumerate(asked) if turn < len(own)]
            answers = captioner.answer(hidden_states[rows], [asked[row][turn] for row in rows], config)
            for row, answer in zip(rows, answers, strict=True):
                texts[row].append(answer)
        scores: list[list[float]] = [[] for _ in asked]
        if classes:
            scores = captioner.compute_class_scores(hidden_states, DIAGNOSIS_QUESTION, classes).float().tolist()
        return [ImageAnswers(*told) for told in zip(texts, scores, strict=True)]

    return _generate(captioner, images, config, write, workers, progress, what)


@torch.inference_mode()
def _generate(
    captioner: Captioner,
    images: ImageSource,
    config: TrialConfig,
    write: Callable[[Tensor, Positions], list[_Told]],
    workers: Workers | None,
    progress: Progress,
    what: str,
) -> list[_Told]:
    """What `write` gives for the hidden states of the images at some positions, put together on every worker.

    Worker r of n takes positions r, r + n, ...; nothing is padded, so nothing has to be dropped afterwards.
    """
    workers = workers or Workers()
    device = next(captioner.parameters()).device
    precision = choose_precision(config, device)
    own = np.arange(workers.rank, len(images), workers.size)
    captioner.eval()
    told: dict[int, _Told] = {}
    batches = _chunks(own, count_at_once(captioner, config))
    fetched = prefetch(lambda positions: move(images.fetch(positions), device), batches, device)
    for positions, tensor in zip(batches, fetched, strict=True):
        with autocast(device, precision):
            hidden_states = tensor if images.encoded else captioner.encode_images(tensor)
            with threads_for_words(captioner):
                of_batch = write(hidden_states, positions)
        told.update(zip(positions.tolist(), of_batch, strict=True))
        progress(what, min(len(told) * workers.size, len(images)), len(images))
    merged: dict[int, _Told] = {}
    for part in workers.gather(told):
        merged |= part
    return [merged[position] for position in range(len(images))]


@torch.inference_mode()
def compute_validation_loss(
    captioner: Captioner, batches: BatchMaker, config: TrialConfig, workers: Workers | None = None
) -> float:
    """Mean loss a caption token over the whole split, with the label smoothing used in training."""
    workers = workers or Workers()
    precision = choose_precision(config, batches.device)
    own = np.arange(workers.rank, len(batches.images), workers.size)
    captioner.eval()
    total = torch.zeros((), dtype=torch.float64, device=batches.device)
    batch: MicroBatch
    for batch in prefetch(batches.make, _chunks(own, config.eval_batch_size), batches.device):
        with autocast(batches.device, precision):
            total += captioner(
                batch.images, *batch.texts, label_smoothing=config.label_smoothing, encoded=batch.encoded
            )
    num_labels = batches.texts.count_labels(range(len(batches.images)))
    mean: float = sum(workers.gather(float(total))) / max(num_labels, 1)
    return mean


def _chunks(positions: Positions, size: int) -> list[Positions]:
    return [positions[start : start + size] for start in range(0, len(positions), size)]
