"""The one honest look at the test split: captions of every row of the test table, and their scores.

Rows are the chosen model (with `test: all` every trial that ran to its end), the base model untrained, and three blind
checks: one fixed caption, the caption of the nearest training image, and the chosen model shown the wrong images. What
`test_metrics.json` holds is never scored again, not after a resume and not after more trials.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.prepare import PreparedSplit, load_dataset
from medcap_core.runtime.files import write_text_atomically
from medcap_core.runtime.progress import Progress
from medcap_core.scoring.baselines import choose_caption_prior, draw_wrong_images, find_nearest_captions
from medcap_core.scoring.captions import load_caption_scorer
from medcap_core.scoring.facts import collect_concept_names
from medcap_core.scoring.java import ScoringFailure
from sweep.choice import best_weights
from sweep.execution.cluster import TrialResources
from sweep.execution.jobs import CaptionJob, load_split, predict_split
from sweep.held_out.board import ScoreBoard
from sweep.held_out.caption_scores import RowDetails, compute_details, describe_resampling
from sweep.held_out.evaluation_key import describe_evaluation, name_job, read_evaluation
from sweep.study.record import TrialRecord, TrialState
from sweep.study.scored_rows import BASE_ROWS, BLIND_ROWS
from sweep.study.study import Study

# What decides the training images that the blind rows choose from, beside the data.
_TRAINING_FIELDS = ("data_fraction", "max_train_images", "drop_duplicate_train_images")

_PATIENCE_SECONDS = 0.5
_BLIND_STEP = "scoring the blind checks"


def score_on_test(study: Study, best: TrialRecord, resources: TrialResources, progress: Progress) -> dict[str, Any]:
    """Fill `test_metrics.json`, `test_predictions.csv` and `tables/` with what they lack, and return the first."""
    board = ScoreBoard(study)
    evaluation = describe_evaluation(best.config)
    is_new_base = read_evaluation(board.metrics) != evaluation or not _table_path(study).is_file()
    if is_new_base:
        board.forget(BASE_ROWS)
    training = {name: getattr(best.config, name) for name in _TRAINING_FIELDS}
    if board.metrics.get("training", training) != training:  # an older run did not note it
        board.forget(BLIND_ROWS)
    if board.metrics.get("best_trial") != best.name:
        board.forget(["shuffled_images", "best"])
    trials = choose_trials(study, best)
    missing = [row for row in (*trials, *BASE_ROWS, "shuffled_images", "best") if board.lacks(row)]
    if not missing and not is_new_base:
        return board.metrics

    split = load_split(best.config, "test")
    scoring = _Scoring(study, best, split)
    with ThreadPoolExecutor(1) as beside:
        # The blind rows need no model: scoring them meanwhile also starts METEOR, which takes seconds.
        blind = beside.submit(scoring.score_blind, [row for row in BLIND_ROWS if row in missing])
        untested = {name: record for name, record in trials.items() if name in missing} | {best.name: best}
        try:
            zero_shot = _caption_rows(study, untested, best.config, is_new_base, resources, progress)
            _write_predictions(study, best, split, zero_shot)
            board.metrics |= {"evaluation": evaluation, "training": training}
            _show_until_done(blind, scoring, progress)
        except BaseException:  # Ctrl-C above all, which is not to wait for METEOR
            scoring.abandon()
            raise
    blind_details = blind.result()
    board.metrics |= scoring.texts
    for row, details in blind_details.items():
        board.put(row, details, is_trial=False)

    rows = [row for row in missing if row not in (*BLIND_ROWS, "best")]
    for index, row in enumerate(rows):
        progress("scoring the test split", index, len(rows) + 1)
        if row in trials:
            own_split = load_split(trials[row].config, "test")
            details = scoring.score(own_split, _read_predictions(study, row))
        elif row == "zero_shot":
            details = scoring.score(split, zero_shot)
        else:
            details = scoring.score(
                split, _give_wrong_images(_read_predictions(study, best.name), split, study.space.seed)
            )
        board.put(row, details, is_trial=row in trials)
    board.name_best(best.name)
    board.finish(
        _list_cases(best.config),
        num_images=len(split),
        noun=split.records[0].noun,
        evaluation=evaluation,
        training=training,
        resampling=describe_resampling(split),
        caption_preprocessing=study.space.caption_preprocessing,
    )
    progress("scoring the test split", len(rows) + 1, len(rows) + 1)
    scoring.close()
    return board.metrics


@dataclass
class _Scoring:
    """Scores rows for one run; equal captions of equal images are scored once.

    `texts` gathers what is to be told of the blind rows; `step` is how far another thread has come.
    """

    study: Study
    best: TrialRecord
    split: PreparedSplit
    texts: dict[str, str] = field(default_factory=dict)
    step: tuple[str, int, int] = (_BLIND_STEP, 0, len(BLIND_ROWS))
    is_abandoned: bool = False
    _names: dict[str, str] | None = None
    _known: dict[tuple[str, ...], RowDetails] = field(default_factory=dict)

    def score(self, split: PreparedSplit, captions: list[str]) -> RowDetails:
        """Details of these captions of that split."""
        if self.is_abandoned:
            raise ScoringFailure("the run is ending")
        if self._names is None:
            dataset = load_dataset(self.best.config.data)
            self._names = collect_concept_names(record for part in dataset.splits.values() for record in part)
        key = (*split.ids, *captions)
        if key not in self._known:
            scorer = load_caption_scorer(split.captions, self.study.space.scoring_options)
            self._known[key] = compute_details(split, captions, scorer, self._names, self.study.space.seed)
        return self._known[key]

    def score_blind(self, rows: list[str]) -> dict[str, RowDetails]:
        """The rows of `caption_prior` and `nearest_image` that are asked for, from the best trial's training images."""
        details = {}
        training = load_split(self.best.config, "train") if rows else None
        if training is not None and "caption_prior" in rows:
            prior = choose_caption_prior(training.captions, seed=self.study.space.seed)
            self.texts["caption_prior_text"] = prior
            details["caption_prior"] = self.score(self.split, [prior] * len(self.split))
            self._note_step(_BLIND_STEP, 1, len(BLIND_ROWS))
        if training is not None and "nearest_image" in rows:
            captions = find_nearest_captions(self.split, training, self._note_step)
            details["nearest_image"] = self.score(self.split, captions)
        return details

    def abandon(self) -> None:
        """Let another thread that scores fail soon."""
        self.is_abandoned = True
        load_caption_scorer(self.split.captions, self.study.space.scoring_options).interrupt()

    def close(self) -> None:
        """End METEOR's program for the images of the best trial."""
        load_caption_scorer(self.split.captions, self.study.space.scoring_options).close()

    def _note_step(self, what: str, done: int, total: int) -> None:
        self.step = what, done, total


