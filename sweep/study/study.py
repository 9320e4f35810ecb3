"""A run directory: its trials, what to try next, what is best, and how a stopped run goes on."""

import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from filelock import FileLock

from medcap_core.errors import RunFault
from medcap_core.runtime.files import write_json_atomically, write_text_atomically
from medcap_core.training.epoch_report import EpochReport
from sweep.space import SearchSpace, adopt_changes, change_begun, dump_space, num_trials
from sweep.study.database import build_history
from sweep.study.directory import (
    check_new_directory,
    check_places,
    check_run_directory,
    load_run_records,
    load_run_space,
    take_lock,
)
from sweep.study.locked_run import LockedRun
from sweep.study.mirror import Mirror, find_place
from sweep.study.paths import RunPaths
from sweep.study.proposal import build_proposal, can_have_proposed, score_failures
from sweep.study.record import NUM_CANDIDATES, TrialRecord, TrialState, format_csv, rank_by_search, rank_for_choice
from sweep.study.stopping import compute_seconds_left, should_prune
from sweep.study.warm_start import WarmStart, add_earlier


class Study(LockedRun):
    """One run, its trials and what is decided of them; only the driver holds it, in one thread."""

    def __init__(
        self, directory: Path, space: SearchSpace, lock: FileLock, warm_start: WarmStart, mirror: Mirror | None = None
    ) -> None:
        super().__init__(directory, space, lock, mirror)
        self.warm_start = warm_start
        self._to_resume: list[str] = []
        self._trained_again: set[str] = set()

    # Making and opening

    @classmethod
    def create(cls, place: Path | str, space: SearchSpace, warm_start: WarmStart | None = None) -> Self:
        """Start a run in a new or empty directory, or under a URL that `check_new_place` lets pass.

        Raises RunFault if the directory is not so, or cannot be written.
        """
        (directory, mirror), warm_start = find_place(place), warm_start or WarmStart()
        check_new_directory(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFault(f"{directory}: cannot be made ({error.strerror}); choose another with --out.") from None
        with ExitStack() as undo:
            lock = take_lock(directory)
            undo.callback(lock.release)
            check_new_directory(directory)
            paths = RunPaths(directory)
            write_text_atomically(paths.trials_table, format_csv([], space.objective))
            if warm_start.trials:
                write_json_atomically(paths.warm_start, warm_start.model_dump(mode="json"))
            write_text_atomically(paths.space, dump_space(space))
            study = cls(directory, space, lock, warm_start, mirror)
            study._database.update([])
            if mirror:
                mirror.begin()
            undo.pop_all()
        return study

    @classmethod
    def open(cls, place: Path | str, *, retry_failed: bool = False, set_values: Sequence[str] = ()) -> Self:
        """Open the run in a directory or under a URL; trials that were cut off become STOPPED and are proposed first.

        With `retry_failed` those that FAILED are too, and begin anew. `set_values` are `key=value` for keys that change
        no result, kept by `write_space`. Of a URL, this machine's folder gets the run's files first where it lacks
        them. Raises RunFault if no run is there, another process holds it, or one of its files is damaged, and
        ConfigFault for another key.
        """
        directory, mirror = find_place(place)
        paths = RunPaths(directory)
        if mirror:
            directory.mkdir(parents=True, exist_ok=True)
        else:
            check_run_directory(paths)
        check_places(directory)
        with ExitStack() as undo:
            lock = take_lock(directory)
            undo.callback(lock.release)
            if mirror:
                mirror.fetch()
            space = change_begun(load_run_space(paths.space), set_values)
            records = load_run_records(directory)
            study = cls(directory, space, lock, WarmStart.load(directory, space), mirror)
            undo.pop_all()
            undo.callback(study.close)
            study._take_up(records, retry_failed)
            if mirror:
                mirror.begin()
            undo.pop_all()
        return study

    def _take_up(self, records: list[TrialRecord], retry_failed: bool) -> None:
        """Reconcile study.db with the records and queue what was cut off, with `retry_failed` what failed too."""
        outside = next((record for record in records if not can_have_proposed(self.space, record)), None)
        if outside is not None:
            raise RunFault(
                f"{self.paths.space} was changed since {outside.name} was drawn from it; undo the change, or "
                "start a new run with the changed space."
            )
        failed = [record for record in records if retry_failed and record.state is TrialState.FAILED]
        if failed:
            self.paths.database.unlink(missing_ok=True)  # Optuna takes no end back; it is made anew from the records
        for record in failed:
            shutil.rmtree(self.paths.trial(record.name).checkpoints, ignore_errors=True)
            if self._mirror:
                self._mirror.storage.remove(f"trials/{record.name}/checkpoints")
            record.state, record.reason, record.epochs = TrialState.STOPPED, "failed before", []
            record.is_config_at_fault = False
            record.save(self.paths.trial(record.name).record)
        self._database.update(records)
        for record in records:
            self._records[record.name] = record
            if record.state is TrialState.RUNNING:
                record.state, record.reason = TrialState.STOPPED, "cut off"
                record.save(self.paths.trial(record.name).record)
        self.requeue_stopped()
        self._write_csv()

    # Looking

    @property
    def num_wanted(self) -> int:
        """How many trials the run is to have in all."""
        return num_trials(self.space)

    @property
    def num_finished(self) -> int:
        """How many trials are over for good."""
        return sum(record.state.is_final for record in self.records)

    @property
    def num_remaining(self) -> int:
        """How many trials `propose` will still hand out."""
        return len(self._to_resume) + max(0, self.num_wanted - len(self._records))

    @property
    def is_complete(self) -> bool:
        """Whether every wanted trial is over for good."""
        return self.num_finished >= self.num_wanted

    @property
    def is_out_of_time(self) -> bool:
        """Whether `max_hours` is over, so that no trial and no epoch begins any more."""
        return compute_seconds_left(self.space, self.clock.seconds) == 0

    @property
    def can_be_extended(self) -> bool:
        """Whether there are more trials to be had than the run wants."""
        return self.space.sampler != "grid" and bool(self.space.search)

    # The life of a trial

    def propose(self) -> TrialRecord | None:
        """Choose the next trial to run, PENDING: cut-off ones first, then listed points, then the sampler's.

        None when the wanted number has been handed out, or no time is left. Raises ConfigFault if the space gives no
        valid point.
        """
        if self.is_out_of_time:
            return None
        if self._to_resume:
            record = self._records[self._to_resume.pop(0)]
            record.state, record.reason = TrialState.PENDING, ""
            record.config = adopt_changes(self.space, record.config)
            self._save(record)
            return record
        number = len(self._records)
        if number >= self.num_wanted:
            return None
        tried = {adopt_changes(self.space, record.config) for record in self.records}
        at_fault = {record.number for record in self.records if record.is_config_at_fault}
        own = score_failures(build_history(self.records), at_fault)
        history = add_earlier(self.space, self.warm_start, own)
        record = build_proposal(self.space, number, history, tried)
        self._save(record)
        return record

    def start(self, trial: str) -> None:
        """Note that a process has begun or begun again with the trial. `attempts` counts these calls."""
        record = self.record(trial)
        record.attempts += 1
        record.state = TrialState.RUNNING
        self._save(record)

    def report(self, trial: str, epoch: EpochReport) -> bool:
        """Take the report of one epoch; False if the trial is to stop now, as pruned or already over.

        A report that is known already changes nothing and gets the same answer, so a resumed trial may report its past
        epochs again. Only a trial that begins anew, as its checkpoint was damaged, reports them otherwise.
        """
        record = self.record(trial)
        if record.state.is_final:
            return False
        if record.pruned_at_epoch is not None:
            return epoch.epoch < record.pruned_at_epoch
        if any(known.epoch == epoch.epoch for known in record.epochs):
            if epoch not in record.epochs and trial not in self._trained_again:
                self._trained_again.add(trial)
                self._say(f"{trial}: begins anew, as a checkpoint was damaged (see its log.txt)")
            return True
        record.add_epoch(epoch)
        record.state = TrialState.RUNNING
        if record.best_epoch == epoch.epoch:
            self._forget_tested(record)
        if not record.is_whole:
            curves = [other.build_ranked_curve() for other in self.records]
            if should_prune(record.number, curves, self.space):
                record.pruned_at_epoch = epoch.epoch
        self._save(record)
        return record.pruned_at_epoch is None

    def finish(
        self, trial: str, state: TrialState, reason: str = "", *, is_config_at_fault: bool = False
    ) -> TrialRecord:
        """Note how a trial ended; the first final state stands.

        STOPPED trials go on when the run is resumed. A trial that succeeded without one finite score FAILED. From one
        that failed by its config the sampler learns.
        """
        if state in (TrialState.PENDING, TrialState.RUNNING):
            raise ValueError(f"{state} is no end of a trial")
        record = self.record(trial)
        if record.state.is_final:
            return record
        if state is TrialState.SUCCEEDED and record.best_score is None:
            state = TrialState.FAILED
            reason = f"no epoch gave a finite {record.objective.label}; look at its log"
        if state is TrialState.SUCCEEDED and record.epochs_done < record.num_epochs and record.is_out_of_patience:
            reason = f"ended by patience: {record.config.patience} epochs without a better {record.objective.label}"
        record.state, record.reason, record.is_config_at_fault = state, reason, is_config_at_fault
        self._save(record)
        return record

    def requeue(self, trial: str) -> None:
        """Note that a trial was stopped, and propose it again before others; it goes on from its last epoch."""
        if not self.finish(trial, TrialState.STOPPED).state.is_final:
            self._to_resume.append(trial)

    def stop_unfinished(self, reason: str) -> None:
        """Note that every trial that is not over was stopped, such as by Ctrl-C; resuming the run goes on with them."""
        for record in self.records:
            if record.state in (TrialState.PENDING, TrialState.RUNNING):
                self.finish(record.name, TrialState.STOPPED, reason)

    def requeue_stopped(self) -> None:
        """Propose again, and first, the trials that were stopped on their way."""
        self._to_resume = [record.name for record in self.records if not record.state.is_final]

    # The best

    @property
    def candidates(self) -> list[TrialRecord]:
        """The best trials by the search's own score; see `rank_by_search`."""
        return rank_by_search(self.records)[:NUM_CANDIDATES]

    def best(self, n: int = 1) -> list[TrialRecord]:
        """List the best `n` trials, best first, by the score on the whole validation split; see `rank_for_choice`."""
        return rank_for_choice(self.records)[:n]

    def rescore(self, trial: str, score: float) -> None:
        """Keep a trial's score on the whole validation split, which decides among the candidates.

        `best_score` stays what it was in the search. Raises ValueError if `score` is not finite.
        """
        record = self.record(trial)
        if not math.isfinite(score):
            raise ValueError(f"{record.objective.title} of {trial} on the whole validation split is {score}")
        record.whole_validation_score = score
        self._save(record)

    # Going on

    def check_extension(self, num_more: int) -> None:
        """Raise RunFault where no trials can be added: to a grid, and where nothing is searched."""
        if not self.can_be_extended:
            why = "a grid has its rows and no more" if self.space.sampler == "grid" else "nothing is searched"
            raise RunFault(f"{self.address}: {why}; leave --trials out, it is for tpe and random searches.")
        if num_more < 1:
            raise RunFault(f"--trials +{num_more}: add at least one trial.")

    def extend(self, num_more: int) -> None:
        """Add trials to the wanted number, in the run's space.yaml too. Raises as `check_extension`."""
        self.check_extension(num_more)
        self.space = self.space.model_copy(update={"trials": self.space.trials + num_more})
        self.write_space()
