"""Faults of loading a checkpoint, one sentence for the user."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from medcap_core.errors import ModelFault, first_line


@contextlib.contextmanager
def name_load_faults(key: str, source: str) -> Iterator[None]:
    """Turn the exceptions of transformers for a missing or unreadable checkpoint into one ModelFault.

    `key` begins the sentence, such as "model NAME"; `source` is a folder or Hub name.
    """
    try:
        yield
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        if Path(source).is_dir():
            if next(Path(source).glob("pytorch_model*.bin"), None) and not next(
                Path(source).glob("*.safetensors"), None
            ):
                raise ModelFault(_describe_pickled(key, source)) from error
            raise ModelFault(
                f"{key}: the checkpoint cannot be read ({first_line(error).rstrip('.:')}); give a whole one in Hub "
                "format, with config.json, model.safetensors, processor and tokenizer."
            ) from error
        if "thus cannot be loaded with `safetensors`" in str(error):
            raise ModelFault(_describe_pickled(key, source)) from error
        raise ModelFault(
            f"{key}: neither the local cache {HF_HUB_CACHE} nor the Hub could give it "
            f"({first_line(error).rstrip('.:')}); check the name and the network, or pass a local folder in Hub format."
        ) from error


def _describe_pickled(key: str, source: str) -> str:
    return (
        f"{key}: it is published with pickled weights only, which are never loaded; convert it by "
        f"`python -m medcap_core.convert {source} FOLDER` and give that folder."
    )
