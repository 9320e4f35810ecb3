"""The objects of one running trial, and their construction."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.batches import BatchMaker, derive_seed
from medcap_core.data.prepare import PreparedData, PreparedSplit
from medcap_core.errors import ConfigFault, OutOfMemory
from medcap_core.inference.image_sources import open_images
from medcap_core.models import load_trial_captioner
from medcap_core.models.tuning import apply_tuning, cast_frozen, disable_input_casting
from medcap_core.runtime.device import PeakMemory, choose_frozen_dtype, choose_precision, is_out_of_memory
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.runtime.workers import Workers
from medcap_core.training.optimization import build_optimizer
from medcap_core.training.parallel import share_model
from medcap_core.training.steps import build_steps
from medcap_core.training.validation import check_objective


class Trial:
    """All objects of one running trial."""

    def __init__(
        self,
        config: TrialConfig,
        data: PreparedData,
        workers: Workers,
        device: torch.device,
        progress: Progress = ignore_progress,
    ) -> None:
        """Build model, data and optimizer, and seed the random state. Raises ConfigFault and ModelFault."""
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
        self.config, self.workers, self.device = config, workers, device
        self.memory = PeakMemory(device)
        torch.manual_seed(derive_seed(config.seed, 0))
        self.captioner = captioner = load_trial_captioner(config, device)
        self.validation_split = data.splits["validation"]
        check_objective(config, captioner, self.validation_split.records)
        self.tuning = apply_tuning(captioner, config)
        precision = choose_precision(config, device)
        if precision is not torch.float32:
            disable_input_casting(captioner)
        cast_frozen(captioner, choose_frozen_dtype(config, device))
        captioner.to(device)
        self.train = self._open(data.splits["train"], progress, augmented=config.augment)
        self.validation = self._open(self.validation_split, progress)
        self.module: nn.Module = captioner
        if workers.size > 1 and self.tuning.trainable_parameters:
            self.module = share_model(captioner, config, workers)
        self.optimizer = build_optimizer(captioner, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
        self.steps = build_steps(self.module, self.optimizer, self.scaler, config)

    def _open(self, split: PreparedSplit, progress: Progress, *, augmented: bool = False) -> BatchMaker:
        images = open_images(self.captioner, split, self.config, augmented=augmented, progress=progress)
        return BatchMaker(images, self.captioner.tokenize_records(split.records, self.config), self.device)

    @property
    def num_epochs(self) -> int:
        """Number of epochs; a zero-shot trial is scored once."""
        return 1 if self.config.freeze is FreezeMode.ZERO_SHOT else self.config.num_epochs


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
