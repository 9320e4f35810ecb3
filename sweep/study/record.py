"""The record of one trial, its two forms on disk (`trial.json`, a row of `trials.csv`), and the ranking of trials."""

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from medcap_core.config import TrialConfig
from medcap_core.data.records import fold_white_space
from medcap_core.errors import RunFault
from medcap_core.objective import Objective
from medcap_core.training.epoch_report import EpochReport, find_best, is_out_of_patience
from sweep.space import Point
from sweep.study.paths import RunFile, describe_fault


@dataclass(frozen=True)
class Figures:
    """What a trial took, by the names of the columns of `trials.csv`; None where it is not known.

    Training times and images per second, weighted by them, are of all epochs; encoding the training images once is
    left out of both (`EpochReport`). The peak is the highest of any epoch. `num_distinct` and `top_share` are of the
    texts generated on validation by the model of the best epoch.
    """

    training_seconds: float | None = None
    encoding_seconds: float | None = None
    images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    num_distinct: int | None = None
    top_share: float | None = None


def result_columns(objective: Objective) -> list[str]:
    """List the columns of `trials.csv` before those of the config; score columns are named by the objective."""
    scores = ["best_" + objective.column, "best_epoch", "last_" + objective.column]
    return ["trial", "state", "reason", *scores, "epochs_done", "seconds", *(own.name for own in fields(Figures))]


class TrialState(StrEnum):
    """The state of a trial."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"

    @property
    def is_final(self) -> bool:
        """Whether the trial has ended for good; a STOPPED one goes on when the run is resumed."""
        return self in (TrialState.SUCCEEDED, TrialState.PRUNED, TrialState.FAILED)


def _keep_names(values: Any, validate: ValidatorFunctionWrapHandler) -> TrialConfig:
    """Validate a config, which makes an existing path absolute; a name must stay one in any working directory."""
    config: TrialConfig = validate(values)
    kept = ("data", "model") if isinstance(values, dict) else ()
    return config.model_copy(update={name: values[name] for name in kept if name in values})


class Distribution(BaseModel):
    """A range of a parameter in Optuna's JSON, which is read without Optuna: its class, and what that is built of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    attributes: dict[str, JsonValue]


class TrialRecord(RunFile):
    """One trial of a run, as `trial.json` holds it; only its `Study` changes it.

    `point` was drawn from the space; `parameters` and `distributions` are its form in Optuna. `pruned_at_epoch` is the
    epoch after which the scheduler stopped the trial. `is_config_at_fault` says of a failed trial that any trial of its
    config would fail (`TrialFailure`), of which the sampler learns.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    name: str = Field(alias="trial", pattern=r"^trial_\d{4,}$")
    number: int = Field(ge=0)
    state: TrialState = TrialState.PENDING
    reason: str = ""
    attempts: int = 0
    pruned_at_epoch: int | None = None
    is_config_at_fault: bool = False
    whole_validation_score: float | None = None
    point: Point
    config: Annotated[TrialConfig, WrapValidator(_keep_names)]
    parameters: Point = Field(default_factory=dict)
    distributions: dict[str, Distribution] = Field(default_factory=dict)
    epochs: list[EpochReport] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if self.name != f"trial_{self.number:04d}":
            raise ValueError(f"trial {self.name} has the number {self.number}")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load a `trial.json`. Raises RunFault if it is damaged or of another version."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            cause = fold_white_space(describe_fault(error))
            raise RunFault(
                f"{path}: cannot be read as the record of a trial ({cause}); restore it from a copy or start a new run."
            ) from None

    @property
    def objective(self) -> Objective:
        """What its scores are."""
        return self.config.objective

    def add_epoch(self, epoch: EpochReport) -> None:
        """Add the report of an epoch, sorted by epoch."""
        self.epochs.append(epoch)
        self.epochs.sort(key=lambda epoch: epoch.epoch)

    @property
    def best(self) -> EpochReport | None:
        """The epoch that counts (`TrialConfig.evaluate`), as measured during the search: see `find_best`."""
        return find_best(self.epochs, self.config)

    @property
    def best_score(self) -> float | None:
        """The validation score of the epoch that counts."""
        return self.best.score if self.best else None

    @property
    def best_epoch(self) -> int | None:
        """Number of the epoch that counts."""
        return self.best.epoch if self.best else None

    @property
    def last_score(self) -> float | None:
        """Score of the last finished epoch."""
        return self.epochs[-1].score if self.epochs else None

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs; a zero-shot trial is scored once, which counts as one."""
        return self.epochs[-1].epoch if self.epochs else 0

    @property
    def num_epochs(self) -> int:
        """Number of epochs of the trial's own schedule."""
        return self.epochs[-1].num_epochs if self.epochs else self.config.num_epochs

    @property
    def is_out_of_patience(self) -> bool:
        """Whether as many epochs as its `patience` have gone by without a better score."""
        return is_out_of_patience(self.epochs, self.config)

    @property
    def is_whole(self) -> bool:
        """Whether its last epoch is done, by its schedule or by `patience`."""
        return bool(self.epochs) and (self.epochs_done >= self.num_epochs or self.is_out_of_patience)

    @property
    def seconds(self) -> float:
        """Time of all epochs, training and evaluation; a repeated epoch counts once."""
        return math.fsum(epoch.seconds for epoch in self.epochs)

    @property
    def figures(self) -> Figures:
        """What it took, and how varied its texts are."""
        best = self.best
        if best is None:
            return Figures()
        timed = [epoch for epoch in self.epochs if epoch.images_per_second]
        whole = math.fsum(epoch.training_seconds for epoch in timed)
        num_images = math.fsum(epoch.images_per_second * epoch.training_seconds for epoch in timed)
        return Figures(
            training_seconds=sum(epoch.training_seconds for epoch in self.epochs),
            encoding_seconds=self.epochs[-1].encoding_seconds,
            images_per_second=num_images / whole if whole else None,
            peak_memory_bytes=max(epoch.peak_memory_bytes for epoch in self.epochs),
            trainable_parameters=best.trainable_parameters,
            total_parameters=best.total_parameters,
            num_distinct=best.num_distinct,
            top_share=best.top_share,
        )

    def build_curve(self) -> dict[int, float]:
        """Build the curve for `study.db`: `best_score` so far by per cent of the trial's own schedule.

        A trial that `patience` ended keeps its score to the end of its schedule.
        """
        curve: dict[int, float] = {}
        best: float | None = None
        for epoch in self.epochs:
            if epoch.score is not None and self.config.evaluate == "last":
                best = epoch.score
            best = max(best, epoch.score, key=self.objective.rank)
            if best is not None:
                curve[compute_step(epoch.epoch, epoch.num_epochs)] = best
        if best is not None and self.state is TrialState.SUCCEEDED:
            curve[100] = best
        return curve

    def build_ranked_curve(self) -> dict[int, float]:
        """Build the same curve as keys of `Objective.rank`, of which higher ones are better."""
        return {step: self.objective.rank(score) for step, score in self.build_curve().items()}


