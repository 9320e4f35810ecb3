"""A YAML file -> a checked `SearchSpace`, and back.

A value goes from YAML to a `SearchSpace`, to one point (a dict of the searched knobs' values by field name), to a
`TrialConfig`. Nothing here knows of Ray or starts anything. `schema` has the keys of the file, `reading` checks across
them, and `points` has what is done with a space.
"""

from pathlib import Path

import yaml

from medcap_core.config import TrialConfig
from sweep.space.overrides import apply_overrides
from sweep.space.points import build_config, draw_points, encode_point, grid_rows, num_trials, propose
from sweep.space.reading import build_space
from sweep.space.schema import TOP_LEVEL_FIELDS, Resources, SearchSpace
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
    """Write the space as YAML with every key; `load_space` reads an equal space from it."""
    return yaml.safe_dump(space.to_mapping(), sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


def best_space(space: SearchSpace, config: TrialConfig, name: str) -> SearchSpace:
    """Build a space with nothing left to search, whose one trial has exactly `config`."""
    fixed = config.model_dump(mode="json")
    top_level = {key: fixed.pop(key) for key in (*TOP_LEVEL_FIELDS, "seed")}
    kept = space.model_dump(mode="json", include={"extra_scores", "score_models", "caption_preprocessing", "resources"})
    values = {"name": name, **top_level, "fixed": fixed, "trials": 1, "scheduler": "none", **kept}
    return build_space(values, f"best config of '{space.name}'")
