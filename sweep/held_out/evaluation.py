"""The one look at the test split: what is missing is predicted, scored row by row, compared, and written.

Rows are the chosen model (with `test: all` every trial that ran to its end), the base model untrained, and baselines
that see no image or the wrong one. What `test_metrics.json` holds is never scored again, not after a resume and not
after more trials.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from typing import Any

from medcap_core.config import FreezeMode
from medcap_core.inference.generation import Request
from medcap_core.runtime.progress import Progress
from sweep.execution.cluster import TrialResources
from sweep.execution.jobs import PredictionJob, predict_split
from sweep.held_out.answers import AnswerTask
from sweep.held_out.captions import CaptionTask
from sweep.held_out.task import Task
from sweep.study.record import TrialRecord
from sweep.study.study import Study
from sweep.study.test_results import TestResults

_TASKS: tuple[type[Task[Any]], ...] = (CaptionTask, AnswerTask)

_SCORING = "scoring the test split"
_SCORING_BLIND = "scoring the blind checks"
_PATIENCE_SECONDS = 0.5


def score_on_test(study: Study, best: TrialRecord, resources: TrialResources, progress: Progress) -> TestResults:
    """Fill `test_metrics.json` and the tables of predictions with what they lack, and return the first."""
    results = study.read_test_metrics()
    tasks = [task for task in (build(study, best, results) for build in _TASKS) if not task.is_complete]
    if not tasks:
        return results
    missing = {task: task.missing for task in tasks}
    waiting = [(task, row) for task in tasks for row in task.needed if not take_up(task, row)]
    jobs = list_jobs(study, waiting)
    blind = _BlindRows([(task, row) for task in tasks for row in missing[task] if row in task.blind_rows])
    with ThreadPoolExecutor(1) as beside:
        # Blind rows need no model: scoring them meanwhile also starts METEOR, which takes seconds.
        scoring = beside.submit(blind.score)
        try:
            if jobs:
                activities = " and ".join(dict.fromkeys(task.activity for task, _ in waiting))
                found = predict_split(jobs, resources, progress, f"{activities} the test split")
                for task, row in waiting:
                    model = task.model_of(row)
                    if model not in task.predictions:
                        task.predictions[model] = found[model]
            for task, row in waiting:
                task.save_predictions(row)
            for task in tasks:
                task.write_predictions()
            blind.show_until_done(scoring, progress)
        except BaseException:  # Ctrl-C above all, which is not to wait for METEOR
            for task in tasks:
                task.abandon()
            raise
    scoring.result()

    total = len(tasks) + sum(row not in task.blind_rows for task in tasks for row in missing[task])
    done = 0
    for task in tasks:
        for row in missing[task]:
            if row in task.blind_rows:
                task.keep(row, blind.scores[task, row])
            else:
                progress(_SCORING, done, total)
                task.keep(row, task.score(row, progress))
                done += 1
        task.finish()
        done += 1
    progress(_SCORING, done, total)
    return results


def take_up(task: Task[Any], row: str) -> bool:
    """Take up the predictions of a row that are on disk; False where there are none."""
    kept = task.load_predictions(row)
    if kept is not None:
        task.predictions[task.model_of(row)] = kept
    return kept is not None


def list_jobs(study: Study, waiting: list[tuple[Task[Any], str]]) -> list[PredictionJob]:
    """List each model that is to be asked, once for all that the tasks lack of it."""
    jobs: dict[str, PredictionJob] = {}
    for task, row in waiting:
        model, config = task.model_of(row), task.config_of(row)
        if model not in task.predictions:
            weights = None if config.freeze is FreezeMode.ZERO_SHOT else study.paths.trial(row).best_weights
            positions = range(len(task.split_of(row)))
            job = jobs.setdefault(model, PredictionJob(model, config, weights, "test", positions, Request()))
            jobs[model] = replace(job, request=job.request | task.build_request(row))
    return list(jobs.values())


class _BlindRows:
    """The rows that need no model, scored in a thread of their own; `step` is how far it is."""

    def __init__(self, rows: list[tuple[Task[Any], str]]) -> None:
        self.rows = rows
        self.scores: dict[tuple[Task[Any], str], Any] = {}
        self.step = (_SCORING_BLIND, 0, len(rows))

    def score(self) -> None:
        """Score all rows, in the thread."""
        for task, row in self.rows:
            self.scores[task, row] = task.score(row, self._note_step)
            self._note_step(_SCORING_BLIND, len(self.scores), len(self.rows))

    def show_until_done(self, scoring: "Future[None]", progress: Progress) -> None:
        """Show how far the thread is, from the one that may."""
        while not wait_for([scoring], timeout=_PATIENCE_SECONDS).done:
            progress(*self.step)
        progress(_SCORING_BLIND, len(self.rows), len(self.rows))

    def _note_step(self, what: str, done: int, total: int) -> None:
        self.step = what, done, total
