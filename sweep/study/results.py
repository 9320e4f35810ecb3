"""What a run directory holds, read without its lock: while the run goes on, after it, or after it was cut off.

Nothing here writes. Files are replaced in one step, so each is whole; a damaged one is named in `faults` and left out.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import pandas as pd

from medcap_core.config import TrialConfig
from medcap_core.data.records import Record
from medcap_core.errors import RunFault, first_line
from medcap_core.scoring.registry import STANDARD
from sweep.space import SearchSpace
from sweep.study.directory import check_no_pipes, find_holder, load_run_space
from sweep.study.paths import RunPaths
from sweep.study.provenance import Start, read_provenance
from sweep.study.record import NUM_CANDIDATES, TrialRecord, TrialState, rank_for_choice
from sweep.study.stopping import read_seconds
from sweep.study.test_results import BASELINE_ROWS, Scores, TestResults

_Content = TypeVar("_Content")


class RunStatus(StrEnum):
    """Whether a run goes on; NOT_ENDED where that is not known, such as for one on another machine."""

    FINISHED = "finished"
    RUNNING = "running"
    NOT_ENDED = "not ended"


@dataclass(frozen=True)
class RunResults:
    """The content of a run directory; None for a table that is not there.

    `captions` has the columns of `test_predictions.csv`, `answers` those of `test_answers.csv`, `validation_captions`
    those of `validation_predictions.csv`, all text. `trial_captions` has `id` and `prediction` of the leading trials
    that were captioned, best first, and `image_groups` the subgroups of each test image, all text.
    """

    directory: Path
    space: SearchSpace
    records: list[TrialRecord]
    status: RunStatus
    metrics: TestResults = field(default_factory=TestResults)
    provenance: list[Start] = field(default_factory=list)
    captions: pd.DataFrame | None = None
    validation_captions: pd.DataFrame | None = None
    image_scores: pd.DataFrame | None = None
    answers: pd.DataFrame | None = None
    image_groups: pd.DataFrame | None = None
    trial_captions: dict[str, pd.DataFrame] = field(default_factory=dict)
    run_seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def noun(self) -> str:
        """What the records of the test split are called, "image" or "scan"."""
        return self.metrics.noun or Record.noun

    @property
    def paths(self) -> RunPaths:
        """The files of the run."""
        return RunPaths(self.directory)

    @property
    def ranked(self) -> list[TrialRecord]:
        """Trials that gave a model, best first for the choice."""
        return rank_for_choice(self.records)

    @property
    def best(self) -> TrialRecord | None:
        """The trial that was scored as the best one, else the best so far; None if none gave a model."""
        return self.trial_of_row("best") or next(iter(self.ranked), None)

    @property
    def num_finished(self) -> int:
        """Trials that are over for good."""
        return sum(record.state.is_final for record in self.records)

    @property
    def test_rows(self) -> dict[str, Scores]:
        """Scores on the test split by row: `best`, or each trial by number where several are scored; baselines."""
        found = {row: self.metrics.scores_of(row) for row in ("best", *self.metrics.trials, *BASELINE_ROWS)}
        known = {row: scores for row, scores in found.items() if scores is not None}
        return {row: known[row] for row in choose_rows(known, BASELINE_ROWS)}

    @property
    def score_names(self) -> list[str]:
        """Names of the scores on the test split, the usual ones first."""
        found = dict.fromkeys(name for scores in self.test_rows.values() for name in scores)
        return [name for name in STANDARD if name in found] + [name for name in found if name not in STANDARD]

    def trial_of_row(self, row: str) -> TrialRecord | None:
        """Find the trial behind a row of the test table; None for a baseline."""
        name = self.metrics.best_trial if row == "best" else row
        return next((record for record in self.records if record.name == name), None)


def load_results(directory: Path) -> RunResults:
    """Read a run directory. Raises RunFault if it is none."""
    paths = RunPaths(directory.resolve())
    if not paths.space.is_file():
        raise RunFault(f"{directory} is not a run directory (it has no space.yaml); name one such as runs/lora-001.")
    check_no_pipes(paths.root)
    faults: list[str] = []
    provenance: list[Start] = _read(read_provenance, paths.root, [], faults)
    records = [_read(TrialRecord.load, path, None, faults) for path in paths.trial_records]
    known = sorted(filter(None, records), key=lambda record: record.number)
    status = RunStatus.RUNNING if find_holder(paths.root) else RunStatus.NOT_ENDED
    if provenance and provenance[-1].ended_at:
        status = RunStatus.FINISHED
    leading = [record.name for record in rank_for_choice(known)[:NUM_CANDIDATES]]

    def read(path: Path, *columns: str, numbers: Collection[str] = ()) -> pd.DataFrame | None:
        if not path.exists():
            return None
        return _read(lambda path: read_table(path, columns, numbers), path, None, faults)

    texts = ("id", "reference", "prediction")
    of_trials = {name: read(paths.trial(name).predictions, "id", "prediction") for name in leading}
    scores = _read(read_image_scores, paths.image_scores, None, faults) if paths.image_scores.exists() else None
    return RunResults(
        directory=paths.root,
        space=load_run_space(paths.space),
        records=known,
        status=status,
        metrics=_read(TestResults.load, paths.test_metrics, None, faults) or TestResults(),
        provenance=provenance,
        captions=read(paths.predictions, *texts, "zero_shot"),
        validation_captions=read(paths.validation_predictions, "row", *texts, numbers=["CIDEr"]),
        image_scores=scores,
        answers=read(paths.answers, "id", "cohort", "subject", "kind", "question", "answer"),
        image_groups=read(paths.image_groups, "id"),
        trial_captions={name: table for name, table in of_trials.items() if table is not None},
        run_seconds=read_seconds(paths.run_seconds),
        faults=faults,
    )


def read_table(path: Path, columns: Collection[str], numbers: Collection[str] = ()) -> pd.DataFrame:
    """Read a table of the run as text, and the columns in `numbers` as such; an empty cell is NaN there.

    Raises RunFault where it is damaged or lacks one of the `columns`.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False).fillna("")
        for name in table.columns.intersection(list(numbers)):
            table[name] = [float(cell or "nan") for cell in table[name]]  # pandas' own parser is off by an ulp
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or first_line(error).rstrip(".")
        raise RunFault(f"{path} cannot be read ({why}): restore it from a copy, or delete it.") from None
    if missing := [name for name in columns if name not in table]:
        raise RunFault(f"{path} has no column {missing[0]}: restore it from a copy, or delete it.")
    return table


