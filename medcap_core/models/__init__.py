"""Captioner families, chosen in one explicit table by the `model_type` of a checkpoint's config."""

import copy
import hashlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from medcap_core.config import TrialConfig
from medcap_core.data.geometry import Geometry
from medcap_core.errors import ModelFault
from medcap_core.models.blip.captioner import BlipCaptioner
from medcap_core.models.blip2 import Blip2Captioner, InstructBlipCaptioner
from medcap_core.models.captioner import Captioner, TokenizedCaptions
from medcap_core.models.loading.load_faults import check_sizes, name_load_faults
from medcap_core.models.loading.weights import LoadOptions
from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner
from medcap_core.models.medblip3d.network import MODEL_TYPE, MedBlip3dConfig
from medcap_core.models.vit_gpt2.captioner import ViTGpt2Captioner
from medcap_core.models.vlm.captioner import VlmCaptioner
from medcap_core.models.vlm.git import GitCaptioner
from medcap_core.runtime.checkpoints import load_pretrained
from medcap_core.runtime.device import choose_load_dtype
from medcap_core.runtime.files import find_pipes

__all__ = [
    "EMBEDDED_MODELS",
    "FAMILIES",
    "Captioner",
    "TokenizedCaptions",
    "find_family",
    "hash_weights",
    "load_captioner",
    "load_geometry",
    "load_trial_captioner",
    "resolve_model",
]

FAMILIES: dict[str, type[Captioner]] = {
    "blip": BlipCaptioner,
    "blip-2": Blip2Captioner,
    "instructblip": InstructBlipCaptioner,
    "vision-encoder-decoder": ViTGpt2Captioner,
    "gpt2": ViTGpt2Captioner,  # with a vision_model beside it
    "git": GitCaptioner,
    MODEL_TYPE: MedBlip3dCaptioner,
}
"""`model_type` in a checkpoint's config.json -> its family; VlmCaptioner for others of AutoModelForImageTextToText."""

COMPOSED_FAMILIES: dict[str, type[Captioner]] = {"medblip3d": MedBlip3dCaptioner}
"""Models named by family and composed of the parts named in the config."""

_MEDBLIP3D_FIELDS = ("language_model", "num_queries", "patch_size", "qformer_layers")

_ASSETS = Path(__file__).parents[1] / "assets"
EMBEDDED_MODELS: dict[str, Path] = {
    "phantom-blip": _ASSETS / "phantom-blip",
    "brain-gpt2": _ASSETS / "brain-gpt2",  # a language model for medblip3d
}
"""Models shipped with the package."""

AutoConfig.register(MODEL_TYPE, MedBlip3dConfig)


def resolve_model(name_or_path: str) -> str:
    """Resolve the user's model to a folder or Hub name. Raises ModelFault for a path without a checkpoint."""
    if name_or_path in COMPOSED_FAMILIES:
        return name_or_path
    if name_or_path in EMBEDDED_MODELS:
        return str(EMBEDDED_MODELS[name_or_path])
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelFault(f"model {name_or_path}: the folder has no config.json; give a folder in Hub format.")
        if pipes := find_pipes(path):
            raise ModelFault(f"model {name_or_path}: {pipes[0]} is a pipe or device, not a file; remove it.")
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
    """Load a new captioner on the CPU in float32.

    `name_or_path` is an embedded model, a folder in Hub format or a Hub name; `image_size` None takes the model's own.
    Weights are read once in a process; later calls copy them in memory. Raises ModelFault.
    """
    return _load(resolve_model(name_or_path), LoadOptions(image_size=image_size))


def load_trial_captioner(config: TrialConfig, device: torch.device | None = None) -> Captioner:
    """Load the base model of a trial for `device` (None: the CPU), with its prompt set and checked; it is on the CPU.

    Its dtype is `choose_load_dtype`'s. Raises ModelFault, and ConfigFault where quantization is not possible.
    """
    captioner = _load(
        resolve_model(config.model), _build_options(config, choose_load_dtype(config, device or torch.device("cpu")))
    )
    if config.gradient_checkpointing:
        if not captioner.can_checkpoint:
            raise ModelFault(
                f"gradient_checkpointing: a {captioner.family} model is small enough without it; remove it."
            )
        captioner.network.gradient_checkpointing_enable({"use_reentrant": False})
    captioner.set_prompt(config.prompt)
    captioner.check(config)
    return captioner


