"""Points of a search space: drawn, encoded for a study, listed as a grid, made into configs.

A point maps the searched knobs that are active there to their values, by field name.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medcap_core.config import TrialConfig, build_trial_config
from medcap_core.errors import ConfigFault
from sweep.space.conditions import active_range, order_knobs, parameter_name
from sweep.space.ranges import Point, Range, Suggester, Value
from sweep.space.schema import TOP_LEVEL_FIELDS, SearchSpace

MOST_ROWS = 100_000
"""Rows of the largest grid."""


def propose(space: SearchSpace, trial: Suggester) -> Point:
    """Draw one point from an Optuna trial (or any `Suggester`), parents before the knobs that depend on them."""
    point: Point = {}
    for knob, active, name in active_ranges(space, point):
        point[knob] = active.suggest(trial, name)
    return point


def encode_point(space: SearchSpace, point: Mapping[str, Value]) -> Point:
    """Encode a point as parameters of a study, for `study.enqueue_trial`; knobs that the point lacks stay free."""
    return {name: point[knob] for knob, _, name in active_ranges(space, point) if knob in point}


def active_ranges(space: SearchSpace, point: Mapping[str, Value]) -> Iterator[tuple[str, Range, str]]:
    """Yield each knob that is active in a point, its range and its parameter; the point may grow meanwhile."""
    for knob in order_knobs(space.search):
        active = active_range(space.search[knob], point)
        if active is not None:
            yield knob, active, parameter_name(knob, space.search[knob], active)


class RandomDraw:
    """Draw values as a random sampler does, without a study."""

    def __init__(self, generator: random.Random) -> None:
        self.generator = generator

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Draw one of `choices`."""
        return self.generator.choice(choices)

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Draw a whole number, both ends included."""
        return self.generator.randint(low, high)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Draw a number, evenly spread over `[low, high]` or over its logarithm."""
        if not log:
            return self.generator.uniform(low, high)
        drawn = math.exp(self.generator.uniform(math.log(low), math.log(high)))
        return min(max(drawn, low), high)


def draw_points(space: SearchSpace, num_points: int, seed: int) -> list[Point]:
    """Draw points at random by `seed`; of a grid, take its first rows."""
    if space.sampler == "grid":
        return grid_rows(space)[:num_points]
    draw = RandomDraw(random.Random(seed))
    return [propose(space, draw) for _ in range(num_points if space.search else 1)]


def grid_rows(space: SearchSpace) -> list[Point]:
    """List every row of a grid, the last knob and then the seed varying fastest.

    A knob inactive in a row is absent from it. With `seeds`, each row comes once for each, its `seed` in the row.
    """
    rows: list[Point] = [{}]
    for knob in order_knobs(space.search):
        longer: list[Point] = []
        for row in rows:
            active = active_range(space.search[knob], row)
            longer += [row] if active is None else [row | {knob: value} for value in active.values]
            if len(longer) * max(1, len(space.seeds)) > MOST_ROWS:
                raise ConfigFault(f"space '{space.name}': a grid of more than {MOST_ROWS:,} rows; shorten its lists.")
        rows = longer
    return [row | {"seed": seed} for row in rows for seed in space.seeds] if space.seeds else rows


def num_trials(space: SearchSpace) -> int:
    """Count the trials of the sweep: the rows of a grid, 1 where nothing is searched, else `trials`."""
    if space.sampler == "grid":
        return len(grid_rows(space))
    return space.trials if space.search else 1


def build_config(space: SearchSpace, point: Mapping[str, Value]) -> TrialConfig:
    """Build the config of one trial: fixed values, then the point; the space's seed where neither has one.

    Raises ConfigFault where values that are each in range do not go together.
    """
    shown = ", ".join(f"{knob}={value}" for knob, value in point.items())
    where = f"with {shown}" if shown else f"space '{space.name}'"
    model = space.models[str(point["model"])] if "model" in point else space.model
    top_level = {field: getattr(space, field) for field in TOP_LEVEL_FIELDS} | {"model": model}
    values = {"seed": space.seed, **space.fixed, **point, **top_level}
    return build_trial_config(values, where)


def count_most_workers(space: SearchSpace) -> int:
    """Count the workers that every trial can have, each with an image of every batch; of a range, by random points."""
    return min(config.batch_size // config.accumulation_steps for config in draw_configs(space))


def draw_configs(space: SearchSpace, num_points: int = 64) -> list[TrialConfig]:
    """Draw valid configs of the space at random by its seed; of a grid, take every row. They represent its trials.

    A draw whose values do not go together is left out, as in the search. Raises ConfigFault if none is valid.
    """
    configs, faults = [], list[ConfigFault]()
    for point in grid_rows(space) if space.sampler == "grid" else draw_points(space, num_points, space.seed):
        try:
            configs.append(build_config(space, point))
        except ConfigFault as error:
            faults.append(error)
    if not configs and faults:
        raise faults[-1]
    return configs
