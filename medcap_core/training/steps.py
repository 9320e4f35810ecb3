"""One optimizer step: its kernels launched singly, or replayed on a GPU as one recorded CUDA graph.

With a small batch a GPU waits for the host, which launches some two thousand kernels a step. A CUDA graph launches all
of them at once: the same arithmetic in the same order.
"""

import contextlib
import logging
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from medcap_core.config import TrialConfig
from medcap_core.data.batches import MicroBatch
from medcap_core.models import Captioner
from medcap_core.runtime.device import autocast, choose_precision, is_out_of_memory, release_memory
from medcap_core.runtime.transfer import DEVICE_LOCK

log = logging.getLogger(__name__)

STEPS_BEFORE_RECORDING = 2
"""Steps of one shape before it is recorded: recording costs as much as a few steps launched singly."""

MOST_RECORDINGS = 32
"""Each recording holds a batch, and the shapes of a step are all combinations of its micro-batches' lengths."""


class LaunchedSteps:
    """Launches each kernel singly: on CPUs, under several workers, and for rare shapes."""

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, config: TrialConfig
    ) -> None:
        self.module, self.optimizer, self.scaler, self.config = module, optimizer, scaler, config
        self.device = next(module.parameters()).device
        self.precision = choose_precision(config, self.device)
        self.trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        is_distributed = isinstance(module, DistributedDataParallel | FSDPModule)
        # Both average gradients over workers, but the loss needs their sum.
        self.num_averaged = torch.distributed.get_world_size() if is_distributed else 1

    def take(self, parts: list[MicroBatch], num_labels: int) -> Tensor:
        """Take one step over its micro-batches; returns this worker's summed loss, () float32 on the device.

        Each micro-batch's loss is a sum, divided by the `num_labels` caption tokens of the whole step over all workers,
        so the gradient is that of one large batch, however it is split.
        """
        loss = self.accumulate(parts, self.num_averaged / max(num_labels, 1))
        self.update()
        return loss

    def accumulate(self, parts: list[MicroBatch], scale: float | Tensor) -> Tensor:
        """Accumulate the gradients of `scale` times the loss; returns the summed loss."""
        step_loss = torch.zeros((), device=self.device)
        for part in parts:
            exchange: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
            if isinstance(self.module, DistributedDataParallel) and part is not parts[-1]:
                exchange = self.module.no_sync()  # workers exchange gradients at the last micro-batch alone
            with exchange, autocast(self.device, self.precision):
                loss = self.module(
                    part.images, *part.texts, label_smoothing=self.config.label_smoothing, encoded=part.encoded
                )
                self.scaler.scale(loss * scale).backward()
            step_loss += loss.detach()
        return step_loss

    def update(self) -> None:
        """Clip the gradients, update the weights, clear the gradients."""
        self.scaler.unscale_(self.optimizer)
        if self.config.max_grad_norm != "none":
            nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


@dataclass
class Recording:
    """A recorded step with its input and output tensors."""

    graph: torch.cuda.CUDAGraph
    parts: list[MicroBatch]
    scale: Tensor
    loss: Tensor


class RecordedSteps:
    """Replays each frequent shape of step as one CUDA graph, up to MOST_RECORDINGS; all graphs share a memory pool."""

    def __init__(self, launched: LaunchedSteps) -> None:
        self.launched = launched
        self.recordings: dict[tuple[object, ...], Recording] = {}
        self.seen: Counter[tuple[object, ...]] = Counter()
        self.pool = torch.cuda.graph_pool_handle()
        self.can_record = True

    def take(self, parts: list[MicroBatch], num_labels: int) -> Tensor:
        """Take one step, see `LaunchedSteps.take`."""
        shape = tuple((part.images.shape, part.images.dtype, *(text.shape for text in part.texts)) for part in parts)
        self.seen[shape] += 1
        has_room = self.can_record and len(self.recordings) < MOST_RECORDINGS
        if has_room and shape not in self.recordings and self.seen[shape] > STEPS_BEFORE_RECORDING:
            self._try_to_record(shape, parts)
        recording = self.recordings.get(shape)
        if recording is None:
            return self.launched.take(parts, num_labels)
        for own, given in zip(recording.parts, parts, strict=True):
            own.images.copy_(given.images)
            for own_text, given_text in zip(own.texts, given.texts, strict=True):
                own_text.copy_(given_text)
        recording.scale.fill_(1.0 / max(num_labels, 1))
        recording.graph.replay()
        return recording.loss.clone()

    def _try_to_record(self, shape: tuple[object, ...], parts: list[MicroBatch]) -> None:
        """Record a step of this shape; after a failure no other shape is recorded.

        A likely cause is lack of memory, and a failed recording may leave the shared pool unusable.
        """
        random_state = torch.cuda.get_rng_state()
        try:
            self.recordings[shape] = self._record(parts)
        except RuntimeError as error:
            cause = "no memory is left" if is_out_of_memory(error) else f"it failed ({error})"
            log.warning("steps of %s cannot be recorded: %s; they are launched singly", parts[0].images.shape, cause)
        else:
            return
        self.can_record = False
        self.launched.optimizer.zero_grad(set_to_none=True)
        release_memory()
        torch.cuda.set_rng_state(random_state)

    def _record(self, parts: list[MicroBatch]) -> Recording:
        """Record a step of this shape; weights, optimizer and random state are unchanged."""
        own = [part.copy() for part in parts]
        scale = torch.ones((), device=self.launched.device)
        random_state = torch.cuda.get_rng_state()
        side = _side_stream()
        with DEVICE_LOCK:
            # PyTorch requires a warm-up run on a side stream first.
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.launched.accumulate(own, scale)
            torch.cuda.current_stream().wait_stream(side)
            self.launched.optimizer.zero_grad(set_to_none=True)
            torch.cuda.set_rng_state(random_state)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                loss = self.launched.accumulate(own, scale)
                self.launched.update()
            torch.cuda.set_rng_state(random_state)
        return Recording(graph, own, scale, loss)


@lru_cache(maxsize=1)
def _side_stream() -> torch.cuda.Stream:
    """Return the only side stream of the process: cuBLAS keeps a workspace for each stream it has run on."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


Steps = LaunchedSteps | RecordedSteps
"""What executes optimizer steps."""


def build_steps(
    module: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, config: TrialConfig
) -> Steps:
    """Build recorded steps on one CUDA device for families with `can_record_steps`, else launched steps.

    Loss scaling needs the host after each step, so it is not recorded.
    """
    launched = LaunchedSteps(module, optimizer, scaler, config)
    can_record = isinstance(module, Captioner) and module.can_record_steps and not isinstance(module, FSDPModule)
    if launched.device.type == "cuda" and can_record and not scaler.is_enabled():
        return RecordedSteps(launched)
    return launched
