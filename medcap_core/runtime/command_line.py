"""What every command of this project does with a fault: a sentence for each on standard error, and an exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from medcap_core.errors import MedcapError, UserFault

EXIT_FAILED, EXIT_USER_FAULT, EXIT_INTERRUPTED = 1, 2, 130


@contextmanager
def told_in_sentences() -> Iterator[None]:
    """Run a command in it: what this project raises on purpose, and Ctrl-C, end the command without a traceback."""
    try:
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