def compute_step(epoch: int, num_epochs: int) -> int:
    """Compute the share of a trial's own schedule in whole per cent; 100 without epochs."""
    return round(100 * epoch / num_epochs) if num_epochs else 100


def format_csv(records: Iterable[TrialRecord], objective: Objective) -> str:
    """Format `trials.csv`: a header and one row for each trial, in the order given; unknown values are empty cells.

    The best score is of the search (`max_validation_images` applies), not `whole_validation_score`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*result_columns(objective), *(f"config.{name}" for name in TrialConfig.model_fields)])
    for record in records:
        state = (record.name, record.state.value, fold_white_space(record.reason))
        course = (record.best_score, record.best_epoch, record.last_score, record.epochs_done, round(record.seconds, 3))
        writer.writerow([*state, *course, *astuple(record.figures), *_list_config_cells(record.config)])
    return text.getvalue()


@cache
def _list_config_cells(config: TrialConfig) -> list[Any]:
    return list(config.model_dump(mode="json").values())


_STATES_WITH_A_MODEL = (TrialState.SUCCEEDED, TrialState.PRUNED, TrialState.STOPPED)
NUM_CANDIDATES = 3
"""Number of best trials that keep their weights and are scored again on the whole validation split."""


def rank_by_search(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Rank the trials with a model by the score of the search, best first.

    Pruned and stopped trials count, since their best epoch is kept too; failed and running ones do not. Ties are broken
    by fewer trainable parameters, then by the earlier trial.
    """
    scored = [record for record in records if record.state in _STATES_WITH_A_MODEL and record.best_score is not None]

    def build_key(record: TrialRecord) -> tuple[float, int, int]:
        return -record.objective.rank(record.best_score), record.epochs[-1].trainable_parameters, record.number

    return sorted(scored, key=build_key)


def rank_for_choice(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Rank the trials with a model for the choice of the best, best first.

    The candidates are ranked by their score on the whole validation split once each has one (CIDEr on a capped subset
    is not comparable); all others follow by the score of the search.
    """
    ranked = rank_by_search(records)
    top, rest = ranked[:NUM_CANDIDATES], ranked[NUM_CANDIDATES:]
    if all(record.whole_validation_score is not None for record in top):
        top.sort(key=lambda record: -record.objective.rank(record.whole_validation_score))
    return [*top, *rest]
