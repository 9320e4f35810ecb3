"""Captioners loaded from checkpoints: the weights of small ones once in a process."""

import copy
import hashlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache

from medcap_core.config import TrialConfig
from medcap_core.data.images import Geometry
from medcap_core.errors import ModelFault
from medcap_core.models.captioner import Captioner
from medcap_core.models.families import COMPOSED, find_family, resolve_model, stamp_files
from medcap_core.models.loading.load_faults import name_load_faults
from medcap_core.models.loading.weights import LoadOptions
from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner
from medcap_core.runtime.device import choose_load_dtype


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
    dtype = choose_load_dtype(config, device or torch.device("cpu"))
    captioner = _load(resolve_model(config.model), _build_options(config, dtype))
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
    tower = source = resolve_model(config.model)
    if config.vision_model is not None and source != COMPOSED:
        tower = resolve_model(config.vision_model)
    return _read_geometry(find_family(source), tower, config.image_size, stamp_files(tower))


@lru_cache(maxsize=16)
def _read_geometry(family: type[Captioner], tower: str, image_size: int | None, stamp: int) -> Geometry:
    with name_load_faults(f"model {tower}", tower):
        return family.read_geometry(tower, image_size)


def _load(source: str, options: LoadOptions) -> Captioner:
    if find_family(source).is_large:
        return _load_family(source, options)  # no second copy of billions of weights
    stamp = max(stamp_files(source), stamp_files(options.vision_model) if options.vision_model else 0)
    return copy.deepcopy(_load_pristine(source, replace(options, dtype=torch.float32), stamp))


def _build_options(config: TrialConfig, dtype: torch.dtype) -> LoadOptions:
    """Build the load options of a trial's base model. Raises ModelFault for settings of another family."""
    vision_model, language_model = config.vision_model, config.language_model
    if config.model == COMPOSED:
        vision_model, language_model = vision_model or "phantom-blip", language_model or "brain-gpt2"
    own = {name: getattr(config, name) for name in ("language_model", "num_queries", "patch_size", "qformer_layers")}
    strange = [name for name, value in own.items() if value is not None]
    if strange and find_family(config.model) is not MedBlip3dCaptioner:
        raise ModelFault(f"model {config.model}: {', '.join(strange)} is for model medblip3d; remove it.")
    own["language_model"] = resolve_model(language_model) if language_model else None
    own["vision_model"] = resolve_model(vision_model) if vision_model else None
    return LoadOptions(image_size=config.image_size, dtype=dtype, quantization=config.quantization, **own)


def _load_family(source: str, options: LoadOptions, stamp: int = 0) -> Captioner:
    """Load the captioner of a checkpoint; a new `stamp` reloads one that is cached."""
    family, faults = find_family(source), []
    if options.vision_model is not None and not family.takes_vision_model:
        faults.append(f"model {source}: a {family.family} model keeps its own vision tower; remove vision_model.")
    if options.quantization != "none" and not family.can_quantize:
        faults.append(f"model {source}: a {family.family} model is small enough as it is; remove quantization.")
    if faults:
        raise ModelFault(faults)
    with name_load_faults(f"model {source}", source):
        captioner = family.load(source, options)
    return captioner.eval()


_load_pristine = lru_cache(maxsize=4)(_load_family)
"""The captioners of which callers get copies."""


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
    digest, paths = hashlib.sha256(), sorted(folder.glob("*.safetensors"))
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if paths else None
