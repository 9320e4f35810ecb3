"""Captions and answers of a trained model: `load_captioner` and `caption`, the interface for Python.

captioner = load_captioner("runs/lora-001/best")
texts = caption(captioner, ["scan1.png", "scan2.png"])
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medcap_core.config import FreezeMode, TrialConfig, build_trial_config
from medcap_core.data.batches import PixelSource
from medcap_core.data.decoding import UnreadableImage
from medcap_core.data.images import Geometry
from medcap_core.errors import DataFault, ModelFault
from medcap_core.inference.generation import Request, generate_predictions
from medcap_core.models import Captioner
from medcap_core.runtime.files import name_refused_files
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.training.export import TRIAL_CONFIG_FILE, load_trained_captioner

_CHUNK_IMAGES = 256
"""Images decoded at once."""

_PARTS = ("image_size", "vision_model", "language_model", "patch_size", "num_queries", "qformer_layers")
"""Settings that compose a base model; an exported model has its parts saved."""

Input = str | Path | Image.Image
"""A file (of scans also a folder of DICOM slices), or an image in memory."""


@dataclass(frozen=True)
class LoadedCaptioner:
    """A model on this process's device, and the config by which it generates."""

    model: Captioner
    config: TrialConfig


def load_captioner(
    model: str | Path = "phantom-blip",
    *,
    prompt: str | None = None,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
) -> LoadedCaptioner:
    """Load a run's `best` folder, a model's folder, a Hub name or an embedded model.

    None takes the setting of the run that trained it. Raises ModelFault and ConfigFault, and RunFault for a folder that
    may not be read.
    """
    set_up_libraries()
    given = {"prompt": prompt, "num_beams": num_beams, "max_new_tokens": max_new_tokens}
    with name_refused_files():
        return load_configured(read_settings(str(model), **given))


def load_configured(config: TrialConfig) -> LoadedCaptioner:
    """Load the model of `config` as it is, to generate by `config`. Raises ModelFault."""
    as_it_is = config.model_copy(update={"freeze": FreezeMode.ZERO_SHOT})
    return LoadedCaptioner(load_trained_captioner(as_it_is, None), config)


def caption(captioner: LoadedCaptioner, images: Iterable[Input]) -> list[str]:
    """Generate a caption for each image or scan.

    Raises DataFault naming files that cannot be read, and for what is no list of files and images.
    """
    return [text for part in _predict_all(captioner, images) for (text,) in part.texts]


def answer(captioner: LoadedCaptioner, scans: Iterable[Input], questions: Iterable[str]) -> list[list[str]]:
    """Generate the answers of each scan to all questions.

    Raises DataFault as `caption`, and ModelFault where the model answers no questions.
    """
    if isinstance(questions, str):
        raise DataFault("questions: give a list of questions, not one.")
    return [answers for part in _predict_all(captioner, scans, questions) for answers in part.texts]


def _predict_all(
    captioner: LoadedCaptioner, inputs: Iterable[Input], questions: Iterable[str] = ()
) -> Iterator["Predicted"]:
    if isinstance(inputs, str | Path | Image.Image) or not isinstance(inputs, Iterable):
        raise DataFault(f"give a list of files and PIL images, not one {type(inputs).__name__}.")
    inputs = list(inputs)
    if others := [type(item).__name__ for item in inputs if not isinstance(item, str | Path | Image.Image)]:
        raise DataFault(f"{others[0]} is neither a file's name nor a PIL image: give one of these.")
    for part in predict(captioner, inputs, list(questions)):
        if part.faults:
            raise DataFault(part.faults)
        yield part


@dataclass(frozen=True)
class Predicted:
    """A part of the inputs: those that could be read, the caption or the answers of each, and a sentence on the others.

    `num_done` counts all inputs so far.
    """

    inputs: list[Input]
    texts: list[list[str]]
    faults: list[str]
    num_done: int


def predict(captioner: LoadedCaptioner, inputs: Sequence[Input], questions: Sequence[str] = ()) -> Iterator[Predicted]:
    """Generate captions, or answers where there are questions, for some inputs at a time.

    Raises ModelFault where the model answers no questions.
    """
    model, config = captioner.model, captioner.config
    if questions and not model.answers_questions:
        raise ModelFault(
            f"--question: the {model.family} model {config.model} answers none; remove the flag, or give a model of "
            "medblip3d."
        )
    for start in range(0, len(inputs), _CHUNK_IMAGES):
        chunk = inputs[start : start + _CHUNK_IMAGES]
        read, images, faults = _decode(chunk, model.geometry)
        asked = (tuple(questions),) * len(images) if questions else ()
        request = Request(captions=not questions, questions=asked)
        found = generate_predictions(model, PixelSource(images), request, config)
        texts = [prediction.answers if questions else [prediction.text] for prediction in found]
        yield Predicted(read, texts, faults, start + len(chunk))


class LooseImages(list[NDArray[np.uint8]]):
    """Decoded images with the interface of a prepared split."""

    def pixels(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images at `positions`, uint8 (B, 3, S, S), or scans (B, 1, S, S, S)."""
        return np.stack([self[position] for position in positions])


@dataclass(frozen=True)
class _ImageInMemory:
    image: Image.Image

    def open(self) -> Image.Image:
        return self.image

    def fingerprint(self) -> str:
        return str(id(self.image))


def _decode(inputs: Sequence[Input], geometry: Geometry) -> tuple[list[Input], LooseImages, list[str]]:
    """Decode inputs: those that can be read, their pixels, and a sentence on each other one."""
    read, images, faults = [], LooseImages(), []
    for given in inputs:
        try:
            known = _ImageInMemory(given) if isinstance(given, Image.Image) else geometry.refer_to(Path(given))
            images.append(geometry.decode(known))
            read.append(given)
        except (UnreadableImage, ValueError) as unusable:
            faults.append(f"{given}: {unusable}; give {'an image file' if geometry.noun == 'image' else 'a scan'}.")
    return read, images, faults


def read_settings(model: str, **given: str | int | None) -> TrialConfig:
    """Read the config of the run that trained a model, the defaults for other models, with the fields given.

    Without bitsandbytes the exported model is not quantized, whatever its run used. Raises ConfigFault and ModelFault.
    """
    path = Path(model) / TRIAL_CONFIG_FILE
    changes = {name: value for name, value in given.items() if value is not None}
    if not path.is_file():
        return build_trial_config({"model": model} | changes, f"model {model}")
    try:
        values = {**json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError, RecursionError):
        raise ModelFault(f"{path} is damaged; delete it to caption with default settings.") from None
    values |= {"model": model} | dict.fromkeys(_PARTS)
    if find_spec("bitsandbytes") is None:
        values["quantization"] = "none"
    return build_trial_config(values | changes, str(path))
