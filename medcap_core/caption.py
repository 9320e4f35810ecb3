"""Caption images with a trained model, or answer questions on scans.

python -m medcap_core.caption IMAGE... --model runs/lora-001/best
python -m medcap_core.caption FOLDER --model runs/lora-001/best --out captions.csv
python -m medcap_core.caption SCAN... --model runs/medblip3d-001/best --question "How large are the ventricles?"
"""

import csv
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
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
from medcap_core.data.sources.image_index import IMAGE_SUFFIXES
from medcap_core.data.sources.rows import is_table, read_rows
from medcap_core.data.sources.tables import IMAGE_COLUMNS, flatten_columns, require_columns
from medcap_core.errors import DataFault, ModelFault
from medcap_core.inference.generation import Request, generate_captions, generate_predictions
from medcap_core.models import Captioner, load_geometry
from medcap_core.runtime.command_line import exit_on_fault
from medcap_core.runtime.files import replace_text
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.training.export import TRIAL_CONFIG_FILE, load_trained_captioner

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_CHUNK_IMAGES = 256
"""Images decoded at once for a file of captions."""
_PROGRESS_SECONDS = 5.0

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


def list_images(path: Path) -> list[Path]:
    """List the images of a folder and its direct subfolders, or of the image column of a CSV, TSV or JSONL file.

    Another path is an image itself. Raises DataFault for a folder without images and for a table without the column.
    """
    if path.is_dir():
        found = sorted(
            item
            for pattern in ("*", "*/*")
            for item in path.glob(pattern)
            if item.is_file() and item.suffix.lower().lstrip(".") in IMAGE_SUFFIXES
        )
        if not found:
            raise DataFault(f"{path}: there is no image in this folder or in those in it; name one that has some.")
        return found
    if not is_table(path):
        return [path]
    table = read_rows(path)
    flatten_columns(table)
    (column,) = require_columns(table, {"image": IMAGE_COLUMNS})
    faults = [f"{path} line {row.line}: {row.fault}; mend it or take it out." for row in table.rows if row.fault]
    faults += [f"{path} line {row.line}: no image." for row in table.rows if not row.fault and not row.text(column)]
    if faults or not table.rows:
        raise DataFault(faults or [f"{path}: the table has no rows."])
    return [path.parent / row.text(column) for row in table.rows]


def write_captions(paths: Sequence[Path], config: TrialConfig, out: Path, warn: Callable[[str], None]) -> int:
    """Caption images or scans into the CSV file `out` (columns `image`, `caption`), and count the rows.

    The file is written in one step at the end. Files that cannot be read are left out, each named by `warn`, which also
    gets the progress. Raises DataFault where all are bad, and where `out` cannot be written.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise DataFault(f"--out {out}: give a file in a folder that is there.")
    captioner = _load_model(config)
    rows: list[tuple[str, str]] = []
    faults: list[str] = []
    start = said = time.monotonic()
    for first in range(0, len(paths), _CHUNK_IMAGES):
        chunk = paths[first : first + _CHUNK_IMAGES]
        read, images, chunk_faults = _decode(chunk, captioner.geometry)
        faults += chunk_faults
        for fault in chunk_faults:
            warn(f"left out: {fault}")
        if images:
            captions = generate_captions(captioner, PixelSource(LooseImages(images)), config)
            rows += zip(map(str, read), captions, strict=True)
        done, now = first + len(chunk), time.monotonic()
        if now - said > _PROGRESS_SECONDS and done < len(paths):
            left = (now - start) / done * (len(paths) - done)
            warn(f"{done:,} of {len(paths):,} captioned, about {left:,.0f} s left")
            said = now
    if not rows:
        raise DataFault(faults)
    text = io.StringIO()
    csv.writer(text).writerows([("image", "caption"), *rows])
    try:
        replace_text(out, text.getvalue())
    except OSError as error:
        raise DataFault(f"--out {out}: cannot be written ({error.strerror or error}); choose another.") from None
    return len(rows)


def _load_model(config: TrialConfig) -> Captioner:
    return load_trained_captioner(config.model_copy(update={"freeze": FreezeMode.ZERO_SHOT}), None)


def _read_files(paths: list[Path], geometry: Geometry) -> PixelSource:
    _, images, faults = _decode(paths, geometry)
    if faults:
        raise DataFault(faults)
    return PixelSource(LooseImages(images))


def _decode(paths: Sequence[Path], geometry: Geometry) -> tuple[list[Path], list[NDArray[np.uint8]], list[str]]:
    """Decode files: those that can be read, their pixels, and a sentence on each other one."""
    read, images, faults = [], [], []
    for path in paths:
        try:
            images.append(geometry.decode(geometry.refer_to(path)))
            read.append(path)
        except (UnreadableImage, ValueError) as unusable:
            faults.append(f"{path}: {unusable}; give {'an image file' if geometry.noun == 'image' else 'a scan'}.")
    return read, images, faults


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
    images: Annotated[list[Path], typer.Argument(help="Images, folders or tables of them; or scans.")],
    model: Annotated[str, typer.Option(help="A run's best folder, a Hub name or a path.")] = "phantom-blip",
    prompt: Annotated[str | None, typer.Option(help="Text that captions begin with; default: as trained.")] = None,
    beams: Annotated[int | None, typer.Option(min=1, max=16, help="Default: as in the run.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=4, max=512, help="Default: as in the run.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a CSV file; bad images are left out.")] = None,
    question: Annotated[list[str] | None, typer.Option(help="Asked instead of a caption; may be repeated.")] = None,
) -> None:
    """Print one line for each image: its path, a tab, its caption or its answers, with tabs between; or write --out."""
    set_up_libraries()
    with exit_on_fault():
        flags = {"prompt": prompt, "num_beams": beams, "max_new_tokens": max_new_tokens}
        config = read_settings(model).model_copy(
            update={name: value for name, value in flags.items() if value is not None}
        )
        if load_geometry(config).noun == "image":
            images = [image for path in images for image in list_images(path)]
        if out is not None:
            if question:
                raise DataFault("--out holds captions; leave --question out, whose answers are printed.")
            count = write_captions(images, config, out, lambda line: typer.echo(line, err=True))
            sys.stdout.write(f"{count:,} captions in {out}\n")
            return
        if question:
            texts = answer_questions(images, config, question)
        else:
            texts = [[caption] for caption in caption_images(images, config)]
        for path, columns in zip(images, texts, strict=True):
            sys.stdout.write("\t".join([str(path), *columns]) + "\n")


if __name__ == "__main__":
    app()
