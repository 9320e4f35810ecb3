"""Loading by `from_pretrained`, which never runs code that a checkpoint brings and never unpickles its weights."""

import json
from pathlib import Path
from typing import Any

from medcap_core.errors import ModelFault

_INDEX = "model.safetensors.index.json"


def load_pretrained(loader: Any, source: str, **options: Any) -> Any:
    """Load from a folder or the Hub by `loader.from_pretrained` with these options; a model from safetensors alone.

    Without `trust_remote_code` transformers asks on the terminal whether to run the checkpoint's code. Raises
    ModelFault where the index of its weights names a file that is not in safetensors.
    """
    if options.get("use_safetensors"):
        _check_shards(source)
    return loader.from_pretrained(source, trust_remote_code=False, **options)


def _check_shards(source: str) -> None:
    from transformers.utils.hub import cached_file

    missing_is_none = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    index = cached_file(source, _INDEX, **missing_is_none)
    if index is None:
        return
    try:
        shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelFault(f"model {source}: {_INDEX} is damaged; give the checkpoint's own.") from None
    if not shards:
        raise ModelFault(f"model {source}: {_INDEX} names no file of weights; give the checkpoint's own.")
    strange = sorted(str(shard) for shard in shards if not str(shard).endswith(".safetensors"))
    if strange:
        raise ModelFault(
            f"model {source}: {_INDEX} names {strange[0]}, which is not in safetensors, and pickled weights are never "
            f"loaded; convert it by `python -m medcap_core.convert {source} FOLDER` and give that folder."
        )
