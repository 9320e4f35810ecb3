"""Ctrl-C, and being asked to end by a batch system: noted as they come, since others' code may swallow what they raise.

Python drops an exception that a signal raises in a destructor or in a callback from C.
"""

import signal

_noted: list[int] = []


def heed_interrupts() -> None:
    """Let both raise KeyboardInterrupt, and `raise_if_interrupted` after one that was swallowed."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as a shell has it for what runs in the background
        signal.signal(signal.SIGINT, _note)
    signal.signal(signal.SIGTERM, _note)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if either has come."""
    if _noted:
        raise KeyboardInterrupt


def _note(number: int, _frame: object) -> None:
    _noted.append(number)
    raise KeyboardInterrupt
