"""One run from start to end: cluster, preparation, the search, the best model, the test split, what is printed."""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial

import torch
from rich.console import Console

from medcap_core.data.prepare import TooManyBadRecords
from medcap_core.errors import MedcapError, RunFault, UserFault
from medcap_core.models import find_family
from medcap_core.runtime.files import name_refused_files
from medcap_core.runtime.progress import ignore_progress
from medcap_core.runtime.storage import StorageFault
from sweep.choice import export_best, rescore_candidates
from sweep.dry_run.estimate import estimate_cost
from sweep.dry_run.plan import describe_plan
from sweep.execution.cluster import TrialResources, choose_resources
from sweep.execution.experiment_log import ExperimentLog
from sweep.execution.jobs import free_nodes
from sweep.execution.launch import Launch
from sweep.execution.nodes import NodeSize
from sweep.execution.tune import run_search
from sweep.held_out.evaluation import score_on_test
from sweep.preparation import check_before_start, check_evaluation, describe_data, encode_ahead, prepare_run
from sweep.process.log_target import LogTarget
from sweep.process.output import redirect_output
from sweep.report.writing import write_report
from sweep.space import SearchSpace, count_most_workers, num_trials, short_label
from sweep.study.directory import show_path
from sweep.study.provenance import end_provenance
from sweep.study.record import TrialRecord, TrialState
from sweep.study.results import load_results
from sweep.study.stopping import compute_seconds_left, describe_budget_end
from sweep.study.study import Study
from sweep.tables.answer_tables import build_answer_tables
from sweep.tables.caption_tables import build_caption_tables, describe_blindness
from sweep.tables.printing import print_table
from sweep.terminal.progress import SweepProgress
from sweep.terminal.view import SweepView


class EveryTrialFailed(MedcapError):
    """No trial of the run gave a model."""


