"""Training steps, encoding and generation of one model, each beside what its matrix products alone would take.

Weights and images are random, which changes nothing about the work done.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import measure_matmul_rate, print_table, synchronize, time_call
from benchmarks.synthetic import make_random_split
from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.batches import BatchMaker, ImageSource, PixelSource, Positions
from medcap_core.inference.generation import count_at_once
from medcap_core.models import load_captioner
from medcap_core.models.tuning import apply_tuning, encoder_is_frozen
from medcap_core.runtime.device import PeakMemory, autocast, choose_precision, one_thread_if_small, release_memory
from medcap_core.runtime.transfer import DEVICE_LOCK, move, prefetch
from medcap_core.training.optimization import build_optimizer
from medcap_core.training.steps import STEPS_BEFORE_RECORDING, RecordedSteps, Steps, build_steps

MODES = (FreezeMode.FULL, FreezeMode.ENCODER_ONLY, FreezeMode.DECODER_ONLY, FreezeMode.LORA)
NUM_TOKENS = 24
"""Length of every generated caption, about that of a radiology caption."""


class FeatureSource:
    """Encoder hidden states of all images, held in memory on the device."""

    encoded = True

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def fetch(self, positions: Positions) -> Tensor:
        """See `ImageSource.fetch`."""
        places = move(torch.from_numpy(positions), self.features.device)
        with DEVICE_LOCK:
            return self.features[places]


@dataclass
class ModelBench:
    """What the benchmarks of one model share."""

    model: str
    batch_size: int
    num_images: int
    num_steps: int
    device: torch.device
    precision_name: str = "auto"

    def __post_init__(self) -> None:
        # Its captions and features alone are wanted.
        self.captioner = load_captioner(self.model).to(self.device).eval().requires_grad_(False)
        self.image_size = self.captioner.geometry.size
        self.split = make_random_split(self.num_images, self.image_size)
        self.precision = choose_precision(self.config(FreezeMode.FULL), self.device)
        self.flops_a_second = measure_matmul_rate(self.device, self.precision)

    def config(self, freeze: FreezeMode) -> TrialConfig:
        """Build the config of the measured trial."""
        settings = {"precision": self.precision_name, "max_new_tokens": NUM_TOKENS, "min_new_tokens": NUM_TOKENS}
        return TrialConfig(model=self.model, freeze=freeze, batch_size=self.batch_size, **settings)

    @torch.inference_mode()
    def encode(self, num_images: int) -> Tensor:
        """Hidden states of the first images, in the dtype in which training would make them."""
        parts = []
        for start in range(0, num_images, self.batch_size):
            positions = np.arange(start, min(start + self.batch_size, num_images))
            with autocast(self.device, self.precision):
                parts.append(self.captioner.encode_images(PixelSource(self.split).fetch(positions).to(self.device)))
        return torch.cat(parts)


def count_flop(call: Callable[[], object]) -> float:
    """Arithmetic of a call, by torch's own counter, attention taken apart: the counter knows no fused one on a CPU."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return float(counter.get_total_flops())


def measure_training(bench: ModelBench) -> None:
    """Print a row for each freeze mode, and one more over cached features where the encoder is frozen."""
    print(
        f"Floor: matrix products alone at {bench.flops_a_second / 1e12:.3g} TFLOP/s ({bench.precision}), measured on "
        "large squares. Gain: images/s over those of the row above, beside the same by arithmetic.\n"
    )
    print_table(
        (
            "mode", "input", "images/s", "ms a step", "ms launched singly", "GFLOP an image", "floor ms",
            "floor / step", "peak GB", "gain", "gain by arithmetic", "share of it",
        ),
        training_rows(bench),
    )  # fmt: skip


def training_rows(bench: ModelBench) -> Iterator[tuple[object, ...]]:
    """See `measure_training`."""
    for mode in MODES:
        sources: dict[str, ImageSource] = {"pixels": PixelSource(bench.split)}
        if encoder_is_frozen(bench.config(mode)):
            sources["features"] = FeatureSource(bench.encode(bench.num_images))
        whole: tuple[float, float] | None = None  # seconds and FLOP of a step from pixels
        for source, images in sources.items():
            seconds, singly, flop, peak_bytes = measure_mode(bench, mode, images)
            floor = flop / bench.flops_a_second
            gains: list[object] = [None, None, None]
            if whole is not None:
                gain, ceiling = whole[0] / seconds, whole[1] / flop
                gains = [gain, ceiling, f"{gain / ceiling:.0%}"]
            whole = seconds, flop
            yield (
                mode, source, bench.batch_size / seconds, seconds * 1e3, None if singly is None else singly * 1e3,
                flop / bench.batch_size / 1e9, floor * 1e3, f"{floor / seconds:.0%}", peak_bytes / 1e9, *gains,
            )  # fmt: skip


