"""The files of `RUN_DIR/attention`: pictures, what they show (`attention.json`) and the maps (`attention.npz`)."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcap_core.attention.maps import AttentionWay
from medcap_core.errors import RunFault
from medcap_core.runtime.files import replace_durably, write_json_atomically
from sweep.explain.chosen import FOLDER_NAME, ExplainedRun, Kind

INDEX_NAME, MAPS_NAME = "attention.json", "attention.npz"


@dataclass(frozen=True)
class AttentionPicture:
    """One picture of `RUN_DIR/attention`, with what a report says beside it; `alt` is its text alternative."""

    path: Path
    image_id: str
    kind: Kind
    caption: str
    reference: str | None
    is_synthetic: bool
    alt: str


def read_attention_pictures(run_directory: Path, folder: Path | None = None) -> list[AttentionPicture]:
    """The pictures that lie in a run already; none where none were drawn. Raises RunFault for a damaged list."""
    folder = folder or run_directory / FOLDER_NAME
    path = folder / INDEX_NAME
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["images"]
        return [
            AttentionPicture(
                path=folder / entry["file"],
                image_id=entry["image_id"],
                kind=entry["kind"],
                caption=entry["caption"],
                reference=entry["reference"],
                is_synthetic=entry["is_synthetic"],
                alt=entry["alt"],
            )
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError):
        raise RunFault(f"{path} is damaged; delete it and draw the pictures anew.") from None


def list_earlier(folder: Path) -> set[Path]:
    """Pictures that are to be replaced; a damaged list names none."""
    try:
        return {picture.path for picture in read_attention_pictures(folder.parent, folder)}
    except RunFault:
        return set()


def describe_run(run: ExplainedRun, way: AttentionWay, num_layers: int) -> dict[str, Any]:
    """Whose attention, and how it was looked at."""
    about = {"model": run.model_name, "data": run.config.data, "method": way.method.value, "layer": way.layer_name}
    return about | {"num_layers": num_layers}


def write_index(
    folder: Path,
    about: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    maps: Mapping[str, Any],
    earlier: set[Path],
) -> list[AttentionPicture]:
    """Leave the maps, arrays by name, and the list of the pictures drawn; then delete `earlier` ones not among them."""
    _save_maps(maps, folder / MAPS_NAME)
    write_json_atomically(folder / INDEX_NAME, {**about, "images": list(entries)})
    pictures = read_attention_pictures(folder.parent, folder)
    for path in earlier - {picture.path for picture in pictures}:
        path.unlink(missing_ok=True)
    return pictures


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    picture.save(temporary, format="PNG")
    replace_durably(temporary, path)


def _save_maps(maps: Mapping[str, Any], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **maps)
    replace_durably(temporary, path)


def slug(name: str) -> str:
    """What of a name can stand in a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[-60:].strip("-.") or "image"
