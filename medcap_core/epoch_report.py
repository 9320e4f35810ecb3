"""What a trial tells after each epoch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochReport:
    """One epoch of one trial as the sweep sees it. `epoch` counts from 1; `cider` is on the 0-10 scale."""

    epoch: int
    num_epochs: int
    cider: float
    validation_loss: float
    training_loss: float
    learning_rate: float
    seconds: float
    training_seconds: float
    images_per_second: float
    peak_memory_bytes: int
    trainable_parameters: int
    total_parameters: int
