"""Train the embedded model: a small BLIP from random weights on the general phantom domain, synthetic images only.

python -m medcap_core.pretraining.phantom_blip OUT_DIR

`medcap_core/assets/phantom-blip` was made by this command on 2 CPU cores, a minute and a half an epoch beside other
work; the epoch with the best validation CIDEr, 3.02 on the general domain, was kept.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.prepare import prepare_data
from medcap_core.models import load_captioner
from medcap_core.models.embedded.phantom_blip import build_phantom_blip
from medcap_core.training.checkpoint import CheckpointFolder
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.export import TRIAL_CONFIG_FILE, export_captioner
from medcap_core.training.loop import fit


def pretrain(
    out: Annotated[Path, typer.Argument(help="Folder to write the model to, in Hub format.")],
    epochs: Annotated[int, typer.Option(min=1)] = 24,
    learning_rate: Annotated[float, typer.Option()] = 1.5e-3,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Build, train and export phantom-blip, keeping the epoch with the best validation CIDEr."""
    console = Console()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "random"
        build_phantom_blip(start, seed=seed)
        config = TrialConfig(
            data="phantoms-general",
            model=str(start),
            freeze=FreezeMode.FULL,
            learning_rate=learning_rate,
            num_epochs=epochs,
            batch_size=64,
            schedule="cosine",
            warmup_fraction=0.05,
            num_beams=1,
            max_validation_images=200,
            seed=seed,
        )
        data = prepare_data(config, load_captioner(str(start)).geometry)

        def show(report: EpochReport) -> None:
            console.print(
                f"epoch {report.epoch}/{report.num_epochs}: loss {report.training_loss:.3f}, validation loss "
                f"{report.validation_loss:.3f}, CIDEr {report.score:.3f}, {report.images_per_second:.0f} images/s, "
                f"{time.monotonic() - started:.0f} s in all"
            )

        checkpoints = Path(scratch) / "checkpoints"
        fit(config, data, checkpoints, show)
        best = CheckpointFolder(checkpoints, config).best_path
        export_captioner(config.model_copy(update={"num_beams": 3}), best, out)
        (out / TRIAL_CONFIG_FILE).unlink()  # it names the scratch folder
    console.print(f"Written to {out}")


if __name__ == "__main__":
    typer.run(pretrain)
