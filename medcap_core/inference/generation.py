"""Captions or answers for the images of a split, divided over the workers and merged by position."""

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

_Result = TypeVar("_Result")

_BATCHES_OF_SMALL_MODELS = 4
"""Batches generated at once by a small model on a CPU, where a token costs about the same for more images: 1.25 times
as many captions a second as in batches of 32 images."""


def generate_captions(
    captioner: Captioner,
    images: ImageSource,
    config: TrialConfig,
    workers: Workers | None = None,
    progress: Progress = ignore_progress,
    what: str = "captions",
) -> list[str]:
    """Generate one caption for each image of the source, in order, on every worker."""

    def generate(hidden_states: Tensor, _: Positions) -> list[str]:
        return captioner.generate(hidden_states, config)

    return _generate(captioner, images, config, generate, workers, progress, what)


def count_at_once(captioner: Captioner, config: TrialConfig) -> int:
    """Count the images of one generation batch."""
    return config.eval_batch_size * (_BATCHES_OF_SMALL_MODELS if is_small(captioner) else 1)


@dataclass(frozen=True)
class ImageAnswers:
    """An answer to each question on one image, and its similarity to each class, empty if no classes were given."""

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
    """Generate the answers to each image's own questions, in order, on every worker; each image is encoded once.

    With `classes`, the possible answers to the question for the diagnosis, also compute the similarity to each.
    """
    if len(questions) != len(images):
        raise ValueError(f"questions on {len(questions)} images, but there are {len(images)}")

    def answer_all(hidden_states: Tensor, positions: Positions) -> list[ImageAnswers]:
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
        return [ImageAnswers(*pair) for pair in zip(texts, scores, strict=True)]

    return _generate(captioner, images, config, answer_all, workers, progress, what)


@torch.inference_mode()
def _generate(
    captioner: Captioner,
    images: ImageSource,
    config: TrialConfig,
    generate: Callable[[Tensor, Positions], list[_Result]],
    workers: Workers | None,
    progress: Progress,
    what: str,
) -> list[_Result]:
    """Apply `generate` to the hidden states and positions of all images, and merge the results on every worker.

    Worker r of n takes positions r, r + n, ... without padding.
    """
    workers = workers or Workers()
    device = next(captioner.parameters()).device
    precision = choose_precision(config, device)
    own = np.arange(workers.rank, len(images), workers.size)
    captioner.eval()
    results: dict[int, _Result] = {}
    batches = _chunks(own, count_at_once(captioner, config))
    fetched = prefetch(lambda positions: move(images.fetch(positions), device), batches, device)
    for positions, tensor in zip(batches, fetched, strict=True):
        with autocast(device, precision):
            hidden_states = tensor if images.encoded else captioner.encode_images(tensor)
            with threads_for_words(captioner):
                batch_results = generate(hidden_states, positions)
        results.update(zip(positions.tolist(), batch_results, strict=True))
        progress(what, min(len(results) * workers.size, len(images)), len(images))
    merged: dict[int, _Result] = {}
    for part in workers.gather(results):
        merged |= part
    return [merged[position] for position in range(len(images))]


@torch.inference_mode()
def compute_validation_loss(
    captioner: Captioner, batches: BatchMaker, config: TrialConfig, workers: Workers | None = None
) -> float:
    """Compute the mean loss a caption token over the whole split, with the label smoothing of training."""
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
