"""Small runs for tests: spaces, made-up scores, and a trainer that keeps its checkpoints in memory."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage

from medcap_core.training.epoch_report import EpochReport
from sweep.space import SearchSpace, build_space
from sweep.study.record import TrialRecord, TrialState
from sweep.study.study import Study

Create = Callable[..., Study]
"""The fixture `create`: a study of a space, under a name."""

CONDITIONAL = {
    "name": "small",
    "search": {
        "freeze": {"choice": ["full", "lora"]},
        "learning_rate": [
            {"loguniform": [1e-5, 1e-3], "when": {"freeze": "full"}},
            {"loguniform": [1e-4, 1e-2], "when": {"freeze": "lora"}},
        ],
        "lora_rank": {"choice": [4, 8, 16], "when": {"freeze": "lora"}},
        "num_epochs": {"int": [2, 5]},
    },
    "first_points": [{"freeze": "lora", "learning_rate": 1e-3, "lora_rank": 8, "num_epochs": 4}],
    "trials": 5,
    "seed": 7,
}


def space(**changes: Any) -> SearchSpace:
    return build_space(CONDITIONAL | changes, "test")


def fixed_length(num_epochs: int, **changes: Any) -> SearchSpace:
    """A space whose trials differ in learning rate only."""
    search = {"learning_rate": {"loguniform": [1e-5, 1e-1]}}
    values = {"name": "even", "fixed": {"num_epochs": num_epochs}, "search": search, "sampler": "random", "trials": 9}
    return build_space(values | changes, "test")


def figures_of(record: TrialRecord, epoch: int, score: float, **figures: Any) -> dict[str, Any]:
    """The figures of an epoch, as a trial's process reports them."""
    report: dict[str, Any] = dict.fromkeys(EpochReport.model_fields, 1.0)
    report |= {"epoch": epoch, "num_epochs": record.config.num_epochs, "score": score, "trainable_parameters": 100}
    return report | {"parts": {}} | figures


def report_of(record: TrialRecord, epoch: int, score: float, **figures: Any) -> EpochReport:
    return EpochReport.model_validate(figures_of(record, epoch, score, **figures))


def score(record: TrialRecord, epoch: int) -> float:
    """A CIDEr that depends on config and epoch alone; the best epoch is not always the last."""
    fit = 3.0 - abs(math.log10(record.config.learning_rate) + 3.0)
    return round(fit * math.sqrt(epoch / record.config.num_epochs) - 0.4 * (epoch == 4), 6)


def next_trial(study: Study) -> TrialRecord:
    """Propose the next trial, of a study that has one left."""
    record = study.propose()
    assert record is not None
    return record


def run_one(
    study: Study, *scores: float, end: TrialState | None = None, reason: str = "", **figures: float
) -> tuple[TrialRecord, list[bool]]:
    """Run the next trial with these scores; ends it as said, or as it is pruned or out of scores."""
    record, answers = next_trial(study), list[bool]()
    for index, value in enumerate(scores):
        answers.append(study.report(record.name, report_of(record, index + 1, value, **figures)))
        if not answers[-1]:
            break
    study.finish(record.name, end or (TrialState.SUCCEEDED if answers[-1] else TrialState.PRUNED), reason)
    return record, answers


class Trainer:
    """Runs a study's trials one at a time, keeping what real trials keep on disk: the epochs they have trained."""

    def __init__(self) -> None:
        self.checkpoints: dict[str, list[float]] = {}
        self.trained: list[tuple[str, int]] = []
        self.proposed: list[str] = []

    def run(self, study: Study, most_trials: int | None = None) -> None:
        while most_trials is None or len(self.proposed) < most_trials:
            record = study.propose()
            if record is None:
                return
            self.proposed.append(record.name)
            study.start(record.name)
            study.finish(record.name, self.train(study, record))

    def train(self, study: Study, record: TrialRecord) -> TrialState:
        done = self.checkpoints.setdefault(record.name, [])
        for epoch in range(1, record.config.num_epochs + 1):
            if epoch > len(done):
                done.append(score(record, epoch))
                self.trained.append((record.name, epoch))
            if not study.report(record.name, report_of(record, epoch, done[epoch - 1])):
                return TrialState.PRUNED
        return TrialState.SUCCEEDED


def essence(study: Study) -> list[Any]:
    """Everything of a study that an interruption must not change."""
    return [
        (record.name, record.point, record.config, record.state, record.reason, record.epochs, record.pruned_at_epoch)
        for record in study.records
    ]


def read_optuna(directory: Path) -> list[optuna.trial.FrozenTrial]:
    url = f"sqlite:///{directory}/study.db"
    storage = RDBStorage(url, skip_compatibility_check=True, skip_table_creation=True)  # both are slow
    trials = optuna.load_study(study_name=None, storage=storage).trials
    storage.remove_session()
    storage.engine.dispose()
    return trials


def optuna_essence(directory: Path) -> list[Any]:
    return [(t.number, t.state, t.params, t.intermediate_values, t.values) for t in read_optuna(directory)]
