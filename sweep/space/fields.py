"""Read values by the declared type of a pydantic field, and say in one sentence what is wrong with one.

pydantic decides what is valid; the words are ours, so that every fault reads the same and names its remedy.
"""

import difflib
import math
import types
from collections.abc import Iterable
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from medcap_core.errors import ConfigFault

_MAX_SHOWN = 80
_MAX_LISTED = 12
_WHOLE_NUMBERS = "a list of whole numbers"
_INVALID = object()  # stands for a value that fits no field
_BOUND_WORDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}", "min_length": "not empty"}


class FaultList:
    """Gathers faults, so that all of them are raised together."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.sentences: list[str] = []

    def add(self, key: str, problem: str, remedy: str) -> None:
        """Note one fault: the key path it is at, what is wrong and how to mend it."""
        end = "" if remedy.endswith("?") else "."
        place = f"{self.where}: {key}" if key else self.where
        self.sentences.append(f"{place}: {problem}; {remedy}{end}")

    def add_unknown_key(self, key: str, name: Any, known: Iterable[str], noun: str = "key") -> None:
        """Note a key that does not exist, with the nearest one that does."""
        known = list(known)
        listed = f"use one of {', '.join(known)}" if len(known) <= _MAX_LISTED else "remove it or correct its spelling"
        remedy = suggest_spelling(name, known) or listed
        self.add(key, f"unknown {noun} {show(name)}", remedy)

    def raise_if_any(self) -> None:
        """Raise ConfigFault with every fault noted, if there is one."""
        if self.sentences:
            raise ConfigFault(self.sentences)


class WrongValue(ValueError):
    """A value does not fit its field; `problem` and `remedy` are halves of a sentence."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


def coerce_field(model: type[BaseModel], field: str, value: Any) -> Any:
    """The value as `field` of `model` takes it, as a plain YAML scalar (an enum member becomes its value).

    Only the field's own type and bounds count; checks across fields are the model's. Raises WrongValue.
    """
    info = model.model_fields[field]
    kinds = _member_kinds(info)
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[info.annotation, info])  # type: ignore[arg-type]
    try:
        result = adapter.validate_python(_refuse_lax(kinds, value))
    except ValidationError:
        result = _INVALID
    if result is _INVALID or (isinstance(result, float) and not math.isfinite(result)):
        remedy = suggest_spelling(value, _listed_values(info)) or "correct the value"
        raise WrongValue(f"{show(value)} is not {describe_field(model, field)}", remedy)
    return result.value if isinstance(result, Enum) else result


def field_kind(model: type[BaseModel], field: str) -> Literal["int", "float", "bool", "text", "listed"]:
    """What kind of values a field takes, None aside."""
    kinds = _member_kinds(model.model_fields[field])
    for kind, name in ((float, "float"), (bool, "bool"), (int, "int"), (str, "text")):
        if kind in kinds:
            return name  # type: ignore[return-value]
    return "listed"


def describe_field(model: type[BaseModel], field: str) -> str:
    """What a field takes, in words that follow "is not", such as `a whole number (at least 1, at most 512)`."""
    info = model.model_fields[field]
    pattern = any(getattr(item, "pattern", None) for item in info.metadata)
    note = info.description if pattern else None
    return " or ".join(_describe_type(kind, meta, note) for kind, meta in _members(info.annotation, info.metadata))


def suggest_spelling(word: Any, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else ""


def show(value: Any) -> str:
    """A value as a user wrote it in YAML, cut when long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        text = "[" + ", ".join(show(item) for item in value) + "]"
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    else:
        text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def show_plain(value: Any) -> str:
    """A scalar without quotes, unless it would vanish without them."""
    return value if isinstance(value, str) and value.strip() == value != "" else show(value)


def _members(annotation: Any, metadata: Iterable[Any]) -> list[tuple[Any, list[Any]]]:
    """The members of a (possibly annotated, possibly union) type, each with its bounds; None comes last."""
    bounds = list(metadata)
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        for item in more:
            bounds += item.metadata if isinstance(item, FieldInfo) else [item]
        return _members(inner, bounds)
    if origin in (Union, types.UnionType):
        members = [member for part in get_args(annotation) for member in _members(part, bounds)]
        return sorted(members, key=lambda member: member[0] is type(None))
    return [(annotation, bounds)]


def _member_kinds(info: FieldInfo) -> set[Any]:
    return {kind for kind, _ in _members(info.annotation, info.metadata)}


def _refuse_lax(kinds: set[Any], value: Any) -> Any:
    """The value, or one that fits no field in place of what pydantic would let pass: true for 1, "yes" for true."""
    if value is not None and isinstance(value, bool) != (bool in kinds):
        return _INVALID
    if int in kinds and isinstance(value, str):
        return _whole_number(value)  # PyYAML reads 1e3 as a string
    return value


def _whole_number(text: str) -> Any:
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else text


def _listed_values(info: FieldInfo) -> list[str]:
    values: list[str] = []
    for kind, _ in _members(info.annotation, info.metadata):
        if get_origin(kind) is Literal:
            values += [str(item) for item in get_args(kind)]
        elif isinstance(kind, type) and issubclass(kind, Enum):
            values += [str(item.value) for item in kind]
    return values


def _describe_type(kind: Any, metadata: list[Any], note: str | None) -> str:
    if get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        values = [str(item) for item in get_args(kind)] or [str(item.value) for item in kind]
        return f"one of {', '.join(values)}" if len(values) > 1 else f"'{values[0]}'"
    if get_origin(kind) is tuple:
        members = get_args(get_args(kind)[0])
        return f"a list of {', '.join(members)}" if members and isinstance(members[0], str) else _WHOLE_NUMBERS
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    limits = [] if kind is type(None) else _describe_bounds(metadata, note)
    name = names[kind]
    return f"{name} ({', '.join(limits)})" if limits else name


def _describe_bounds(metadata: list[Any], note: str | None) -> list[str]:
    limits = [note] if note else []
    for item in metadata:
        for attribute, words in _BOUND_WORDS.items():
            bound = getattr(item, attribute, None)
            if bound is not None:
                limits.append(words.format(bound))
    return limits
