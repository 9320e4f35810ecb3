"""What a run directory holds, read without its lock: while the run goes on, after it, or after it was cut off.

Nothing here writes. The run replaces its files in one step each, so every file is whole; a file that is missing is one
that does not exist yet, and one that is damaged is told in `faults` and left out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd

from medcap_core.config import TrialConfig
from medcap_core.data.records import Record
from medcap_core.errors import RunFault
from medcap_core.scoring.captions import METRICS
from sweep.space.schema import SearchSpace
from sweep.study.directory import find_holder, load_run_space
from sweep.study.provenance import read_provenance
from sweep.study.ranking import rank_for_choice
from sweep.study.record import TrialRecord, TrialState, load_record
from sweep.study.scored_rows import ANSWER_TABLE, BASELINE_ROWS, PER_IMAGE_TABLE


class RunStatus(StrEnum):
    """Whether a run goes on; NOT_ENDED where that cannot be told, such as for one on another machine."""

    FINISHED = "finished"
    RUNNING = "running"
    NOT_ENDED = "not ended"


@dataclass(frozen=True)
class RunResults:
    """A run as its files tell it; None for a table that is not there.

    `captions` has the columns of `test_predictions.csv`, `answers` those of `test_answers.csv`, all text.
    """

    directory: Path
    space: SearchSpace
    records: list[TrialRecord]
    status: RunStatus
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: list[dict[str, Any]] = field(default_factory=list)
    captions: pd.DataFrame | None = None
    image_scores: pd.DataFrame | None = None
    answers: pd.DataFrame | None = None
    faults: list[str] = field(default_factory=list)

    @property
    def noun(self) -> str:
        """What the records of the test split are called, "image" or "scan"."""
        return str(self.metrics.get("noun", Record.noun))

    @property
    def ranked(self) -> list[TrialRecord]:
        """Trials that gave a model, best first for the choice."""
        return rank_for_choice(self.records)

    @property
    def best(self) -> TrialRecord | None:
        """The trial that was scored as the best one, else the best so far; None if none gave a model."""
        named = {record.name: record for record in self.records}
        return named.get(str(self.metrics.get("best_trial"))) or next(iter(self.ranked), None)

    @property
    def num_finished(self) -> int:
        """Trials that are over for good."""
        return sum(record.state.is_final for record in self.records)

    @property
    def test_rows(self) -> dict[str, dict[str, Any]]:
        """Scores on the test split by row name: `best`, or each trial by number where several are scored; baselines."""
        rows = {name: scores for name, scores in sorted(self.section("trials").items()) if _is_mapping(scores)}
        if len(rows) < 2 and _is_mapping(self.metrics.get("best")):
            rows = {"best": self.metrics["best"]}
        return rows | {name: self.metrics[name] for name in BASELINE_ROWS if _is_mapping(self.metrics.get(name))}

    @property
    def score_names(self) -> list[str]:
        """Names of the scores on the test split, the usual ones first."""
        found = dict.fromkeys(
            name
            for scores in self.test_rows.values()
            for name, value in scores.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        )
        return [name for name in METRICS if name in found] + [name for name in found if name not in METRICS]

    def section(self, name: str) -> dict[str, Any]:
        """A mapping of `test_metrics.json` that older or unfinished runs lack; empty there."""
        value = self.metrics.get(name)
        return dict(value) if isinstance(value, Mapping) else {}

    def trial_of_row(self, row: str) -> TrialRecord | None:
        """The trial behind a row of the test table; None for a baseline."""
        name = self.metrics.get("best_trial") if row == "best" else row
        return next((record for record in self.records if record.name == name), None)


def load_results(directory: Path) -> RunResults:
    """Read a run directory. Raises RunFault if it is none."""
    if not (directory / "space.yaml").is_file():
        raise RunFault(f"{directory} is not a run directory (it has no space.yaml); name one such as runs/lora-001.")
    directory = directory.resolve()
    space = load_run_space(directory / "space.yaml")
    faults: list[str] = []
    records = _read_records(directory, faults)
    metrics = _read_metrics(directory, faults)
    provenance = _read_provenance(directory, faults)
    return RunResults(
        directory=directory,
        space=space,
        records=records,
        status=_find_status(directory, provenance),
        metrics=metrics,
        provenance=provenance,
        captions=_read_table(directory / "test_predictions.csv", faults, text=True),
        image_scores=_read_table(directory / PER_IMAGE_TABLE, faults, text=False),
        answers=_read_table(directory / ANSWER_TABLE, faults, text=True),
        faults=faults,
    )


def find_searched(results: RunResults) -> list[str]:
    """The fields of TrialConfig that were searched and differ between trials, learning rate, rank and epochs first."""
    first = ("learning_rate", "lora_rank", "num_epochs", "freeze")
    names = [*results.space.search, *(["seed"] if results.space.seeds else [])]
    varied = [
        name for name in names if len({repr(record.point.get(name)) for record in results.records} - {repr(None)}) > 1
    ]
    return sorted(varied, key=lambda name: first.index(name) if name in first else len(first))


def group_over_seeds(records: list[TrialRecord]) -> list[list[TrialRecord]]:
    """Trials whose configs differ in their seed alone, in order of their first trial."""
    groups: dict[TrialConfig, list[TrialRecord]] = {}
    for record in records:
        groups.setdefault(record.config.model_copy(update={"seed": 0}), []).append(record)
    return list(groups.values())


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _read_records(directory: Path, faults: list[str]) -> list[TrialRecord]:
    records = []
    for path in sorted((directory / "trials").glob("trial_*/trial.json")):
        try:
            records.append(load_record(path))
        except RunFault as fault:
            faults += fault.faults
    return sorted(records, key=lambda record: record.number)


def _read_metrics(directory: Path, faults: list[str]) -> dict[str, Any]:
    path = directory / "test_metrics.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        faults.append(f"{path} cannot be read ({error}); the test scores are left out.")
        return {}
    if not isinstance(content, dict):
        faults.append(f"{path} holds no scores; they are left out.")
        return {}
    return content


def _read_provenance(directory: Path, faults: list[str]) -> list[dict[str, Any]]:
    try:
        return read_provenance(directory)
    except RunFault as fault:
        faults += fault.faults
        return []


def _read_table(path: Path, faults: list[str], *, text: bool) -> pd.DataFrame | None:
    try:
        if text:
            return pd.read_csv(path, dtype=str, keep_default_na=False)
        # An id may be "NA"; an unknown score is an empty cell.
        return pd.read_csv(path, dtype={"id": str, "row": str}, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        faults.append(f"{path} cannot be read ({error}); it is left out.")
        return None


def _find_status(directory: Path, provenance: list[dict[str, Any]]) -> RunStatus:
    if provenance and provenance[-1].get("ended_at"):
        return RunStatus.FINISHED
    return RunStatus.RUNNING if find_holder(directory) else RunStatus.NOT_ENDED


def count_states(records: list[TrialRecord]) -> dict[TrialState, int]:
    """How many trials are in each state; states without a trial are left out."""
    counts = {state: sum(record.state is state for record in records) for state in TrialState}
    return {state: count for state, count in counts.items() if count}
