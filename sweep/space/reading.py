"""A space file -> a checked `SearchSpace`, and back; every fault is noted, and all are raised together."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.errors import ConfigFault
from sweep.space.conditions import active_range, check_conditions, fold_fixed, key_ranges
from sweep.space.faults import FaultList
from sweep.space.fields import show, unknown_key
from sweep.space.labels import label_groups
from sweep.space.points import active_ranges, build_config, draw_points, grid_rows, num_trials
from sweep.space.ranges import Value
from sweep.space.schema import BASELINES, SECTIONS, TOP_LEVEL_FIELDS, SearchSpace
from sweep.space.yaml_text import load_mapping

_TRIAL_NAME = re.compile(r"trial_\d{4,}$")
_NUM_CHECKED_POINTS = 200  # how many draws are made into configs, to find values that do not go together


def load_space(path: Path) -> SearchSpace:
    """Read and check a space file. Raises ConfigFault with every fault of the file at once."""
    values, repeats = load_mapping(path)
    return build_space(values, str(path), repeats)


def build_space(values: Mapping[Any, Any], where: str, known_faults: Sequence[str] = ()) -> SearchSpace:
    """Check the values of a space file and build the space; `where` names their source in each fault.

    `trials` is set to what will run: the rows of a grid, 1 where nothing is searched. Raises ConfigFault with all
    faults at once, `known_faults` first.
    """
    faults = FaultList(where, known_faults)
    given = {str(key): raw for key, raw in values.items() if raw is not None or key not in SECTIONS}
    faulty: set[tuple[str, ...]] = set()
    try:
        space = SearchSpace.model_validate(given)
    except ValidationError as error:
        faulty = faults.add_errors(error)
        space = SearchSpace.model_validate({"name": "unnamed"} | _leave_out(given, faulty))
    # The sound part is checked on; what depends on a faulty knob is not judged.
    broken = {loc[1] for loc in faulty if loc[0] in ("fixed", "search") and len(loc) > 1}
    for knob in [knob for knob in space.search if knob in space.fixed]:
        faults.add(f"search.{knob}", "the knob is both fixed and searched", "remove it from 'fixed' or from 'search'")
        broken.add(knob)
    search = {knob: ranges for knob, ranges in space.search.items() if knob not in broken}
    space = space.model_copy(update={"search": search})
    _check_models(space, broken, faults)
    check_conditions(search, space.fixed, broken, faults)
    _check_sampler(space, faults)
    _check_workers(space, faults)
    space = space.model_copy(update={"search": fold_fixed(search, space.fixed)})
    lost = {loc[1] for loc in faulty if loc[0] == "first_points" and len(loc) > 1}
    numbers = [number for number in range(len(space.first_points) + len(lost)) if str(number) not in lost]
    _check_points(space, set(search) | broken, numbers, faults)
    faults.raise_if_any()
    space = space.model_copy(update={"trials": num_trials(space)})
    _check_configs(space, where)
    _check_baseline(space, faults)
    faults.raise_if_any()
    return space


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


def _leave_out(given: Mapping[str, Any], faulty: set[tuple[str, ...]]) -> dict[str, Any]:
    """Return the values without those at faulty keys and entries of sections."""
    sound = {key: raw for key, raw in given.items() if (key,) not in faulty}
    for key, raw in sound.items():
        if isinstance(raw, dict):
            sound[key] = {entry: value for entry, value in raw.items() if (key, str(entry)) not in faulty}
        elif isinstance(raw, list):
            sound[key] = [item for index, item in enumerate(raw) if (key, str(index)) not in faulty]
    return sound


def _check_models(space: SearchSpace, broken: set[str], faults: FaultList) -> None:
    """Note what of `models` and the knob `model` does not go together. `broken` are knobs that could not be read."""
    if space.models and "model" in space.model_fields_set:
        faults.add("model", "the sweep has several models already", "remove this key or the section 'models'")
    ranges = space.search.get("model", ())
    if space.models and not ranges and "model" not in broken:
        aliases = ", ".join(space.models)
        faults.add("models", "no knob chooses among them", f"add 'model: {{grid: [{aliases}]}}' to 'search'")
    if ranges and not space.models:
        remedy = "add a section 'models' with one 'alias: name' a line"
        faults.add("search.model", "there are no aliases to choose from", remedy)
    if not ranges or not space.models:
        return
    for key, item in key_ranges("model", ranges):
        if item.when:
            faults.add(f"{key}.when", "every trial has a model", "remove the condition; let others depend on the model")
        for value in item.values:
            if value not in space.models:
                faults.add_wrong(key, unknown_key(value, space.models, "model"))
    for alias in space.models:
        if not any(item.contains(alias) for item in ranges):
            faults.add(f"models.{alias}", "no trial uses it", "list it in search.model or remove it")


def _check_points(space: SearchSpace, named: set[str], numbers: Sequence[int], faults: FaultList) -> None:
    """Note first points outside the space. `named` are all knobs of the file, `numbers` the points' places in it."""
    for place, (number, point) in enumerate(zip(numbers, space.first_points, strict=True)):
        key = f"first_points[{number}]"
        if point in space.first_points[:place]:
            first = numbers[space.first_points.index(point)]
            faults.add(key, f"it repeats first_points[{first}]", "remove one of them")
            continue
        outside = [knob for knob in point if knob not in named]
        for knob in outside:
            faults.add(f"{key}.{knob}", "the knob is not searched", "remove it here or add it to 'search'")
        for knob in () if outside else point:
            if knob in space.search:
                _check_point_value(space, point, knob, f"{key}.{knob}", faults)