def read_image_scores(path: Path) -> pd.DataFrame:
    """Read the scores of each image, `row` and `id` as text. Raises RunFault as `read_table`."""
    names = read_table(path, ("row", "id")).columns
    return read_table(path, names, names.difference(["row", "id"]))


def read_sample(path: Path) -> tuple[str, str] | None:
    """Read a running trial's caption and its reference; None where it has none yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not (isinstance(found, list) and len(found) == 2 and all(isinstance(text, str) for text in found)):
        return None
    return found[0], found[1]


def choose_rows(found: Collection[str], baselines: Collection[str]) -> list[str]:
    """Choose the rows of a table: `best`, or each trial by number where several were scored, then the baselines."""
    trials = sorted(row for row in found if row != "best" and row not in baselines)
    return [row for row in (*(trials if len(trials) > 1 else ["best"]), *baselines) if row in found]


def find_searched(results: RunResults) -> list[str]:
    """List the searched fields of TrialConfig that differ between trials, learning rate, rank and epochs first."""
    first = ("learning_rate", "lora_rank", "num_epochs", "freeze")
    names = [*results.space.search, *(["seed"] if results.space.seeds else [])]
    points = [record.point for record in results.records]
    varied = [name for name in names if len({repr(point[name]) for point in points if name in point}) > 1]
    return sorted(varied, key=lambda name: first.index(name) if name in first else len(first))


def group_over_seeds(records: list[TrialRecord]) -> list[list[TrialRecord]]:
    """Group trials whose configs differ in their seed alone, in order of their first trial."""
    groups: dict[TrialConfig, list[TrialRecord]] = {}
    for record in records:
        groups.setdefault(record.config.model_copy(update={"seed": 0}), []).append(record)
    return list(groups.values())


def _read(read: Callable[[Path], _Content], path: Path, otherwise: _Content, faults: list[str]) -> _Content:
    """Read a file; one that is damaged adds to `faults`."""
    try:
        return read(path)
    except RunFault as fault:
        faults += fault.faults
        return otherwise


def count_states(records: list[TrialRecord]) -> dict[TrialState, int]:
    """Count the trials in each state; states without a trial are left out."""
    counts = Counter(record.state for record in records)
    return {state: counts[state] for state in TrialState if state in counts}
