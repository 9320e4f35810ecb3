"""The lists of trials that ours and the peer both run, as grid spaces."""

from pathlib import Path
from typing import Any

from benchmarks.synthetic import PHANTOM_BLIP
from sweep.space import build_space
from sweep.space.schema import SearchSpace

LISTS = ("named", "all_modes")

# Rates that suit phantom-blip; larger models take the share that README.md advises.
_FULL_RATES = (5e-4, 1e-3, 1.5e-3, 2e-3)
_LORA_RATES = (5e-3, 1e-2)
_RATE_SHARE_OF_LARGE_MODELS = 1 / 30


def build_list(name: str, *, data: str, model: str, model_name: str, fixed: dict[str, Any]) -> SearchSpace:
    """Build a named list of 8 trials as a grid space.

    `named`: 4 with LoRA (two ranks, two rates) and 4 decoder-only (four rates). `all_modes`: two rates for each of the
    four freeze modes. `fixed` holds what all trials share. Raises ConfigFault.
    """
    share = 1.0 if model_name == PHANTOM_BLIP else _RATE_SHARE_OF_LARGE_MODELS
    full, lora = ([rate * share for rate in rates] for rates in (_FULL_RATES, _LORA_RATES))
    modes = ["lora", "decoder_only"] if name == "named" else ["full", "encoder_only", "decoder_only", "lora"]
    without_lora = {"freeze": [mode for mode in modes if mode != "lora"]}
    search: dict[str, Any] = {
        "freeze": {"grid": modes},
        "learning_rate": [
            {"grid": lora, "when": {"freeze": "lora"}},
            {"grid": full if name == "named" else full[:2], "when": without_lora},
        ],
    }
    if name == "named":
        search["lora_rank"] = {"grid": [4, 8], "when": {"freeze": "lora"}}
    values = {"name": name.replace("_", "-"), "data": data, "model": model, "fixed": fixed, "search": search}
    return build_space(values | {"sampler": "grid", "scheduler": "none"}, f"list {name}")


def build_tiny_space(data: Path, num_trials: int, max_concurrent: int) -> SearchSpace:
    """Trials of one epoch each, all alike but for the learning rate: what takes time is what surrounds them."""
    values = {
        "name": "tiny",
        "data": str(data),
        "fixed": {"num_epochs": 1},
        "search": {"learning_rate": {"grid": [1e-3 / (1 + trial) for trial in range(num_trials)]}},
        "sampler": "grid",
        "scheduler": "none",
        "resources": {"max_concurrent": max_concurrent},
    }
    return build_space(values, "tiny")
