"""Points of a search space: drawn, encoded for a study, listed as a grid, made into configs.

A point maps the searched knobs that are active there to their values, by field name.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medcap_core.config import TrialConfig, build_trial_config
from medcap_core.errors import ConfigFault
from sweep.space.conditions import active_branch, order_knobs, parameter_name
from sweep.space.ranges import Grid, Suggester
from sweep.space.schema import SearchSpace


def propose(space: SearchSpace, trial: Suggester) -> dict[str, Any]:
    """Draw one point from an Optuna trial (or any `Suggester`), parents before the knobs that depend on them."""
    point: dict[str, Any] = {}
    for knob in order_knobs(space.search):
        branches = space.search[knob]
        branch = active_branch(branches, point)
        if branch is not None:
            point[knob] = branch.range.suggest(trial, parameter_name(knob, branches, branch))
    return point


def encode_point(space: SearchSpace, point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as parameters of a study, for `study.enqueue_trial`; knobs that the point lacks stay free."""
    parameters: dict[str, Any] = {}
    for knob in order_knobs(space.search):
        branches = space.search[knob]
        branch = active_branch(branches, point)
        if branch is not None and knob in point:
            parameters[parameter_name(knob, branches, branch)] = point[knob]
    return parameters


def is_complete(space: SearchSpace, point: Mapping[str, Any]) -> bool:
    """Whether a point has a value for every knob that is active in it."""
    return all(knob in point or active_branch(branches, point) is None for knob, branches in space.search.items())


class RandomDraw:
    """Draws values as a random sampler does, without a study."""

    def __init__(self, generator: random.Random) -> None:
        self.generator = generator

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of `choices`."""
        return self.generator.choice(choices)

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return self.generator.randint(low, high)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number, evenly spread over `[low, high]` or over its logarithm."""
        if not log:
            return self.generator.uniform(low, high)
        drawn = math.exp(self.generator.uniform(math.log(low), math.log(high)))
        return min(max(drawn, low), high)


def draw_points(space: SearchSpace, num_points: int, seed: int) -> list[dict[str, Any]]:
    """Points drawn at random by `seed`; from a grid, its first rows."""
    if space.sampler == "grid":
        return [row for row, _ in zip(_iterate_rows(space), range(num_points), strict=False)]
    draw = RandomDraw(random.Random(seed))
    return [propose(space, draw) for _ in range(num_points if space.search else 1)]


def grid_rows(space: SearchSpace) -> list[dict[str, Any]]:
    """Every row of a grid, the last knob and then the seed varying fastest.

    A knob inactive in a row is absent from it. With `seeds`, each row comes once for each, its `seed` in the row.
    """
    return list(_iterate_rows(space))


def num_trials(space: SearchSpace) -> int:
    """How many trials the sweep has: the rows of a grid, 1 where nothing is searched, else `trials`."""
    if space.sampler == "grid":
        return sum(1 for _ in _iterate_rows(space))
    return space.trials if space.search else 1


def build_config(space: SearchSpace, point: Mapping[str, Any]) -> TrialConfig:
    """The config of one trial: fixed values, then the point; the space's seed where neither has one.

    Raises ConfigFault where values that are each in range do not go together.
    """
    shown = ", ".join(f"{knob}={value}" for knob, value in point.items())
    where = f"with {shown}" if shown else f"space '{space.name}'"
    model = space.models[point["model"]] if "model" in point else space.model
    values = {"seed": space.seed, **space.fixed, **point, "data": space.data, "model": model, "metric": space.metric}
    return build_trial_config(values, where)


def draw_configs(space: SearchSpace, num_points: int) -> list[TrialConfig]:
    """Valid configs of the space, drawn at random by its seed; of a grid, every row.

    A draw whose values do not go together is left out, as in the search. Raises ConfigFault if none is valid.
    """
    points = grid_rows(space) if space.sampler == "grid" else draw_points(space, num_points, space.seed)
    configs, fault = [], None
    for point in points:
        try:
            configs.append(build_config(space, point))
        except ConfigFault as error:
            fault = error
    if not configs and fault is not None:
        raise fault
    return configs


def _iterate_rows(space: SearchSpace) -> Iterator[dict[str, Any]]:
    for row in _extend_row(space, order_knobs(space.search), {}):
        if space.seeds:
            yield from ({**row, "seed": seed} for seed in space.seeds)
        else:
            yield row


def _extend_row(space: SearchSpace, knobs: Sequence[str], row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not knobs:
        yield row
        return
    branch = active_branch(space.search[knobs[0]], row)
    if branch is None:
        yield from _extend_row(space, knobs[1:], row)
    else:
        assert isinstance(branch.range, Grid), "a checked grid has grid ranges only"
        for value in branch.range.values:
            yield from _extend_row(space, knobs[1:], {**row, knobs[0]: value})
