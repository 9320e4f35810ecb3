"""Find space files, and read YAML safely: a key written twice or an alias bomb is a sentence."""

from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from medcap_core.errors import ConfigFault
from sweep.space.fields import suggest_spelling

_FOLDER = Path(__file__).resolve().parents[2] / "search_spaces"
"""Beside the package `sweep`, in a checkout as after installation."""

_MAX_DEPTH = 20
_MAX_NODES = 10_000  # an alias counts as everything it stands for
_MAX_DIGITS = 100


class _StrictLoader(yaml.SafeLoader):
    """yaml.SafeLoader that notes the keys written twice in one mapping, and refuses what would grow without bounds."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.repeats: list[tuple[str, int, int]] = []  # key, its line, the first one's line
        self._depth = 0
        self._num_nodes: dict[int, int] = {}  # by the id of a composed node

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node as SafeLoader does, and count the nodes in it."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        is_alias, mark = isinstance(event, yaml.AliasEvent), event.start_mark
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ComposerError(None, None, f"more than {_MAX_DEPTH} levels of nesting", mark)
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._num_nodes:
            raise ComposerError(None, None, "the alias stands within what it refers to", mark)
        if not is_alias:
            parts = () if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                parts = chain.from_iterable(parts)
            self._num_nodes[id(node)] = 1 + sum(self._num_nodes[id(part)] for part in parts)
        if self._num_nodes[id(node)] > _MAX_NODES:
            raise ComposerError(None, None, f"more than {_MAX_NODES:,} values, aliases written out", mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping as SafeLoader does, and note its repeated keys."""
        node = super().compose_mapping_node(anchor)
        first_lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in first_lines:
                self.repeats.append((key.value, line, first_lines[key.value]))
            first_lines.setdefault(key.value, line)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Construct a value as SafeLoader does; text that is no value of its tag is a fault of the file."""
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        if node.tag.endswith(":int") and len(node.value) > _MAX_DIGITS:
            problem = f"a whole number of {len(node.value)} characters"
            raise ConstructorError(None, None, problem, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError):  # such as the date 2026-02-30, or !!bool maybe
            kind = node.tag.rpartition(":")[2]
            raise ConstructorError(None, None, f"'{node.value}' is no {kind}", node.start_mark) from None


def list_ready_spaces() -> dict[str, Path]:
    """Return the files of the ready spaces by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def find_space(given: str) -> Path:
    """Return the file of a ready space, or the path itself; `./lora` is a file even where `lora` is ready.

    Raises ConfigFault where a bare name is neither ready nor a file.
    """
    path, ready = Path(given), list_ready_spaces()
    if given in ready:
        return ready[given]
    if path.suffix or path.name != given or path.exists():
        return path
    remedy = suggest_spelling(given, ready) or "use one of them, or the path of a space file."
    raise ConfigFault(f"{given}: no ready space has this name (there are {', '.join(ready)}); {remedy}")


def load_mapping(path: Path) -> tuple[dict[Any, Any], list[str]]:
    """Read a YAML file's top-level mapping, and one sentence for each key written twice in it.

    Raises ConfigFault when the file is missing, no text, no valid YAML or no mapping.
    """
    try:
        if path.is_fifo() and path.parent != Path("/dev/fd"):  # where the shell puts its own
            raise ConfigFault(f"{path}: is a pipe, on which reading may wait for ever; give a YAML file.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigFault(f"{path}: no such file; check the path, or name a ready space, such as lora.") from None
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
    """Read one value of YAML; raises ValueError with one line of reason."""
    try:
        return _StrictLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(_describe_syntax(error)) from None


def _describe_syntax(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return place + " ".join(part for part in (error.context, error.problem) if part)
    return " ".join(str(error).split())
