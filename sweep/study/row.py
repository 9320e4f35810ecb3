"""One trial as a row of the live table."""

import math
from dataclasses import dataclass

from sweep.space.labels import short_label
from sweep.study.record import TrialRecord

FINISHED_STATES = ("SUCCEEDED", "PRUNED", "FAILED")


@dataclass(frozen=True)
class TrialRow:
    """One trial as shown: `label` is its config in a few words, `epoch` counts finished ones, `score` is the last."""

    trial: str
    label: str
    state: str
    epoch: int
    num_epochs: int
    score: float | None
    best_score: float | None
    seconds: float
    note: str = ""

    @property
    def finished(self) -> bool:
        """No more work will be done on it."""
        return self.state in FINISHED_STATES

    @property
    def ranked_score(self) -> float:
        """Best score for ranking; minus infinity where there is none or the trial failed."""
        if self.best_score is None or math.isnan(self.best_score) or self.state == "FAILED":
            return -math.inf
        return self.best_score


def build_row(record: TrialRecord) -> TrialRow:
    """One row of the live table."""
    return TrialRow(
        trial=record.name,
        label=short_label(record.point),
        state=record.state.value,
        epoch=record.epochs_done,
        num_epochs=record.num_epochs,
        score=record.last_score,
        best_score=record.best_score,
        seconds=record.seconds,
        note=record.reason,
    )
