"""Faults of loading a checkpoint, one sentence for the user."""

import contextlib
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from medcap_core.errors import MedcapError, ModelFault, OutOfMemory, first_line
from medcap_core.runtime.device import is_out_of_memory

_PACKAGE = Path(__file__).parents[2]

_BOUNDS = (
    (re.compile(r"num_hidden_layers|(n_|encoder_|decoder_)\w*layers?"), 1, 1_000),
    (re.compile(r"num_\w*layers?"), 0, 1_000),  # of one kind, as Gemma 4's num_kv_shared_layers
    (re.compile(r"n_head|num_(attention_)?heads"), 1, 10_000),
    (re.compile(r"hidden_size|intermediate_size|d_model|n_embd|image_size|patch_size"), 1, 1_000_000),
    (re.compile(r"vocab_size"), 1, 100_000_000),
)
"""The least and the largest value that a model can have, by the name in its config.json."""


@contextlib.contextmanager
def name_load_faults(key: str, source: str) -> Iterator[None]:
    """Turn the exceptions of transformers for a missing or unreadable checkpoint into one ModelFault.

    `key` begins the sentence, such as "model NAME"; `source` is a folder or Hub name. Lack of memory becomes
    OutOfMemory: it says nothing against the checkpoint.
    """
    try:
        yield
    except MedcapError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"{key}: no memory left to load it ({first_line(error).rstrip('.:')}); take a smaller model, or load a "
                "large one by weights_dtype: bf16 or quantization: 4bit."
            ) from error
        known = (OSError, ValueError, SafetensorError, StrictDataclassError)
        # Libraries raise anything for odd values of config.json; what our own code raises is a bug.
        *_, last = traceback.extract_tb(error.__traceback__)
        if not isinstance(error, known) and Path(last.filename).is_relative_to(_PACKAGE):
            raise
        if isinstance(error, ImportError):
            raise ModelFault(
                f"{key}: transformers needs a package for it that is not installed "
                f"({first_line(error).partition('. ')[0]}); install that, or take another model."
            ) from error
        folder = Path(source)
        is_pickled = "thus cannot be loaded with `safetensors`" in str(error)
        if folder.is_dir():
            is_pickled = any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors"))
        if is_pickled:
            raise ModelFault(
                f"{key}: it is published with pickled weights only, which are never loaded; convert it by "
                f"`python -m medcap_core.convert {source} FOLDER` and give that folder."
            ) from error
        reason = first_line(error).rstrip(".:")
        if folder.is_dir():
            raise ModelFault(
                f"{key}: the checkpoint cannot be read ({reason}); give a whole one in Hub format, with config.json, "
                "model.safetensors, processor and tokenizer."
            ) from error
        raise ModelFault(
            f"{key}: neither the local cache {HF_HUB_CACHE} nor the Hub could give it ({reason}); check the name and "
            "the network, or pass a local folder in Hub format."
        ) from error


def check_sizes(key: str, settings: dict[Any, Any], where: str = "config.json") -> None:
    """Raise ModelFault for a size in the content of a config.json that no model has.

    Some would only show after the machine has built a billion layers.
    """
    for name, value in settings.items():
        if isinstance(value, dict):
            check_sizes(key, value, f"{where}: {name}")
        bounds = next((bounds for pattern, *bounds in _BOUNDS if pattern.fullmatch(str(name))), None)
        if bounds and isinstance(value, int) and not bounds[0] <= value <= bounds[1]:
            raise ModelFault(f"{key}: {where}: {name} {value:.4g} cannot be; give the checkpoint's own config.json.")
