"""What the failures of a storage mean: that it does not answer for a while, refuses access, or cannot be used."""

import errno
import math
import os
import threading
import time
from collections.abc import Callable

from medcap_core.errors import ConfigFault

PATIENCE_VARIABLE = "MEDCAP_STORAGE_TIMEOUT"
"""Environment variable with the seconds for which a storage that does not answer is asked again."""
PATIENCE_SECONDS, SHORT_PATIENCE_SECONDS = 300.0, 10.0
"""That time where it is not set; the second where the user ends the run meanwhile."""
FIRST_NOTE_SECONDS = 5.0
"""A silence is reported when it has lasted that long, and again each time it has doubled."""

_REFUSALS = ("credential", "authentication", "unauthorized", "forbidden")
"""Parts of the names of exceptions by which clients say that they may not enter."""
_REFUSING_STATUSES = (401, 403)


class Outage:
    """How long the storage at `url` has not answered; passes lines on it to `tell`. Safe for several threads.

    Raises ConfigFault where PATIENCE_VARIABLE is no number of seconds.
    """

    def __init__(self, url: str) -> None:
        self.tell: Callable[[str], None] = lambda line: None
        self.patience_seconds = _read_patience()
        self._url = url
        self._lock = threading.Lock()
        self._since: float | None = None
        self._next_note = FIRST_NOTE_SECONDS

    def shorten(self) -> None:
        """Let whoever waits for an answer give up soon."""
        self.patience_seconds = min(self.patience_seconds, SHORT_PATIENCE_SECONDS)

    def note_failure(self, reason: str, began: float) -> float:
        """Note an attempt that failed, for a reason that may pass, and when it began on the monotonic clock.

        Returns the seconds since the storage has answered nothing, to other attempts too.
        """
        with self._lock:
            self._since = began if self._since is None else min(began, self._since)
            silent = time.monotonic() - self._since
            if silent < self._next_note:
                return silent
            self._next_note = 2 * silent
        self.tell(
            f"{self._url} has not answered for {silent:.0f} s ({reason}); all is kept on this machine and tried again"
        )
        return silent

    def note_answer(self) -> None:
        """Note an attempt that succeeded."""
        with self._lock:
            if self._since is None:
                return
            silent, self._since = time.monotonic() - self._since, None
            was_told, self._next_note = self._next_note > FIRST_NOTE_SECONDS, FIRST_NOTE_SECONDS
        if was_told:
            self.tell(f"{self._url} answers again, after {silent:.0f} s")


def _read_patience() -> float:
    given = os.environ.get(PATIENCE_VARIABLE) or str(PATIENCE_SECONDS)
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigFault(f"{PATIENCE_VARIABLE} must be a number of seconds above 0, but it is '{given}'.")
    return seconds


def is_lasting(error: Exception) -> bool:
    """Return whether the URL itself is wrong, such as the name of a bucket."""
    is_wrong = isinstance(error, ValueError | TypeError | NotImplementedError | NotADirectoryError | IsADirectoryError)
    return is_wrong or (isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.ENAMETOOLONG, errno.ENOSYS))


def is_refusal(error: BaseException | None) -> bool:
    """Return whether access is refused.

    s3fs calls a session token that is over or wrong an invalid argument; adlfs and gcsfs raise the answer of HTTP, the
    latter some as a text alone.
    """
    while error is not None:
        name, is_argument = type(error).__name__.lower(), isinstance(error, OSError) and error.errno == errno.EINVAL
        if isinstance(error, PermissionError) or any(part in name for part in _REFUSALS):
            return True
        if is_argument and "token" in str(error).lower():
            return True
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        if status in _REFUSING_STATUSES or str(error).startswith("Forbidden: "):
            return True
        error = error.__cause__
    return False
