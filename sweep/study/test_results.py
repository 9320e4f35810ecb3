"""The scores of the test split as types: what `test_metrics.json` holds.

A figure that was not computed is None, or missing from its mapping. All scores are in the units of their metric: CIDEr
0 to 10, the others 0 to 1. Intervals are 95% bootstrap intervals.
"""

from collections.abc import Iterable
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from medcap_core.data.records import Record
from medcap_core.scoring.classification import ClassificationScore
from sweep.study.paths import RunFile

Scores = dict[str, float]
"""Score by the name of its metric, such as `CIDEr` or `BLEU-4`."""
Interval = tuple[float, float]
Settings = dict[str, str | int | float | bool | None]
"""Fields of a trial's config."""
Unit = Literal["case", "image", "subject", "scan"]
Scope = Literal["unseen", "all"]
"""Which test scans a figure is of: those of cohorts that are not in training, or all."""
Scored = TypeVar("Scored")

BASELINE_ROWS = {
    "zero_shot": "zero-shot",
    "caption_prior": "caption prior",
    "nearest_image": "nearest training image",
    "shuffled_images": "shuffled images",
}
"""Labels of the rows of captions that are no trial."""

ANSWER_ROWS = {"zero_shot": "zero-shot", "shuffled_images": "shuffled scans", "answer_prior": "most frequent answer"}
"""Labels of the rows of answers that are no trial."""

