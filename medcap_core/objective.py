"""What trials are ranked by: one score on the validation split, or a weighted sum of several."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from medcap_core.scoring.registry import RANKED, list_scores, load_scores

Predictions = Literal["captions", "answers"]
"""The scored output of a model: captions, or answers to the question for the class of an image."""


@dataclass(frozen=True)
class RankedScore:
    """One score that trials may be ranked by.

    `label` is for sentences, `short_label` for narrow columns, `own_scale` is the range of one that the registry lacks,
    and `meaning` defines it where reports do not beside their test scores. `predictions` is None for a score that needs
    no generated text.
    """

    name: str
    label: str
    own_scale: str = ""
    predictions: Predictions | None = "captions"
    short_label: str = ""
    is_lower_better: bool = False
    meaning: str = ""

    @property
    def scale(self) -> str:
        """The name of its range."""
        return self.own_scale or load_scores(RANKED.get(self.name, self.name))[0].scale


RANKED_SCORES: dict[str, RankedScore] = {
    score.name: score
    for score in (
        *(RankedScore(name, name) for name in RANKED),
        RankedScore(
            "validation_loss",
            "validation loss",
            "from 0",
            predictions=None,
            short_label="val.loss",
            is_lower_better=True,
            meaning="mean loss a caption token on validation, without label smoothing; lower is better",
        ),
        RankedScore(
            "balanced_accuracy",
            "balanced accuracy",
            "0 to 1",
            predictions="answers",
            short_label="bal.acc.",
            meaning="mean recall over the classes, of the generated answers",
        ),
    )
}
"""The scores an objective may name, in the order that messages list them; beside them, extra scores that allow it."""


@lru_cache(maxsize=64)
def find_ranked_score(name: str) -> RankedScore | None:
    """Find a score that trials may be ranked by: one of `RANKED_SCORES`, or by its key an extra one that allows it."""
    if name in RANKED_SCORES or name not in list_scores():
        return RANKED_SCORES.get(name)
    score, *others = load_scores(name)
    if others or score.models or not score.may_be_objective:
        return None
    return RankedScore(name, score.name, is_lower_better=not score.higher_is_better)


@dataclass(frozen=True)
class Objective:
    """The names of scores with their weights: one score with weight 1, or several whose weighted sum is maximised.

    In a sum a score of which lower values are better is subtracted.
    """

    weights: tuple[tuple[str, float], ...] = (("CIDEr", 1.0),)

    @property
    def scores(self) -> tuple[RankedScore, ...]:
        """The scores it is made of."""
        return tuple(score for name in self.names if (score := find_ranked_score(name)))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its scores."""
        return tuple(name for name, _ in self.weights)

    @property
    def is_sum(self) -> bool:
        """Whether it is a weighted sum."""
        return len(self.weights) > 1

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """The direction of the search, as Optuna names it; a sum is maximised."""
        return "minimize" if not self.is_sum and self.scores[0].is_lower_better else "maximize"

    @property
    def predictions(self) -> Predictions | None:
        """What a model must generate to be scored; None where nothing."""
        return next((score.predictions for score in self.scores if score.predictions), None)

    @property
    def label(self) -> str:
        """Its name in sentences, such as `CIDEr` or `0.5 CIDEr + 0.5 BERTScore`."""
        if not self.is_sum:
            return self.scores[0].label
        terms = zip(self.scores, self.weights, strict=True)
        text = "".join(f" {'-' if score.is_lower_better else '+'} {w:g} {score.label}" for score, (_, w) in terms)
        return text.removeprefix(" + ").strip()

    @property
    def short_label(self) -> str:
        """Its name in narrow columns."""
        return "objective" if self.is_sum else self.scores[0].short_label or self.label

    @property
    def column(self) -> str:
        """Its name in the columns of tables, such as `cider` or `bleu_4`."""
        return "objective" if self.is_sum else self.names[0].lower().replace("-", "_")

    @property
    def title(self) -> str:
        """The label for the start of a heading, a column or an axis."""
        return self.label[0].upper() + self.label[1:]

    @property
    def validation_title(self) -> str:
        """Heading of the score that trials are ranked by."""
        return self.title if self.names == ("validation_loss",) else f"{self.title}, validation"

    @property
    def axis_title(self) -> str:
        """Title of an axis of a plot whose own title has the label, which is long for a sum."""
        return "Objective, validation" if self.is_sum else self.validation_title

    @property
    def meaning(self) -> str:
        """A short definition; empty where reports explain the score beside their test scores."""
        if self.is_sum:
            scales = ", ".join(f"{score.label} {score.scale}" for score in self.scores)
            return f"weighted sum of scores, each on its own scale ({scales}); higher is better"
        score = self.scores[0]
        return f"{score.meaning}, {score.scale}" if score.meaning and not score.is_lower_better else score.meaning

    def combine(self, scores: Mapping[str, float]) -> float:
        """Compute its value from the values of its scores."""
        if not self.is_sum:
            return scores[self.names[0]]
        terms = zip(self.scores, self.weights, strict=True)
        return math.fsum((-w if score.is_lower_better else w) * scores[name] for score, (name, w) in terms)

    def rank(self, value: float | None) -> float:
        """Return a key of a value that is higher for better ones; minus infinity for one that is no finite number."""
        if value is None or not math.isfinite(value):
            return -math.inf
        return -value if self.direction == "minimize" else value

    def count_since_best(self, values: Sequence[float | None]) -> int:
        """Count the values after the best one, the earliest of ties."""
        keys = [self.rank(value) for value in values]
        return len(keys) - 1 - keys.index(max(keys)) if keys else 0

    def show(self, value: float | None) -> str:
        """Format a value; an unknown one as 0."""
        return f"{value or 0:.3f}"

    def dump(self) -> str | dict[str, float]:
        """Return it as it stands in a space file: a name, or names with weights."""
        return dict(self.weights) if self.is_sum else self.names[0]


def read_objective(value: Any) -> Objective:
    """Read an objective of a space file. Raises ValueError with a sentence of two halves: the fault; its remedy."""
    if isinstance(value, Objective):
        return value
    if isinstance(value, str) and (value in RANKED_SCORES or value in list_scores()):
        _check_name(value)
        return Objective(((value, 1.0),))
    if not isinstance(value, dict):
        raise ValueError  # noqa: TRY004  # said by the reader, which names what the field takes
    for name, weight in value.items():
        _check_name(name)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ValueError(f"the weight {weight!r} of {name} is not a number above 0; correct it")
    if len(value) < 2:
        raise ValueError("a weighted sum has at least two scores; write one alone by its name, such as CIDEr")
    objective = Objective(tuple((name, float(weight)) for name, weight in value.items()))
    if len({score.predictions for score in objective.scores} - {None}) > 1:
        raise ValueError("it adds scores of captions and of answers; take scores of one kind")
    return objective


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or find_ranked_score(name) is None:
        raise ValueError(f"{name!r} is no score that trials can be ranked by; use {', '.join(RANKED_SCORES)}")


ObjectiveField = Annotated[
    Objective,
    PlainValidator(read_objective),
    PlainSerializer(Objective.dump, return_type=str | dict[str, float]),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(RANKED_SCORES)},
                {
                    "type": "object",
                    "takes": "an extra score that may be one, or a mapping of two or more of these to weights above 0",
                },
            ]
        }
    ),
]
"""An objective as a field of a config or a space file."""
