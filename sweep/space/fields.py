"""Read single values by the declared type of a pydantic field, and describe what a field takes.

pydantic decides what is valid; the sentences are ours, so that every fault reads alike and names its remedy.
"""

import difflib
from collections.abc import Iterable
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, PlainValidator, TypeAdapter, ValidationError, field_validator
from pydantic import ValidationInfo as Info
from pydantic import ValidatorFunctionWrapHandler as Handler

from medcap_core.config import TrialConfig

Kind = Literal["int", "float", "bool", "text", "listed"]

_MAX_SHOWN = 80
_MAX_LISTED = 12
_KINDS: dict[str, Kind] = {"boolean": "bool", "number": "float", "integer": "int", "string": "text"}
_TYPE_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "null": "null",
    "object": "a mapping",
}
_ITEM_NAMES = {"string": "names", "integer": "whole numbers", "object": "mappings"}
_BOUND_NAMES = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "not empty",
    "pattern": "letters, digits, '.', '_' and '-' only",
}


class WrongValue(ValueError):
    """A value that does not fit; `problem` and `remedy` are the halves of a sentence."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class WrongKey(WrongValue):
    """A key that is wrong itself: the fault is the mapping's, not the value's."""


def unknown_key(name: Any, known: Iterable[str], noun: str = "key") -> WrongKey:
    """Describe a key that does not exist, with the nearest one that does."""
    known = list(known)
    listed = f"use one of {', '.join(known)}" if len(known) <= _MAX_LISTED else "remove it or correct its spelling"
    return WrongKey(f"unknown {noun} {show(name)}", suggest_spelling(name, known) or listed)


def read_field(model: type[BaseModel], field: str, value: Any) -> Any:
    """Read one value by the type and bounds of a field, as a plain YAML scalar. Raises WrongValue.

    Checks across fields are the model's. pydantic would take true for 1 and 1 for true; YAML 1.1 takes 1e3 for text.
    """
    for form in (value, _as_number(value)):
        try:
            result = _field_adapter(model, field).validate_python(form)
        except ValidationError as error:
            if said := str(error.errors()[0].get("ctx", {}).get("error", "")):  # a field's own validator names both
                problem, _, remedy = said.partition("; ")
                raise WrongValue(problem, remedy) from None
            continue
        if isinstance(value, bool) == isinstance(result, bool):
            return result.value if isinstance(result, Enum) else result
    listed = [item for variant in _variants(model, field) for item in _listed_values(variant)]
    remedy = suggest_spelling(value, listed) or "correct the value"
    raise WrongValue(f"{show(value)} is not {describe_field(model, field)}", remedy)


class Section(BaseModel):
    """A mapping of the space file, whose values are read one by one; `sections` names its fields with inner keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sections: ClassVar[tuple[str, ...]] = ()

    @field_validator("*", mode="wrap")
    @classmethod
    def _read(cls, value: Any, handler: Handler, info: Info) -> Any:
        assert info.field_name is not None, "a validator of fields"
        return handler(value) if info.field_name in cls.sections else read_field(cls, info.field_name, value)


def read_keyed_field(keyed: tuple[str, Any], noun: str = "knob") -> Any:
    """Read one value of TrialConfig, given with the name of its field. Raises WrongValue."""
    field, value = keyed
    if field not in TrialConfig.model_fields:
        raise unknown_key(field, TrialConfig.model_fields, noun)
    return read_field(TrialConfig, field, value)


FieldValue = Annotated[Any, PlainValidator(read_keyed_field)]
"""A value whose type depends on its key; it is validated from the pair of both."""


def with_keys(raw: Any) -> Any:
    """Put its key beside each value of a mapping, for types that depend on the key."""
    return {str(key): (key, value) for key, value in raw.items()} if isinstance(raw, dict) else raw


def field_kind(model: type[BaseModel], field: str) -> Kind:
    """Name the kind of values a field takes, null aside."""
    types = {variant["type"] for variant in _variants(model, field) if not _listed_values(variant)}
    return next((kind for name, kind in _KINDS.items() if name in types), "listed")


def describe_field(model: type[BaseModel], field: str) -> str:
    """Say what a field takes, such as `a whole number (at least 1, at most 512) or null`."""
    return " or ".join(_describe_type(variant) for variant in _variants(model, field))


def suggest_spelling(word: Any, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else ""


def show(value: Any) -> str:
    """Format a value as a user wrote it in YAML, cut when long."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif value is None:
        text = "null"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(map(show, value)) + "]"
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    else:
        text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def show_plain(value: Any) -> str:
    """Format a scalar without quotes, unless it would vanish without them."""
    return value if isinstance(value, str) and value.strip() == value != "" else show(value)


@cache
def field_schemas(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each field, enumerations written out."""
    schema = model.model_json_schema()
    named = {f"#/$defs/{name}": definition for name, definition in schema.get("$defs", {}).items()}
    return {field: named.get(own.get("$ref"), {}) | own for field, own in schema["properties"].items()}


def _as_number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


@cache
def _field_adapter(model: type[BaseModel], field: str) -> TypeAdapter[Any]:
    info = model.model_fields[field]
    # A dataclass checks its numbers itself.
    config = None if is_dataclass(info.annotation) else ConfigDict(allow_inf_nan=False)
    return TypeAdapter(Annotated[info.annotation, info], config=config)  # type: ignore[arg-type]


def _variants(model: type[BaseModel], field: str) -> list[dict[str, Any]]:
    """Return the JSON schemas of the types a field may have, null last."""
    schema = field_schemas(model)[field]
    return sorted(schema.get("anyOf", [schema]), key=lambda variant: variant.get("type") == "null")


def _listed_values(variant: dict[str, Any]) -> list[str]:
    return variant.get("enum") or ([variant["const"]] if "const" in variant else [])


def _describe_type(variant: dict[str, Any]) -> str:
    if listed := _listed_values(variant):
        return f"one of {', '.join(listed)}" if len(listed) > 1 else f"'{listed[0]}'"
    if "takes" in variant:
        return str(variant["takes"])
    if variant["type"] == "array":
        items = ", ".join(_listed_values(variant["items"]))
        return f"a list of {items or _ITEM_NAMES[variant['items']['type']]}"
    if variant.get("additionalProperties") == {"type": "string"}:
        return "a mapping of names to names"
    limits = [text.format(variant[bound]) for bound, text in _BOUND_NAMES.items() if bound in variant]
    return _TYPE_NAMES[variant["type"]] + (f" ({', '.join(limits)})" if limits else "")
