"""A terminal of its own for a process that a test starts."""

import os
import pty
import signal
import termios
import threading
from typing import Any


class Terminal:
    """A pseudo-terminal; `options` for `subprocess.Popen` make it the controlling terminal of a new session."""

    def __init__(self) -> None:
        self._ours, self._theirs = pty.openpty()
        self._parts: list[bytes] = []
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), self._theirs)
        self.options: dict[str, Any] = ends | {"start_new_session": True, "preexec_fn": _take_terminal}
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def written(self) -> str:
        """What processes have written there so far."""
        return b"".join(self._parts).decode(errors="replace")

    @property
    def takes_lines(self) -> bool:
        """Whether keys are echoed and handed on by whole lines, as a shell expects it."""
        wanted = termios.ECHO | termios.ICANON
        local_modes: int = termios.tcgetattr(self._theirs)[3]
        return local_modes & wanted == wanted

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def close(self) -> None:
        os.close(self._theirs)

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._ours, 65536)
            except OSError:  # how Linux tells that the other end is closed
                break
            if not part:
                break
            self._parts.append(part)
        os.close(self._ours)


def _take_terminal() -> None:
    """Make standard input the controlling terminal, whose Ctrl-C is heeded.

    A shell lets what it runs in the background ignore that key, these tests and all they start among it.
    """
    os.close(os.open(os.ttyname(0), os.O_RDWR))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
