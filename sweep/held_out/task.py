"""What every task on the test split has: rows to score, a request to each model, predictions on disk, scores kept.

A task is one kind of prediction, such as captions. To add one, write a subclass of `Task` and list it in
`sweep.held_out.evaluation`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.records import Record
from medcap_core.inference.generation import ImagePrediction, Request
from medcap_core.runtime.progress import Progress
from medcap_core.scoring.statistics import NUM_RESAMPLES, number_units
from sweep.execution.jobs import load_split
from sweep.study.record import TrialRecord, TrialState
from sweep.study.study import Study
from sweep.study.test_results import Resampling, Settings, TestResults, Unit

RowScore = TypeVar("RowScore")

# What decides an untrained model's predictions; if these agree, so do its test scores.
_EVALUATION_FIELDS = (
    "data", "model", "vision_model", "language_model", "max_test_images", "precision", "image_size", "patch_size",
    "num_queries", "qformer_layers", "quantization", "weights_dtype", "prompt", "num_beams", "max_new_tokens",
    "min_new_tokens", "length_penalty", "repetition_penalty", "early_stopping", "rejoin_wordpieces",
)  # fmt: skip


class Task(ABC, Generic[RowScore]):
    """One kind of prediction for the test split of one run, with `best` as its best trial.

    `results` is all of `test_metrics.json`, of which each task fills its part. Rows that no longer hold are taken from
    it at the start, and nothing is written before all predictions are on disk. `predictions` goes by model; untrained
    models whose evaluation agrees are one.
    """

    activity: ClassVar[str]
    """What models do with the test split, for the progress line."""
    blind_rows: ClassVar[tuple[str, ...]]
    """Rows that no model has part in."""
    missing: list[str]
    """Rows to score: not scored yet, or scored of something that has changed since; blind ones come first."""
    needed: list[str]
    """Rows whose predictions are needed for that: trials, and last `zero_shot`, the base model."""
    is_complete: bool
    """Whether nothing is left to do, or nothing can be done with this model and these records."""

    def __init__(self, study: Study, best: TrialRecord, results: TestResults) -> None:
        self.study = study
        self.best = best
        self.results = results
        self.seed = study.space.seed
        self.evaluation = describe_evaluation(best.config)
        self.trials = self.choose_trials()
        self.predictions: dict[str, list[ImagePrediction]] = {}

    def choose_trials(self) -> dict[str, TrialRecord]:
        """Choose the best trial, those scored before, and with `test: all` every trial that succeeded, by name."""
        tested, takes_all = self.study.read_test_metrics().trials, self.study.space.test == "all"
        wanted = [
            record
            for record in self.study.records
            if record.name in tested or (takes_all and record.state is TrialState.SUCCEEDED)
        ]
        return {record.name: record for record in [*wanted, self.best]}

    def config_of(self, row: str) -> TrialConfig:
        """Return the config of a trial, or for `zero_shot` that of the base model of the best one."""
        if row == "zero_shot":
            return self.best.config.model_copy(update={"freeze": FreezeMode.ZERO_SHOT})
        return self.trials[row].config

    def model_of(self, row: str) -> str:
        """Name the model of a trial or of `zero_shot`: the trial, or of an untrained model the evaluation."""
        config = self.config_of(row)
        return str(describe_evaluation(config)) if config.freeze is FreezeMode.ZERO_SHOT else row

    def split_of(self, row: str) -> PreparedSplit:
        """Load the test split as the config of a row has it."""
        return load_split(self.config_of(row), "test")

    @cached_property
    def split(self) -> PreparedSplit:
        """The test split as the best trial has it."""
        return load_split(self.best.config, "test")

    @abstractmethod
    def build_request(self, row: str) -> Request:
        """Ask what the task wants of the test images of a row."""

    @abstractmethod
    def load_predictions(self, row: str) -> list[ImagePrediction] | None:
        """Read what is kept of a row; None where there is nothing, or it no longer holds."""

    @abstractmethod
    def save_predictions(self, row: str) -> None:
        """Write what `predictions` has of a row."""

    def write_predictions(self) -> None:
        """Write what follows from the predictions of several rows and must be there before the first is scored."""

    @abstractmethod
    def score(self, row: str, progress: Progress) -> RowScore:
        """Score one row; a blind one may be scored in another thread, meanwhile."""

    @abstractmethod
    def keep(self, row: str, score: RowScore) -> None:
        """Write the score of a row."""

    @abstractmethod
    def finish(self) -> None:
        """Name the best row, compare the rows, write all of it, and give back what scoring took."""

    def abandon(self) -> None:
        """Let another thread that scores a row fail soon."""


def describe_resampling(records: Sequence[Record], case: Unit, single: Unit) -> Resampling:
    """Describe what intervals rest on: cases, called `case`, or single records where none has a case."""
    cases = [record.case for record in records]
    unit = single if all(name is None for name in cases) else case
    return Resampling(unit=unit, num_units=int(number_units(cases).max()) + 1, num_resamples=NUM_RESAMPLES)


def describe_evaluation(config: TrialConfig) -> Settings:
    """Describe what decides the predictions of the untrained model of a config."""
    values = config.model_dump(mode="json")
    return {name: values[name] for name in _EVALUATION_FIELDS}
