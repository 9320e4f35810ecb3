"""One trial as a row of the live table, and as `medcap status` shows it."""

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from medcap_core.objective import Objective
from sweep.space import short_label
from sweep.study.record import TrialRecord

FINISHED_STATES = ("SUCCEEDED", "PRUNED", "FAILED")


@dataclass(frozen=True)
class TrialRow:
    """One trial: `label` is its config in short; scores are of the objective, None before the first epoch.

    `sample` is a generated caption of its last epoch and the reference.
    """

    trial: str
    label: str
    state: str
    epochs_done: int
    num_epochs: int
    best_score: float | None
    last_score: float | None
    seconds: float
    note: str = ""
    sample: tuple[str, str] | None = None
    objective: Annotated[Objective, Field(exclude=True)] = Objective()  # noqa: RUF009  # immutable

    @property
    def finished(self) -> bool:
        """Whether the trial has ended for good."""
        return self.state in FINISHED_STATES

    @property
    def ranked_score(self) -> float:
        """Key of the best score, higher for better ones; minus infinity for a failed trial or without a score."""
        return -math.inf if self.state == "FAILED" else self.objective.rank(self.best_score)


def build_row(record: TrialRecord) -> TrialRow:
    """Build the row of a trial, without a sample."""
    return TrialRow(
        record.name, short_label(record.point), record.state.value, record.epochs_done, record.num_epochs,
        record.best_score, record.last_score, record.seconds, record.reason, objective=record.objective,
    )  # fmt: skip
