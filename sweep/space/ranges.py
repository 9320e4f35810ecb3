"""The ranges a knob may be searched over, and how they are read from YAML.

A knob is a field of TrialConfig. Its range has one explicit type; several ranges of one knob belong to different
branches of the space, each under its own `when`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from medcap_core.config import TrialConfig
from sweep.space.fields import FaultList, WrongValue, coerce_field, field_kind, show

# The same for every trial of a run: it prepares one data set, and compares scores on the same images.
NOT_SEARCHED = (
    "data",
    "metric",
    "max_bad_record_share",
    "drop_duplicate_train_images",
    "max_validation_images",
    "max_test_images",
)


class Suggester(Protocol):
    """What draws values: an Optuna trial, or anything with its three methods."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of `choices`."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number, both ends included."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number, evenly spread over `[low, high]` or over its logarithm."""


@dataclass(frozen=True)
class _Listed:
    """Values written out one by one; `kind` is the key in YAML."""

    values: tuple[Any, ...]
    kind: ClassVar[str]

    def contains(self, value: Any) -> bool:
        """Whether this range can take `value`."""
        return value in self.values

    def suggest(self, suggester: Suggester, name: str) -> Any:
        """Draw one value under the parameter `name`."""
        return suggester.suggest_categorical(name, self.values)

    def to_list(self) -> list[Any]:
        """What stands behind the range's key in YAML."""
        return list(self.values)


