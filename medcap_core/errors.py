"""The exceptions of this project.

A `UserFault` is one the user can mend. The command line prints its faults, one sentence each, and exits with code 2. A
`TrialFailure` ends one trial as FAILED while the sweep goes on. Any other exception is a bug.
"""

from collections.abc import Iterable


class MedcapError(Exception):
    """Base of every exception raised on purpose."""


class UserFault(MedcapError):
    """One or more faults a user can mend; each names the file, key or value and the remedy.

    `faults` is never empty; `str()` joins them by line.
    """

    def __init__(self, faults: str | Iterable[str]) -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type["UserFault"], tuple[tuple[str, ...]]]:
        return type(self), (self.faults,)


class ConfigFault(UserFault):
    """A knob, flag or key of a space file is wrong."""


class DataFault(UserFault):
    """A data set cannot be found, recognised or read."""


class ModelFault(UserFault):
    """A model cannot be found, recognised or tuned as asked."""


class RunFault(UserFault):
    """A run directory or a Ray cluster is not in the state the command needs."""


class TrialFailure(MedcapError):
    """A trial cannot go on and would fail again if retried; the message names step, cause and remedy."""


class NonFiniteLoss(TrialFailure):
    """The training loss became NaN or infinite."""


class OutOfMemory(TrialFailure):
    """The device has no memory left for this configuration."""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, or the exception's name if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
