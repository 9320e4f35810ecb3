"""How a run stands, read without its lock: state, best trial so far, running trials, time left.

python -m sweep.status RUN_DIR
python -m sweep.status RUN_DIR --json
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict

from medcap_core.objective import ObjectiveField
from medcap_core.runtime.command_line import exit_on_fault
from sweep.space import num_trials
from sweep.study.directory import find_url, show_run
from sweep.study.mirror import find_run
from sweep.study.record import TrialRecord, TrialState
from sweep.study.results import RunResults, RunStatus, count_states, load_results, read_sample
from sweep.study.stopping import compute_seconds_left, describe_budget_end
from sweep.tables.formats import format_score, format_seconds
from sweep.terminal.row import TrialRow, build_row

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Standing(BaseModel):
    """How a run stands; `num_trials` are planned, and `seconds_left` is None where it is not known.

    `budget` says that `max_hours` ended the search, else it is empty.
    """

    model_config = ConfigDict(frozen=True)

    directory: str
    name: str
    state: RunStatus
    objective: ObjectiveField
    num_trials: int
    trials: dict[TrialState, int]
    best: TrialRow | None
    running: list[TrialRow]
    seconds_left: float | None
    budget: str
    faults: list[str]


def read_standing(directory: Path) -> Standing:
    """Read how a run stands. Raises RunFault where `directory` is no run."""
    results = load_results(directory)
    goes_on, records = results.status is RunStatus.RUNNING, results.records
    scored = [r for r in records if r.best_score is not None and r.state is not TrialState.FAILED]
    leading = max(scored, key=lambda record: record.objective.rank(record.best_score), default=None)  # earliest of ties
    best = results.trial_of_row("best") or leading
    running = [record for record in records if goes_on and record.state is TrialState.RUNNING]
    budget = describe_budget_end(results.space, records, results.run_seconds, show_run(results.directory))
    return Standing(
        directory=find_url(results.directory) or str(results.directory),
        name=results.space.name,
        state=results.status,
        objective=results.space.objective,
        num_trials=max(num_trials(results.space), len(records)),
        trials=count_states(records),
        best=_describe_trial(results, best) if best else None,
        running=[_describe_trial(results, record) for record in running],
        seconds_left=_estimate_seconds_left(results) if goes_on else None,
        budget="" if goes_on else budget,
        faults=results.faults,
    )


def _describe_trial(results: RunResults, record: TrialRecord) -> TrialRow:
    return replace(build_row(record), sample=read_sample(results.paths.trial(record.name).sample))


def _estimate_seconds_left(results: RunResults) -> float | None:
    """Estimate the time of the remaining epochs of the search at the mean speed so far, in as many trials at once.

    A trial not yet started counts the mean epochs of the finished ones. None before the first epoch has ended.
    """
    records = results.records
    num_epochs, seconds = sum(record.epochs_done for record in records), sum(record.seconds for record in records)
    running = [record for record in records if record.state is TrialState.RUNNING]
    if not num_epochs or not running:
        return None
    ended = [record.epochs_done for record in records if record.state.is_final] or [running[0].num_epochs]
    waiting = [record for record in records if record.state in (TrialState.PENDING, TrialState.STOPPED)]
    left = sum(record.num_epochs - record.epochs_done for record in (*running, *waiting))
    unseen = max(0, num_trials(results.space) - len(records)) * sum(ended) / len(ended)
    estimated = (left + unseen) * seconds / num_epochs / len(running)
    return min(estimated, compute_seconds_left(results.space, results.run_seconds))


def format_standing(standing: Standing) -> str:
    """Format a run's standing as lines of text."""
    counts = ", ".join(f"{count} {state.value}" for state, count in standing.trials.items()) or "none yet"
    lines = [f"Run      {standing.directory}: {standing.state.value}", f"Trials   {counts}, of {standing.num_trials}"]
    metric = standing.objective.label
    if best := standing.best:
        lines.append(f"Best     {best.trial} ({best.label}), validation {metric} {format_score(best.best_score)}")
    for trial in standing.running:
        reached = f"epoch {trial.epochs_done} of {trial.num_epochs}, last {metric} {format_score(trial.last_score)}"
        lines.append(f"Running  {trial.trial} ({trial.label}), {reached}")
        if trial.sample:
            caption, reference = trial.sample
            lines += [f"         caption    {caption}", f"         reference  {reference}"]
    if standing.seconds_left is not None:
        lines.append(f"Left     about {format_seconds(standing.seconds_left)} for the search, without the test split")
    if standing.budget:
        lines.append(f"Ended    {standing.budget}")
    lines += [f"Fault    {fault}" for fault in standing.faults]
    return "".join(f"{line}\n" for line in lines)


@app.command()
def status(
    run: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run directory, such as runs/lora-001, or its URL.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print how a run stands; the run may go on meanwhile."""
    with exit_on_fault():
        standing = read_standing(find_run(run))
        sys.stdout.write(f"{standing.model_dump_json(indent=1)}\n" if as_json else format_standing(standing))


if __name__ == "__main__":
    app()
