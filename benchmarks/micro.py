"""Small measurements, each beside its floor.

python -m benchmarks.micro --model base --image-size 384 --batch-size 32 --only training,encoding,captions
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.machine import describe_machine, tell
from benchmarks.micro_host import measure_metrics, measure_start, measure_turnaround
from benchmarks.micro_model import ModelBench, measure_captions, measure_encoding, measure_training
from benchmarks.synthetic import BLIP_SIZES, PHANTOM_BLIP, make_model
from medcap_core.runtime.device import current_device
from medcap_core.runtime.libraries import set_up_libraries

OF_THE_MODEL: dict[str, Callable[[ModelBench], None]] = {
    "training": measure_training,
    "encoding": measure_encoding,
    "captions": measure_captions,
}
OF_THE_HOST: dict[str, Callable[[int], None]] = {
    "metrics": measure_metrics,
    "start": measure_start,
    "turnaround": lambda _: measure_turnaround(),
}


def main(
    model: Annotated[str, typer.Option(help="phantom-blip, or a random BLIP: small or base.")] = PHANTOM_BLIP,
    image_size: Annotated[int, typer.Option(help="Pixels a side; phantom-blip has its own 96.")] = 224,
    batch_size: int = 16,
    num_steps: int = 10,
    images: Annotated[int, typer.Option(help="Images, and captions to score.")] = 200,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16, as in a space file.")] = "auto",
    only: Annotated[str, typer.Option(help="Names with commas between; by default all.")] = "",
) -> None:
    """Print one table for each measurement."""
    set_up_libraries()
    known = [*OF_THE_MODEL, *OF_THE_HOST]
    names = only.split(",") if only else known
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"--only {','.join(unknown)}: use some of {','.join(known)}")
    if model not in (PHANTOM_BLIP, *BLIP_SIZES):
        raise typer.BadParameter(f"--model {model}: use one of {', '.join((PHANTOM_BLIP, *BLIP_SIZES))}")
    print(f"# {describe_machine()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="medcap-micro-") as scratch:
        if any(name in OF_THE_MODEL for name in names):
            source = make_model(model, Path(scratch) / "model", image_size)
            bench = ModelBench(source, batch_size, max(images, batch_size), num_steps, current_device(), precision)
        for name in names:
            tell(f"measuring {name}")
            if name in OF_THE_MODEL:
                print(f"## {name.capitalize()}: {model}, {bench.image_size} px, batch {batch_size}\n", flush=True)
                OF_THE_MODEL[name](bench)
            else:
                print(f"## {name.capitalize()}\n", flush=True)
                OF_THE_HOST[name](images)


if __name__ == "__main__":
    typer.run(main)
