"""One trial as a row of the live table."""

import math
from dataclasses import dataclass

from medcap_core.objective import Objective
from sweep.space import short_label
from sweep.study.record import TrialRecord

FINISHED_STATES = ("SUCCEEDED", "PRUNED", "FAILED")


@dataclass(frozen=True)
class TrialRow:
    """One trial in the table: `label` is its config in short, `epoch` counts finished epochs, `score` is the last.

    `sample` is a generated caption of a running trial and its reference.
    """

    trial: str
    label: str
    state: str
    epoch: int
    num_epochs: int
    score: float | None
    best_score: float | None
    seconds: float
    note: str = ""
    sample: tuple[str, str] | None = None
    objective: Objective = Objective()  # noqa: RUF009  # immutable

    @property
    def finished(self) -> bool:
        """Whether the trial has ended for good."""
        return self.state in FINISHED_STATES

    @property
    def ranked_score(self) -> float:
        """Key of the best score, higher for better ones; minus infinity for a failed trial or without a score."""
        return -math.inf if self.state == "FAILED" else self.objective.rank(self.best_score)


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
        objective=record.objective,
    )
