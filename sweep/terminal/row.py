"""One trial as a row of the live table."""

import math
from dataclasses import dataclass

from sweep.space.labels import short_label
from sweep.study.record import TrialRecord

FINISHED_STATES = ("SUCCEEDED", "PRUNED", "FAILED")


@dataclass(frozen=True)
class TrialRow:
    """One trial in the table: `label` is its config in short, `epoch` counts finished epochs, `score` is the last."""

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
        """Whether the trial has ended for good."""
        return self.state in FINISHED_STATES

    @property
    def ranked_score(self) -> float:
        """Best score for ranking; minus infinity for a failed trial or without a score."""
        if self.best_score is None or math.isnan(self.best_score) or self.state == "FAILED":
            return -math.inf
        return self.best_score


def build_row(record: TrialRecord) -> TrialRow:
    """Build one row of the live table."""
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
