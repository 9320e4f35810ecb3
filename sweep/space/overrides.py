"""The flags of the command line, applied to a search space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from medcap_core.config import TrialConfig
from sweep.space.conditions import fold_fixed
from sweep.space.fields import FaultList, WrongValue, coerce_field, field_kind
from sweep.space.points import num_trials
from sweep.space.reading import build_space
from sweep.space.schema import SECTIONS, SETTINGS, Resources, SearchSpace
from sweep.space.yaml_text import parse_value

_RESOURCES = tuple(f"resources.{field}" for field in Resources.model_fields)


@dataclass(frozen=True)
class _Change:
    """One key given another value; `flag` is how the user wrote it."""

    flag: str
    key: str
    value: Any

    @property
    def is_fixed(self) -> bool:
        """Whether the key is a TrialConfig field (`data`, `model` and `seed` are top-level keys first)."""
        return self.key not in SETTINGS and self.key not in _RESOURCES and not self.key.startswith("models.")


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
    """The space with the command line's flags applied, checked again as a whole.

    Each of `set_values` is `key=value`: a TrialConfig field, which becomes fixed and is searched no more, or a
    top-level or `resources.` key. A newly fixed field settles the conditions on it: ranges of other branches go, and so
    do first points that lie in another branch. Raises ConfigFault with every fault at once.
    """
    flags = {"data": data, "model": model, "trials": trials, "seed": seed, "resources.max_concurrent": max_concurrent}
    written = [
        (f"--{key.rpartition('.')[2].replace('_', '-')} {value}", key, str(value))
        for key, value in flags.items()
        if value is not None
    ]
    faults = FaultList("command line")
    written += _split_settings(space, set_values, faults)
    changes: list[_Change] = []
    for flag, key, text in written:
        if key == "model" and space.models:
            aliases = " or ".join(f"--set models.{alias}=NAME" for alias in space.models)
            faults.add(flag, "this sweep compares several models", f"replace one of them by {aliases}")
            continue
        try:
            change = _Change(flag, key, _coerce(key, text))
        except WrongValue as error:
            faults.add(flag, error.problem, error.remedy)
            continue
        if any(change.key == other.key for other in changes):
            faults.add(flag, f"{key} is given twice", "keep one")
        changes.append(change)
    faults.raise_if_any()
    if not changes:
        return space
    where = f"'{space.name}' with {', '.join(change.flag for change in changes)}"
    changed = build_space(_change_mapping(space, changes), where)
    _check_num_trials(changed, changes, faults)
    return changed


def _split_settings(space: SearchSpace, set_values: Sequence[str], faults: FaultList) -> list[tuple[str, str, str]]:
    """Flag, key and text of each `--set`; what has no known key is noted."""
    aliases = [f"models.{alias}" for alias in space.models]
    known = dict.fromkeys([*SETTINGS, *_RESOURCES, *TrialConfig.model_fields, *aliases])
    split = []
    for item in set_values:
        key, equals, text = item.partition("=")
        flag = f"--set {item}"
        if not equals:
            faults.add(flag, "it has no value", "write it as key=value")
        elif key in SECTIONS or key.startswith("search."):
            faults.add(flag, f"'{key}' cannot be given on the command line", "change it in the space file")
        elif key not in known:
            faults.add_unknown_key(flag, key, known)
        else:
            split.append((flag, key, text))
    return split


def _coerce(key: str, text: str) -> Any:
    """The text as YAML reads it, then by declared type; a text field takes it as written, unless quoted."""
    owner: type[BaseModel] = SearchSpace if key in SETTINGS else TrialConfig
    field = "model" if key.startswith("models.") else key
    if key in _RESOURCES:
        owner, field = Resources, key.removeprefix("resources.")
    if field_kind(owner, field) == "text" and text[:1] not in ("'", '"'):
        return coerce_field(owner, field, text)
    try:
        value = parse_value(text)
    except ValueError as error:
        raise WrongValue(f"the value is no valid YAML ({error})", "put it in quotes") from None
    return coerce_field(owner, field, value)


def _change_mapping(space: SearchSpace, changes: Sequence[_Change]) -> dict[str, Any]:
    """The values of the space file that says the same with the changes in it."""
    values = space.to_mapping()
    newly_fixed = {change.key: change.value for change in changes if change.is_fixed}
    for change in changes:
        if change.key in _RESOURCES:
            values["resources"][change.key.removeprefix("resources.")] = change.value
        elif change.key.startswith("models."):
            values["models"][change.key.removeprefix("models.")] = change.value
        elif change.key in SETTINGS:
            values[change.key] = change.value
    values["fixed"] |= newly_fixed
    if any(change.key == "seed" for change in changes):
        values["fixed"].pop("seed", None)
    left = space.model_copy(update={"search": fold_fixed(space.search, newly_fixed)})
    values["search"] = left.to_mapping()["search"]
    values["first_points"] = _keep_points(space, left, newly_fixed)
    return values


def _keep_points(space: SearchSpace, left: SearchSpace, newly_fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """First points without what is no longer searched; none that lay in a branch now ruled out, none twice."""
    parents = {parent for branches in space.search.values() for branch in branches for parent in branch.when}
    points: list[dict[str, Any]] = []
    for point in space.first_points:
        if any(knob in parents and point.get(knob, value) != value for knob, value in newly_fixed.items()):
            continue
        kept = {knob: value for knob, value in point.items() if knob in left.search}
        if kept and kept not in points:
            points.append(kept)
    return points


def _check_num_trials(space: SearchSpace, changes: Sequence[_Change], faults: FaultList) -> None:
    """Refuse a number of trials that the space settles by itself."""
    for change in changes:
        if change.key != "trials" or change.value == num_trials(space):
            continue
        if space.sampler == "grid":
            rows = num_trials(space)
            faults.add(
                change.flag, f"a grid runs each of its {rows} rows", "remove the flag or shorten the grid's lists"
            )
        elif not space.search:
            faults.add(change.flag, "nothing is searched, so there is one trial", "remove the flag or search a knob")
    faults.raise_if_any()
