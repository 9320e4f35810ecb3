"""Training steps of each freeze mode and caption generation, beside what arithmetic allows.

python -m benchmarks.steps --size base --image-size 384 --batch-size 32

The model is randomly initialised and the images are random: neither changes the work done in a step.
"""

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.synthetic import make_random_split, save_random_blip
from medcap_core import training
from medcap_core.batches import prefetch
from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.device import current_device
from medcap_core.distributed import Workers
from medcap_core.evaluation import generate_captions
from medcap_core.libraries import quiet_libraries
from medcap_core.steps import STEPS_BEFORE_RECORDING, RecordedSteps


def synchronize() -> None:
    """Wait for the device, if there is one to wait for."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def build_trial(config: TrialConfig, num_images: int, image_size: int) -> training.Trial:
    """Set a trial up on random data, as `fit` does."""
    splits = {
        name: make_random_split(num_images, image_size, seed=seed) for seed, name in enumerate(("train", "validation"))
    }
    return training.set_up(config, SimpleNamespace(splits=splits), Workers(), current_device())


def measure_steps(trial: training.Trial, steps: object, num_steps: int) -> float:
    """Seconds a step over `num_steps` steps in a row, loading of batches included."""
    trial.captioner.train()
    order = np.arange(trial.config.batch_size)
    labels = trial.train.captions.count_labels(order)

    def run(count: int) -> None:
        for batch in prefetch(trial.train.make, [order] * count, trial.device):
            steps.take([batch], labels)
        synchronize()

    run(STEPS_BEFORE_RECORDING + 2)
    started = time.perf_counter()
    run(num_steps)
    return (time.perf_counter() - started) / num_steps


def count_gflop(trial: training.Trial) -> float:
    """Arithmetic of one training step, by torch's own counter."""
    launched = trial.steps.launched if isinstance(trial.steps, RecordedSteps) else trial.steps
    order = np.arange(trial.config.batch_size)
    with FlopCounterMode(display=False) as counter:
        launched.take([trial.train.make(order)], trial.train.captions.count_labels(order))
    return counter.get_total_flops() / 1e9


def measure_captions(trial: training.Trial) -> float:
    """Captions a second over the trial's validation split, after a batch to warm up."""
    images = trial.validation.images
    generate_captions(trial.captioner, images, trial.config)
    synchronize()
    started = time.perf_counter()
    generate_captions(trial.captioner, images, trial.config)
    synchronize()
    return len(images) / (time.perf_counter() - started)


def main(
    size: Annotated[str, typer.Option(help="Shape of the model: base (224 M parameters) or small (32 M).")] = "base",
    image_size: int = 384,
    batch_size: int = 32,
    num_steps: int = 20,
    num_captions: int = 256,
    modes: str = "full,encoder_only,decoder_only,lora",
) -> None:
    """Print one table: steps as trials take them, and with each kernel launched by itself."""
    quiet_libraries()
    device = current_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"## BLIP {size}, {image_size} px, batch {batch_size}; {name}, torch {torch.__version__}\n")
    print("| mode | images/s | ms a step | ms launched singly | GFLOP an image | TFLOP/s | peak GB | captions/s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        model = save_random_blip(Path(scratch) / "model", size, image_size)
        for mode in modes.split(","):
            config = TrialConfig(
                model=str(model),
                freeze=FreezeMode(mode),
                batch_size=batch_size,
                eval_batch_size=128,
                max_new_tokens=24,
                min_new_tokens=24,
            )
            trial = build_trial(config, max(batch_size, num_captions), image_size)
            seconds = measure_steps(trial, trial.steps, num_steps)
            singly = seconds
            if isinstance(trial.steps, RecordedSteps):
                singly = measure_steps(trial, trial.steps.launched, num_steps)
            gflop = count_gflop(trial)
            peak_gb = trial.memory.sample() / 1e9
            captions = f"{measure_captions(trial):.0f}" if num_captions else "-"
            print(
                f"| {mode} | {batch_size / seconds:.0f} | {seconds * 1e3:.1f} | {singly * 1e3:.1f} | "
                f"{gflop / batch_size:.0f} | {gflop / seconds / 1e3:.1f} | {peak_gb:.1f} | {captions} |",
                flush=True,
            )
            del trial
            if device.type == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    typer.run(main)
