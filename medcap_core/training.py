"""One trial: fine-tune a captioner, score it after every epoch, and keep what is needed to go on.

`fit` reads from top to bottom and knows nothing of Ray: its rank comes from torch, its epochs go to a callback.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medcap_core.augmentation import Augmenter
from medcap_core.batches import BatchMaker, MicroBatch, derive_seed, order_of_epoch, prefetch, split_step
from medcap_core.checkpoint import CheckpointFolder, Progress
from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.prepare import PreparedData, PreparedSplit
from medcap_core.data.records import SplitName
from medcap_core.device import PeakMemory, choose_frozen_dtype, choose_precision, current_device, is_out_of_memory
from medcap_core.distributed import Workers, current_workers
from medcap_core.epoch_report import EpochReport
from medcap_core.errors import ConfigFault, NonFiniteLoss, OutOfMemory
from medcap_core.evaluation import OnProgress, compute_validation_loss, ignore_progress
from medcap_core.image_sources import open_images
from medcap_core.models import Captioner, load_trial_captioner
from medcap_core.objective import OBJECTIVES
from medcap_core.optimization import build_optimizer, set_learning_rate
from medcap_core.steps import Steps, build_steps
from medcap_core.tuning import (
    TuningSummary,
    apply_tuning,
    cast_frozen,
    encoder_is_frozen,
    take_inputs_as_they_are,
)
from medcap_core.validation import check_metric, score_validation

log = logging.getLogger(__name__)

_SPLITS_OF_A_TRIAL: tuple[SplitName, ...] = ("train", "validation")

STEPS_BETWEEN_LOSS_CHECKS = 50
"""The loss is looked at this seldom, because looking makes the host wait for the device."""


def fit(
    config: TrialConfig,
    data: PreparedData,
    checkpoint_dir: Path,
    report: Callable[[EpochReport], None],
    progress: OnProgress = ignore_progress,
) -> None:
    """Train `config` on `data`, calling `report` on every worker after each epoch.

    Goes on from what lies in `checkpoint_dir`, first reporting again the epochs that are already whole. The workers of
    one torch process group share each batch. Raises NonFiniteLoss and OutOfMemory, which no retry would mend, and
    UserFault where config, data and model do not fit each other.
    """
    with name_memory_faults(config):
        trial = set_up(config, data, current_workers(), current_device(), progress)
        folder = CheckpointFolder(checkpoint_dir)
        done = folder.restore(trial.captioner, trial.optimizer, trial.scaler)
        if trial.workers.leads:
            folder.mend(trial.captioner, done)
        log.info(
            "%s: %d of %d parameters trained on %s, %d epochs done before",
            config.freeze,
            trial.tuning.trainable_parameters,
            trial.tuning.total_parameters,
            trial.device,
            len(done.history),
        )
        for past in done.history:
            report(past)
        while len(done.history) < trial.num_epochs:
            run_epoch(trial, done, progress)
            if trial.workers.leads:
                folder.save(trial.captioner, trial.optimizer, trial.scaler.state_dict(), done)
            report(done.history[-1])


@dataclass
class Trial:
    """Everything one trial holds while it runs."""

    config: TrialConfig
    workers: Workers
    device: torch.device
    captioner: Captioner
    module: nn.Module
    tuning: TuningSummary
    train: BatchMaker
    validation: BatchMaker
    validation_split: PreparedSplit
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    steps: Steps
    memory: PeakMemory

    @property
    def num_epochs(self) -> int:
        """Epochs to run; a zero-shot trial is scored once."""
        return 1 if self.config.freeze is FreezeMode.ZERO_SHOT else self.config.num_epochs


def set_up(
    config: TrialConfig,
    data: PreparedData,
    workers: Workers,
    device: torch.device,
    progress: OnProgress = ignore_progress,
) -> Trial:
    """Model, data and optimizer of a trial, its random state as if the process were new."""
    if config.batch_size < workers.size * config.accumulation_steps:
        raise ConfigFault(
            f"batch_size {config.batch_size} is too small for {workers.size} workers x {config.accumulation_steps} "
            "accumulation steps; raise it to at least their product."
        )
    memory = PeakMemory(device)
    torch.manual_seed(derive_seed(config.seed, 0))
    captioner = load_trial_captioner(config, device)
    check_metric(config, captioner, data.splits["validation"].records)
    tuning = apply_tuning(captioner, config)
    precision = choose_precision(config, device)
    if precision is not torch.float32:
        take_inputs_as_they_are(captioner)
    cast_frozen(captioner, choose_frozen_dtype(config, device))
    captioner.to(device)
    module: nn.Module = captioner
    if workers.size > 1 and tuning.trainable_parameters:
        module = DistributedDataParallel(captioner, gradient_as_bucket_view=True)
    batches = {}
    for name in _SPLITS_OF_A_TRIAL:
        augmented = name == "train" and config.augment
        images = open_images(captioner, data.splits[name], config, augmented=augmented, progress=progress)
        batches[name] = BatchMaker(images, captioner.tokenize_records(data.splits[name].records, config), device)
    optimizer = build_optimizer(captioner, config)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    return Trial(
        config=config,
        workers=workers,
        device=device,
        captioner=captioner,
        module=module,
        tuning=tuning,
        train=batches["train"],
        validation=batches["validation"],
        validation_split=data.splits["validation"],
        optimizer=optimizer,
        scaler=scaler,
        steps=build_steps(module, optimizer, scaler, config),
        memory=memory,
    )


def run_epoch(trial: Trial, done: Progress, progress: OnProgress) -> None:
    """Train one epoch, score it on validation, and add its report to `done`."""
    started = time.monotonic()
    epoch = len(done.history) + 1
    training_loss = 0.0
    if trial.tuning.trainable_parameters:
        training_loss = train_epoch(trial, epoch, progress)
    training_seconds = time.monotonic() - started
    learning_rate = float(trial.optimizer.param_groups[0]["lr"])

    validation_loss = compute_validation_loss(trial.captioner, trial.validation, trial.config, trial.workers)
    score = score_validation(trial, f"epoch {epoch}/{trial.num_epochs} validation", progress)
    peak_memory_bytes = sum(trial.workers.gather(trial.memory.sample()))
    done.history.append(
        EpochReport(
            epoch=epoch,
            num_epochs=trial.num_epochs,
            score=score,
            validation_loss=validation_loss,
            training_loss=training_loss,
            learning_rate=learning_rate,
            seconds=time.monotonic() - started,
            training_seconds=training_seconds,
            images_per_second=len(trial.train.images) / training_seconds if trial.tuning.trainable_parameters else 0.0,
            peak_memory_bytes=peak_memory_bytes,
            trainable_parameters=trial.tuning.trainable_parameters,
            total_parameters=trial.tuning.total_parameters,
        )
    )
    label = OBJECTIVES[trial.config.metric].label
    log.info("epoch %d: %s %.4f, validation loss %.4f", epoch, label, score, validation_loss)


def train_epoch(trial: Trial, epoch: int, progress: OnProgress) -> float:
    """One pass over the training split; returns the mean loss a caption token. Raises NonFiniteLoss.

    The epoch is a function of the weights and optimizer it starts from, the config and its number: schedule, order,
    dropout and augmentation are derived from these, so a resumed trial repeats it.
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
        parts = [augment(next(batches), augmenter) for _ in range(config.accumulation_steps)]
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


def augment(batch: MicroBatch, augmenter: Augmenter | None) -> MicroBatch:
    """The batch with its images augmented, if they are to be."""
    if augmenter is None:
        return batch
    return replace(batch, images=augmenter.apply(batch.images, batch.positions))


def raise_if_not_finite(trial: Trial, first_bad_step: int) -> None:
    """Raise NonFiniteLoss on every worker if any of them saw such a loss."""
    seen = [step for step in trial.workers.gather(first_bad_step) if step >= 0]
    if seen:
        config = trial.config
        raise NonFiniteLoss(
            f"The loss was not finite at step {min(seen)} (freeze {config.freeze}, learning_rate "
            f"{config.learning_rate:g}, precision {config.precision}); lower learning_rate or use precision bf16 or "
            "fp32."
        )


@contextlib.contextmanager
def name_memory_faults(config: TrialConfig) -> Iterator[None]:
    """Turn the allocators' errors into OutOfMemory, which names the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"No memory left on the device (freeze {config.freeze}, batch_size {config.batch_size}, accumulation_steps "
            f"{config.accumulation_steps}, eval_batch_size {config.eval_batch_size}); raise accumulation_steps or "
            "lower eval_batch_size."
        ) from error
