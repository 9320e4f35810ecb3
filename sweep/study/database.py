"""The Optuna study of a run, `study.db`, written for optuna-dashboard and other readers.

It mirrors the `trial.json` files, which are written first and alone are read: whatever happens to it, the search goes
on. A database that cannot be written is caught up later, a missing or damaged one is made anew.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.distributions import json_to_distribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from medcap_core.errors import RunFault, first_line
from medcap_core.runtime.files import sync_folder
from sweep.space import SearchSpace
from sweep.study.paths import RunPaths
from sweep.study.record import TrialRecord, TrialState

SECONDS_TO_WAIT, SECONDS_BETWEEN_TRIES = 5.0, 30.0
"""How long a write waits for a lock, such as of optuna-dashboard; how long the file is then left alone."""

_STATES = {
    TrialState.SUCCEEDED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}
# What sqlite3, SQLAlchemy and Optuna raise for a file that is locked, unwritable, damaged or of another version.
_FAULTS = (
    SQLAlchemyError, sqlite3.Error, optuna.exceptions.OptunaError, OSError, LookupError, ValueError, RuntimeError,
)  # fmt: skip
_OUT_OF_REACH = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
}  # fmt: skip


def build_history(records: Sequence[TrialRecord]) -> list[FrozenTrial]:
    """Build the trials so far as Optuna's samplers take them, in order; what has not ended counts as running.

    Their values are keys of `Objective.rank`, so samplers maximise them.
    """
    return [_build_trial(record, record.build_ranked_curve()) for record in records]


class StudyDatabase:
    """An Optuna study in an SQLite file that follows the trial records; `say` takes one line on each trouble."""

    def __init__(self, path: Path, space: SearchSpace, say: Callable[[str], None]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path = path
        self._space = space
        self._say = say
        self._storage: RDBStorage | None = None
        self._is_behind = False
        self._next_try = 0.0

    def close(self, records: Sequence[TrialRecord] = ()) -> None:
        """Close the connections to the file, after a last try to catch up with `records` where it is behind."""
        if self._is_behind:
            self._next_try = 0.0
            self.update(records)
        self._disconnect()

    def update(self, records: Sequence[TrialRecord]) -> None:
        """Write what the file lacks of all records, given in order; a damaged one is moved aside and made anew.

        Raises RunFault where it holds other trials, and nothing for the file's sake.
        """
        was_moved = False
        while time.monotonic() >= self._next_try:
            was_open = self._storage is not None
            try:
                self._write(records)
            except _FAULTS as error:
                self._disconnect()
                if was_open:
                    continue  # another file may lie there by now
                if was_moved or not _is_damage(error) or not self._move_aside(error):
                    self._postpone(error)
                was_moved = True
            else:
                self._is_behind = False
                return

    def _disconnect(self) -> None:
        if self._storage is not None:
            _close_storage(self._storage)
        self._storage = None

    def _move_aside(self, error: Exception) -> bool:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        try:
            self.path.replace(aside)
            self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
        except OSError:
            return False
        self._say(
            f"{self.path.name} was damaged ({_describe(error)}): it is moved to {aside.name}, and made anew from the "
            "trial.json files"
        )
        return True

    def _postpone(self, error: Exception) -> None:
        self._next_try = time.monotonic() + SECONDS_BETWEEN_TRIES
        if not self._is_behind:
            self._say(
                f"{self.path.name} cannot be written ({_describe(error)}); the search goes on without it, and it is "
                "caught up when it can be, at the latest by --resume"
            )
        self._is_behind = True

    def _write(self, records: Sequence[TrialRecord]) -> None:
        """Write what the study lacks; a trial finished in it is not changed."""
        if self._storage is None:
            if not self.path.exists():
                _make_database(self.path, self._space)
            self._storage = _open_storage(self.path, is_new=False)
            self._study = optuna.load_study(study_name=self._space.name, storage=self._storage)
        trials = self._study.get_trials(deepcopy=False)  # Optuna reads only the unfinished ones again
        if len(trials) > len(records):
            missing = RunPaths(self.path.parent).trial(f"trial_{len(records):04d}").record
            raise RunFault(f"{self.path} knows a trial whose record {missing} is missing; restore it from a copy.")
        for record, trial in zip(records, trials, strict=False):
            if trial.params != record.parameters:
                raise RunFault(
                    f"{self.path}: trial {record.number} has other values than {record.name}/trial.json; the two are "
                    "not of one run. Move study.db away and resume: it is made anew from the trial.json files."
                )
            if trial.state.is_finished():
                continue
            for step, best_so_far in record.build_curve().items():
                if trial.intermediate_values.get(step) != best_so_far:
                    self._storage.set_trial_intermediate_value(trial._trial_id, step, best_so_far)
            if record.state.is_final:
                value = record.best_score if record.state is TrialState.SUCCEEDED else None
                self._study.tell(record.number, value, state=_STATES[record.state])
        for record in records[len(trials) :]:
            self._study.add_trial(_build_trial(record, record.build_curve()))


def _build_trial(record: TrialRecord, curve: dict[int, float]) -> FrozenTrial:
    state = _STATES.get(record.state, optuna.trial.TrialState.RUNNING)
    has_value = state in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return optuna.create_trial(
        state=state,
        value=curve[max(curve)] if has_value and curve else None,  # of a pruned one as `Study.tell` does
        params=record.parameters,
        distributions={name: json_to_distribution(own.model_dump_json()) for name, own in record.distributions.items()},
        intermediate_values=dict(curve),
        user_attrs={"trial": record.name},
    )


def _make_database(path: Path, space: SearchSpace) -> None:
    """Create an empty study, renamed to `path` only when complete, since its tables are many transactions."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    storage = _open_storage(temporary, is_new=True)
    try:
        optuna.create_study(study_name=space.name, storage=storage, direction=space.objective.direction)
    finally:
        _close_storage(storage)
    temporary.replace(path)
    sync_folder(path.parent)


def _open_storage(path: Path, *, is_new: bool) -> RDBStorage:
    """Open Optuna's storage over `path` by a connection, since `?` or `{` in a folder's name would break a URL."""

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=SECONDS_TO_WAIT, check_same_thread=False)

    return RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect}, skip_table_creation=not is_new)


def _close_storage(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _is_damage(error: Exception) -> bool:
    """Return whether the file holds no such study, rather than being out of reach for now."""
    cause = _find_cause(error)
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF not in _OUT_OF_REACH
    return not isinstance(cause, OSError)


def _describe(error: Exception) -> str:
    return first_line(_find_cause(error))


def _find_cause(error: BaseException) -> BaseException:
    """Return what SQLite or the system raised, where Optuna and SQLAlchemy have wrapped it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sqlite3.Error | OSError):
        cause = getattr(cause, "orig", None) or cause.__cause__ or cause.__context__
    return cause or error
