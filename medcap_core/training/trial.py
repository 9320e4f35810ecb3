"""The objects of one running trial, and their construction."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.batches import BatchMaker, derive_seed
from medcap_core.data.prepare import PreparedData, PreparedSplit
from medcap_core.data.records import SplitName
from medcap_core.errors import ConfigFault, OutOfMemory
from medcap_core.inference.image_sources import open_images
from medcap_core.models import Captioner, load_trial_captioner
from medcap_core.models.tuning import TuningSummary, apply_tuning, cast_frozen, disable_input_casting
from medcap_core.runtime.device import PeakMemory, choose_frozen_dtype, choose_precision, is_out_of_memory
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.runtime.workers import Workers
from medcap_core.training.optimization import build_optimizer
from medcap_core.training.parallel import share_model
from medcap_core.training.steps import Steps, build_steps
from medcap_core.training.validation import check_objective

_SPLITS_OF_A_TRIAL: tuple[SplitName, ...] = ("train", "validation")


@dataclass
class Trial:
    """All objects of one running trial."""

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
        """Number of epochs; a zero-shot trial is scored once."""
        return 1 if self.config.freeze is FreezeMode.ZERO_SHOT else self.config.num_epochs


def set_up(
    config: TrialConfig,
    data: PreparedData,
    workers: Workers,
    device: torch.device,
    progress: Progress = ignore_progress,
) -> Trial:
    """Build model, data and optimizer of a trial, and seed the random state."""
    if config.batch_size < workers.size * config.accumulation_steps:
        raise ConfigFault(
            f"batch_size {config.batch_size} is too small for {workers.size} workers x {config.accumulation_steps} "
            "accumulation steps; raise it to at least their product."
        )
    if config.parallel == "fsdp" and workers.size == 1:
        raise ConfigFault(
            "parallel fsdp shards the model over the workers of a trial, but this trial has one; give it more by "
            "resources.workers_per_trial, or use parallel: ddp."
        )
    memory = PeakMemory(device)
    torch.manual_seed(derive_seed(config.seed, 0))
    captioner = load_trial_captioner(config, device)
    check_objective(config, captioner, data.splits["validation"].records)
    tuning = apply_tuning(captioner, config)
    precision = choose_precision(config, device)
    if precision is not torch.float32:
        disable_input_casting(captioner)
    cast_frozen(captioner, choose_frozen_dtype(config, device))
    captioner.to(device)
    batches = {}
    for name in _SPLITS_OF_A_TRIAL:
        augmented = name == "train" and config.augment
        images = open_images(captioner, data.splits[name], config, augmented=augmented, progress=progress)
        batches[name] = BatchMaker(images, captioner.tokenize_records(data.splits[name].records, config), device)
    module: nn.Module = captioner
    if workers.size > 1 and tuning.trainable_parameters:
        module = share_model(captioner, config, workers)
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


@contextlib.contextmanager
def name_memory_faults(config: TrialConfig) -> Iterator[None]:
    """Turn allocation errors into OutOfMemory, whose message names the remedy."""
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
