"""The one look at the test split: what is missing is predicted, scored row by row, compared, and written.

Rows are the chosen model (with `test: all` every trial that ran to its end), the base model untrained, and baselines
that see no image or the wrong one. What `test_metrics.json` holds is never scored again, not after a resume and not
after more trials.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from typing import Any

from medcap_core.config import FreezeMode
from medcap_core.inference.generation import ImagePrediction, Request
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

Row = tuple[Task[Any], str]

_SCORING = "scoring the test split"
_SCORING_BLIND = "scoring the blind checks"
_PATIENCE_SECONDS = 0.5


def score_on_test(study: Study, best: TrialRecord, resources: TrialResources, progress: Progress) -> TestResults:
    """Fill `test_metrics.json` and the tables of predictions with what they lack, and return the first."""
    results = study.read_test_metrics()
    tasks = [task for task in (build(study, best, results) for build in _TASKS) if not task.is_complete]
    if not tasks:
        return results
    waiting = [(task, row) for task in tasks for row in task.needed if not take_up(task, row)]
    jobs = list_jobs(study, waiting)
    blind = [(task, row) for task in tasks for row in task.missing if row in task.blind_rows]
    latest = deque([(_SCORING_BLIND, 0, len(blind))], maxlen=1)
    with ThreadPoolExecutor(1) as beside:
        # Blind rows need no model: scoring them meanwhile also starts METEOR, which takes seconds.
        scoring = beside.submit(score_blind, blind, latest)
        try:
            activities = " and ".join(dict.fromkeys(task.activity for task, _ in waiting))
            found = predict_split(jobs, resources, progress, f"{activities} the test split") if jobs else {}
            save_predictions(waiting, found)
            for task in tasks:
                task.write_predictions()
            while not wait_for([scoring], timeout=_PATIENCE_SECONDS).done:
                progress(*latest[-1])
            if blind:
                progress(_SCORING_BLIND, len(blind), len(blind))
        except BaseException:  # Ctrl-C above all, which is not to wait for METEOR
            for task in tasks:
                task.abandon()
            raise
    scores = scoring.result()
    total = len(tasks) + sum(len(task.missing) for task in tasks) - len(blind)
    done = 0
    for task in tasks:
        for row in task.missing:
            if (task, row) not in scores:
                progress(_SCORING, done, total)
                scores[task, row] = task.score(row, progress)
                done += 1
            task.keep(row, scores[task, row])
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


def list_jobs(study: Study, waiting: list[Row]) -> list[PredictionJob]:
    """List each model that is to be asked, once for all that the tasks lack of it."""
    jobs: dict[str, PredictionJob] = {}
    for task, row in waiting:
        model, config = task.model_of(row), task.config_of(row)
        if model not in task.predictions:
            weights = None if config.freeze is FreezeMode.ZERO_SHOT else study.paths.trial(row).best_weights
            positions = range(len(task.split_of(row)))
            job = jobs.setdefault(
                model, PredictionJob(model, config, weights, "test", positions, Request(), url=study.url)
            )
            jobs[model] = replace(job, request=job.request | task.build_request(row))
    return list(jobs.values())


def save_predictions(rows: list[Row], found: dict[str, list[ImagePrediction]]) -> None:
    """Write the predictions of rows that had none on disk, `found` by model where no other row has the same one."""
    for task, row in rows:
        model = task.model_of(row)
        if model not in task.predictions:
            task.predictions[model] = found[model]
        task.save_predictions(row)


def score_blind(rows: list[Row], latest: deque[tuple[str, int, int]]) -> dict[Row, Any]:
    """Score the rows that need no model; `latest` holds the step that this is at, for another thread."""
    scores: dict[Row, Any] = {}
    for task, row in rows:
        scores[task, row] = task.score(row, lambda *step: latest.append(step))
        latest.append((_SCORING_BLIND, len(scores), len(rows)))
    return scores