@dataclass(frozen=True)
class _Interval:
    """All values from `low` to `high`, both included; `kind` is the key in YAML."""

    low: Any
    high: Any
    kind: ClassVar[str]

    def contains(self, value: Any) -> bool:
        """Whether this range can take `value`."""
        return isinstance(value, int | float) and bool(self.low <= value <= self.high)

    def to_list(self) -> list[Any]:
        """What stands behind the range's key in YAML."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Choice(_Listed):
    """One of several values; the sampler chooses."""

    kind: ClassVar[str] = "choice"


@dataclass(frozen=True)
class Grid(_Listed):
    """Each of several values; for `sampler: grid` only."""

    kind: ClassVar[str] = "grid"


@dataclass(frozen=True)
class IntRange(_Interval):
    """A whole number."""

    kind: ClassVar[str] = "int"

    def suggest(self, suggester: Suggester, name: str) -> int:
        """Draw one value under the parameter `name`."""
        return suggester.suggest_int(name, self.low, self.high)


@dataclass(frozen=True)
class Uniform(_Interval):
    """A number, evenly spread."""

    kind: ClassVar[str] = "uniform"

    def suggest(self, suggester: Suggester, name: str) -> float:
        """Draw one value under the parameter `name`."""
        return suggester.suggest_float(name, self.low, self.high)


@dataclass(frozen=True)
class LogUniform(_Interval):
    """A number, its logarithm evenly spread."""

    kind: ClassVar[str] = "loguniform"

    def suggest(self, suggester: Suggester, name: str) -> float:
        """Draw one value under the parameter `name`."""
        return suggester.suggest_float(name, self.low, self.high, log=True)


Range = Choice | Grid | IntRange | Uniform | LogUniform
RANGE_TYPES: dict[str, type[Range]] = {cls.kind: cls for cls in (Choice, IntRange, Uniform, LogUniform, Grid)}
_FITTING = {
    "int": ("choice", "int", "grid"),
    "float": ("choice", "uniform", "loguniform", "grid"),
}
_LISTED_KINDS = ("choice", "grid")


@dataclass(frozen=True)
class Branch:
    """One range of a knob and when it holds: every knob named in `when` has one of the values listed for it."""

    range: Range
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """The mapping that reads back as this branch."""
        result: dict[str, Any] = {self.range.kind: self.range.to_list()}
        if self.when:
            result["when"] = {knob: items[0] if len(items) == 1 else list(items) for knob, items in self.when.items()}
        return result


def read_knob(knob: str, raw: Any, faults: FaultList) -> tuple[Branch, ...] | None:
    """Read one entry of `search`: a range, or a list of conditional ranges. None if any of it is faulty."""
    if isinstance(raw, list):
        if not raw:
            faults.add(f"search.{knob}", "the list of ranges is empty", f"write a range such as {_example(knob)}")
            return None
        branches = [_read_branch(knob, item, f"search.{knob}[{index}]", faults) for index, item in enumerate(raw)]
    else:
        branches = [_read_branch(knob, raw, f"search.{knob}", faults)]
    good = tuple(branch for branch in branches if branch is not None)
    return good if len(good) == len(branches) else None


def read_value(field_name: str, raw: Any, key: str, faults: FaultList) -> Any:
    """A value of one TrialConfig field; a faulty one is noted and given back as it is."""
    try:
        return coerce_field(TrialConfig, field_name, raw)
    except WrongValue as error:
        faults.add(key, error.problem, error.remedy)
        return raw


def _read_branch(knob: str, raw: Any, key: str, faults: FaultList) -> Branch | None:
    if not isinstance(raw, dict):
        faults.add(key, f"{show(raw)} is no range", f"write one such as {_example(knob)}, or move it to 'fixed'")
        return None
    before = len(faults.sentences)
    for name in raw:
        if name not in RANGE_TYPES and name != "when":
            faults.add_unknown_key(key, name, [*RANGE_TYPES, "when"])
    kinds = [name for name in raw if name in RANGE_TYPES]
    if len(kinds) != 1 and before == len(faults.sentences):
        found = f"{len(kinds)} range types ({', '.join(kinds)})" if kinds else "no range type"
        faults.add(key, f"{found} in one range", f"write exactly one, such as {_example(knob)}")
    when = _read_when(raw["when"], f"{key}.when", faults) if "when" in raw else {}
    drawn = _read_range(knob, kinds[0], raw[kinds[0]], key, faults) if len(kinds) == 1 else None
    return None if drawn is None or before != len(faults.sentences) else Branch(drawn, when)


def _read_range(knob: str, kind: str, raw: Any, key: str, faults: FaultList) -> Range | None:
    """The range behind `kind`, or None with its faults noted."""
    fitting = _FITTING.get(field_kind(TrialConfig, knob), _LISTED_KINDS)
    if kind not in fitting:
        words = {"int": "a whole number", "float": "a number with fractions"}
        wants = words.get(field_kind(TrialConfig, knob), "one of a few listed values")
        faults.add(key, f"'{kind}' does not fit, as {knob} is {wants}", f"use one of {', '.join(fitting)}")
        return None
    if kind in _LISTED_KINDS:
        return _read_listed(knob, kind, raw, f"{key}.{kind}", faults)
    return _read_interval(knob, kind, raw, f"{key}.{kind}", faults)


def _read_listed(knob: str, kind: str, raw: Any, key: str, faults: FaultList) -> Range | None:
    if not isinstance(raw, list) or not raw:
        problem = "the list is empty" if raw == [] else f"{show(raw)} is not a list"
        faults.add(key, problem, "list the values, such as [a, b]")
        return None
    before = len(faults.sentences)
    values = tuple(read_value(knob, item, key, faults) for item in raw)
    repeated = [item for index, item in enumerate(values) if item in values[:index]]
    if before == len(faults.sentences) and repeated:
        faults.add(key, f"{show(repeated[0])} is listed twice", "remove one")
    if before != len(faults.sentences):
        return None
    return Grid(values) if kind == Grid.kind else Choice(values)


def _read_interval(knob: str, kind: str, raw: Any, key: str, faults: FaultList) -> Range | None:
    if not isinstance(raw, list) or len(raw) != 2:
        faults.add(key, f"{show(raw)} is not a pair", f"write the two ends, such as {_example(knob)}")
        return None
    before = len(faults.sentences)
    low, high = (read_value(knob, item, key, faults) for item in raw)
    if before != len(faults.sentences):
        return None
    if low is None or high is None:
        faults.add(key, "null is no end of a range", "write two numbers, or list null in a choice")
    elif low >= high:
        faults.add(key, f"the range from {low} to {high} is empty", "put the lower end first, or move it to 'fixed'")
    elif kind == LogUniform.kind and low <= 0:
        faults.add(key, f"a logarithmic range cannot begin at {low}", "begin above 0, or use uniform")
    if before != len(faults.sentences):
        return None
    if kind == IntRange.kind:
        return IntRange(low, high)
    return Uniform(low, high) if kind == Uniform.kind else LogUniform(low, high)


def _read_when(raw: Any, key: str, faults: FaultList) -> dict[str, tuple[Any, ...]]:
    """Conditions by knob; whether the knobs are searched and take these values is checked with the whole space."""
    if not isinstance(raw, dict) or not raw:
        faults.add(key, f"{show(raw)} is no condition", "write a knob and its value, such as {freeze: lora}")
        return {}
    conditions: dict[str, tuple[Any, ...]] = {}
    for knob, values in raw.items():
        if knob not in TrialConfig.model_fields:
            faults.add_unknown_key(key, knob, TrialConfig.model_fields, noun="knob")
        elif values == []:
            faults.add(f"{key}.{knob}", "the list of values is empty", "list the values for which the range holds")
        else:
            items = values if isinstance(values, list) else [values]
            conditions[knob] = tuple(read_value(knob, item, f"{key}.{knob}", faults) for item in items)
    return conditions


def _example(knob: str) -> str:
    examples = {
        "int": "{int: [2, 6]}",
        "float": "{uniform: [0.1, 0.5]}",
        "bool": "{choice: [true, false]}",
    }
    if knob == "learning_rate":
        return "{loguniform: [1.0e-5, 1.0e-3]}"
    return examples.get(field_kind(TrialConfig, knob), "{choice: [a, b]}")
