"""The Optuna study of a run, `study.db`: what the sampler learns from and what optuna-dashboard shows.

It mirrors the `trial.json` files: each of them is written first, then its change here. So a run that was killed
between the two finds in the JSON files everything this database knows, and at most one write more; `mirror` makes it
up. For the same reason a database that is missing altogether is made anew from them.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna
from optuna.distributions import json_to_distribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from medcap_core.errors import RunFault
from medcap_core.runtime.files import sync_folder
from sweep.study.record import TrialRecord, TrialState

_FINAL_STATES = {
    TrialState.SUCCEEDED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}


class StudyDatabase:
    """An Optuna study in an SQLite file, kept in step with the trial records. A context manager that closes it."""

    def __init__(self, path: Path, storage: RDBStorage, study: optuna.Study) -> None:
        self.path = path
        self._storage = storage
        self._study = study
        self._known: dict[int, _Mirrored] = {}

    @classmethod
    def open(cls, path: Path, study_name: str) -> Self:
        """Open `path`, made first if it is not there. Raises RunFault if it is damaged or not this run's."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if not path.exists():
            _make_database(path, study_name)
        try:
            storage = _connect(path, is_new=False)
            study = optuna.load_study(study_name=study_name, storage=storage)
        except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.OptunaError, KeyError, RuntimeError) as error:
            raise _database_fault(path, f"is damaged or not the database of study '{study_name}'", error) from None
        return cls(path, storage, study)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def load_trials(self) -> list[FrozenTrial]:
        """All trials as Optuna knows them, by number."""
        return self._study.get_trials(deepcopy=False)

    def mirror_all(self, records: Sequence[TrialRecord]) -> None:
        """Bring the study up to date with all records, given in order. Raises RunFault where it knows other trials."""
        try:
            trials = self.load_trials()
            if len(trials) > len(records):
                missing = self.path.parent / "trials" / f"trial_{len(records):04d}" / "trial.json"
                raise RunFault(f"{self.path} knows a trial whose record {missing} is missing; restore it from a copy.")
            for record in records:
                self._mirror(record, trials[record.number] if record.number < len(trials) else None)
        except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.OptunaError) as error:
            raise _database_fault(self.path, "is damaged", error) from None

    def mirror(self, record: TrialRecord) -> None:
        """Write what the study lacks of `record`; a trial the study holds as finished is left as it is."""
        self._mirror(record, None)

    def _mirror(self, record: TrialRecord, trial: FrozenTrial | None) -> None:
        """`trial` is what the study holds of a record that this process has not mirrored before."""
        known = self._known.get(record.number)
        if known is None:
            known = self._known[record.number] = self._add(record) if trial is None else _recall(trial)
        if known.parameters != record.parameters:
            raise RunFault(
                f"{self.path}: trial {record.number} has other values than {record.name}/trial.json; the two are not "
                "of one run. Move study.db away and resume: it is made anew from the trial.json files."
            )
        if known.is_finished:
            return
        for step, best_so_far in record.build_curve().items():
            if known.curve.get(step) != best_so_far:
                self._storage.set_trial_intermediate_value(known.trial_id, step, best_so_far)
                known.curve[step] = best_so_far
        if record.state.is_final:
            value = record.best_score if record.state is TrialState.SUCCEEDED else None
            self._study.tell(record.number, value, state=_FINAL_STATES[record.state])
            known.is_finished = True

    def _add(self, record: TrialRecord) -> "_Mirrored":
        trial_id = self._storage.create_new_trial(self._study._study_id, template_trial=_build_running_trial(record))
        return _Mirrored(trial_id, record.parameters)


@dataclass
class _Mirrored:
    """What the study holds of a trial; kept here because asking SQLite at every epoch of every trial is slow."""

    trial_id: int
    parameters: dict[str, Any]
    curve: dict[int, float] = field(default_factory=dict)
    is_finished: bool = False


def _recall(trial: FrozenTrial) -> _Mirrored:
    return _Mirrored(trial._trial_id, trial.params, dict(trial.intermediate_values), trial.state.is_finished())


def _build_running_trial(record: TrialRecord) -> FrozenTrial:
    distributions = {name: json_to_distribution(json.dumps(value)) for name, value in record.distributions.items()}
    return optuna.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        params=record.parameters,
        distributions=distributions,
        user_attrs={"trial": record.name},
    )


def _make_database(path: Path, study_name: str) -> None:
    """Make an empty study; it gets its name only when it is whole, because its many tables are many transactions."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    storage = _connect(temporary, is_new=True)
    optuna.create_study(study_name=study_name, storage=storage, direction="maximize")
    storage.remove_session()
    storage.engine.dispose()
    temporary.replace(path)
    sync_folder(path.parent)


def _connect(path: Path, *, is_new: bool) -> RDBStorage:
    """Optuna's storage over `path`, by a connection of our own: in a URL `?` or `{` in a folder's name would break it.

    A reader such as optuna-dashboard may hold the file for a moment, so writers wait up to 60 s.
    """

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=60, check_same_thread=False)

    return RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect}, skip_table_creation=not is_new)


def _database_fault(path: Path, problem: str, error: Exception) -> RunFault:
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RunFault(f"{path} {problem} ({cause}); move it away and resume: it is made anew from the trial.json files.")
