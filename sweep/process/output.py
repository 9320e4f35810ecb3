"""Redirect what Ray and other libraries print to the run's log; the terminal is left to the sweep."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, ConsoleDimensions


@contextmanager
def redirect_output(log_path: Path, console: Console) -> Iterator[Console]:
    """Send standard output and error of this process and its children to the log; yield a console that still prints.

    Works on the file descriptors, since Ray's C++ core writes to them directly.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    is_terminal = console.is_terminal  # before the descriptors change
    kept = {fd: os.dup(fd) for fd in (1, 2)}
    with log_path.open("a", encoding="utf-8") as log_file, os.fdopen(kept[1], "w", encoding="utf-8") as terminal:
        for fd in kept:
            os.dup2(log_file.fileno(), fd)
        try:
            yield _RealTerminal(file=terminal, force_terminal=is_terminal)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            terminal.flush()
            os.dup2(kept[1], 1)
            os.dup2(kept[2], 2)
            os.close(kept[2])


class _RealTerminal(Console):
    """A console with the size of the terminal it prints on; rich asks the redirected descriptors."""

    @property  # type: ignore[misc]  # rich lets it be set as well
    def size(self) -> ConsoleDimensions:
        """Return the current columns and rows."""
        try:
            width, height = os.get_terminal_size(self.file.fileno())
        except OSError:
            width = height = 0
        # A pseudo-terminal without a size reports 0.
        return ConsoleDimensions(width, height) if width and height else super().size
