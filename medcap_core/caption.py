"""Caption images with a trained model, or answer questions on scans.

python -m medcap_core.caption IMAGE... --model runs/lora-001/best
python -m medcap_core.caption SCAN... --model runs/medblip3d-001/best --question "How large are the ventricles?"
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from medcap_core.config import FreezeMode, TrialConfig, build_trial_config
from medcap_core.data.batches import PixelSource
from medcap_core.data.decoding import UnreadableImage
from medcap_core.data.geometry import Geometry
from medcap_core.errors import DataFault, ModelFault
from medcap_core.inference.generation import Request, generate_captions, generate_predictions
from medcap_core.models import Captioner
from medcap_core.runtime.command_line import exit_on_fault
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.training.export import TRIAL_CONFIG_FILE, load_trained_captioner

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_PARTS = ("image_size", "vision_model", "language_model", "patch_size", "num_queries", "qformer_layers")
"""Settings that compose a base model; an exported model has its parts saved."""


class LooseImages:
    """Decoded images with the interface of a prepared split."""

    def __init__(self, images: list[NDArray[np.uint8]]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images at `positions`, uint8 (B, 3, S, S), or scans (B, 1, S, S, S)."""
        return np.stack([self.images[position] for position in positions])


def caption_images(paths: list[Path], config: TrialConfig) -> list[str]:
    """Generate a caption for each image or scan by the model of `config`. Raises DataFault with every bad file."""
    captioner = _load_model(config)
    return generate_captions(captioner, _read_files(paths, captioner.geometry), config)


def answer_questions(paths: list[Path], config: TrialConfig, questions: Sequence[str]) -> list[list[str]]:
    """Generate the answers of each scan to all questions.

    Raises DataFault with every bad file, ModelFault where the model of `config` answers no questions.
    """
    captioner = _load_model(config)
    if not captioner.answers_questions:
        raise ModelFault(
            f"--question: the {captioner.family} model {config.model} answers none; remove the flag, or give a model "
            "of medblip3d."
        )
    request = Request(questions=(tuple(questions),) * len(paths))
    found = generate_predictions(captioner, _read_files(paths, captioner.geometry), request, config)
    return [prediction.answers for prediction in found]


def _load_model(config: TrialConfig) -> Captioner:
    return load_trained_captioner(config.model_copy(update={"freeze": FreezeMode.ZERO_SHOT}), None)


def _read_files(paths: list[Path], geometry: Geometry) -> PixelSource:
    images, faults = [], []
    for path in paths:
        try:
            images.append(geometry.decode(geometry.refer_to(path)))
        except (UnreadableImage, ValueError) as unusable:
            faults.append(f"{path}: {unusable}; give {'an image file' if geometry.noun == 'image' else 'a scan'}.")
    if faults:
        raise DataFault(faults)
    return PixelSource(LooseImages(images))


def read_settings(model: str) -> TrialConfig:
    """Read the config of the run that trained a model; the defaults for other models.

    Without a CUDA device the exported model is not quantized, whatever its run used.
    """
    path = Path(model) / TRIAL_CONFIG_FILE
    if not path.is_file():
        return build_trial_config({"model": model}, "--model")
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ModelFault(f"{path} is damaged; delete it to caption with default settings.") from None
    values |= {"model": model} | dict.fromkeys(_PARTS)
    if not torch.cuda.is_available():
        values["quantization"] = "none"
    return build_trial_config(values, str(path))


@app.command()
def caption(
    images: Annotated[list[Path], typer.Argument(help="Image files, or scans for a model of volumes.")],
    model: Annotated[str, typer.Option(help="A run's best folder, a Hub name or a path.")] = "phantom-blip",
    prompt: Annotated[str | None, typer.Option(help="Text that captions begin with; default: as trained.")] = None,
    beams: Annotated[int | None, typer.Option(min=1, max=16, help="Default: as in the run.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=4, max=512, help="Default: as in the run.")] = None,
    question: Annotated[list[str] | None, typer.Option(help="Asked instead of a caption; may be repeated.")] = None,
) -> None:
    """Print one line for each image: its path, a tab, its caption or its answers, with tabs between."""
    set_up_libraries()
    with exit_on_fault():
        flags = {"prompt": prompt, "num_beams": beams, "max_new_tokens": max_new_tokens}
        config = read_settings(model).model_copy(
            update={name: value for name, value in flags.items() if value is not None}
        )
        if question:
            texts = answer_questions(images, config, question)
        else:
            texts = [[caption] for caption in caption_images(images, config)]
        for path, columns in zip(images, texts, strict=True):
            sys.stdout.write("\t".join([str(path), *columns]) + "\n")


if __name__ == "__main__":
    app()
