"""What ends trials before their time: early stopping at shares of each trial's own schedule, and `max_hours`.

- `asha`: asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys
  2020) in the variant that stops trials and never pauses them.
- `hyperband`: trials are dealt to brackets by their number; bracket k has no rung before the k-th, and the last has
  none at all. Trials are compared within their bracket (Li et al., "Hyperband", JMLR 2018).
- `median`: a trial stops where its best score so far is below the median of the others' (Golovin et al., "Google
  Vizier", KDD 2017).

Departures: trials are compared at the very share of the schedule that a trial has reached, on curves interpolated
between epochs, since schedules of 4 and 5 epochs never report at the same share; nothing stops before
MIN_RESULTS trials can be compared; the number that goes on is rounded up. Decisions follow from the curves alone, so a
resumed run needs no stored state.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

import numpy as np

from medcap_core.runtime.files import replace_text
from sweep.space import SearchSpace, num_trials
from sweep.study.record import TrialRecord, TrialState

Curve = Mapping[int, float]
"""Best score so far by per cent of the schedule."""

MIN_RESULTS = 4
"""So many trials, the judged one included, must have come as far before one of them is stopped."""
SECONDS_BETWEEN_WRITES = 10.0
"""At most so much is not counted of a run that is killed."""


def build_rungs(grace_fraction: float, reduction_factor: int) -> list[int]:
    """Build the shares of a schedule, in per cent below 100, at which trials are compared.

    For a grace of 0.25 and a factor of 2: 25 and 50.
    """
    rungs = []
    share = 100.0 * grace_fraction
    while round(share) < 100:
        rungs.append(round(share))
        share *= reduction_factor
    return rungs


def describe_scheduler(space: SearchSpace) -> str:
    """Describe in a clause which trials stop, and when."""
    if space.scheduler == "none":
        return "none, every trial runs to its end"
    if not space.stops_weak_trials:
        return f"{space.scheduler}, but every row of a comparison (grid, test: all) runs to its end"
    rungs = [f"{rung}%" for rung in build_rungs(space.grace_fraction, space.reduction_factor)]
    if not rungs:
        return f"{space.scheduler} without a rung below the whole schedule, so every trial runs to its end"
    if space.scheduler == "median":
        return f"median, trials below the others' median stop from {rungs[0]} of their own schedule"
    return f"{space.scheduler}, one in {space.reduction_factor} goes on past {', '.join(rungs)} of its own schedule"


def interpolate(curve: Curve, share: int) -> float | None:
    """Read a curve at a share of the schedule: the last score beyond its end, None before its first report."""
    steps = sorted(curve)
    if not steps or share < steps[0]:
        return None
    return float(np.interp(share, steps, [curve[step] for step in steps]))


def should_prune(number: int, curves: Sequence[Curve], space: SearchSpace) -> bool:
    """Decide whether trial `number` is pruned after its newest report; `curves` are of all trials, by number.

    Only the first report in a rung is judged, by `median` each report past the first rung. A trial that was stopped in
    the rung before the judged share counts with its last score. Ties stay, and a trial at the end of its schedule is
    never pruned.
    """
    curve, newest = curves[number], max(curves[number], default=0)
    rungs = build_rungs(space.grace_fraction, space.reduction_factor)
    others = [other for index, other in enumerate(curves) if index != number]
    if space.scheduler == "hyperband":
        num_brackets = len(rungs) + 1
        rungs = rungs[number % num_brackets :]
        others = [curves[index] for index in range(number % num_brackets, len(curves), num_brackets) if index != number]
    reached = [rung for rung in rungs if rung <= newest]
    if not space.stops_weak_trials or not reached or newest >= 100:
        return False
    rung = reached[0] if space.scheduler == "median" else reached[-1]
    if space.scheduler != "median" and any(rung <= step < newest for step in curve):
        return False
    known = (interpolate(other, newest) for other in others if max(other, default=0) >= rung)
    values = [value for value in known if value is not None]
    if len(values) + 1 < MIN_RESULTS:
        return False
    if space.scheduler == "median":
        return curve[newest] < median(values)
    competing = sorted([*values, curve[newest]], reverse=True)
    return curve[newest] < competing[math.ceil(len(competing) / space.reduction_factor) - 1]


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
        with suppress(OSError):  # whoever writes what matters more says what is wrong
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
