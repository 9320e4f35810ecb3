"""Search under Ray Tune: the study proposes, Tune runs, the study records and prunes.

Small adapters connect Tune's interfaces to the `Study`. Tune's own state files are deleted.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, CheckpointConfig, PlacementGroupFactory, RunConfig, TuneConfig
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

from medcap_core.errors import RunFault
from sweep.execution.cluster import DRIVER_CPUS, TrialResources, worker_resources
from sweep.execution.dashboard import Dashboard, NotPickled
from sweep.execution.experiment_log import ExperimentLog
from sweep.execution.ledger import Ledger
from sweep.execution.nodes import keep_off
from sweep.execution.trial import SCRATCH, Assignment, run_trial
from sweep.execution.worker_group import RESERVATION, WorkerGroup
from sweep.process.interrupts import raise_if_interrupted
from sweep.space import short_label
from sweep.study.study import Study
from sweep.terminal.view import SweepView

MOST_ROUNDS = 3


def run_search(
    study: Study, resources: TrialResources, view: SweepView, log: ExperimentLog | None = None
) -> TrialResources:
    """Run trials until the study proposes no more, or its time is over.

    Returns the resources without the nodes where trials met faults. A KeyboardInterrupt leaves the study ready to be
    resumed. Raises RunFault if Ray drops trials in every round.
    """
    for _ in range(MOST_ROUNDS):
        if study.num_remaining and not study.is_out_of_time:
            resources = _run_round(study, resources, view, log)
        if study.is_complete or study.is_out_of_time:
            return resources
        study.requeue_stopped()  # Tune drops a trial that takes too long to stop
    raise RunFault(
        f"{study.address}: Ray gave up {study.num_remaining} trials {MOST_ROUNDS} times without an error; look at "
        f"{study.paths.log}, then go on by --resume, perhaps with fewer trials at once (--max-concurrent)."
    )


def _run_round(study: Study, resources: TrialResources, view: SweepView, log: ExperimentLog | None) -> TrialResources:
    """Run everything the study proposes under one Tuner; returns as `run_search`."""
    ledger = Ledger(study, view, resources.unfit_nodes)
    scratch = study.directory / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    dashboard = Dashboard(study.directory.name)
    trainable = tune.with_resources(WorkerGroup if resources.num_workers > 1 else run_trial, build_placement)
    callback = LedgerCallback(ledger)
    tuner = tune.Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=StudySearcher(ledger, resources),
            scheduler=StudyScheduler(ledger),
            num_samples=-1,  # a trial that is moved or tried again is one more to Tune
            max_concurrent_trials=resources.max_concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"{trial.config['trial']} {trial.config['label']}",
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=RunConfig(
            name="tune",
            storage_path=str(scratch),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[callback, dashboard, *([log] if log else [])],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except KeyboardInterrupt:
        study.hurry()
        raise
    except TuneError:
        if ledger.fault is not None:  # Tune wraps what its callbacks raise
            raise ledger.fault from None
        study.check_files()  # Tune's own, too, lie in the directory
        raise
    finally:
        callback.free_workers(list(callback.reservations))
        dashboard.close()
        ledger.stop_unfinished()
        shutil.rmtree(scratch, ignore_errors=True)
    return replace(resources, unfit_nodes=ledger.list_avoided_nodes())


def build_placement(params: dict[str, Any]) -> PlacementGroupFactory:
    """Build what Tune reserves for an assignment; under Ray Train the workers reserve their own."""
    assignment = Assignment(**params)
    bundle = worker_resources(assignment.cpus_per_worker, assignment.gpus_per_worker)
    if assignment.num_workers > 1:
        bundle = {"CPU": DRIVER_CPUS}
    selector = keep_off(assignment.avoided_nodes)
    if not selector:
        return PlacementGroupFactory([bundle])
    return PlacementGroupFactory([bundle], bundle_label_selector=[selector])


class StudySearcher(NotPickled, Searcher):
    """Passes the study's proposals to Tune."""

    def __init__(self, ledger: Ledger, resources: TrialResources) -> None:
        super().__init__()  # without a metric: the result of a failure has none
        self.ledger = ledger
        self.resources = resources

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next assignment; None while a running trial may come back; Tune's marker of the end."""
        record = self.ledger.propose()
        if record is None:
            finished: Any = Searcher.FINISHED  # a string, though Tune declares a dict
            return finished if self.ledger.is_idle else None
        assignment = Assignment(
            trial=record.name,
            label=short_label(record.point),
            config=record.config.model_dump(mode="json"),
            directory=str(self.ledger.study.paths.trial(record.name).root),
            cpus_per_worker=self.resources.cpus_per_worker,
            gpus_per_worker=self.resources.gpus_per_worker,
            num_workers=self.resources.num_workers,
            url=self.ledger.study.url,
            avoided_nodes=self.ledger.list_avoided_nodes(record.name),
        )
        return vars(assignment)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the callback informs the ledger."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a resumed run starts a new Tuner over the same study."""


class StudyScheduler(NotPickled, FIFOScheduler):
    """Stops the trials that the study prunes."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = ledger

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record the result and decide."""
        go_on = self.ledger.take_result(trial.config["trial"], result)
        return TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP


class LedgerCallback(NotPickled, Callback):
    """Informs the ledger of starts and ends of trials, and frees what workers took whose leader was killed."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.reservations: dict[str, PlacementGroup] = {}

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Handle interrupts and refresh the table, at each step of Tune's loop."""
        raise_if_interrupted()
        self.ledger.is_idle = all(trial.is_finished() for trial in trials)
        self.ledger.refresh_at_intervals()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record that a process has started a trial, for the first time or again."""
        self.ledger.start(trial.config["trial"])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Remember what the workers of a trial took."""
        if RESERVATION in result:
            self.reservations[trial.config["trial"]] = result[RESERVATION]

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record a trial that finished or was stopped."""
        self.reservations.pop(trial.config["trial"], None)
        self.ledger.end(trial.config["trial"])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Try a trial again whose process died, here or elsewhere, or record its end."""
        self.free_workers([trial.config["trial"]])
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        cause = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no error was kept")
        self.ledger.take_death(trial.config["trial"], cause)

    def free_workers(self, trials: Sequence[str]) -> None:
        """Remove the placement groups of workers that have no leader any more.

        Ray Train's own clean-up looks for the only Ray on the machine, and fails if there are two.
        """
        for name in trials:
            if group := self.reservations.pop(name, None):
                remove_placement_group(group)
