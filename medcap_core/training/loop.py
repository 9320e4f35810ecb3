"""One trial: fine-tune a captioner, score it after every epoch, and write checkpoints.

`fit` reads from top to bottom and is independent of Ray: its rank comes from torch, its epochs go to a callback.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from medcap_core.config import TrialConfig
from medcap_core.data.batches import Augmenter, SourcePart, derive_seed, order_of_epoch, split_step
from medcap_core.data.prepare import PreparedData
from medcap_core.errors import NonFiniteLoss
from medcap_core.inference.generation import Variety, compute_validation_loss, compute_variety, generate_predictions
from medcap_core.inference.image_sources import estimate_encoding_seconds
from medcap_core.models.tuning import encoder_is_frozen
from medcap_core.runtime.device import current_device
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.runtime.transfer import prefetch
from medcap_core.runtime.workers import current_workers
from medcap_core.training.checkpoint import CheckpointFolder
from medcap_core.training.epoch_report import EpochReport, is_out_of_patience
from medcap_core.training.optimization import set_learning_rate
from medcap_core.training.parallel import whole_weights
from medcap_core.training.trial import Trial, name_memory_faults
from medcap_core.training.validation import build_request, compute_scores, find_scored

log = logging.getLogger(__name__)

ShowSample = Callable[[str, str], None]

STEPS_BETWEEN_LOSS_CHECKS = 50
"""Steps between checks of the loss, each of which makes the host wait for the device."""


def fit(
    config: TrialConfig,
    data: PreparedData,
    checkpoint_dir: Path,
    report: Callable[[EpochReport], None],
    progress: Progress = ignore_progress,
    show_sample: ShowSample = lambda caption, reference: None,
) -> None:
    """Train `config` on `data`, calling `report` on every worker after each epoch.

    The first worker shows one generated caption of each epoch beside its reference by `show_sample`.

    Resumes from the checkpoints in `checkpoint_dir`, after reporting their epochs again. The workers of one torch
    process group share each batch. Raises NonFiniteLoss and OutOfMemory, which a retry would not mend, and UserFault
    where config, data and model do not fit each other.
    """
    with name_memory_faults(config):
        trial = Trial(config, data, current_workers(), current_device(), progress)
        folder = CheckpointFolder(checkpoint_dir, config, leads=trial.workers.leads)
        history = folder.restore(trial.captioner, trial.optimizer, trial.scaler)
        log.info(
            "%s: %d of %d parameters trained on %s, %d epochs done before", config.freeze,
            trial.tuning.trainable_parameters, trial.tuning.total_parameters, trial.device, len(history),
        )  # fmt: skip
        for past in history:
            report(past)
        while len(history) < trial.num_epochs and not is_out_of_patience(history, config):
            run_epoch(trial, history, progress, show_sample)
            folder.save(trial.captioner, trial.optimizer, trial.scaler.state_dict(), history)
            report(history[-1])


def run_epoch(trial: Trial, history: list[EpochReport], progress: Progress, show_sample: ShowSample) -> None:
    """Train one epoch, score it on validation, and add its report to `history`."""
    started = time.monotonic()
    epoch = len(history) + 1
    training_loss = train_epoch(trial, epoch, progress) if trial.tuning.trainable_parameters else 0.0
    training_seconds = time.monotonic() - started
    learning_rate = float(trial.optimizer.param_groups[0]["lr"])

    with whole_weights(trial.module):
        validation_loss = compute_validation_loss(trial.captioner, trial.validation, trial.config, trial.workers)
        scores, variety = score_validation(trial, f"epoch {epoch}/{trial.num_epochs} validation", progress, show_sample)
    scores["validation_loss"] = validation_loss
    objective = trial.config.objective
    score = objective.combine(scores)
    history.append(
        EpochReport(
            epoch=epoch,
            num_epochs=trial.num_epochs,
            score=score,
            validation_loss=validation_loss,
            training_loss=training_loss,
            learning_rate=learning_rate,
            seconds=time.monotonic() - started,
            training_seconds=training_seconds,
            encoding_seconds=estimate_encoding_seconds(trial.train.images),
            images_per_second=len(trial.train.images) / training_seconds if trial.tuning.trainable_parameters else 0.0,
            peak_memory_bytes=sum(trial.workers.gather(trial.memory.sample())),
            trainable_parameters=trial.tuning.trainable_parameters,
            total_parameters=trial.tuning.total_parameters,
            parts={name: scores[name] for name in objective.names} if objective.is_sum else {},
            **(asdict(variety) if variety else {}),
        )
    )
    log.info("epoch %d: %s %.4f, validation loss %.4f", epoch, objective.label, score, validation_loss)


def train_epoch(trial: Trial, epoch: int, progress: Progress) -> float:
    """Train one pass over the training split and return the mean loss a caption token. Raises NonFiniteLoss.

    Schedule, order, dropout and augmentation depend only on weights, optimizer, config and epoch number, so a resumed
    trial repeats the epoch.
    """
    config, workers, num_images = trial.config, trial.workers, len(trial.train.images)
    torch.manual_seed(derive_seed(config.seed, epoch, 2, workers.rank))
    trial.captioner.train()
    if encoder_is_frozen(config):
        trial.captioner.encoder.eval()
    augmenter = Augmenter(config, num_images, epoch) if config.augment else None
    order = order_of_epoch(num_images, config.seed, epoch)
    steps = [order[start : start + config.batch_size] for start in range(0, num_images, config.batch_size)]
    num_parts = config.accumulation_steps * workers.size
    own_steps = [split_step(step, num_parts)[workers.rank :: workers.size] for step in steps]
    train = trial.train.for_epoch(epoch)
    work = [(part, own_parts) for own_parts in own_steps for part in own_parts]
    batches = prefetch(lambda part_of_step: train.make(*part_of_step), work, trial.device)

    total_loss = torch.zeros((), dtype=torch.float64, device=trial.device)
    first_bad_step = torch.full((), -1, dtype=torch.int64, device=trial.device)
    for index, step in enumerate(steps):
        steps_before = (epoch - 1) * len(steps) + index
        set_learning_rate(trial.optimizer, config, steps_before, config.num_epochs * len(steps))
        parts = [next(batches) for _ in range(config.accumulation_steps)]
        if augmenter:
            parts = [replace(part, images=augmenter.apply(part.images, part.positions)) for part in parts]
        loss = trial.steps.take(parts, train.texts.count_labels(step))
        total_loss += loss
        is_first_bad = ~torch.isfinite(loss) & (first_bad_step < 0)
        first_bad_step = torch.where(is_first_bad, steps_before + 1, first_bad_step)
        if index % STEPS_BETWEEN_LOSS_CHECKS == 0 or index == len(steps) - 1:
            raise_if_not_finite(trial, int(first_bad_step))
            trial.memory.sample()
        progress(f"epoch {epoch}/{trial.num_epochs} training", index + 1, len(steps))
    num_labels = train.texts.count_labels(order)
    mean_loss: float = sum(workers.gather(float(total_loss))) / max(num_labels, 1)
    return mean_loss


def raise_if_not_finite(trial: Trial, first_bad_step: int) -> None:
    """Raise NonFiniteLoss on every worker if the loss of any is not finite."""
    bad_steps = [step for step in trial.workers.gather(first_bad_step) if step >= 0]
    if bad_steps:
        config = trial.config
        raise NonFiniteLoss(
            f"The loss was not finite at step {min(bad_steps)} (freeze {config.freeze}, learning_rate "
            f"{config.learning_rate:g}, precision {config.precision}); lower learning_rate or use precision bf16 or "
            "fp32."
        )


def score_validation(
    trial: Trial, what: str, progress: Progress, show_sample: ShowSample
) -> tuple[dict[str, float], Variety | None]:
    """Score the trial's predictions on its validation split, the same on every worker; `what` names the step.

    Returns the scores and the variety of the texts: nothing and None where the objective needs no predictions.
    """
    predictions = trial.config.objective.predictions
    if predictions is None:
        return {}, None
    split, images = trial.validation_split, trial.validation.images
    scored = find_scored(split.records, predictions)
    if len(scored) < len(split):
        split, images = split.part(scored), SourcePart(images, scored)
    request = build_request(predictions, len(images))
    found = generate_predictions(trial.captioner, images, request, trial.config, trial.workers, progress, what)
    texts = [prediction.text for prediction in found]
    if trial.workers.leads and predictions == "captions":
        show_sample(texts[0], split.records[0].references[0])
    scores: dict[str, float] = trial.workers.broadcast(
        compute_scores(split, texts, trial.config) if trial.workers.leads else None
    )
    return scores, compute_variety(texts, [prediction.is_cut for prediction in found])