def _check_point_value(space: SearchSpace, point: Mapping[str, Value], knob: str, key: str, faults: FaultList) -> None:
    if active := active_range(space.search[knob], point):
        if not active.contains(point[knob]):
            problem = f"{show(point[knob])} is outside {active.kind} {show(active.values)}"
            faults.add(key, problem, "choose a value inside it or widen the range")
        return
    parents = list(dict.fromkeys(parent for item in space.search[knob] for parent in item.when))
    if missing := next((parent for parent in parents if parent not in point), None):
        faults.add(key, f"whether the knob is active depends on {missing}", f"give {missing} in the same point")
    else:
        has = " and ".join(f"{parent} is {show(point[parent])}" for parent in parents)
        faults.add(key, f"the knob is not active where {has}", "remove it from this point")


def _check_sampler(space: SearchSpace, faults: FaultList) -> None:
    """Note what does not go with the sampler: a grid takes `grid` ranges and seeds, the others anything else."""
    ranges = [(knob, item) for knob, items in space.search.items() for item in items]
    if space.sampler == "grid":
        for knob, item in ranges:
            if item.kind != "grid":
                problem = f"a grid cannot run over '{item.kind}'"
                faults.add(f"search.{knob}", problem, "list the values as {grid: [...]}")
        if space.first_points:
            faults.add("first_points", "a grid tries every row", "remove the key")
        if space.seeds and ("seed" in space.search or "seed" in space.fixed):
            faults.add("seeds", "the seed is also fixed or searched", "keep one of the two")
        return
    remedy = "remove it (every run scores it once anyway), or use sampler: grid"
    for knob, item in ranges:
        if item.kind == "grid":
            problem = f"'grid' does not go with sampler {space.sampler}"
            faults.add(f"search.{knob}", problem, "write choice, or sampler: grid")
        if knob == "freeze" and item.kind == "choice" and FreezeMode.ZERO_SHOT in item.values:
            faults.add("search.freeze.choice", "zero_shot trains nothing and would be drawn again and again", remedy)
    if space.search and space.fixed.get("freeze") == FreezeMode.ZERO_SHOT:
        faults.add("fixed.freeze", "zero_shot trains nothing, so there is nothing to search", remedy)
    if space.seeds:
        problem = f"seeds repeat the rows of a grid and mean nothing to {space.sampler}"
        faults.add("seeds", problem, "remove the key or use 'seed'")


def _check_workers(space: SearchSpace, faults: FaultList) -> None:
    """Note a model that is to be sharded over one worker, or over any number."""
    workers = space.resources.workers_per_trial
    searched = [value for item in space.search.get("parallel", ()) for value in item.values]
    for section, values in (("fixed", [space.fixed.get("parallel")]), ("search", searched)):
        if "fsdp" in values and workers in (1, "auto"):
            problem = f"fsdp shards a model over the workers of a trial, and resources.workers_per_trial is {workers}"
            faults.add(f"{section}.parallel", problem, "give that as a number from 2 on, or leave fsdp out")


def _check_baseline(space: SearchSpace, faults: FaultList) -> None:
    """Note a baseline that can be no row of the test table."""
    is_trial = _TRIAL_NAME.match(space.baseline)
    if space.baseline in BASELINES:
        return
    if space.test != "all":
        remedy = "use test: all" if is_trial else f"use one of {', '.join(BASELINES)}"
        faults.add("baseline", f"{show(space.baseline)} is no row of the test table", remedy)
        return
    # The trials of a search are not known yet, and go by number alone.
    labels = dict.fromkeys(label_groups(grid_rows(space))) if space.sampler == "grid" else ["trial_0000"]
    if space.baseline not in labels and not (is_trial and int(space.baseline[6:]) < space.trials):
        faults.add_wrong("baseline", unknown_key(space.baseline, [*BASELINES, *labels], "row"))


def _check_configs(space: SearchSpace, where: str) -> None:
    """Raise if values that are each in range do not go together in a first point, in a grid row, or in any draw.

    A sampler's draws are forgiven as long as some are valid: others are drawn in their place.
    """
    if space.sampler == "grid":
        exact, drawn = grid_rows(space), []
    else:
        given = space.first_points
        exact = [point for point in given if all(knob in point for knob, *_ in active_ranges(space, point))]
        drawn = draw_points(space, _NUM_CHECKED_POINTS, space.seed)
    faults = [fault for point in exact for fault in _find_config_faults(space, point)]
    of_drawn = [_find_config_faults(space, point) for point in drawn]
    if of_drawn and all(of_drawn):
        faults += of_drawn[0]
    if faults:
        raise ConfigFault(f"{where}: {fault}" for fault in dict.fromkeys(faults))


def _find_config_faults(space: SearchSpace, point: Mapping[str, Value]) -> tuple[str, ...]:
    try:
        build_config(space, point)
    except ConfigFault as error:
        return error.faults
    return ()