@name_refused_files()
def run_study(
    study: Study,
    launch: Launch,
    console: Console,
    *,
    num_more: int = 0,
    log_to: LogTarget | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Run what is left of a study and `num_more` trials, choose its best trial, and score that on the test split.

    `launch` is the start of the Ray to run on, which may be on its way; `notes` are printed first. Raises
    EveryTrialFailed where no trial gave a model, UserFault, and KeyboardInterrupt after printing how to go on.
    """
    space, again = study.space, f"python -m sweep.run --resume {study.address}{launch.flag}"
    with redirect_output(study.paths.log, console) as terminal:
        try:
            seconds_left = compute_seconds_left(space, study.clock.seconds)
            progress = SweepProgress(launch.num_trials, space.objective, seconds_left)
            lines = [*describe_study(study), *notes]
            with SweepView(terminal, progress, name=space.name, header_lines=lines) as view:
                study.tell(view.message)
                study.clock.start()
                resources = prepare(study, launch, view)
                # Only now, so that a fault found above changes nothing for good.
                if num_more:
                    study.extend(num_more)
                else:
                    study.write_space()
                log = ExperimentLog(study, log_to, view.message) if log_to else None
                resources = run_search(study, resources, view, log)
                study.clock.stop()
                run = study.address + launch.flag
                ending = describe_budget_end(study.space, study.records, study.clock.seconds, run)
                if ending:
                    view.message(ending)
                    sys.stdout.write(f"{ending}\n")  # to log.txt
                try:
                    best = choose_best(study, resources, view, ending)
                    score_on_test(study, best, resources, view.step)
                    study.tidy_checkpoints()  # with `test: all` weights wait for the test split
                except EveryTrialFailed:
                    end_run(study, view)
                    raise
                end_run(study, view)
                if study.url:
                    free_nodes(study.url)  # last, as it may wait for nodes, and nothing rests on it
        except KeyboardInterrupt:
            write_lines(terminal, f"Interrupted; everything finished is kept. Go on with: {again}")
            raise
        finally:
            study.clock.stop()  # before the directory of a run that began nothing goes
            study.tell(partial(write_lines, console))  # `terminal` is closed before the study is
        print_results(study, terminal, again)


def discard_unused(study: Study, fault: UserFault) -> None:
    """Remove the directory of a run that a fault ended before its first trial, but for a list of bad records."""
    if study.records:
        return
    if not isinstance(fault, StorageFault):
        study.leave_storage()
    if not isinstance(fault, TooManyBadRecords):
        shutil.rmtree(study.directory, ignore_errors=True)
        return
    for path in {*study.directory.iterdir()} - {study.paths.skipped_records}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()  # a folder of a start that was killed


def prepare(study: Study, launch: Launch, view: SweepView) -> TrialResources:
    """Do all that comes before the trials; Ray starts meanwhile, unless a fault may come of what it finds."""
    if not launch.is_sure:
        launch.settle(study, view)
    data = prepare_run(study, view)
    cluster, resources = launch.settle(study, view)
    if cluster.is_own and not resources.gpus_per_worker:
        encode_ahead(study.space, view)
    if study.num_finished < launch.num_trials:
        check_evaluation(study, data, cluster, resources, view)
    return resources


def describe_study(study: Study) -> list[str]:
    """Describe where the run is, and on what, as it is printed first."""
    return [
        f"Run directory  {show_path(study.directory)}" + (f", kept at {study.url}" if study.url else ""),
        f"Data, model    {study.space.data}, {study.space.model_names}",
        *study.warm_start.notes,
    ]


def choose_best(study: Study, resources: TrialResources, view: SweepView, ending: str) -> TrialRecord:
    """Find the best trial by validation and write its model. Raises EveryTrialFailed, which tells the `ending` too."""
    rescore_candidates(study, resources, view.step)
    best = next(iter(study.best()), None)
    if best is None:
        reasons = {record.reason for record in study.records if record.state is TrialState.FAILED}
        said = sorted(filter(None, [*reasons, ending]))
        raise EveryTrialFailed(f"No trial of {study.address} gave a model: {' / '.join(said)}")
    export_best(study, best)
    return best


def end_run(study: Study, view: SweepView) -> None:
    """Note that the run is over, and write its report; a report that cannot be written takes no result away."""
    end_provenance(study.directory)
    try:
        write_report(study.directory, progress=view.step)
    except RunFault as fault:
        view.message(str(fault))


def print_results(study: Study, console: Console, again: str) -> None:
    """Print the best config, the tables on the test split and what to do next; `again` is the command that goes on."""
    best = study.best()[0]
    directory = show_path(study.directory)
    whole, show = best.whole_validation_score, best.objective.show
    write_lines(
        console,
        "",
        f"Best: {best.name} ({short_label(best.point)}), validation {best.objective.label} {show(best.best_score)} "
        f"at epoch {best.best_epoch}" + ("" if whole is None else f", {show(whole)} on the whole split"),
    )
    results = load_results(study.directory)
    for table in (*build_caption_tables(results), *build_answer_tables(results)):
        print_table(console, table)
    if said := describe_blindness(results):
        write_lines(console, "", said)
    write_lines(
        console,
        "",
        f"Config           {directory}/best.yaml",
        f"Model            {directory}/best (loads with {find_family(best.config.model).loader})",
        f"Trials           {directory}/trials.csv",
        f"Report           {directory}/report.html",
        f"Caption images   python -m medcap_core.caption IMAGE... --model {directory}/best",
    )
    failed = [record.name for record in study.records if record.state is TrialState.FAILED]
    if failed:
        why = "why is in trials.csv; to try again"
        write_lines(console, f"Failed           {', '.join(failed)}; {why}: {again} --retry-failed")
    if study.is_out_of_time and not study.is_complete:
        write_lines(console, f"Go on            {again} --set max_hours={2 * (study.space.max_hours or 0):g}")
    elif study.can_be_extended:
        write_lines(console, f"Search further   {again} --trials +{max(4, study.num_wanted // 2)}")


def write_lines(console: Console, *lines: str) -> None:
    """Print lines as they are, neither wrapped nor coloured, so that paths and commands can be copied."""
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)


def describe_run(space: SearchSpace, started: float) -> str:
    """Describe what a run would do and cost; `started` is when this process began, on the monotonic clock."""
    notes = check_before_start(space, always=True)
    start_seconds = time.monotonic() - started
    notes = [*describe_data(space, ignore_progress), *notes, ""]
    node = NodeSize(float(os.cpu_count() or 1), float(torch.cuda.device_count()))
    resources = choose_resources([node], space.resources, num_trials(space), count_most_workers(space))
    return "\n".join([*notes, describe_plan(space, resources, estimate_cost(space, resources, start_seconds))])
