"""Captioner families, chosen in one explicit table by the `model_type` of a checkpoint's config."""

import copy
import hashlib
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig

from medcap_core.errors import ModelFault
from medcap_core.models.blip import BlipCaptioner
from medcap_core.models.captioner import Captioner, TokenizedCaptions

__all__ = [
    "EMBEDDED_MODELS",
    "FAMILIES",
    "Captioner",
    "TokenizedCaptions",
    "hash_weights",
    "load_captioner",
    "resolve_model",
]

FAMILIES: dict[str, type[Captioner]] = {"blip": BlipCaptioner}
"""`model_type` in a checkpoint's config.json -> the family that loads it."""

EMBEDDED_MODELS: dict[str, Path] = {"phantom-blip": Path(__file__).parents[1] / "assets" / "phantom-blip"}
"""Models that come with the package."""


def resolve_model(name_or_path: str) -> str:
    """A folder or a Hub name from what the user gave. Raises ModelFault for a path that is no checkpoint folder."""
    if name_or_path in EMBEDDED_MODELS:
        return str(EMBEDDED_MODELS[name_or_path])
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelFault(f"model {name_or_path}: the folder has no config.json; give a folder in Hub format.")
        return str(path)
    if path.exists():
        raise ModelFault(f"model {name_or_path}: this is a file; give the folder in Hub format that holds it.")
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") != 1:
        raise ModelFault(
            f"model {name_or_path}: no such folder, and not a Hub name of the form owner/name; "
            f"give either, or one of the embedded models: {', '.join(EMBEDDED_MODELS)}."
        )
    return name_or_path


def load_captioner(name_or_path: str, image_size: int | None = None) -> Captioner:
    """A fresh captioner on the CPU in float32.

    `name_or_path` is an embedded model, a folder in Hub format or a Hub name; `image_size` None takes the model's own.
    Weights are read once a process: later calls copy them in memory. Raises ModelFault.
    """
    source = resolve_model(name_or_path)
    weights = Path(source) / "model.safetensors"
    stamp = weights.stat().st_mtime_ns if weights.is_file() else 0
    return copy.deepcopy(_load_pristine(source, image_size, stamp))


@lru_cache(maxsize=2)
def _load_pristine(source: str, image_size: int | None, stamp: int) -> Captioner:
    """The captioner as its checkpoint has it; never handed out itself. `stamp` renews it when the file changes."""
    try:
        model_type = AutoConfig.from_pretrained(source).model_type
        family = FAMILIES.get(model_type)
        if family is None:
            raise ModelFault(
                f"model {source}: config.json says model_type '{model_type}'; supported are {', '.join(FAMILIES)}."
            )
        captioner = family.load(source, image_size)
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        if Path(source).is_dir():
            raise ModelFault(
                f"model {source}: the checkpoint cannot be read ({_first_line(error)}); give a whole one in Hub "
                "format, with config.json, model.safetensors, processor and tokenizer."
            ) from error
        raise ModelFault(
            f"model {source}: neither the local cache {HF_HUB_CACHE} nor the Hub could give it "
            f"({_first_line(error)}); check the name and the network, or pass a local folder in Hub format."
        ) from error
    captioner.eval()
    if any(parameter.dtype != torch.float32 for parameter in captioner.parameters()):
        captioner.float()
    return captioner


def hash_weights(name_or_path: str) -> str | None:
    """SHA-256 over a checkpoint's safetensors files; None where a Hub checkpoint is not in the local cache."""
    source = resolve_model(name_or_path)
    folder = Path(source)
    if not folder.is_dir():
        config = try_to_load_from_cache(source, "config.json")
        if not isinstance(config, str):
            return None
        folder = Path(config).parent
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".:") if str(error).strip() else type(error).__name__
