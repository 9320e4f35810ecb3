"""A YAML file -> a checked `SearchSpace`, and back.

A value goes from YAML to a `SearchSpace`, to one point (a dict of the searched knobs' values by field name), to a
`TrialConfig`. Nothing here knows of Ray or starts anything. `schema` has the keys of the file, `reading` checks across
them, and `points` has what is done with a space.
"""

from sweep.space.overrides import apply_overrides
from sweep.space.points import build_config, draw_points, encode_point, grid_rows, num_trials, propose
from sweep.space.reading import best_space, build_space, dump_space, load_space
from sweep.space.schema import SearchSpace

__all__ = [
    "SearchSpace", "apply_overrides", "best_space", "build_config", "build_space", "draw_points", "dump_space",
    "encode_point", "grid_rows", "load_space", "num_trials", "propose",
]  # fmt: skip
