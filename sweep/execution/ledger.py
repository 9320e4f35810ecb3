"""Keep the study, the checkpoints and the live table up to date with the trials."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcap_core.errors import MedcapError, RunFault
from medcap_core.runtime.files import replace_text
from medcap_core.training.epoch_report import EpochReport
from sweep.execution.moves import Moves, NodeFault
from sweep.execution.nodes import describe_shortage, list_nodes, list_waiting
from sweep.execution.trial import FAILURE, NODE_FAULT, PLACES, SAMPLE, Failure
from sweep.study.record import TrialRecord, TrialState
from sweep.study.results import read_sample
from sweep.study.study import Study
from sweep.terminal.row import build_row
from sweep.terminal.view import SweepView

SECONDS_BETWEEN_REFRESHES = 1.0
_PARTS = "parts/"
SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_COMPLAINTS = 30.0, 600.0
"""How often reservations that Ray has not granted are looked for, and told of."""


class Ledger:
    """Records the events of trials: in the study, in its checkpoints and in the live table."""

    def __init__(self, study: Study, view: SweepView, unfit_nodes: Sequence[str] = ()) -> None:
        self.study = study
        self.view = view
        self.moves = Moves(frozenset(unfit_nodes))
        self.places: dict[str, dict[str, str]] = {}
        self.node_faults: dict[str, NodeFault] = {}
        self.is_idle = True
        self.outcomes: dict[str, tuple[TrialState, str, bool]] = {}
        self.fault: MedcapError | None = None
        self.last_refresh = 0.0
        self.last_look, self.last_complaint = time.monotonic(), -SECONDS_BETWEEN_COMPLAINTS
        self.waiting: set[str] = set()

    @contextmanager
    def keep_fault(self) -> Iterator[None]:
        """Keep the first fault that the study raises, which Tune turns into a traceback."""
        try:
            try:
                yield
            except OSError as error:
                self.study.check_files()
                raise RunFault(
                    f"{self.study.directory}: cannot be written ({error.strerror}); free some space or mend the disk, "
                    "then go on by --resume."
                ) from error
        except MedcapError as fault:
            self.fault = self.fault or fault
            raise

    def propose(self) -> TrialRecord | None:
        """Propose the study's next trial."""
        with self.keep_fault():
            return self.study.propose()

    def start(self, name: str) -> None:
        """Record that a process has started a trial, for the first time or again."""
        self.places[name] = {}
        self.node_faults.pop(name, None)
        with self.keep_fault():
            self.study.start(name)
        self.refresh()

    def take_result(self, name: str, result: dict[str, Any]) -> bool:
        """Record an epoch, a failure or where the trial runs; return whether it continues."""
        if PLACES in result:
            self.places[name].update(json.loads(result[PLACES]))
            return not self._is_to_stop(name)
        if NODE_FAULT in result:
            self.node_faults[name] = NodeFault(**json.loads(result[NODE_FAULT]))
            return True
        if FAILURE in result:
            failure = Failure(**json.loads(result[FAILURE]))
            with self.keep_fault():
                if failure.is_storage_at_fault:  # the trial is stopped, not failed
                    raise RunFault(failure.reason)
            self.outcomes[name] = (TrialState.FAILED, failure.reason, failure.is_config_at_fault)
            return False
        with self.keep_fault():
            if sample := result.get(SAMPLE):
                replace_text(self.study.paths.trial(name).sample, sample)
            continues = self.study.report(name, read_epoch(result))
        if not continues:
            self.outcomes[name] = (TrialState.PRUNED, "", False)
        return continues and not self._is_to_stop(name)

    def _is_to_stop(self, name: str) -> bool:
        """Whether a trial is to begin no other epoch, as `max_hours` is over; its outcome then says so."""
        if not self.study.is_out_of_time or self.study.record(name).is_whole:
            return False
        self.outcomes[name] = (TrialState.STOPPED, f"max_hours {self.study.space.max_hours:g} is over", False)
        return True

    def end(self, name: str, fault: str | None = None) -> None:
        """Record the end of a trial; `fault` is the reason for which its process was given up."""
        state, reason, is_config_at_fault = self.outcomes.get(name, (TrialState.SUCCEEDED, "", False))
        if fault:
            state, reason, is_config_at_fault = TrialState.FAILED, fault, False
        with self.keep_fault():
            self.study.finish(name, state, reason, is_config_at_fault=is_config_at_fault)
            self.study.tidy_checkpoints()
        self.refresh()

    def take_death(self, name: str, cause: str) -> None:
        """Propose a trial again whose process died, or record its failure; see `Moves.decide`."""
        fault = self.node_faults.get(name)
        goes_on, reason = self.moves.decide(name, self.places.get(name, {}), fault, list_nodes(), cause)
        if not goes_on:
            self.end(name, reason)
            return
        self.view.message(f"{name}: {reason}")
        with self.keep_fault():
            self.study.requeue(name)
        self.refresh()

    def list_avoided_nodes(self, name: str = "") -> tuple[str, ...]:
        """List the nodes that a trial keeps off, by id; without a name those that are to run nothing more."""
        return tuple(self.moves.list_avoided(name, list_nodes()))

    def stop_unfinished(self) -> None:
        """Mark unfinished trials as stopped, for a resume, which does so itself where no file can be written."""
        if self.study.paths.lock.is_file():  # else the directory was removed, and is not to come back
            with suppress(OSError):
                self.study.stop_unfinished("interrupted")
        self.refresh()

    def refresh(self) -> None:
        """Show the current table, with the progress of each running trial within its epoch."""
        self.last_refresh = time.monotonic()
        rows = [build_row(record) for record in self.study.records]
        for index, row in enumerate(rows):
            if row.state == TrialState.RUNNING:
                paths = self.study.paths.trial(row.trial)
                rows[index] = replace(row, note=read_progress(paths.root), sample=read_sample(paths.sample))
        self.view.update(rows)

    def refresh_at_intervals(self) -> None:
        """Refresh if the last time is long enough ago."""
        self.study.clock.keep()
        with self.keep_fault():
            self.study.check_files()
        now = time.monotonic()
        if now - self.last_refresh >= SECONDS_BETWEEN_REFRESHES:
            self.refresh()
        if now - self.last_look >= SECONDS_BETWEEN_LOOKS:
            self.last_look = now
            self.tell_of_waiting(list_waiting())

    def tell_of_waiting(self, waiting: Mapping[str, Mapping[str, float]]) -> None:
        """Say what trials wait for, of which `waiting` has the resources by reservation; one seen before waits long."""
        long = next((resources for key, resources in waiting.items() if key in self.waiting), None)
        self.waiting = set(waiting)
        now = time.monotonic()
        if long is None or now - self.last_complaint < SECONDS_BETWEEN_COMPLAINTS:
            return
        if shortage := describe_shortage(long.get("CPU", 0.0), long.get("GPU", 0.0)):
            self.last_complaint = now
            self.view.message(shortage)


def read_epoch(result: dict[str, Any]) -> EpochReport:
    """Read the report of an epoch from a result that Tune has flattened: `parts` is one key for each score."""
    values = {field: result[field] for field in EpochReport.model_fields if field != "parts"}
    parts = {key.removeprefix(_PARTS): value for key, value in result.items() if key.startswith(_PARTS)}
    return EpochReport.model_validate(values | {"parts": parts})


def read_progress(directory: Path) -> str:
    """Read the progress of a running trial within its epoch; empty if it has written none."""
    try:
        progress = json.loads((directory / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return f"{progress['what']} {progress['done']}/{progress['total']}"
