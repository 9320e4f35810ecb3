"""What Ray and other libraries print goes to the run's log; the terminal is the sweep's own."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, ConsoleDimensions


@contextmanager
def divert_noise(log_path: Path, console: Console) -> Iterator[Console]:
    """Send everything printed meanwhile, from C++ and child processes too, to the log; the console given still prints.

    Done on the file descriptors, since Ray's core writes there itself.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    is_terminal = console.is_terminal  # asked now, since it follows the descriptor
    kept = {fd: os.dup(fd) for fd in (1, 2)}
    with log_path.open("a", encoding="utf-8") as log_file, os.fdopen(kept[1], "w", encoding="utf-8") as terminal:
        for fd in kept:
            os.dup2(log_file.fileno(), fd)
        try:
            yield _KeptTerminal(file=terminal, force_terminal=is_terminal)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            terminal.flush()
            os.dup2(kept[1], 1)
            os.dup2(kept[2], 2)
            os.close(kept[2])


class _KeptTerminal(Console):
    """A console that follows the size of the terminal it prints on; rich looks at the diverted descriptors alone."""

    @property  # type: ignore[misc]  # rich lets it be set as well
    def size(self) -> ConsoleDimensions:
        """Columns and rows as they are now."""
        try:
            width, height = os.get_terminal_size(self.file.fileno())
        except OSError:
            width = height = 0
        # A pseudo-terminal that was never given a size says 0.
        return ConsoleDimensions(width, height) if width and height else super().size
