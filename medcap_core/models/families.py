"""Captioner families, chosen in one explicit table by the `model_type` of a checkpoint's config."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from medcap_core.config import expand_home
from medcap_core.errors import ModelFault
from medcap_core.models.blip.captioner import BlipCaptioner
from medcap_core.models.blip2 import Blip2Captioner, InstructBlipCaptioner
from medcap_core.models.captioner import Captioner
from medcap_core.models.loading.load_faults import check_sizes, name_load_faults
from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner
from medcap_core.models.medblip3d.network import MODEL_TYPE, MedBlip3dConfig
from medcap_core.models.vit_gpt2.captioner import ViTGpt2Captioner
from medcap_core.models.vlm.captioner import VlmCaptioner
from medcap_core.models.vlm.git import GitCaptioner
from medcap_core.runtime.checkpoints import load_pretrained
from medcap_core.runtime.files import find_pipes

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

COMPOSED = MedBlip3dCaptioner.family
"""The model that is named by its family, and composed of the parts named in the config."""

EMBEDDED_MODELS = {name: Path(__file__).parents[1] / "assets" / name for name in ("phantom-blip", "brain-gpt2")}
"""Models shipped with the package; brain-gpt2 is a language model for medblip3d."""

AutoConfig.register(MODEL_TYPE, MedBlip3dConfig)


def resolve_model(name_or_path: str) -> str:
    """Resolve the user's model to a folder or Hub name. Raises ModelFault for a path without a checkpoint."""
    if name_or_path == COMPOSED:
        return name_or_path
    if name_or_path in EMBEDDED_MODELS:
        return str(EMBEDDED_MODELS[name_or_path])
    path = expand_home(name_or_path)
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


def find_family(name_or_path: str) -> type[Captioner]:
    """Find the family of a model without its weights. Raises ModelFault."""
    source = resolve_model(name_or_path)
    if source == COMPOSED:
        return MedBlip3dCaptioner
    model_type = _read_settings(source, stamp_files(source)).model_type
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return VlmCaptioner
    raise ModelFault(
        f"model {source}: config.json says model_type '{model_type}'; supported are {', '.join(FAMILIES)} and the "
        "decoder-only vision-language models of transformers, such as qwen3_vl."
    )


@lru_cache(maxsize=16)
def _read_settings(source: str, stamp: int) -> Any:
    """Read a checkpoint's config.json, once in a process since even a cached Hub file is checked online."""
    with name_load_faults(f"model {source}", source):
        settings = load_pretrained(AutoConfig, source)
        check_sizes(f"model {source}", settings.to_dict())
        return settings


def stamp_files(source: str) -> int:
    """Return the latest modification time of a folder's weights and settings, which invalidates the caches."""
    named = (path for path in Path(source).glob("*") if path.suffix in (".safetensors", ".json"))
    files = (path for path in named if path.exists())  # not so a link to nothing
    return max((path.stat().st_mtime_ns for path in files), default=0)
