"""The faults of a space, gathered so that all are raised at once, and what pydantic finds in sentences."""

from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from medcap_core.errors import ConfigFault
from sweep.space.fields import WrongKey, WrongValue, show, unknown_key
from sweep.space.ranges import Range
from sweep.space.schema import Resources, SearchSpace

_MAPPING = ("is not a mapping", "write one 'key: value' on each line below it")
_SHAPES = {
    "models": ("is not a mapping", "write one 'alias: name or path' on each line below it"),
    "first_points": ("is not a list", "write one '- {knob: value, ...}' on each line below it"),
    "when": ("is no condition", "write a knob and its value, such as {freeze: lora}"),
}
"""What to say of a value that is no mapping or no list, by the key it stands at."""


class FaultList:
    """The faults found so far; `where` names the file or the flags they are in."""

    def __init__(self, where: str, known: Sequence[str] = ()) -> None:
        self.where = where
        self.sentences = list(known)

    def add(self, key: str, problem: str, remedy: str) -> None:
        """Note one fault: the key path it is at, what is wrong and how to mend it."""
        end = "" if remedy.endswith("?") else "."
        place = f"{self.where}: {key}" if key else self.where
        self.sentences.append(f"{place}: {problem}; {remedy}{end}")

    def add_wrong(self, key: str, wrong: WrongValue) -> None:
        """Note a value that does not fit."""
        self.add(key, wrong.problem, wrong.remedy)

    def add_errors(self, error: ValidationError) -> set[tuple[str, ...]]:
        """Note what pydantic found in a space, and return where: keys of the file, or entries of its sections."""
        items = error.errors(include_url=False)
        for item in items:
            wrong = _describe(item)
            loc = item["loc"][:-1] if isinstance(wrong, WrongKey) else item["loc"]
            # The number of a value within its list is left out.
            shown = [part for depth, part in enumerate(loc) if isinstance(part, str) or depth <= 2]
            path = "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in shown)
            self.add_wrong(path.removeprefix("."), wrong)
        return {tuple(str(part) for part in item["loc"][:2]) for item in items}

    def raise_if_any(self) -> None:
        """Raise ConfigFault with every fault noted, if there is one."""
        if self.sentences:
            raise ConfigFault(self.sentences)


def _describe(item: ErrorDetails) -> WrongValue:
    loc, value = item["loc"], item["input"]
    if "error" in item.get("ctx", {}):
        wrong: WrongValue = item["ctx"]["error"]
        return wrong
    if item["type"] == "missing":
        return WrongValue("the key is missing", "give the sweep a name, such as 'name: lora'")
    if item["type"] in ("extra_forbidden", "invalid_key"):  # the latter is no text
        known = {"resources": Resources.model_fields, "search": Range.model_fields}
        return unknown_key(loc[-1], known[str(loc[0])] if len(loc) > 1 else SearchSpace.model_fields)
    if isinstance(loc[-1], int):
        return WrongValue(f"{show(value)} is no point", "write it as {knob: value, ...}")
    problem, remedy = _SHAPES.get(loc[-1], _MAPPING)
    return WrongValue(f"{show(value)} {problem}", remedy)
