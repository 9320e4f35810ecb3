"""What a trial may be scored by on validation, and how each such metric is called wherever one is shown."""

from dataclasses import dataclass
from typing import Literal

Metric = Literal["cider", "balanced_accuracy"]
"""Names of the metrics in space files, configs and columns; higher is better for all of them."""

Predictions = Literal["captions", "answers"]
"""What of a model is scored: its captions, or its answers to the question that asks for the class of an image."""


@dataclass(frozen=True)
class Objective:
    """One metric as readers meet it.

    `label` stands within a sentence, `short_label` where a column is narrow; `meaning` says in a few words what the
    figure is, and is empty where reports explain it beside their test scores. A score lies in [0, `upper_bound`].
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
        """The label as it begins a heading, a column or an axis."""
        return self.label[0].upper() + self.label[1:]

    @property
    def validation_title(self) -> str:
        """Heading of the figure that trials are ranked by."""
        return f"{self.title}, validation"

    def show(self, score: float | None) -> str:
        """A score in figures; an unknown one is shown as 0."""
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
