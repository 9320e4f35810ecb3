"""The report of a trial after each epoch, and what its epochs say of it."""

import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from medcap_core.config import TrialConfig


class EpochReport(BaseModel):
    """One epoch of one trial. `epoch` counts from 1; `score` is the config's `objective`.

    A figure that was NaN or infinite is None. `encoding_seconds` is what encoding the training images once took, where
    their features are stored, so that `training_seconds` leaves it out; 0 where training encodes them, None where it is
    not known. `parts` has the scores that a weighted sum is made of, by name. From `num_distinct` on it is the
    `Variety` of the texts generated on validation, None where there are none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: int
    num_epochs: int
    score: float | None
    validation_loss: float | None
    training_loss: float | None
    learning_rate: float
    seconds: float
    training_seconds: float
    encoding_seconds: float | None
    images_per_second: float
    peak_memory_bytes: int
    trainable_parameters: int
    total_parameters: int
    parts: dict[str, float | None] = {}
    num_distinct: int | None = None
    top_share: float | None = None
    empty_share: float | None = None
    cut_share: float | None = None

    @field_validator("score", "validation_loss", "training_loss", "encoding_seconds", "parts", mode="before")
    @classmethod
    def _drop_infinite(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cls._drop_infinite(part) for name, part in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value


def find_best(history: Sequence[EpochReport], config: TrialConfig) -> EpochReport | None:
    """Find the epoch that counts: of the best score, the earliest of ties, or the last; None without any."""
    if config.evaluate == "last":
        return history[-1] if history else None
    return max(history, key=lambda report: config.objective.rank(report.score), default=None)


def is_out_of_patience(history: Sequence[EpochReport], config: TrialConfig) -> bool:
    """Return whether `patience` epochs in a row have gone by without a better score."""
    scores = [report.score for report in history]
    return config.patience is not None and config.objective.count_since_best(scores) >= config.patience
