"""The Optuna study of a run, `study.db`: the history of the sampler, for optuna-dashboard too.

It mirrors the `trial.json` files, which are written first: after a kill they hold all that the database has and at most
one write more, which `mirror` adds. A missing database is rebuilt from them.
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
from sweep.study.paths import RunPaths
from sweep.study.record import TrialRecord, TrialState

_FINAL_STATES = {
    TrialState.SUCCEEDED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}


class StudyDatabase:
    """An Optuna study in an SQLite file, synchronised with the trial records; a context manager that closes it."""

    def __init__(self, path: Path, storage: RDBStorage, study: optuna.Study) -> None:
        self.path = path
        self._storage = storage
        self._study = study
        self._mirrored: dict[int, _MirroredTrial] = {}

    @classmethod
    def open(cls, path: Path, study_name: str) -> Self:
        """Open `path`, created if absent. Raises RunFault if it is damaged or of another run."""
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
        """Close the connections to the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def load_trials(self) -> list[FrozenTrial]:
        """Load all trials of the study, by number."""
        return self._study.get_trials(deepcopy=False)

    def mirror_all(self, records: Sequence[TrialRecord]) -> None:
        """Update the study with all records, given in order. Raises RunFault where it holds other trials."""
        try:
            trials = self.load_trials()
            if len(trials) > len(records):
                missing = RunPaths(self.path.parent).trial(f"trial_{len(records):04d}").record
                raise RunFault(f"{self.path} knows a trial whose record {missing} is missing; restore it from a copy.")
            for record in records:
                self.mirror(record, trials[record.number] if record.number < len(trials) else None)
        except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.OptunaError) as error:
            raise _database_fault(self.path, "is damaged", error) from None

    def mirror(self, record: TrialRecord, trial: FrozenTrial | None = None) -> None:
        """Write what the study lacks of `record`; a trial finished in the study is not changed.

        `trial` is the study's trial of a record that this process has not mirrored before, None if it has none.
        """
        known = self._mirrored.get(record.number)
        if known is None:
            if trial is None:
                template = _build_running_trial(record)
                trial_id = self._storage.create_new_trial(self._study._study_id, template_trial=template)
                known = _MirroredTrial(trial_id, record.parameters)
            else:
                curve = dict(trial.intermediate_values)
                known = _MirroredTrial(trial._trial_id, trial.params, curve, trial.state.is_finished())
            self._mirrored[record.number] = known
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


@dataclass
class _MirroredTrial:
    """The study's state of a trial, cached because reading SQLite at every epoch of every trial is slow."""

    trial_id: int
    parameters: dict[str, Any]
    curve: dict[int, float] = field(default_factory=dict)
    is_finished: bool = False


def _build_running_trial(record: TrialRecord) -> FrozenTrial:
    distributions = {name: json_to_distribution(json.dumps(value)) for name, value in record.distributions.items()}
    return optuna.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        params=record.parameters,
        distributions=distributions,
        user_attrs={"trial": record.name},
    )


def _make_database(path: Path, study_name: str) -> None:
    """Create an empty study, renamed to `path` only when complete, since its tables are many transactions."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    storage = _connect(temporary, is_new=True)
    optuna.create_study(study_name=study_name, storage=storage, direction="maximize")
    storage.remove_session()
    storage.engine.dispose()
    temporary.replace(path)
    sync_folder(path.parent)


def _connect(path: Path, *, is_new: bool) -> RDBStorage:
    """Open Optuna's storage over `path` by a connection, since `?` or `{` in a folder's name would break a URL.

    A reader such as optuna-dashboard may lock the file briefly, so writers wait up to 60 s.
    """

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=60, check_same_thread=False)

    return RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect}, skip_table_creation=not is_new)


def _database_fault(path: Path, problem: str, error: Exception) -> RunFault:
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RunFault(f"{path} {problem} ({cause}); move it away and resume: it is made anew from the trial.json files.")
