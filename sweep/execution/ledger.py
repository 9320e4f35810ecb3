"""Keep the study, the checkpoints and the live table up to date with the trials."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcap_core.errors import MedcapError, RunFault
from sweep.execution.trial import CONFIG_AT_FAULT, FAILURE, STORAGE_AT_FAULT
from sweep.study.record import EPOCH_FIELDS, Epoch, TrialRecord, TrialState
from sweep.study.study import Study
from sweep.terminal.row import build_row
from sweep.terminal.view import SweepView

SECONDS_BETWEEN_REFRESHES = 1.0


class Ledger:
    """Records the events of trials: in the study, in its checkpoints and in the live table."""

    def __init__(self, study: Study, view: SweepView) -> None:
        self.study = study
        self.view = view
        self.outcomes: dict[str, tuple[TrialState, str, bool]] = {}
        self.fault: MedcapError | None = None
        self.last_refresh = 0.0

    @contextmanager
    def keep_fault(self) -> Iterator[None]:
        """Keep the first fault that the study raises, which Tune turns into a traceback."""
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
        """Propose the study's next trial."""
        with self.keep_fault():
            return self.study.propose()

    def start(self, name: str) -> None:
        """Record that a process has begun or begun again with a trial."""
        with self.keep_fault():
            self.study.start(name)
        self.refresh()

    def take_result(self, name: str, result: dict[str, Any]) -> bool:
        """Record an epoch or a failure; return whether the trial continues."""
        if result.get(STORAGE_AT_FAULT):
            with self.keep_fault():  # the trial is stopped, not failed
                raise RunFault(str(result[FAILURE]))
        if FAILURE in result:
            self.outcomes[name] = (TrialState.FAILED, str(result[FAILURE]), bool(result[CONFIG_AT_FAULT]))
            return False
        with self.keep_fault():
            continues = self.study.report(name, Epoch.model_validate({field: result[field] for field in EPOCH_FIELDS}))
        if not continues:
            self.outcomes[name] = (TrialState.PRUNED, "", False)
            return False
        return True

    def end(self, name: str, fault: str | None = None) -> None:
        """Record the end of a trial; `fault` is the reason for which its process was given up."""
        outcome = self.outcomes.get(name, (TrialState.SUCCEEDED, "", False))
        state, reason, is_config_at_fault = (TrialState.FAILED, fault, False) if fault else outcome
        with self.keep_fault():
            self.study.finish(name, state, reason, is_config_at_fault=is_config_at_fault)
            self.study.tidy_checkpoints()
        self.refresh()

    def stop_unfinished(self) -> None:
        """Mark unfinished trials as stopped, for a resume."""
        self.study.stop_unfinished("interrupted")
        self.refresh()

    def refresh(self) -> None:
        """Show the current table, with the progress of each running trial within its epoch."""
        self.last_refresh = time.monotonic()
        rows = map(build_row, self.study.records)
        self.view.update(
            [
                replace(row, note=read_progress(self.study.trial_directory(row.trial)))
                if row.state == TrialState.RUNNING
                else row
                for row in rows
            ]
        )

    def refresh_at_intervals(self) -> None:
        """Refresh if the last time is long enough ago."""
        if time.monotonic() - self.last_refresh >= SECONDS_BETWEEN_REFRESHES:
            self.refresh()


def read_progress(directory: Path) -> str:
    """Read the progress of a running trial within its epoch; empty if it has written none."""
    try:
        progress = json.loads((directory / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return f"{progress['what']} {progress['done']}/{progress['total']}"
