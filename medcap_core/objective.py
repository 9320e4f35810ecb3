"""The metrics of the validation score, and their labels."""

from dataclasses import dataclass
from typing import Literal

Metric = Literal["cider", "balanced_accuracy"]
"""Names of the metrics in space files, configs and columns; higher is better for all of them."""

Predictions = Literal["captions", "answers"]
"""The scored output of a model: captions, or answers to the question for the class of an image."""


@dataclass(frozen=True)
class Objective:
    """One metric, with scores in [0, `upper_bound`].

    `label` is for sentences, `short_label` for narrow columns; `meaning` is a short definition, empty where reports
    explain the metric beside their test scores.
    """

    metric: Metric
    label: str
    short_label: str
    predictions: Predictions
    upper_bound: float
    num_decimals: int = 3
    meaning: str = ""

    @property
    def title(self) -> str:
        """The label for the start of a heading, a column or an axis."""
        return self.label[0].upper() + self.label[1:]

    @property
    def validation_title(self) -> str:
        """Heading of the score that trials are ranked by."""
        return f"{self.title}, validation"

    def show(self, score: float | None) -> str:
        """Format a score; an unknown one as 0."""
        return f"{score or 0:.{self.num_decimals}f}"


OBJECTIVES: dict[Metric, Objective] = {
    "cider": Objective(metric="cider", label="CIDEr", short_label="CIDEr", predictions="captions", upper_bound=10.0),
    "balanced_accuracy": Objective(
        metric="balanced_accuracy",
        label="balanced accuracy",
        short_label="bal.acc.",
        predictions="answers",
        upper_bound=1.0,
        meaning="mean recall over the classes, of the generated answers",
    ),
}
