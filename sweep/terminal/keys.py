"""Keys pressed on the terminal while a table is redrawn there."""

import os
import select
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STANDARD_INPUT = 0


@contextmanager
def reading_keys() -> Iterator[Callable[[], str] | None]:
    """Take keys singly and without echo; yields a function that returns those pressed since its last call.

    Yields None where standard input is no terminal, or one that another job has. Ctrl-C and Ctrl-Z remain
    signals. The terminal's mode is put back at the end.
    """
    if not _is_ours():
        yield None
        return
    mode = termios.tcgetattr(STANDARD_INPUT)
    try:
        tty.setcbreak(STANDARD_INPUT, termios.TCSANOW)
        yield _read_pressed
    finally:
        if _is_ours():
            termios.tcsetattr(STANDARD_INPUT, termios.TCSANOW, mode)


def _is_ours() -> bool:
    """Whether standard input is the terminal of this job; the system stops a job in the background that reads it."""
    try:
        return os.tcgetpgrp(STANDARD_INPUT) == os.getpgrp()
    except OSError:
        return False


def _read_pressed() -> str:
    pressed = ""
    while _is_ours() and select.select([STANDARD_INPUT], [], [], 0)[0]:
        key = os.read(STANDARD_INPUT, 1024)
        if not key:  # the terminal was closed
            break
        pressed += key.decode(errors="replace")
    return pressed
