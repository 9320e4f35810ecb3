"""The test split once more, for models that answer questions: the answers of every row, and their scores.

Rows are the chosen model (with `test: all` every trial that ran to its end), the base model untrained, and two that do
without the right volume: the chosen model shown other subjects' volumes, and the most frequent answers of the training
split. What `test_metrics.json` holds is never answered or scored again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.inference.generation import ImageAnswers
from medcap_core.models import find_family
from medcap_core.runtime.files import write_json_atomically, write_text_atomically
from medcap_core.runtime.progress import Progress
from medcap_core.scoring.question_answering import choose_answer_prior
from sweep.choice import best_weights
from sweep.execution.cluster import TrialResources
from sweep.execution.jobs import AnswerJob, load_split, predict_split
from sweep.held_out.answer_board import AnswerBoard
from sweep.held_out.captions import choose_trials
from sweep.held_out.evaluation_key import describe_evaluation, name_job
from sweep.held_out.questions import ITEM_COLUMNS, AskedSplit, ask_split, list_questions
from sweep.study.record import TrialRecord
from sweep.study.scored_rows import ANSWER_TABLE
from sweep.study.study import Study

_WHAT = "scoring the answers"

Answers = list[ImageAnswers]
"""Of one model, one for each scan, in the order of `AskedSplit.list_wanted`."""


def score_answers_on_test(
    study: Study, best: TrialRecord, resources: TrialResources, progress: Progress
) -> dict[str, Any]:
    """Add `question_answering` and `classification` to `test_metrics.json`, and write `test_answers.csv`.

    Nothing is added where the model answers no questions or the test split has none; `classification` needs scans of
    known diagnosis. Returns all of `test_metrics.json`.
    """
    board = AnswerBoard(study, best)
    if not find_family(best.config).answers_questions:
        return board.metrics
    trials = _choose_answering(study, best)
    path = study.directory / ANSWER_TABLE
    if path.is_file() and board.has(list(trials)):
        return board.metrics
    asked = _ask_test_split(study, best.config)
    if asked.table.empty:
        return board.metrics
    said = _ask_models(study, trials, best.config, resources, progress)
    board.begin(asked)
    columns: dict[str, list[str]] = {"best": []}
    rows = [*trials, "zero_shot", "shuffled_images", "answer_prior"]
    for index, row in enumerate(rows):
        progress(_WHAT, index, len(rows))
        own = asked if row not in trials else _ask_test_split(study, trials[row].config)
        if row == "answer_prior":
            answers, class_scores = _answer_by_prior(asked, best.config), None
        else:
            told = said[best.name if row == "shuffled_images" else row]
            answers, class_scores = _lay_out(own, told, shuffled=row == "shuffled_images")
        board.put(row, own, answers, class_scores)
        if own.ids == asked.ids:
            columns[row] = answers
    columns["best"] = columns[best.name]
    board.finish(asked, columns)
    write_text_atomically(path, asked.table[list(ITEM_COLUMNS)].assign(**columns).to_csv(index=False))
    progress(_WHAT, len(rows), len(rows))
    return board.metrics


def _choose_answering(study: Study, best: TrialRecord) -> dict[str, TrialRecord]:
    """The trials whose captions are scored, as far as their models answer questions and can still be asked."""
    return {
        name: record
        for name, record in choose_trials(study, best).items()
        if find_family(record.config).answers_questions
        and (
            record is best
            or record.config.freeze is FreezeMode.ZERO_SHOT
            or _answers_path(study, name).is_file()
            or best_weights(study, record).is_file()
        )
    }


def _ask_test_split(study: Study, config: TrialConfig) -> AskedSplit:
    return ask_split(load_split(config, "test"), study.space.seed)


def _ask_models(
    study: Study, trials: Mapping[str, TrialRecord], base: TrialConfig, resources: TrialResources, progress: Progress
) -> dict[str, Answers]:
    """What each trial's model and, as `zero_shot`, the untrained one of `base` say; kept in files, asked where missing.

    Untrained models whose evaluation agrees are asked once.
    """
    configs = {name: record.config for name, record in trials.items()}
    configs["zero_shot"] = base.model_copy(update={"freeze": FreezeMode.ZERO_SHOT})
    asked = {row: _ask_test_split(study, config) for row, config in configs.items()}
    known = {row: _read_answers(_answers_path(study, row), asked[row], config) for row, config in configs.items()}
    jobs = {}
    for row, config in configs.items():
        if known[row] is None:
            key = name_job(row, config)
            is_trained = config.freeze is not FreezeMode.ZERO_SHOT
            weights = best_weights(study, trials[row]) if is_trained else None
            wanted = asked[row].list_wanted()
            jobs[key] = AnswerJob(
                key, config, weights, "test", len(wanted), questions=wanted, classes=asked[row].classes
            )
    if jobs:
        told = predict_split(list(jobs.values()), resources, progress, "answering questions on the test split")
        for row in [row for row, answers in known.items() if answers is None]:
            known[row] = told[name_job(row, configs[row])]
            _write_answers(_answers_path(study, row), asked[row], known[row] or [], configs[row])
    return {row: answers for row, answers in known.items() if answers is not None}


def _answers_path(study: Study, row: str) -> Path:
    return (
        study.directory / "zero_shot_answers.json"
        if row == "zero_shot"
        else (study.trial_directory(row) / "test_answers.json")
    )


def _write_answers(path: Path, asked: AskedSplit, answers: Answers, config: TrialConfig) -> None:
    scans = [
        {"id": name, "questions": list(questions), **asdict(told)}
        for name, questions, told in zip(asked.ids, asked.list_wanted(), answers, strict=True)
    ]
    write_json_atomically(path, {"evaluation": describe_evaluation(config), "scans": scans})


def _read_answers(path: Path, asked: AskedSplit, config: TrialConfig) -> Answers | None:
    """The answers kept in a file; None where there are none, or of other scans, questions or settings."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = [(scan["id"], tuple(scan["questions"])) for scan in content["scans"]]
    wanted = list(zip(asked.ids, asked.list_wanted(), strict=True))
    if content["evaluation"] != describe_evaluation(config) or kept != wanted:
        return None
    return [ImageAnswers(scan["texts"], scan["class_scores"]) for scan in content["scans"]]


def _lay_out(asked: AskedSplit, told: Answers, *, shuffled: bool) -> tuple[list[str], list[list[float]] | None]:
    """The answers of the items and each scan's similarity to the classes; `shuffled`, those of the wrong volumes."""
    by_text = [
        dict(zip(questions, answers.texts, strict=True))
        for questions, answers in zip(asked.list_wanted(), told, strict=True)
    ]
    seen = asked.wrong.tolist() if shuffled else range(len(told))
    class_scores = [told[scan].class_scores for scan in seen] if asked.classes else None
    return asked.lay_out([by_text[scan] for scan in seen]), class_scores


def _answer_by_prior(asked: AskedSplit, config: TrialConfig) -> list[str]:
    """The answers of the items by what is most frequent in the training split of a config."""
    training = load_split(config, "train").records
    prior = choose_answer_prior(question for record in training for question in list_questions(record))
    return [prior.answer(question) for own in asked.questions for question in own]