def _show_until_done(work: "Future[Any]", scoring: _Scoring, progress: Progress) -> None:
    """Show how far another thread is, from this one."""
    while not wait_for([work], timeout=_PATIENCE_SECONDS).done:
        progress(*scoring.step)
    progress(_BLIND_STEP, len(BLIND_ROWS), len(BLIND_ROWS))


def choose_trials(study: Study, best: TrialRecord) -> dict[str, TrialRecord]:
    """The best trial, those scored before, and with `test: all` every trial that ran to its end, by name."""
    tested = study.tested_trials()
    wanted = [
        record
        for record in study.records
        if record.name in tested or (study.space.test == "all" and record.state is TrialState.SUCCEEDED)
    ]
    return {record.name: record for record in [*wanted, best]}


def _list_cases(config: TrialConfig) -> dict[str, str | None]:
    return {record.id: record.case for record in load_dataset(config.data).splits["test"]}


def _caption_rows(
    study: Study,
    trials: dict[str, TrialRecord],
    base: TrialConfig,
    is_new_base: bool,
    resources: TrialResources,
    progress: Progress,
) -> list[str]:
    """Leave each trial's test captions in its folder, where they are not there yet; return those of the base model.

    The base model is that of `base`, untrained. Zero-shot trials whose evaluation agrees share one captioning, also
    with the base model.
    """
    captions: dict[str, list[str]] = {}
    base_key = name_job("zero_shot", base.model_copy(update={"freeze": FreezeMode.ZERO_SHOT}))
    if not is_new_base:
        table = pd.read_csv(_table_path(study), keep_default_na=False, dtype=str)
        captions[base_key] = table["zero_shot"].tolist()
    waiting = {name: record for name, record in trials.items() if not _predictions_path(study, name).is_file()}
    wanted = {name_job(name, record.config): (record.config, record.name) for name, record in waiting.items()}
    wanted.setdefault(base_key, (base.model_copy(update={"freeze": FreezeMode.ZERO_SHOT}), ""))
    jobs = []
    for key, (config, name) in wanted.items():
        if key not in captions:
            is_trained = config.freeze is not FreezeMode.ZERO_SHOT
            weights = best_weights(study, study.record(name)) if is_trained else None
            jobs.append(CaptionJob(key, config, weights, "test", len(load_split(config, "test"))))
    if jobs:
        captions |= predict_split(jobs, resources, progress, "captioning the test split")
    for name, record in waiting.items():
        ids = load_split(record.config, "test").ids
        table = pd.DataFrame({"id": ids, "prediction": captions[name_job(name, record.config)]})
        write_text_atomically(_predictions_path(study, name), table.to_csv(index=False))
    return captions[base_key]


def _write_predictions(study: Study, best: TrialRecord, split: PreparedSplit, zero_shot: list[str]) -> None:
    predictions = _read_predictions(study, best.name)
    table = {"id": split.ids, "reference": split.captions, "prediction": predictions, "zero_shot": zero_shot}
    write_text_atomically(_table_path(study), pd.DataFrame(table).to_csv(index=False))


def _table_path(study: Study) -> Path:
    return study.directory / "test_predictions.csv"


def _predictions_path(study: Study, trial: str) -> Path:
    return study.trial_directory(trial) / "test_predictions.csv"


def _read_predictions(study: Study, trial: str) -> list[str]:
    table = pd.read_csv(_predictions_path(study, trial), keep_default_na=False, dtype=str)
    return table["prediction"].tolist()


def _give_wrong_images(predictions: list[str], split: PreparedSplit, seed: int) -> list[str]:
    """Captions as if each image had been swapped for another, see `draw_wrong_images`."""
    return [predictions[other] for other in draw_wrong_images([record.case for record in split.records], seed)]