def load_geometry(config: TrialConfig) -> Geometry:
    """Read the geometry of a trial's model without its weights. Raises ModelFault."""
    source = resolve_model(config.model)
    family = _find_family(source)
    has_other_tower = config.vision_model is not None and source not in COMPOSED_FAMILIES
    tower = resolve_model(config.vision_model) if has_other_tower and config.vision_model else source
    return _read_geometry(family, tower, config.image_size, _stamp(tower))


def find_family(config: TrialConfig) -> type[Captioner]:
    """Find the family of a trial's model without its weights. Raises ModelFault."""
    return _find_family(resolve_model(config.model))


@lru_cache(maxsize=16)
def _read_geometry(family: type[Captioner], tower: str, image_size: int | None, stamp: int) -> Geometry:
    with name_load_faults(f"model {tower}", tower):
        return family.read_geometry(tower, image_size)


@lru_cache(maxsize=16)
def _read_settings(source: str, stamp: int) -> Any:
    """Read a checkpoint's config.json, once in a process since even a cached Hub file is checked online."""
    with name_load_faults(f"model {source}", source):
        settings = load_pretrained(AutoConfig, source)
        check_sizes(f"model {source}", settings.to_dict())
        return settings


def _load(source: str, options: LoadOptions) -> Captioner:
    family = _find_family(source)
    if family.is_large:
        return _load_family(family, source, options)  # no second copy of billions of weights
    stamp = max(_stamp(source), _stamp(options.vision_model) if options.vision_model else 0)
    return copy.deepcopy(_load_pristine(source, replace(options, dtype=torch.float32), stamp))


def _stamp(source: str) -> int:
    """Return the latest modification time of a folder's weights and settings, which invalidates the caches."""
    files = (path for path in Path(source).glob("*") if path.suffix in (".safetensors", ".json"))
    return max((path.stat().st_mtime_ns for path in files), default=0)


@lru_cache(maxsize=4)
def _load_pristine(source: str, options: LoadOptions, stamp: int) -> Captioner:
    """Load the captioner of a checkpoint, of which callers get copies; a new `stamp` reloads it."""
    return _load_family(_find_family(source), source, options)


def _build_options(config: TrialConfig, dtype: torch.dtype) -> LoadOptions:
    """Build the load options of a trial's base model. Raises ModelFault for settings of another family."""
    composed = config.model in COMPOSED_FAMILIES
    options = LoadOptions(
        image_size=config.image_size,
        vision_model=resolve_model(config.vision_model) if config.vision_model else None,
        dtype=dtype,
        quantization=config.quantization,
        language_model=resolve_model(config.language_model) if config.language_model else None,
        num_queries=config.num_queries,
        patch_size=config.patch_size,
        qformer_layers=config.qformer_layers,
    )
    if composed:
        return replace(
            options,
            vision_model=options.vision_model or resolve_model("phantom-blip"),
            language_model=options.language_model or resolve_model("brain-gpt2"),
        )
    strange = [name for name in _MEDBLIP3D_FIELDS if getattr(options, name) is not None]
    if strange and _find_family(resolve_model(config.model)) not in COMPOSED_FAMILIES.values():
        raise ModelFault(f"model {config.model}: {', '.join(strange)} is for model medblip3d; remove it.")
    return options


def _find_family(source: str) -> type[Captioner]:
    if source in COMPOSED_FAMILIES:
        return COMPOSED_FAMILIES[source]
    model_type = _read_settings(source, _stamp(source)).model_type
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return VlmCaptioner
    raise ModelFault(
        f"model {source}: config.json says model_type '{model_type}'; supported are {', '.join(FAMILIES)} and the "
        "decoder-only vision-language models of transformers, such as qwen3_vl."
    )


def _load_family(family: type[Captioner], source: str, options: LoadOptions) -> Captioner:
    faults = []
    if options.vision_model is not None and not family.takes_vision_model:
        faults.append(f"model {source}: a {family.family} model keeps its own vision tower; remove vision_model.")
    if options.quantization != "none" and not family.can_quantize:
        faults.append(f"model {source}: a {family.family} model is small enough as it is; remove quantization.")
    if faults:
        raise ModelFault(faults)
    with name_load_faults(f"model {source}", source):
        captioner = family.load(source, options)
    captioner.eval()
    return captioner


def hash_weights(name_or_path: str) -> str | None:
    """Compute the SHA-256 over a checkpoint's safetensors files; None for a Hub checkpoint without any in the cache.

    None also where the Hub keeps them in another revision, converted from pickled weights.
    """
    source = resolve_model(name_or_path)
    folder = Path(source)
    if not folder.is_dir():
        config = try_to_load_from_cache(source, "config.json")
        if not isinstance(config, str):
            return None
        folder = Path(config).parent
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        return None
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
