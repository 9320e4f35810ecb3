"""A YAML file -> a checked `SearchSpace`, and back.

The way of a value: YAML -> `SearchSpace` -> one point (a dict of the searched knobs' values by field name) ->
`TrialConfig`. Nothing here knows of Ray or starts anything. What is done with a space once it is there (`propose`,
`grid_rows`, `build_config`, ...) stands in `sweep.space.points` and can be had from here as well.
"""

from pathlib import Path

import yaml

from medcap_core.config import TrialConfig
from sweep.space.overrides import apply_overrides
from sweep.space.points import build_config, draw_points, encode_point, grid_rows, num_trials, propose
from sweep.space.reading import build_space
from sweep.space.schema import Resources, SearchSpace
from sweep.space.yaml_text import load_mapping

__all__ = [
    "Resources",
    "SearchSpace",
    "apply_overrides",
    "best_space",
    "build_config",
    "build_space",
    "draw_points",
    "dump_space",
    "encode_point",
    "grid_rows",
    "load_space",
    "num_trials",
    "propose",
]


def load_space(path: Path) -> SearchSpace:
    """Read and check a space file. Raises ConfigFault with every fault of the file at once."""
    values, repeats = load_mapping(path)
    return build_space(values, str(path), repeats)


def dump_space(space: SearchSpace) -> str:
    """YAML with every key written out; `load_space` reads an equal space from it."""
    return yaml.safe_dump(space.to_mapping(), sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


def best_space(space: SearchSpace, config: TrialConfig, name: str) -> SearchSpace:
    """A space with nothing left to search, whose one trial has exactly `config`."""
    values = config.model_dump(mode="json")
    top_level = {key: values.pop(key) for key in ("data", "model", "metric", "seed")}
    return build_space(
        {
            "name": name,
            **top_level,
            "fixed": values,
            "trials": 1,
            "scheduler": "none",
            "extra_scores": list(space.extra_scores),
            "bertscore_model": space.bertscore_model,
            "caption_preprocessing": space.caption_preprocessing,
            "resources": space.resources.model_dump(),
        },
        f"best config of '{space.name}'",
    )
