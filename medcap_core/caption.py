"""Caption images with a trained model.

python -m medcap_core.caption IMAGE... --model runs/lora-001/best
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from medcap_core.batches import PixelSource
from medcap_core.command_line import told_in_sentences
from medcap_core.config import FreezeMode, TrialConfig, build_trial_config
from medcap_core.data.decoding import UnreadableImage
from medcap_core.data.geometry import Geometry
from medcap_core.errors import DataFault, ModelFault
from medcap_core.evaluation import generate_captions
from medcap_core.libraries import quiet_libraries
from medcap_core.trained import TRIAL_CONFIG_FILE, load_trained_captioner


class LooseImages:
    """Images already decoded, in the shape of a prepared split."""

    def __init__(self, images: list[NDArray[np.uint8]]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 (B, 3, S, S), of scans (B, 1, S, S, S)."""
        return np.stack([self.images[position] for position in positions])


def caption_images(paths: list[Path], config: TrialConfig) -> list[str]:
    """One caption for each image file, or scan, by the model of `config`. Raises DataFault naming every bad one."""
    captioner = load_trained_captioner(config.model_copy(update={"freeze": FreezeMode.ZERO_SHOT}), None)
    geometry: Geometry = captioner.geometry
    images, faults = [], []
    for path in paths:
        try:
            images.append(geometry.decode(geometry.refer_to(path)))
        except (UnreadableImage, ValueError) as unusable:
            faults.append(f"{path}: {unusable}; give {'an image file' if geometry.noun == 'image' else 'a scan'}.")
    if faults:
        raise DataFault(faults)
    return generate_captions(captioner, PixelSource(LooseImages(images)), config)


def read_settings(model: str) -> TrialConfig:
    """How the run that made a model generated captions; the defaults for a model that no run made.

    Without a CUDA device the model, which is exported whole, is not quantized, whatever the run did.
    """
    path = Path(model) / TRIAL_CONFIG_FILE
    if not path.is_file():
        return build_trial_config({"model": model}, "--model")
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ModelFault(f"{path} is damaged; delete it to caption with default settings.") from None
    values |= {"model": model, "image_size": None, "vision_model": None}
    if not torch.cuda.is_available():
        values["quantization"] = "none"
    return build_trial_config(values, str(path))


def main(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[str, typer.Option(help="A run's best folder, a Hub name or a path.")] = "phantom-blip",
    prompt: Annotated[str | None, typer.Option(help="Text that captions begin with; default: as trained.")] = None,
    beams: Annotated[int | None, typer.Option(min=1, max=16, help="Default: as in the run.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=4, max=512, help="Default: as in the run.")] = None,
) -> None:
    """Print one line for each image: its path, a tab, its caption."""
    quiet_libraries()
    with told_in_sentences():
        flags = {"prompt": prompt, "num_beams": beams, "max_new_tokens": max_new_tokens}
        config = read_settings(model).model_copy(
            update={name: value for name, value in flags.items() if value is not None}
        )
        for path, caption in zip(images, caption_images(images, config), strict=True):
            sys.stdout.write(f"{path}\t{caption}\n")


if __name__ == "__main__":
    typer.run(main)
