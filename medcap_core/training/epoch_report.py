"""The report of a trial after each epoch."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EpochReport:
    """One epoch of one trial. `epoch` counts from 1; `score` is the config's `objective`.

    `encoding_seconds` is what encoding the training images once took, where their features are stored, so that
    `training_seconds` leaves it out; 0 where training encodes them, NaN where it is not known. `parts` has the scores
    that a weighted sum is made of, by name. From `num_distinct` on it is the `Variety` of the texts generated on
    validation, None where there are none.
    """

    epoch: int
    num_epochs: int
    score: float
    validation_loss: float
    training_loss: float
    learning_rate: float
    seconds: float
    training_seconds: float
    encoding_seconds: float
    images_per_second: float
    peak_memory_bytes: int
    trainable_parameters: int
    total_parameters: int
    parts: dict[str, float] = field(default_factory=dict)
    num_distinct: int | None = None
    top_share: float | None = None
    empty_share: float | None = None
    cut_share: float | None = None
