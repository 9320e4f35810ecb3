"""Read a YAML mapping safely; a key written twice is a fault (PyYAML takes the last and says nothing)."""

from pathlib import Path
from typing import Any

import yaml

from medcap_core.errors import ConfigFault


class _StrictLoader(yaml.SafeLoader):
    """yaml.SafeLoader that notes the keys written twice in one mapping."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.repeats: list[tuple[str, int, int]] = []  # key, its line, the first one's line

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping as SafeLoader does, and note its repeated keys."""
        node = super().compose_mapping_node(anchor)
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in first_lines:
                self.repeats.append((key.value, line, first_lines[key.value]))
            else:
                first_lines[key.value] = line
        return node


def load_mapping(path: Path) -> tuple[dict[Any, Any], list[str]]:
    """A YAML file's top-level mapping and one sentence for each key written twice in it.

    Raises ConfigFault when the file is missing, no text, no valid YAML or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigFault(f"{path}: no such file; check the path (ready ones are in search_spaces/).") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigFault(f"{path}: cannot be read ({reason}); give a YAML file.") from None
    try:
        loader = _StrictLoader(text)
        values = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigFault(f"{path}: {_describe_syntax(error)}; correct the YAML.") from None
    if not isinstance(values, dict):
        found = "empty" if values is None else "no mapping"
        raise ConfigFault(f"{path}: the file is {found}; write keys and values, with 'name: ...' at least.")
    return values, [
        f"{path}: line {line}: key '{key}' is written twice (first on line {first}); keep one of them."
        for key, line, first in sorted(loader.repeats, key=lambda repeat: repeat[1])
    ]


def parse_value(text: str) -> Any:
    """One value as YAML reads it; raises ValueError with one line of reason."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(_describe_syntax(error)) from None


def _describe_syntax(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return place + " ".join(part for part in (error.context, error.problem) if part)
    return " ".join(str(error).split())
