"""The ranges a knob may be searched over.

A knob is a field of TrialConfig. Its range has one explicit type; several ranges of one knob belong to different
branches of the space, each under its own `when`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, TypeAdapter, WrapValidator
from pydantic import ValidationInfo as Info
from pydantic import ValidatorFunctionWrapHandler as Handler

from medcap_core.config import TrialConfig
from sweep.space.fields import FieldValue, WrongValue, field_kind, show, unknown_key, with_keys

# The same for every trial of a run: it prepares one data set, and compares scores on the same images.
NOT_SEARCHED = (
    "data", "objective", "bertscore_model", "bertscore_idf", "evaluate", "checkpoint_every_epoch",
    "max_bad_record_share", "max_feature_cache_gb", "image_column", "caption_column", "drop_shared_cases",
    "drop_duplicate_train_images", "max_validation_images", "max_test_images",
)  # fmt: skip
_LISTED = ("choice", "grid")
_FITTING = {
    "int": ("a whole number", ("choice", "int", "grid")),
    "float": ("a number with fractions", ("choice", "uniform", "loguniform", "grid")),
}
_EXAMPLES = {"int": "{int: [2, 6]}", "float": "{uniform: [0.1, 0.5]}", "bool": "{choice: [true, false]}"}


Value = str | int | float | bool | None
Point = dict[str, Value]
"""The values of the searched knobs that are active, by field name."""


class Suggester(Protocol):
    """What draws values: an Optuna trial, or anything with its three methods."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Draw one of `choices`."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Draw a whole number, both ends included."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Draw a number, evenly spread over `[low, high]` or over its logarithm."""


def _read_listed(keyed: tuple[str, Any], read: Handler) -> Any:
    knob, raw = keyed
    if not isinstance(raw, list) or not raw:
        problem = "the list is empty" if raw == [] else f"{show(raw)} is not a list"
        raise WrongValue(problem, "list the values, such as [a, b]")
    values = read([(knob, value) for value in raw])
    for index, value in enumerate(values):
        if value in values[:index]:
            raise WrongValue(f"{show(value)} is listed twice", "remove one")
    return values


def _read_ends(keyed: tuple[str, Any], read: Handler, info: Info) -> Any:
    knob, raw = keyed
    if not isinstance(raw, list) or len(raw) != 2:
        raise WrongValue(f"{show(raw)} is not a pair", f"write the two ends, such as {_example(knob)}")
    low, high = ends = read([(knob, end) for end in raw])
    if low is None or high is None:
        raise WrongValue("null is no end of a range", "write two numbers, or list null in a choice")
    if low >= high:
        raise WrongValue(f"the range from {low} to {high} is empty", "put the lower end first, or move it to 'fixed'")
    if low <= 0 and info.field_name == "loguniform":
        raise WrongValue(f"a logarithmic range cannot begin at {low}", "begin above 0, or use uniform")
    return ends


def _pair_condition(keyed: tuple[str, Any]) -> list[tuple[str, Any]]:
    knob, raw = keyed
    if knob not in TrialConfig.model_fields:
        raise unknown_key(knob, TrialConfig.model_fields, "knob")
    if raw == []:
        raise WrongValue("the list of values is empty", "list the values for which the range holds")
    return [(knob, value) for value in (raw if isinstance(raw, list) else [raw])]


_Values = tuple[FieldValue, ...]
_Listed = Annotated[_Values, WrapValidator(_read_listed)]
_Ends = Annotated[_Values, WrapValidator(_read_ends)]
_Condition = Annotated[_Values, BeforeValidator(_pair_condition)]


