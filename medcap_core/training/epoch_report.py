"""What a trial tells after each epoch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FORMER_NAMES = {"cider": "score", "whole_validation_cider": "whole_validation_score"}


@dataclass(frozen=True)
class EpochReport:
    """One epoch of one trial as the sweep sees it. `epoch` counts from 1; `score` is the config's `metric`."""

    epoch: int
    num_epochs: int
    score: float
    validation_loss: float
    training_loss: float
    learning_rate: float
    seconds: float
    training_seconds: float
    images_per_second: float
    peak_memory_bytes: int
    trainable_parameters: int
    total_parameters: int


def rename_former(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values read from a run's files by their present names; runs begun when CIDEr was the one metric name it so."""
    return {_FORMER_NAMES.get(name, name): value for name, value in values.items()}