def measure_mode(bench: ModelBench, mode: FreezeMode, images: ImageSource) -> tuple[float, float | None, float, int]:
    """Seconds a step, the same with kernels launched singly (None where they are anyway), FLOP a step, peak bytes."""
    config = bench.config(mode)
    release_memory()
    memory = PeakMemory(bench.device)
    captioner = load_captioner(bench.model)
    apply_tuning(captioner, config)
    captioner.to(bench.device).train()
    if encoder_is_frozen(config):
        captioner.encoder.eval()
    optimizer = build_optimizer(captioner, config)
    scaler = torch.amp.GradScaler(bench.device.type, enabled=False)
    steps = build_steps(captioner, optimizer, scaler, config)
    batches = BatchMaker(images, captioner.tokenize(bench.split.captions, config), bench.device)
    seconds = time_steps(bench, batches, steps)
    launched = steps.launched if isinstance(steps, RecordedSteps) else steps
    singly = time_steps(bench, batches, launched) if launched is not steps else None
    order = np.arange(bench.batch_size)
    flop = count_flop(lambda: launched.take([batches.make(order)], batches.texts.count_labels(order)))
    return seconds, singly, flop, memory.sample()


def time_steps(bench: ModelBench, batches: BatchMaker, steps: Steps) -> float:
    """Seconds a step over steps in a row, fetching of batches included."""
    order = np.arange(bench.batch_size)
    labels = batches.texts.count_labels(order)

    def run(count: int) -> None:
        for batch in prefetch(batches.make, [order] * count, bench.device):
            steps.take([batch], labels)

    run(STEPS_BEFORE_RECORDING + 1)
    synchronize()
    return time_call(lambda: run(bench.num_steps), repeats=1) / bench.num_steps


def measure_encoding(bench: ModelBench) -> None:
    """Print how fast features are made and read back, so that one can tell when reading them pays."""
    features = bench.encode(bench.batch_size)
    seconds = time_call(lambda: bench.encode(bench.batch_size)) / bench.batch_size
    flop = count_flop(lambda: bench.encode(bench.batch_size)) / bench.batch_size
    floor = flop / bench.flops_a_second
    one = features[0].float().cpu().numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.f32"
        stored = np.memmap(path, np.float32, mode="w+", shape=(bench.num_images, *one.shape))
        stored[:] = one
        stored.flush()
        order = np.random.default_rng(0).permutation(bench.num_images)
        reading = time_call(lambda: torch.from_numpy(stored[order]).to(bench.device)) / bench.num_images
    print_table(
        ("encoding images/s", "GFLOP an image", "floor images/s", "share of floor", "float32 KB an image",
         "reading images/s, page cache", "reading / encoding"),
        [(1 / seconds, flop / 1e9, 1 / floor, f"{floor / seconds:.0%}", one.nbytes / 1e3, 1 / reading,
          f"{seconds / reading:.1f}x")],
    )  # fmt: skip


def measure_captions(bench: ModelBench) -> None:
    """Print how fast captions of a fixed length are generated, as trials do it; beams do not count as tokens.

    The floor is that of the threads in use.
    """
    config = bench.config(FreezeMode.ZERO_SHOT)
    num_images = min(count_at_once(bench.captioner, config), bench.num_images)
    features = bench.encode(num_images)

    @torch.inference_mode()
    def generate() -> int:
        with autocast(bench.device, bench.precision), one_thread_if_small(bench.captioner):
            bench.captioner.generate(features, config)
            return torch.get_num_threads()

    num_threads = generate()
    seconds = time_call(generate) / num_images
    executed = count_flop(generate) / num_images
    least = count_least_flop(bench, features[:1], config)
    with one_thread_if_small(bench.captioner):
        floor = least / measure_matmul_rate(bench.device, bench.precision)
    print_table(
        ("images at once", "threads", "captions/s", "tokens/s", "GFLOP a caption, as run", "least GFLOP",
         "floor captions/s", "share of floor"),
        [(num_images, num_threads, 1 / seconds, NUM_TOKENS / seconds, executed / 1e9, least / 1e9, 1 / floor,
          f"{floor / seconds:.0%}")],
    )  # fmt: skip


@torch.inference_mode()
def count_least_flop(bench: ModelBench, features: Tensor, config: TrialConfig) -> float:
    """Least arithmetic of one caption: each beam's tokens once, the image's keys and values once for all beams."""

    def count(num_tokens: int) -> float:
        ids = torch.zeros(1, num_tokens, dtype=torch.int64, device=bench.device)
        return count_flop(lambda: bench.captioner.compute_logits(features, ids))

    image_once = count(1) - (count(2) - count(1))
    return image_once + config.num_beams * (count(NUM_TOKENS) - image_once)
