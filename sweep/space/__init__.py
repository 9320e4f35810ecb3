"""A YAML file -> a checked `SearchSpace`, and back.

A value goes from YAML to a `SearchSpace`, to one point (a dict of the searched knobs' values by field name), to a
`TrialConfig`. Nothing here knows of Ray or starts anything. `schema` has the keys of the file, `reading` checks across
them, and `points` has what is done with a space.
"""

from sweep.space.fields import field_kind, show_plain
from sweep.space.labels import label_groups, short_label
from sweep.space.overrides import adopt_changes, apply_overrides, change_begun
from sweep.space.points import (
    active_ranges,
    build_config,
    count_most_workers,
    draw_configs,
    draw_points,
    encode_point,
    grid_rows,
    num_trials,
    propose,
)
from sweep.space.ranges import Point, Range, Value
from sweep.space.reading import best_space, build_space, dump_space, load_space
from sweep.space.schema import TOP_LEVEL_FIELDS, Resources, SearchSpace
from sweep.space.yaml_text import find_space

__all__ = [
    "TOP_LEVEL_FIELDS", "Point", "Range", "Resources", "SearchSpace", "Value", "active_ranges", "adopt_changes",
    "apply_overrides", "best_space", "build_config", "build_space", "change_begun", "count_most_workers",
    "draw_configs", "draw_points", "dump_space", "encode_point", "field_kind", "find_space", "grid_rows",
    "label_groups", "load_space", "num_trials", "propose", "short_label", "show_plain",
]  # fmt: skip
