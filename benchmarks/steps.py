"""Training steps, feature encoding and generation of each freeze mode, beside what arithmetic allows.

python -m benchmarks.steps --size base --image-size 384 --batch-size 32

The model is randomly initialised and the images are random: neither changes the work done in a step.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.synthetic import make_random_split, save_random_blip
from medcap_core import training
from medcap_core.batches import MicroBatch, prefetch
from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.device import choose_precision, current_device
from medcap_core.distributed import Workers
from medcap_core.evaluation import generate_captions

PEAK_TFLOPS = {"NVIDIA H100 80GB HBM3": 989.0, "NVIDIA H200": 989.0}  # dense bf16, by the vendor's data sheets


def synchronize() -> None:
    """Wait for the device, if there is one to wait for."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def time_call(call: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, each waited for, after one call to warm up."""
    call()
    seconds = []
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        call()
        synchronize()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def build_trial(config: TrialConfig, num_images: int, image_size: int) -> training.Trial:
    """Set a trial up on random data, as `fit` does."""
    splits = {
        name: make_random_split(num_images, image_size, seed=seed) for seed, name in enumerate(("train", "validation"))
    }
    return training.set_up(config, SimpleNamespace(splits=splits), Workers(), current_device())


def measure_steps(trial: training.Trial, num_steps: int) -> tuple[float, float]:
    """Seconds a step over `num_steps` consecutive steps, host and device together, and its GFLOP."""
    batch_size = trial.config.batch_size
    trial.captioner.train()

    def run(count: int) -> None:
        order = [np.arange(batch_size)] * count
        batches = prefetch(trial.train.make, order, trial.device)
        for step, batch in zip(order, batches, strict=True):
            trial.steps.take([batch], trial.train.captions.count_labels(step))
        synchronize()

    with FlopCounterMode(display=False) as counter:
        run(1)
    run(4)
    started = time.perf_counter()
    run(num_steps)
    return (time.perf_counter() - started) / num_steps, counter.get_total_flops() / 1e9


def main(
    size: Annotated[str, typer.Option(help="base, mid or phantom")] = "base",
    image_size: int = 384,
    batch_size: int = 32,
    num_steps: int = 20,
    generation_images: int = 256,
    modes: str = "full,encoder_only,decoder_only,lora",
) -> None:
    """Print one table."""
    device = current_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"## BLIP {size}, {image_size} px, batch {batch_size}, {name}, torch {torch.__version__}\n")
    print("| mode | images/s | ms a step | GFLOP an image | TFLOP/s | peak memory GB |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        model = save_random_blip(Path(scratch) / "model", size, image_size)
        for mode in modes.split(","):
            config = TrialConfig(
                model=str(model), freeze=FreezeMode(mode), batch_size=batch_size, eval_batch_size=128, max_new_tokens=24,
                min_new_tokens=24,
            )  # fmt: skip
            trial = build_trial(config, max(batch_size, 4), image_size)
            seconds, gflop = measure_steps(trial, num_steps)
            tflops = gflop / seconds / 1e3
            peak = trial.memory.sample() / 1e9
            print(
                f"| {mode} | {batch_size / seconds:.0f} | {seconds * 1e3:.1f} | {gflop / batch_size:.0f} | {tflops:.1f}"
                f" | {peak:.1f} |",
                flush=True,
            )
            if mode == modes.split(",")[-1] and generation_images:
                split = make_random_split(generation_images, image_size)
                from medcap_core.batches import PixelSource

                source = PixelSource(split)
                seconds = time_call(lambda: generate_captions(trial.captioner, source, config), 1)
                print(f"\nGeneration, 3 beams, 24 tokens: {generation_images / seconds:.0f} captions/s")
            del trial
            if device.type == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    typer.run(main)
