"""Progress of a sweep: its rows, the best trial so far, the time left, and changes as lines of text.

Independent of the display, which is in `sweep.terminal.view`.
"""

import math
import time
from collections.abc import Callable, Sequence

from medcap_core.objective import Objective
from sweep.tables.formats import format_score, format_seconds
from sweep.terminal.row import TrialRow

_PLAIN_STEP_SECONDS = 10.0
_PLAIN_STEP_SHARE = 0.1
_PLAIN_SILENCE_SECONDS = 60.0


def order_rows(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Order the rows: running trials as given, finished ones from the best score down, failed ones, waiting ones."""

    def key(row: TrialRow) -> tuple[int, float]:
        if row.state == "RUNNING":
            return 0, 0.0
        if not row.finished:
            return 3, 0.0
        return (2, 0.0) if row.state == "FAILED" else (1, -row.ranked_score)

    return sorted(rows, key=key)


class SweepProgress:
    """Counts, the best trial and the time left, from the rows seen so far."""

    def __init__(
        self,
        total_trials: int,
        objective: Objective,
        most_seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.objective = objective
        self.clock = clock
        self._total_trials = total_trials
        self._most_seconds = most_seconds
        self._started = clock()
        self._work_started: float | None = None
        self._epochs_before = self._epochs = 0
        self._last_epoch_ended = 0.0
        self.rows: tuple[TrialRow, ...] = ()

    def update(self, rows: Sequence[TrialRow]) -> None:
        """Set the present rows of all trials."""
        self.rows = tuple(rows)
        epochs = sum(row.epochs_done for row in rows)
        if self._work_started is None:  # epochs of an earlier start do not count for the speed
            self._epochs_before = self._epochs = epochs
            if any(row.state == "RUNNING" for row in rows):
                self._work_started = self.clock()
        elif epochs != self._epochs:
            self._epochs, self._last_epoch_ended = epochs, self.clock()

    @property
    def total_trials(self) -> int:
        """Number of planned trials, or of rows if there are more."""
        return max(self._total_trials, len(self.rows))

    @property
    def num_finished(self) -> int:
        """Number of trials that have ended in any state."""
        return sum(row.finished for row in self.rows)

    @property
    def best(self) -> TrialRow | None:
        """The trial with the highest best score, running ones included, failed ones not."""
        best = max(self.rows, key=lambda row: row.ranked_score, default=None)
        return None if best is None or best.ranked_score == -math.inf else best

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since construction."""
        return self.clock() - self._started

    @property
    def seconds_left(self) -> float | None:
        """Estimated time of the remaining epochs at the speed so far; None before the first epoch has ended.

        A trial not yet started counts the mean epochs of the finished ones, which pruning shortens. Never more than is
        left of `most_seconds` since construction.
        """
        done = self._epochs - self._epochs_before
        if self._work_started is None or done <= 0:
            return None
        finished = [row.epochs_done for row in self.rows if row.finished and row.state != "FAILED"]
        lengths = finished or [row.num_epochs for row in self.rows]
        known = sum(max(0, row.num_epochs - row.epochs_done) for row in self.rows if not row.finished)
        unseen = (self.total_trials - len(self.rows)) * sum(lengths) / len(lengths)
        epochs_a_second = done / max(self._last_epoch_ended - self._work_started, 1e-9)
        left = (known + unseen) / epochs_a_second - (self.clock() - self._last_epoch_ended)
        return max(0.0, min(left, self._most_seconds - self.elapsed_seconds))

    def describe_best(self) -> str:
        """Describe the best trial so far."""
        best = self.best
        return "no score yet" if best is None else f"best so far {format_score(best.best_score)} ({best.trial})"

    def describe_done(self) -> str:
        """Describe how many trials are done, the elapsed time and, if known, the time left."""
        left, done = self.seconds_left, f"{self.num_finished} of {self.total_trials} trials done"
        about = (
            f", about {format_seconds(left)} left" if left is not None and self.num_finished < self.total_trials else ""
        )
        return f"{done}, {format_seconds(self.elapsed_seconds)} elapsed{about}"


def describe_changes(before: Sequence[TrialRow] | None, progress: SweepProgress) -> list[str]:
    """Write one self-contained line for each trial that started, ended an epoch, was interrupted or ended.

    `before` holds the rows last described; None at the first call, when all trials that have ended share one line.
    """
    known = {row.trial: row for row in before or ()}
    lines = []
    if before is None and progress.num_finished:
        lines.append(f"{progress.num_finished} of {progress.total_trials} trials are done; {progress.describe_best()}")
        known |= {row.trial: row for row in progress.rows if row.finished}
    for row in progress.rows:
        lines += _describe_change(known.get(row.trial), row, progress)
    return lines


def _describe_change(old: TrialRow | None, row: TrialRow, progress: SweepProgress) -> list[str]:
    old_state, old_epoch = (old.state, old.epochs_done) if old else ("PENDING", 0)
    note = f" ({row.note})" if row.note else ""
    label, best, seconds = progress.objective.label, progress.describe_best(), format_seconds(row.seconds)
    if row.state == old_state and row.state != "RUNNING":
        return []
    if row.finished:
        ended = f"{row.trial} {row.state} after {row.epochs_done} of {row.num_epochs} epochs, {seconds}{note}"
        return [f"{ended}: best {label} {format_score(row.best_score)}; {best}; {progress.describe_done()}"]
    if row.state != "RUNNING":
        return [f"{row.trial} waits to go on after epoch {row.epochs_done}{note}"]
    lines = []
    if old_state != "RUNNING":
        since = f" after epoch {old_epoch}" if old_epoch else ""
        lines.append(f"{row.trial} started{since}: {row.label}")
    if row.epochs_done > old_epoch:
        epoch = f"{row.trial} epoch {row.epochs_done}/{row.num_epochs}, {seconds}"
        lines.append(f"{epoch}: {label} {format_score(row.last_score)}; {best}")
    return lines


class StepProgress:
    """One long step with a known amount of work, such as decoding images."""

    def __init__(self, what: str, done: int, total: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._done_before = done
        self._last_shown: tuple[float, int] | None = None  # time, and the amount done then
        self.what, self.done, self.total = what, done, total

    @property
    def finished(self) -> bool:
        """Whether all work is done."""
        return self.done >= self.total

    def describe(self) -> str:
        """Describe the step, the amount done, and the time taken or, at the speed so far, left."""
        taken, advanced = self._clock() - self._started, self.done - self._done_before
        if self.finished:
            return f"{self.what}: {self.total:,} done in {format_seconds(taken)}"
        left = taken / advanced * (self.total - self.done) if advanced > 0 else None
        ending = "" if left is None else f", about {format_seconds(left)} left"
        return f"{self.what}: {self.done:,} of {self.total:,}{ending}"

    def due(self) -> bool:
        """Decide whether to print a plain line now, and count it as printed if so.

        The first and the last are always printed; between them one every 10 s at most, and only after another tenth of
        the work or a minute without a line.
        """
        now = self._clock()
        if self._last_shown is not None and not self.finished:
            shown_at, done = self._last_shown
            waited = now - shown_at
            advanced = self.done - done >= _PLAIN_STEP_SHARE * self.total
            if waited < _PLAIN_STEP_SECONDS or not (advanced or waited >= _PLAIN_SILENCE_SECONDS):
                return False
        self._last_shown = now, self.done
        return True
