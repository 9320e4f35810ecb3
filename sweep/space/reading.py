"""The values of a space file -> a checked `SearchSpace`; every fault is noted, and all are raised together."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from medcap_core.config import TrialConfig, absolute_if_path
from medcap_core.errors import ConfigFault
from sweep.space.conditions import active_branch, check_conditions, fold_fixed
from sweep.space.fields import FaultList, WrongValue, coerce_field, show
from sweep.space.labels import label_groups
from sweep.space.model_aliases import check_models, read_models
from sweep.space.points import build_config, draw_points, grid_rows, is_complete, num_trials
from sweep.space.ranges import NOT_SEARCHED, Branch, Choice, Grid, read_knob, read_value
from sweep.space.schema import BASELINES, SETTINGS, Resources, SearchSpace

_ZERO_SHOT = "zero_shot"
_TRIAL_NAME = re.compile(r"trial_\d{4,}$")
_NUM_CHECKED_POINTS = 200  # how many draws are made into configs, to find values that do not go together


def build_space(values: Mapping[Any, Any], where: str, known_faults: Sequence[str] = ()) -> SearchSpace:
    """Check the values of a space file and build the space; `where` names their source in each fault.

    `trials` is set to what will run: the rows of a grid, 1 where nothing is searched. Raises ConfigFault with all
    faults at once, `known_faults` first.
    """
    faults = FaultList(where)
    faults.sentences += known_faults
    for key in values:
        if key not in SearchSpace.model_fields:
            faults.add_unknown_key("", key, SearchSpace.model_fields)
    settings = _read_settings(values, faults)
    models = read_models(values, faults)
    fixed = _read_fixed(_read_mapping(values, "fixed", faults), faults)
    search, broken = _read_search(_read_mapping(values, "search", faults), fixed, faults)
    check_models(models, search, set(search) | broken, faults)
    check_conditions(search, fixed, broken, faults)
    folded = fold_fixed(search, fixed)
    points = _read_points(values.get("first_points"), folded, set(search) | broken, faults)
    resources = _read_resources(_read_mapping(values, "resources", faults), faults)
    _check_sampler(settings, fixed, search, bool(points), faults)
    faults.raise_if_any()
    space = SearchSpace(
        **settings, models=models, fixed=fixed, search=folded, first_points=tuple(points), resources=resources
    )
    space = space.model_copy(update={"trials": num_trials(space)})
    _check_configs(space, where)
    _check_baseline(space, faults)
    faults.raise_if_any()
    return space


def _read_mapping(values: Mapping[Any, Any], section: str, faults: FaultList) -> dict[Any, Any]:
    """A section of the file; one whose lines are all commented out reads as null and is empty."""
    raw = values.get(section)
    if isinstance(raw, dict):
        return raw
    if raw is not None:
        faults.add(section, f"{show(raw)} is not a mapping", "write one 'key: value' on each line below it")
    return {}


def _read_settings(values: Mapping[Any, Any], faults: FaultList) -> dict[str, Any]:
    settings = {}
    for key in SETTINGS:
        if key not in values:
            continue
        try:
            settings[key] = coerce_field(SearchSpace, key, values[key])
        except WrongValue as error:
            faults.add(key, error.problem, error.remedy)
    if "name" not in values:
        faults.add("name", "the key is missing", "give the sweep a name, such as 'name: lora'")
    seeds = settings.get("seeds", ())
    if len(set(seeds)) != len(seeds):
        faults.add("seeds", f"{show(seeds)} holds a seed twice", "remove one")
    extra = settings.get("extra_scores", ())
    if len(set(extra)) != len(extra):
        faults.add("extra_scores", f"{show(extra)} holds a score twice", "remove one")
    for key in ("data", "model", "bertscore_model"):
        if key in settings:
            settings[key] = absolute_if_path(settings[key])
    return settings


def _read_fixed(raw: Mapping[Any, Any], faults: FaultList) -> dict[str, Any]:
    fixed = {}
    for field, value in raw.items():
        if field not in TrialConfig.model_fields:
            faults.add_unknown_key("fixed", field, TrialConfig.model_fields)
        elif field in ("data", "model", "metric"):
            faults.add(f"fixed.{field}", "this key has its place at the top level", f"write '{field}:' beside 'name:'")
        else:
            fixed[field] = read_value(field, value, f"fixed.{field}", faults)
    return fixed


def _read_resources(raw: Mapping[Any, Any], faults: FaultList) -> Resources:
    good = {}
    for field, value in raw.items():
        if field not in Resources.model_fields:
            faults.add_unknown_key("resources", field, Resources.model_fields)
            continue
        try:
            good[field] = coerce_field(Resources, field, value)
        except WrongValue as error:
            faults.add(f"resources.{field}", error.problem, error.remedy)
    gpus = good.get("gpus_per_trial", "auto")
    if gpus != "auto" and gpus > 1 and gpus != int(gpus):
        faults.add(
            "resources.gpus_per_trial", f"{gpus} is above 1 and not whole", "give a share of one GPU or whole ones"
        )
    workers = good.get("workers_per_trial", 1)
    if gpus != "auto" and workers > 1 and gpus % workers:
        faults.add(
            "resources.gpus_per_trial",
            f"{gpus} cannot be dealt to {workers} workers, which need whole GPUs or none",
            f"give 0 or a multiple of {workers}",
        )
    return Resources(**good)


def _read_search(
    raw: Mapping[Any, Any], fixed: Mapping[str, Any], faults: FaultList
) -> tuple[dict[str, tuple[Branch, ...]], set[str]]:
    """The knobs that can be read, and the names of those that cannot."""
    search: dict[str, tuple[Branch, ...]] = {}
    broken: set[str] = set()
    for knob, ranges in raw.items():
        key = f"search.{knob}"
        if knob not in TrialConfig.model_fields:
            faults.add_unknown_key("search", knob, TrialConfig.model_fields, noun="knob")
            continue
        branches = read_knob(knob, ranges, faults)
        if knob in NOT_SEARCHED:
            place = "the top level" if knob in ("data", "metric") else "'fixed'"
            faults.add(key, "this is the same for every trial of a run", f"move it to {place} with one value")
        elif knob in fixed:
            faults.add(key, "the knob is both fixed and searched", "remove it from 'fixed' or from 'search'")
        elif branches is not None:
            search[knob] = branches
            continue
        broken.add(knob)
    return search, broken


def _read_points(
    raw: Any, search: Mapping[str, tuple[Branch, ...]], named: set[str], faults: FaultList
) -> list[dict[str, Any]]:
    """`first_points` by declared type. `named` are all knobs of the file, readable or not."""
    if raw is not None and not isinstance(raw, list):
        faults.add(
            "first_points", f"{show(raw)} is not a list", "write one '- {knob: value, ...}' on each line below it"
        )
        return []
    items = raw or []
    points: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        key = f"first_points[{index}]"
        if not isinstance(item, dict) or not item:
            faults.add(key, f"{show(item)} is no point", "write it as {knob: value, ...}")
            continue
        if item in items[:index]:
            faults.add(key, f"it repeats first_points[{items.index(item)}]", "remove one of them")
            continue
        points.append(_read_point(item, key, search, named, faults))
    return points


def _read_point(
    raw: Mapping[Any, Any], key: str, search: Mapping[str, tuple[Branch, ...]], named: set[str], faults: FaultList
) -> dict[str, Any]:
    before = len(faults.sentences)
    point = {}
    for knob, value in raw.items():
        if knob not in named:
            known = TrialConfig.model_fields if knob not in TrialConfig.model_fields else ()
            if known:
                faults.add_unknown_key(key, knob, known, noun="knob")
            else:
                faults.add(f"{key}.{knob}", "the knob is not searched", "remove it here or add it to 'search'")
        elif knob in TrialConfig.model_fields:
            point[knob] = read_value(knob, value, f"{key}.{knob}", faults)
    if before == len(faults.sentences):
        for knob, value in point.items():
            if knob in search:
                _check_point_value(knob, value, point, f"{key}.{knob}", search[knob], faults)
    return point


def _check_point_value(
    knob: str, value: Any, point: Mapping[str, Any], key: str, branches: tuple[Branch, ...], faults: FaultList
) -> None:
    branch = active_branch(branches, point)
    if branch is None:
        parents = list(dict.fromkeys(parent for branch in branches for parent in branch.when))
        missing = [parent for parent in parents if parent not in point]
        if missing:
            faults.add(
                key, f"whether the knob is active depends on {missing[0]}", f"give {missing[0]} in the same point"
            )
        else:
            has = " and ".join(f"{parent} is {show(point[parent])}" for parent in parents)
            faults.add(key, f"the knob is not active where {has}", "remove it from this point")
    elif not branch.range.contains(value):
        drawn = f"{branch.range.kind} {show(branch.range.to_list())}"
        faults.add(key, f"{show(value)} is outside {drawn}", "choose a value inside it or widen the range")


def _check_sampler(
    settings: Mapping[str, Any],
    fixed: Mapping[str, Any],
    search: Mapping[str, tuple[Branch, ...]],
    has_points: bool,
    faults: FaultList,
) -> None:
    """Note what does not go with the sampler: a grid takes `grid` ranges and seeds, the others anything else."""
    sampler = settings.get("sampler", "tpe")
    ranges = [(knob, branch.range) for knob, branches in search.items() for branch in branches]
    if sampler == "grid":
        for knob, drawn in ranges:
            if not isinstance(drawn, Grid):
                faults.add(
                    f"search.{knob}", f"a grid cannot run over '{drawn.kind}'", "list the values as {grid: [...]}"
                )
        if has_points:
            faults.add("first_points", "a grid tries every row", "remove the key")
        if settings.get("seeds") and ("seed" in search or "seed" in fixed):
            faults.add("seeds", "the seed is also fixed or searched", "keep one of the two")
        return
    for knob, drawn in ranges:
        if isinstance(drawn, Grid):
            faults.add(f"search.{knob}", f"'grid' does not go with sampler {sampler}", "write choice, or sampler: grid")
        if knob == "freeze" and isinstance(drawn, Choice) and _ZERO_SHOT in drawn.values:
            remedy = "remove it (every run scores it once anyway), or use sampler: grid"
            faults.add("search.freeze.choice", "zero_shot trains nothing and would be drawn again and again", remedy)
    if search and fixed.get("freeze") == _ZERO_SHOT:
        remedy = "remove it (every run scores it once anyway), or use sampler: grid"
        faults.add("fixed.freeze", "zero_shot trains nothing, so there is nothing to search", remedy)
    if settings.get("seeds"):
        faults.add(
            "seeds", f"seeds repeat the rows of a grid and mean nothing to {sampler}", "remove the key or use 'seed'"
        )


def _check_baseline(space: SearchSpace, faults: FaultList) -> None:
    """Note a baseline that can be no row of the test table."""
    if space.baseline in BASELINES:
        return
    if space.test != "all":
        remedy = "use test: all" if _TRIAL_NAME.match(space.baseline) else f"use one of {', '.join(BASELINES)}"
        faults.add("baseline", f"{show(space.baseline)} is no row of the test table", remedy)
        return
    if space.sampler != "grid":  # the trials of a search are not known yet
        known = [*BASELINES, "trial_0000"]
        is_known = _TRIAL_NAME.match(space.baseline) and int(space.baseline[6:]) < space.trials
    else:
        labels = list(dict.fromkeys(label_groups(grid_rows(space))))
        known = [*BASELINES, *labels]
        is_known = space.baseline in labels or (
            _TRIAL_NAME.match(space.baseline) and int(space.baseline[6:]) < space.trials
        )
    if not is_known:
        faults.add_unknown_key("baseline", space.baseline, known, noun="row")


def _check_configs(space: SearchSpace, where: str) -> None:
    """Raise if values that are each in range do not go together in a first point, in a grid row, or in any draw.

    A sampler's draws are forgiven as long as some are valid: others are drawn in their place.
    """
    if space.sampler == "grid":
        exact = draw_points(space, space.trials, space.seed)
    else:
        exact = [point for point in space.first_points if is_complete(space, point)]
    faults = [fault for point in exact for fault in _find_config_faults(space, point)]
    if space.sampler != "grid":
        drawn = [_find_config_faults(space, point) for point in draw_points(space, _NUM_CHECKED_POINTS, space.seed)]
        if all(drawn):
            faults += drawn[0]
    if faults:
        raise ConfigFault(f"{where}: {fault}" for fault in dict.fromkeys(faults))


def _find_config_faults(space: SearchSpace, point: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        build_config(space, point)
    except ConfigFault as error:
        return error.faults
    return ()
