"""What a large sweep puts on disks and network, computed from files that are written here.

python -m benchmarks.sizes --images 60000 --trials 40 --epochs 10

Each mode trains one epoch on four images of 384 px with a BLIP of the shape of BLIP-base (random weights, bf16): its
checkpoints, and its rows in the caches, have the sizes of the real ones. The second table multiplies.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.machine import print_table, tell
from benchmarks.synthetic import save_random_blip, write_phantom_folder
from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.prepare import prepare_data
from medcap_core.data.stores.features import measure_stored_bytes
from medcap_core.models import load_geometry
from medcap_core.runtime.cache import CACHE_VARIABLE
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.loop import fit

MODES = (FreezeMode.FULL, FreezeMode.DECODER_ONLY, FreezeMode.LORA)
IMAGE_SIZE, NUM_TRAIN, NUM_VALIDATION = 384, 4, 2
IMAGES_A_SECOND = {FreezeMode.FULL: 460, FreezeMode.DECODER_ONLY: 851, FreezeMode.LORA: 1000}
"""One H100 at 32 images of 384 px a step, from `benchmarks/RESULTS.md`."""
NUM_GPUS = 8

MEASURED = ("mode", "last/ MB", "best/ MB")
COMPUTED = (
    "mode", "s an epoch", "checkpoints written, GB", "of these kept, GB", "written by 8 trials at once, MB/s",
    "cached rows read by 8 trials at once, MB/s",
)  # fmt: skip


def measure_checkpoints(freeze: FreezeMode, data: Path, model: Path, scratch: Path) -> tuple[float, float]:
    """Train one epoch, and measure its checkpoint and its weights in bytes."""
    config = TrialConfig(
        data=str(data), model=str(model), freeze=freeze, num_epochs=1, batch_size=2, num_beams=1, max_new_tokens=4,
        precision="bf16",
    )  # fmt: skip
    reports: list[EpochReport] = []
    fit(config, prepare_data(config, load_geometry(config)), scratch / freeze, reports.append)
    return _measure(scratch / freeze / "last"), _measure(scratch / freeze / "best")


def _measure(folder: Path) -> float:
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def main(
    images: Annotated[int, typer.Option(min=1, help="Training images.")] = 60_000,
    trials: Annotated[int, typer.Option(min=1, help="Trials.")] = 40,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each trial.")] = 10,
) -> None:
    """Measure here, and compute for a sweep of that size on eight GPUs."""
    set_up_libraries()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        os.environ[CACHE_VARIABLE] = str(scratch / "cache")
        data = write_phantom_folder(scratch / "images", NUM_TRAIN, NUM_VALIDATION)
        model = save_random_blip(scratch / "model", "base", IMAGE_SIZE)
        sizes = {}
        for freeze in MODES:
            tell(f"training {freeze}")
            sizes[freeze] = measure_checkpoints(freeze, data, model, scratch)
        num_rows = NUM_TRAIN + NUM_VALIDATION
        pixels = sum(path.stat().st_size for path in (scratch / "cache" / "images").rglob("pixels.u8")) / num_rows
        features = measure_stored_bytes() / num_rows
    print(f"An image takes {pixels / 1e3:.0f} KB of the image cache, and {features / 1e3:.0f} KB of encoder outputs.\n")
    print_table(MEASURED, ((mode, last / 1e6, best / 1e6) for mode, (last, best) in sizes.items()))
    print(
        f"{images:,} images: {images * pixels / 1e9:.1f} GB of images and {images * features / 1e9:.1f} GB of encoder "
        f"outputs on each node. {trials} trials of {epochs} epochs:\n"
    )
    rows = []
    for mode, (last, best) in sizes.items():
        seconds = images / IMAGES_A_SECOND[mode]
        row = pixels if mode is FreezeMode.FULL else features
        written = trials * epochs * (last + best)
        rate = NUM_GPUS * IMAGES_A_SECOND[mode] * row
        kept = min(3, trials) * best + NUM_GPUS * last
        rows.append((mode, seconds, written / 1e9, kept / 1e9, NUM_GPUS * (last + best) / seconds / 1e6, rate / 1e6))
    print_table(COMPUTED, rows)


if __name__ == "__main__":
    typer.run(main)
