"""The flags of the command line, applied to a search space."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from medcap_core.config import TrialConfig
from sweep.space.conditions import fold_fixed
from sweep.space.faults import FaultList
from sweep.space.fields import WrongValue, field_kind, read_field, unknown_key
from sweep.space.ranges import Point, Value
from sweep.space.reading import build_space
from sweep.space.schema import SECTIONS, SETTINGS, Resources, SearchSpace
from sweep.space.yaml_text import parse_value

_RESOURCES = tuple(f"resources.{field}" for field in Resources.model_fields)
CHANGEABLE_FIELDS = ("max_bad_record_share", "max_feature_cache_gb", "checkpoint_every_epoch")
"""Fields of a trial that change no result: a resumed run may have others than the run that it goes on with."""
CHANGEABLE_KEYS = (
    *(key for key in _RESOURCES if key != "resources.workers_per_trial"),  # each worker has a dropout of its own
    "keep_checkpoints",
    "max_hours",
    *CHANGEABLE_FIELDS,
)


def apply_overrides(
    space: SearchSpace,
    *,
    data: str | None = None,
    model: str | None = None,
    trials: int | None = None,
    seed: int | None = None,
    set_values: Sequence[str] = (),
    max_concurrent: int | None = None,
) -> SearchSpace:
    """Apply the command line's flags to the space, and check it again as a whole.

    Each of `set_values` is `key=value`: a TrialConfig field, which becomes fixed and is searched no more, or a
    top-level or `resources.` key. A newly fixed field settles the conditions on it: ranges of other branches go, and so
    do first points that lie in another branch. Raises ConfigFault with every fault at once.
    """
    options = {"data": data, "model": model, "trials": trials, "seed": seed, "resources.max_concurrent": max_concurrent}
    given: list[tuple[str, str, str | None]] = [
        (f"--{key.rpartition('.')[2].replace('_', '-')} {value}", key, str(value))
        for key, value in options.items()
        if value is not None
    ]
    for item in set_values:
        key, equals, text = item.partition("=")
        given.append((f"--set {item}", key, text if equals else None))
    faults = FaultList("command line")
    flags: dict[str, str] = {}  # by key
    changes: dict[str, Any] = {}
    for flag, key, value in given:
        if key in flags:
            faults.add(flag, f"{key} is given twice", "keep one")
        flags[key] = flag
        try:
            changes[key] = _read(space, key, value)
        except WrongValue as wrong:
            faults.add_wrong(flag, wrong)
    faults.raise_if_any()
    if not changes:
        return space
    changed = build_space(_change_mapping(space, changes), f"'{space.name}' with {', '.join(flags.values())}")
    if changes.get("trials", changed.trials) != changed.trials:
        problem, remedy = "nothing is searched, so there is one trial", "search a knob"
        if changed.sampler == "grid":
            problem, remedy = f"a grid runs each of its {changed.trials} rows", "shorten the grid's lists"
        faults.add(flags["trials"], problem, f"remove the flag or {remedy}")
    faults.raise_if_any()
    return changed


def change_begun(space: SearchSpace, set_values: Sequence[str]) -> SearchSpace:
    """Apply `key=value` flags to the space of a run that has begun. Raises ConfigFault for keys that change results."""
    faults = FaultList("command line")
    for item in set_values:
        key = item.partition("=")[0]
        if key not in CHANGEABLE_KEYS:
            problem = f"a run goes on with the {key} that it began with, as results may depend on it"
            remedy = f"leave it out, or start a new run (with --resume: {', '.join(CHANGEABLE_KEYS)})"
            faults.add(f"--set {item}", problem, remedy)
    faults.raise_if_any()
    return apply_overrides(space, set_values=set_values)


def adopt_changes(space: SearchSpace, config: TrialConfig) -> TrialConfig:
    """Return the config of a trial of a run, with the space's values of CHANGEABLE_FIELDS."""
    defaults = {field: TrialConfig.model_fields[field].default for field in CHANGEABLE_FIELDS}
    return config.model_copy(update={field: space.fixed.get(field, value) for field, value in defaults.items()})


def _read(space: SearchSpace, key: str, text: str | None) -> Any:
    """Read a value as YAML does, then by declared type; a text field takes it as written, unless quoted."""
    aliases = [f"models.{alias}" for alias in space.models]
    known = dict.fromkeys([*SETTINGS, *_RESOURCES, *TrialConfig.model_fields, *aliases])
    if text is None:
        raise WrongValue("it has no value", "write it as key=value")
    if key in SECTIONS or key.startswith("search."):
        raise WrongValue(f"'{key}' cannot be given on the command line", "change it in the space file")
    if key not in known:
        raise unknown_key(key, known)
    if key == "model" and aliases:
        one_of_them = " or ".join(f"--set {alias}=NAME" for alias in aliases)
        raise WrongValue("this sweep compares several models", f"replace one of them by {one_of_them}")
    section, _, field = key.rpartition(".")
    owner: type[BaseModel] = SearchSpace if key in SETTINGS else TrialConfig
    if section == "resources":
        owner = Resources
    elif section == "models":
        owner, field = SearchSpace, "model"
    if field_kind(owner, field) == "text" and text[:1] not in ("'", '"'):
        return read_field(owner, field, text)
    try:
        value = parse_value(text)
    except ValueError as error:
        raise WrongValue(f"the value is no valid YAML ({error})", "put it in quotes") from None
    return read_field(owner, field, value)


def _change_mapping(space: SearchSpace, changes: Mapping[str, Value]) -> dict[str, Any]:
    """Return the values of the space file that says the same with the changes in it."""
    newly_fixed = {key: value for key, value in changes.items() if "." not in key and key not in SETTINGS}
    left = space.to_mapping()
    for key, value in changes.items():
        section, _, entry = key.rpartition(".")
        if key not in newly_fixed:
            (left[section] if section else left)[entry] = value
    left["fixed"] |= newly_fixed
    if "seed" in changes:
        left["fixed"].pop("seed", None)
    searched = space.model_copy(update={"search": fold_fixed(space.search, newly_fixed)})
    left["search"] = searched.to_mapping()["search"]
    left["first_points"] = _keep_points(space, searched.search, newly_fixed)
    return left


def _keep_points(space: SearchSpace, searched: Collection[str], newly_fixed: Mapping[str, Value]) -> list[Point]:
    """Return first points without what is no longer searched; none that lay in a branch now ruled out, none twice."""
    parents = {parent for ranges in space.search.values() for item in ranges for parent in item.when}
    branch = {knob: value for knob, value in newly_fixed.items() if knob in parents}
    points: list[Point] = []
    for point in space.first_points:
        kept = {knob: value for knob, value in point.items() if knob in searched}
        if kept and kept not in points and all(point.get(knob, value) == value for knob, value in branch.items()):
            points.append(kept)
    return points
