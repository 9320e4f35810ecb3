"""Start and end commands: import large libraries quickly; turn faults into a sentence each and an exit code."""

import gc
import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from medcap_core.errors import ConfigFault, MedcapError, UserFault
from medcap_core.runtime.files import name_refused_files

EXIT_FAILED, EXIT_USER_FAULT, EXIT_INTERRUPTED = 1, 2, 130


@contextmanager
def exit_on_fault() -> Iterator[None]:
    """End the command without a traceback on an error of this project or Ctrl-C: message to stderr, exit code."""
    try:
        with name_refused_files():
            check_home()
            yield
    except UserFault as fault:
        for line in fault.faults:
            sys.stderr.write(f"error: {line}\n")
        raise typer.Exit(EXIT_USER_FAULT) from None
    except MedcapError as failure:
        sys.stderr.write(f"error: {failure}\n")
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def check_home() -> None:
    """Raise ConfigFault where this user has no home folder, as an unknown id in a container: all libraries ask for it.

    An unknown id gets a name for libraries that ask for that.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"
    home = os.path.expanduser("~")  # noqa: PTH111 - Path's raises where this gives the text back
    if not Path(home).is_absolute():
        given = os.environ.get("HOME")
        problem = f"HOME is '{given}'" if given else f"user {os.getuid()} has no home, and HOME is not set"
        raise ConfigFault(f"{problem}: set HOME to the absolute path of a folder that can be written.")


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import large libraries without Python's garbage collector.

    torch, transformers and Ray create about a million objects at import, all permanent; collecting among them takes a
    third of the time. Afterwards they are frozen, so that no later collection visits them. Does nothing in a process
    where that was done before: what it has made since may end.
    """
    if gc.get_freeze_count():
        yield
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
