"""Turn Ctrl-C and a batch system's SIGTERM into KeyboardInterrupt, even where other code swallows the exception.

Python drops an exception that a signal handler raises in a destructor or in a callback from C.
"""

import signal

_received: list[int] = []


def install_interrupt_handlers() -> None:
    """Raise KeyboardInterrupt on either signal, and record it for `raise_if_interrupted`."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell ignores it for background jobs
        signal.signal(signal.SIGINT, _record)
    signal.signal(signal.SIGTERM, _record)


def take_back_termination() -> None:
    """Install the handler of SIGTERM again where it was, since Ray has put a handler of its own before it."""
    if signal.getsignal(signal.SIGTERM) is _record:
        signal.signal(signal.SIGTERM, _record)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if either signal has arrived."""
    if _received:
        raise KeyboardInterrupt


def _record(number: int, _frame: object) -> None:
    signal.alarm(0)  # Ray's handler, which comes before this one, has the process aborted 3 s after SIGTERM
    _received.append(number)
    raise KeyboardInterrupt
