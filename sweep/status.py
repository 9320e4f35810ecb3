"""How a run stands, read without its lock: state, best trial so far, running trials, time left.

python -m sweep.status RUN_DIR
python -m sweep.status RUN_DIR --json
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict

from medcap_core.objective import ObjectiveField
from medcap_core.runtime.command_line import exit_on_fault
from sweep.space import num_trials, short_label
from sweep.study.directory import find_url, show_run
from sweep.study.mirror import find_run
from sweep.study.record import TrialRecord, TrialState
from sweep.study.results import RunResults, RunStatus, count_states, load_results, read_sample
from sweep.study.stopping import compute_seconds_left, describe_budget_end
from sweep.tables.formats import format_score, format_seconds

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class TrialStanding(BaseModel):
    """How one trial stands; scores are of the objective on the validation split, None before the first epoch.

    `sample` is a caption of its last epoch and the reference.
    """

    model_config = ConfigDict(frozen=True)

    trial: str
    label: str
    state: TrialState
    epochs_done: int
    num_epochs: int
    best_score: float | None
    last_score: float | None
    sample: tuple[str, str] | None


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
    best: TrialStanding | None
    running: list[TrialStanding]
    seconds_left: float | None
    budget: str
    faults: list[str]


def read_standing(directory: Path) -> Standing:
    """Read how a run stands. Raises RunFault where `directory` is no run."""
    results = load_results(directory)
    goes_on = results.status is RunStatus.RUNNING
    scored = [r for r in results.records if r.best_score is not None and r.state is not TrialState.FAILED]
    leading = max(scored, key=lambda record: record.objective.rank(record.best_score), default=None)  # earliest of ties
    best = results.trial_of_row("best") or leading
    return Standing(
        directory=find_url(results.directory) or str(results.directory),
        name=results.space.name,
        state=results.status,
        objective=results.space.objective,
        num_trials=max(num_trials(results.space), len(results.records)),
        trials=count_states(results.records),
        best=_describe_trial(results, best) if best else None,
        running=[_describe_trial(results, record) for record in results.records if record.state is TrialState.RUNNING]
        if goes_on
        else [],
        seconds_left=_estimate_seconds_left(results) if goes_on else None,
        budget=""
        if goes_on
        else describe_budget_end(results.space, results.records, results.run_seconds, show_run(results.directory)),
        faults=results.faults,
    )


def _describe_trial(results: RunResults, record: TrialRecord) -> TrialStanding:
    return TrialStanding(
        trial=record.name,
        label=short_label(record.point),
        state=record.state,
        epochs_done=record.epochs_done,
        num_epochs=record.num_epochs,
        best_score=record.best_score,
        last_score=record.last_score,
        sample=read_sample(results.paths.trial(record.name).sample),
    )


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
    if standing.best:
        best = standing.best
        lines.append(
            f"Best     {best.trial} ({best.label}), validation {standing.objective.label} "
            f"{format_score(best.best_score)}"
        )
    for trial in standing.running:
        lines.append(
            f"Running  {trial.trial} ({trial.label}), epoch {trial.epochs_done} of {trial.num_epochs}, "
            f"last {standing.objective.label} {format_score(trial.last_score)}"
        )
        if trial.sample:
            caption, reference = trial.sample
            lines += [f"         caption    {caption}", f"         reference  {reference}"]
    if standing.seconds_left is not None:
        lines.append(f"Left     about {format_seconds(standing.seconds_left)} for the search, without the test split")
    lines += [f"Ended    {standing.budget}"] if standing.budget else []
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
