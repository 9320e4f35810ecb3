"""The time budget of a run, `max_hours`: how long its search has gone on, over all of its starts."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from medcap_core.runtime.files import replace_text
from sweep.space import SearchSpace, num_trials
from sweep.study.record import TrialRecord, TrialState

SECONDS_BETWEEN_WRITES = 10.0
"""At most so much is not counted of a run that is killed."""


class RunClock:
    """Counts the seconds of a run's search while it goes on, and keeps them in a file; pauses do not count."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = read_seconds(path)
        self._started: float | None = None
        self._written = -math.inf

    @property
    def seconds(self) -> float:
        """Seconds so far, of earlier starts too."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    def start(self) -> None:
        """Go on counting."""
        self._started = time.monotonic()

    def keep(self) -> None:
        """Write the seconds, if the last time is long enough ago."""
        if self._started is not None and time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self._write()

    def stop(self) -> None:
        """Count no more, and write the seconds."""
        if self._started is not None:
            self._before, self._started = self.seconds, None
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        replace_text(self._path, f"{self.seconds}\n")


def read_seconds(path: Path) -> float:
    """Read what a `RunClock` has written; 0 where there is nothing, or something else."""
    try:
        seconds = float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0
    return seconds if 0 <= seconds < math.inf else 0.0


def compute_seconds_left(space: SearchSpace, seconds: float) -> float:
    """Compute what is left of `max_hours` after so many seconds: 0 where it is over, infinity without it."""
    return math.inf if space.max_hours is None else max(0.0, 3600 * space.max_hours - seconds)


def describe_budget_end(space: SearchSpace, records: Sequence[TrialRecord], seconds: float, run: str) -> str:
    """Say that `max_hours` ended the search of the directory `run` before all trials were over, else nothing."""
    wanted = max(num_trials(space), len(records))
    num_over = sum(record.state.is_final for record in records)
    if space.max_hours is None or compute_seconds_left(space, seconds) or num_over == wanted:
        return ""
    num_stopped = sum(record.state is TrialState.STOPPED and record.epochs_done > 0 for record in records)
    stopped = f", {num_stopped} stopped between two epochs" if num_stopped else ""
    return (
        f"The search ended by max_hours {space.max_hours:g}: {num_over} of {wanted} trials are over{stopped}; "
        f"to go on: python -m sweep.run --resume {run} --set max_hours={2 * space.max_hours:g}"
    )