TEXT_ONLY_ROWS = ("shuffled_images", "answer_prior")  # know the questions alone: wrong scans are shown, or no model
BLIND_ROWS = ("caption_prior", "nearest_image")  # have no model; they draw on the training images of the best trial
BASE_ROWS = ("zero_shot", *BLIND_ROWS)  # depend on the base model and the data, not on what the best trial has learnt


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _leave_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what has a default and is None or an empty mapping."""
        fields = type(self).model_fields
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if fields[name].is_required() or value not in (None, {})}


class _Scoped(_Model, Generic[Scored]):
    """Scores in each scope; None where it has nothing to score."""

    unseen: Scored | None = None
    all: Scored | None = None

    def of(self, scope: Scope) -> Scored | None:
        """Get the scores in a scope."""
        return self.unseen if scope == "unseen" else self.all

    @property
    def headline(self) -> Scope:
        """The scope to look at first: unseen cohorts, where the test split has scans of some."""
        return "unseen" if self.unseen else "all"


class Resampling(_Model):
    """What the intervals rest on: what was drawn, how many of them there are, how often."""

    unit: Unit
    num_units: int
    num_resamples: int


class Comparison(_Model):
    """The paired difference of a row and a baseline, its sign-flip p-value, and that corrected by Holm."""

    difference: float
    interval: Interval
    p_value: float
    p_adjusted: float


class Comparisons(_Model):
    """The difference of each row's `metric` and that of the row or group `baseline`.

    `missing_baseline` names the baseline that was asked for where it was not scored.
    """

    baseline: str
    metric: str
    rows: dict[str, Comparison]
    missing_baseline: str | None = None


class FactScore(_Model):
    """The share of captions that name a fact rightly, of those images whose truth is known."""

    accuracy: float
    interval: Interval
    num_images: int


class ConceptScore(_Model):
    """Medical concepts found in captions against those of the records."""

    precision: float
    recall: float
    f1: float
    interval: Interval
    num_images: int


class SubgroupScore(_Model):
    """Scores of the images of one subgroup, such as one modality."""

    num_images: int
    scores: Scores
    intervals: dict[str, Interval] = {}


Subgroups = dict[str, dict[str, SubgroupScore]]
"""Scores by kind and value, such as `modality` and `CT`."""


class CaptionVariety(_Model):
    """How varied the captions of a row are: one caption for most images, or none, is a collapsed model.

    `top_share` is the share of images with the most frequent caption, `empty_share` of those without a word,
    `cut_share` of those cut at `max_new_tokens`.
    """

    num_distinct: int
    top_share: float
    empty_share: float
    cut_share: float | None = None


class SeedScore(_Model):
    """A score over seeds: its mean and the standard deviation of the sample, None for a single seed."""

    mean: float
    std: float | None
    num_seeds: int


class Group(_Model):
    """Trials of one config under several seeds. `intervals` are over images, of the mean over the trials."""

    label: str
    trials: list[str]
    scores: dict[str, SeedScore]
    intervals: dict[str, Interval] = {}
    comparison: Comparison | None = None


class ClassificationScores(_Scoped[ClassificationScore]):
    """Scores of one way of naming classes: in each scope that has a scan of known diagnosis, and in each cohort."""

    cohorts: dict[str, ClassificationScore] = {}


class ClassificationRow(_Model):
    """One row: classes read from the generated answer, and the class whose words lie nearest to the scan."""

    by_answer: ClassificationScores
    by_similarity: ClassificationScores | None = None


class Classification(_Model):
    """The section `classification`: diagnoses of scans."""

    classes: list[str] = []
    unseen_cohorts: list[str] = []
    rows: dict[str, ClassificationRow] = {}


class AnswerScore(_Model):
    """Answers against the true ones: means over questions."""

    exact_match: float
    f1: float
    num_questions: int
    intervals: dict[str, Interval]


class AnswerScores(_Model):
    """Scores over all questions of a scope and by kind of question, kinds in the order in which they first come."""

    overall: AnswerScore
    kinds: dict[str, AnswerScore]


AnswerRow = _Scoped[AnswerScores]
"""One row, in each scope that has a question."""


class AnswerComparison(Comparison):
    """The row `best` against the better of the rows that see no right scan, which `baseline` names."""

    baseline: str


class AnswerComparisons(_Model):
    """Comparisons by metric, over all questions of a scope and by kind."""

    overall: dict[str, AnswerComparison]
    kinds: dict[str, dict[str, AnswerComparison]]


AnswerComparisonScopes = _Scoped[AnswerComparisons]
"""Comparisons in each scope; None where all scans are of one subject."""


class QuestionAnswering(_Model):
    """The section `question_answering`."""

    best_trial: str | None = None
    evaluation: Settings = {}
    unseen_cohorts: list[str] = []
    num_scans: int | None = None
    num_questions: int | None = None
    resampling: Resampling | None = None
    rows: dict[str, AnswerRow] = {}
    comparisons: AnswerComparisonScopes | None = None


class TestResults(_Model, RunFile):
    """All of `test_metrics.json`. `trials` and the detail mappings go by row: `best`, a trial, or a baseline.

    `subgroups` has the best trial and the base model alone. `blind_comparisons` compares the row `best` with each row
    that does not see the right image, by that row.
    `evaluation` is what decides the base model's predictions, `training` what decides which training images the blind
    rows draw on: rows are kept only while these agree with the best trial's config.
    """

    __test__ = False  # no test class, whatever pytest makes of its name
    remedy = "move it away and resume: the test split is then scored again"

    best: Scores | None = None
    zero_shot: Scores | None = None
    caption_prior: Scores | None = None
    nearest_image: Scores | None = None
    shuffled_images: Scores | None = None
    trials: dict[str, Scores] = {}
    best_trial: str | None = None
    earlier_looks: int | None = None
    caption_prior_text: str | None = None
    intervals: dict[str, dict[str, Interval]] = {}
    facts: dict[str, dict[str, FactScore]] = {}
    concepts: dict[str, ConceptScore] = {}
    variety: dict[str, CaptionVariety] = {}
    subgroups: dict[str, Subgroups] = {}
    comparisons: Comparisons | None = None
    blind_comparisons: dict[str, Comparison] = {}
    groups: list[Group] = []
    num_images: int | None = None
    noun: str | None = None
    resampling: Resampling | None = None
    caption_preprocessing: str = "none"
    evaluation: Settings = {}
    training: Settings = {}
    classification: Classification | None = None
    question_answering: QuestionAnswering | None = None

    @property
    def _parts(self) -> list[dict[str, Any]]:
        """What goes by row beside the scores."""
        return [self.intervals, self.facts, self.concepts, self.variety, self.subgroups]

    def forget(self, rows: Iterable[str]) -> None:
        """Drop all of some rows."""
        for row in rows:
            if self.trials.pop(row, None) is None:
                setattr(self, row, None)
            for part in self._parts:
                part.pop(row, None)

    def name_best(self, trial: str) -> None:
        """Let the row `best` be that of a trial."""
        self.forget(["best"])
        self.best_trial, self.best = trial, self.trials[trial]
        for part in self._parts:
            if trial in part:
                part["best"] = part[trial]

    def forget_trial(self, trial: str) -> None:
        """Drop the rows of a trial whose model is another one now; that the test split was looked at stays counted."""
        self.forget([trial])
        self.earlier_looks = 1 + (self.earlier_looks or 0)
        if self.best_trial == trial:
            self.best_trial = None
            self.forget(["best"])
        if self.question_answering:
            self.question_answering.rows.pop(trial, None)
            if self.question_answering.best_trial == trial:
                self.question_answering.best_trial = None
        if self.classification:
            self.classification.rows.pop(trial, None)

    def scores_of(self, row: str) -> Scores | None:
        """Scores of a row: `best`, a baseline, or a trial; None where it was not scored."""
        if row in self.trials:
            return self.trials[row]
        return getattr(self, row) if row in ("best", *BASELINE_ROWS) else None


def name_baseline(row: str, noun: str) -> str:
    """Label a row of `BASELINE_ROWS` where records are called `noun`."""
    return BASELINE_ROWS[row].replace(Record.noun, noun)
