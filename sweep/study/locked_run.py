"""A run directory that this process holds: its records and files, and the order in which they are written.

Every file is replaced in one step, and each change goes first to the trial's `trial.json`, then to `study.db`, then to
`trials.csv`, so that any stop is safe, `kill -9` and power cuts included: no trial is half known and no number is used
twice. The JSON files are the truth, from which proposals are drawn too; the others are brought up to date on opening.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock

from medcap_core.errors import RunFault
from medcap_core.runtime.files import replace_text, write_text_atomically
from medcap_core.training.stored_checkpoints import StoredCheckpoints
from sweep.space import SearchSpace, best_space, dump_space
from sweep.study.database import StudyDatabase
from sweep.study.directory import show_path
from sweep.study.mirror import DRIVER, Mirror
from sweep.study.paths import RunPaths
from sweep.study.record import NUM_CANDIDATES, TrialRecord, TrialState, format_csv, rank_by_search
from sweep.study.stopping import RunClock
from sweep.study.test_results import TestResults


class LockedRun:
    """The files of one run, and their copy under its URL; a context manager that gives the lock back."""

    def __init__(self, directory: Path, space: SearchSpace, lock: FileLock, mirror: Mirror | None) -> None:
        self.directory = directory.resolve()  # trials get their folders from it, and run in other working directories
        self.paths = RunPaths(self.directory)
        self.space = space
        self.clock = RunClock(self.paths.run_seconds)
        self._lock = lock
        self._mirror = mirror
        self._lines: list[str] = []
        self._take_line: Callable[[str], None] = self._lines.append
        self._database = StudyDatabase(self.paths.database, space, self._say)
        self._records: dict[str, TrialRecord] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is KeyboardInterrupt:
            self.hurry()
        self.close()

    def hurry(self) -> None:
        """Wait for a storage no longer than seconds from now on, since the user ends the run."""
        if self._mirror:
            self._mirror.storage.outage.shorten()

    def check_files(self) -> None:
        """Raise RunFault where the directory was removed meanwhile, or its files cannot follow to the run's URL."""
        if not self.paths.lock.is_file():
            raise RunFault(
                f"{self.directory} was removed while the run went on; begin again, or go on by --resume {self.address} "
                "where a copy of its files is left."
            )
        if self._mirror:
            self._mirror.check()

    def close(self) -> None:
        """Give the directory back; its files are already up to date, but for a study.db that could not be written.

        Raises RunFault where a mirror could not be brought up to date.
        """
        self.clock.stop()
        self._database.close(self.records)
        try:
            if self._mirror:
                self._mirror.close()
        finally:
            self._lock.release()

    def leave_storage(self) -> None:
        """Leave nothing under the URL of a run that ended before its first trial."""
        if self._mirror:
            self._mirror.storage.remove(DRIVER)

    def tell(self, say: Callable[[str], None]) -> None:
        """Pass `say` the lines on troubles with files so far, and each later one."""
        for line in self._lines:
            say(line)
        self._lines.clear()
        self._take_line = say
        if self._mirror:
            self._mirror.storage.outage.tell = say

    def _say(self, line: str) -> None:
        self._take_line(line)

    @property
    def records(self) -> list[TrialRecord]:
        """All trials so far, by number. Do not change them."""
        return list(self._records.values())

    def record(self, trial: str) -> TrialRecord:
        """Find a trial by name. Raises KeyError."""
        return self._records[trial]

    @property
    def url(self) -> str | None:
        """The URL of the run; None where it is a directory alone."""
        return self._mirror.url if self._mirror else None

    @property
    def address(self) -> str:
        """What the run goes by, for `--resume`: its URL or directory."""
        return self.url or show_path(self.directory)

    def best_weights(self, trial: str) -> Path:
        """Return the weights of a trial's best epoch, got from the run's URL if it has one."""
        if self.url is None:
            return self.paths.trial(trial).best_weights
        return StoredCheckpoints(self.url, trial).fetch_best_weights()

    def has_best_weights(self, trial: str) -> bool:
        """Whether the weights of a trial's best epoch are kept."""
        if self._mirror:
            return bool((self._mirror.storage / f"trials/{trial}/checkpoints/best").list_files())
        return self.paths.trial(trial).best_weights.is_file()

    def read_test_metrics(self) -> TestResults:
        """Read `test_metrics.json`; empty results where there is none yet. Raises RunFault if it is damaged."""
        return TestResults.load(self.paths.test_metrics) or TestResults()

    def write_test_metrics(self, results: TestResults) -> None:
        """Replace `test_metrics.json`."""
        results.save(self.paths.test_metrics)

    def write_best(self, record: TrialRecord) -> None:
        """Write `best.yaml`, a space file with nothing left to search."""
        text = dump_space(best_space(self.space, record.config, f"{self.space.name}-best"))
        show = record.objective.show
        scored = f"{record.objective.label} {show(record.best_score)} on validation after epoch {record.best_epoch}"
        if record.whole_validation_score is not None:
            scored += f" as the search saw it, {show(record.whole_validation_score)} on the whole split"
        write_text_atomically(self.paths.best_config, f"# {record.name} of {self.directory.name}: {scored}.\n{text}")

    def write_space(self) -> None:
        """Replace the run's space.yaml by its present space."""
        write_text_atomically(self.paths.space, dump_space(self.space))

    def check_sources(self) -> None:
        """Raise RunFault where a folder or file of the run's data or models is not there any more."""
        for name in (self.space.data, *(self.space.models.values() or [self.space.model])):
            if Path(name).is_absolute() and not Path(name).exists():
                raise RunFault(
                    f"{name} is not there any more; put it back, or a link to where it is now: a run goes on with the "
                    "data and models it began with."
                )

    def tidy_checkpoints(self) -> None:
        """Free the disk of trials that are over: optimizer state, and weights unless they may still be needed.

        Needed are those of the candidates, and with `test: all` those of succeeded trials not yet scored on the test
        split. `keep_checkpoints` in the space keeps everything.
        """
        if self.space.keep_checkpoints:
            return
        final = [record for record in self.records if record.state.is_final]  # others may go on, and fail
        needed = {record.name for record in rank_by_search(final)[:NUM_CANDIDATES]}
        if self.space.test == "all":
            succeeded = {record.name for record in final if record.state is TrialState.SUCCEEDED}
            needed |= succeeded - self.read_test_metrics().trials.keys()
        for record in final:
            for name in ("last",) if record.name in needed else ("last", "best"):
                self._remove(self.paths.trial(record.name).checkpoints / name)

    def _forget_tested(self, record: TrialRecord) -> None:
        """Drop what was made of an earlier best epoch of a trial that `max_hours` had stopped."""
        record.whole_validation_score = None
        results = self.read_test_metrics()
        if record.name not in results.trials:
            return
        paths, exported = self.paths.trial(record.name), self.paths.best_model_trial
        outdated = [path for path in (paths.predictions, paths.answers) if path.is_file()]
        if exported.is_file() and exported.read_text(encoding="utf-8").strip() == record.name:
            outdated.append(exported)
        for path in outdated:
            self._remove(path)
        results.forget_trial(record.name)
        self.write_test_metrics(results)

    def _save(self, record: TrialRecord) -> None:
        record.save(self.paths.trial(record.name).record)
        self._records[record.name] = record
        self._database.update(self.records)
        self._write_csv()
        if self._mirror:
            self._mirror.push(self.paths.trial(record.name).record)

    def _remove(self, path: Path) -> None:
        """Remove a file or folder that need not be there, under the run's URL too."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if self._mirror:
            self._mirror.give_up(path.relative_to(self.directory).as_posix())

    def _write_csv(self) -> None:
        """Not durably, since it follows from the records."""
        replace_text(self.paths.trials_table, format_csv(self.records, self.space.objective))
