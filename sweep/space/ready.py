"""The ready spaces: the files of `search_spaces/`, known by name."""

from pathlib import Path

from medcap_core.errors import ConfigFault
from sweep.space.fields import suggest_spelling

_FOLDER = Path(__file__).resolve().parents[2] / "search_spaces"
"""Beside the package `sweep`, in a checkout as after installation."""


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
