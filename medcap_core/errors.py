"""The exceptions a user can meet.

`UserFault` and its children mean: the user can mend it. The command line prints their faults, one sentence each, and
exits with code 2. `TrialFailure` ends one trial as FAILED and lets the sweep go on. Anything else is a bug.
"""

from collections.abc import Iterable


class MedcapError(Exception):
    """Base of every exception this project raises on purpose."""


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
    """A knob, a flag or a key of a space file is wrong."""


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
    """What another library's exception says, as far as one line of ours has room for it."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