class Range(BaseModel):
    """One range of a knob: one of five types, and when it holds. It is validated from pairs of the knob and a value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choice: _Listed | None = Field(None, description="One of several values; the sampler chooses.")
    int: _Ends | None = Field(None, description="A whole number from the first end to the second, both included.")
    uniform: _Ends | None = Field(None, description="A number between two ends, evenly spread.")
    loguniform: _Ends | None = Field(None, description="A number between two ends, its logarithm evenly spread.")
    grid: _Listed | None = Field(None, description="Each of several values; for `sampler: grid` only.")
    when: Annotated[dict[str, _Condition], Field(min_length=1), BeforeValidator(with_keys)] = Field(
        {}, description="Knobs with the value, or the list of values, that each must have for the range to hold."
    )

    @property
    def kind(self) -> str:
        """The type of the range, as its key in YAML."""
        return next(kind for kind in RANGE_TYPES if getattr(self, kind) is not None)

    @property
    def values(self) -> tuple[Any, ...]:
        """What stands under the type in YAML: the values, or the two ends."""
        return tuple(getattr(self, self.kind))

    def contains(self, value: Any) -> bool:
        """Say whether this range can take `value`."""
        if self.kind in _LISTED:
            return value in self.values
        low, high = self.values
        return value is not None and bool(low <= value <= high)

    def suggest(self, suggester: Suggester, name: str) -> Any:
        """Draw one value under the parameter `name`."""
        if self.kind in _LISTED:
            return suggester.suggest_categorical(name, self.values)
        if self.kind == "int":
            return suggester.suggest_int(name, *self.values)
        return suggester.suggest_float(name, *self.values, log=self.kind == "loguniform")

    def to_mapping(self) -> dict[str, Any]:
        """Return the mapping that reads back as this range."""
        when = {knob: items[0] if len(items) == 1 else list(items) for knob, items in self.when.items()}
        return {self.kind: list(self.values)} | ({"when": when} if when else {})


RANGE_TYPES = tuple(key for key in Range.model_fields if key != "when")


def _read_range(keyed: tuple[str, Any]) -> Range:
    """Read one range of a knob; whether its conditions can hold is checked with the whole space."""
    knob, raw = keyed
    if not isinstance(raw, dict):
        raise WrongValue(f"{show(raw)} is no range", f"write one such as {_example(knob)}, or move it to 'fixed'")
    kinds = [name for name in raw if name in RANGE_TYPES]
    if len(kinds) == 1:
        takes, fitting = _FITTING.get(field_kind(TrialConfig, knob), ("one of a few listed values", _LISTED))
        if kinds[0] not in fitting:
            raise WrongValue(f"'{kinds[0]}' does not fit, as {knob} is {takes}", f"use one of {', '.join(fitting)}")
    elif all(name in Range.model_fields for name in raw):  # a misspelt type is reported as an unknown key
        found = f"{len(kinds)} range types ({', '.join(kinds)})" if kinds else "no range type"
        raise WrongValue(f"{found} in one range", f"write exactly one, such as {_example(knob)}")
    return Range.model_validate({key: (knob, value) if key in kinds else value for key, value in raw.items()})


_SEVERAL_RANGES = TypeAdapter(tuple[Annotated[Range, PlainValidator(_read_range)], ...])


def _read_ranges(keyed: tuple[str, Any]) -> tuple[Range, ...]:
    """Read one entry of `search`: a range, or a list of conditional ranges."""
    knob, raw = keyed
    if knob not in TrialConfig.model_fields:
        raise unknown_key(knob, TrialConfig.model_fields, "knob")
    if knob in NOT_SEARCHED:
        place = "the top level" if knob in ("data", "objective", "bertscore_model", "bertscore_idf") else "'fixed'"
        raise WrongValue("this is the same for every trial of a run", f"move it to {place} with one value")
    if not isinstance(raw, list):
        return (_read_range(keyed),)
    if not raw:
        raise WrongValue("the list of ranges is empty", f"write a range such as {_example(knob)}")
    return _SEVERAL_RANGES.validate_python([(knob, item) for item in raw])


Ranges = Annotated[tuple[Range, ...], PlainValidator(_read_ranges)]
"""The ranges of one knob, validated from a pair of the knob and what stands behind it."""


def _example(knob: str) -> str:
    if knob == "learning_rate":
        return "{loguniform: [1.0e-5, 1.0e-3]}"
    return _EXAMPLES.get(field_kind(TrialConfig, knob), "{choice: [a, b]}")
