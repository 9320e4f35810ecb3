"""Keep the study, the checkpoints and the live table up to date with what happens to trials."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcap_core.errors import MedcapError, RunFault
from sweep.execution.trial import FAILURE
from sweep.study.record import EPOCH_FIELDS, TrialRecord, TrialState
from sweep.study.study import Study
from sweep.terminal.view import SweepView

SECONDS_BETWEEN_LOOKS = 1.0


class Ledger:
    """What happens to trials, in one place: tells the study, keeps the checkpoints tidy, and shows the table."""

    def __init__(self, study: Study, view: SweepView) -> None:
        self.study = study
        self.view = view
        self.outcomes: dict[str, tuple[TrialState, str]] = {}
        self.fault: MedcapError | None = None
        self.last_look = 0.0

    @contextmanager
    def keep_fault(self) -> Iterator[None]:
        """Remember the first fault of the study's, which Tune is about to turn into a traceback."""
        try:
            yield
        except MedcapError as fault:
            self.fault = self.fault or fault
            raise
        except OSError as error:
            self.fault = self.fault or RunFault(
                f"{self.study.directory}: cannot be written ({error.strerror}); free some space or mend the disk, then "
                "go on by --resume."
            )
            raise

    def propose(self) -> TrialRecord | None:
        """The study's next trial."""
        with self.keep_fault():
            return self.study.propose()

    def take_result(self, name: str, result: dict[str, Any]) -> bool:
        """Record an epoch or a failure; returns whether the trial may go on."""
        if FAILURE in result:
            self.outcomes[name] = (TrialState.FAILED, str(result[FAILURE]))
            return False
        with self.keep_fault():
            goes_on = self.study.report(name, {field: result[field] for field in EPOCH_FIELDS})
        if not goes_on:
            self.outcomes[name] = (TrialState.PRUNED, "")
            return False
        return True

    def end(self, name: str, fault: str | None = None) -> None:
        """Record the end of a trial; `fault` says why its process was given up."""
        state, reason = (TrialState.FAILED, fault) if fault else self.outcomes.get(name, (TrialState.SUCCEEDED, ""))
        with self.keep_fault():
            self.study.finish(name, state, reason)
            self.study.tidy_checkpoints()
        self.refresh()

    def stop_unfinished(self) -> None:
        """Leave what did not end to a resume."""
        self.study.stop_unfinished("interrupted")
        self.refresh()

    def refresh(self) -> None:
        """Show the table as it stands, with where each running trial is within its epoch."""
        self.last_look = time.monotonic()
        rows = self.study.rows()
        self.view.update(
            [
                replace(row, note=read_progress(self.study.trial_directory(row.trial)))
                if row.state == TrialState.RUNNING
                else row
                for row in rows
            ]
        )

    def look(self) -> None:
        """Refresh now and then."""
        if time.monotonic() - self.last_look >= SECONDS_BETWEEN_LOOKS:
            self.refresh()


def read_progress(directory: Path) -> str:
    """Where a running trial stands within its epoch, from the note it leaves; empty if there is none."""
    try:
        note = json.loads((directory / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return f"{note['what']} {note['done']}/{note['total']}"
