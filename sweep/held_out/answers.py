"""Answers to the questions on the test scans, and classes read from them or nearest to the scans.

Two rows do without the right volume: the chosen model shown other subjects' volumes, and the most frequent answers of
the training split.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from medcap_core.config import FreezeMode
from medcap_core.data.prepare import load_dataset
from medcap_core.inference.generation import ImagePrediction, Request
from medcap_core.models import find_family
from medcap_core.runtime.files import write_json_atomically, write_text_atomically
from medcap_core.runtime.progress import Progress
from medcap_core.scoring.baselines import draw_wrong_images
from medcap_core.scoring.question_answering import choose_answer_prior
from sweep.execution.jobs import load_split
from sweep.held_out.answer_scores import (
    compare_with_text_only,
    describe_answers,
    describe_classification,
    find_scopes,
    name_by_answer,
    name_by_similarity,
)
from sweep.held_out.questions import ITEM_COLUMNS, AskedSplit, find_unseen_cohorts, list_questions
from sweep.held_out.task import Task, describe_evaluation, describe_resampling
from sweep.study.record import TrialRecord
from sweep.study.study import Study
from sweep.study.test_results import (
    TEXT_ONLY_ROWS,
    AnswerRow,
    Classification,
    ClassificationRow,
    QuestionAnswering,
    TestResults,
)

Row = TypeVar("Row", AnswerRow, ClassificationRow)


AnswersScore = tuple[AnswerRow, ClassificationRow | None]
"""Answers and classes of one row; no classes where no diagnosis is known."""


class AnswerTask(Task[AnswersScore]):
    """The questions on each scan, for models that answer questions and test splits that have some."""

    activity = "answering questions on"
    blind_rows = ("answer_prior",)

    def __init__(self, study: Study, best: TrialRecord, results: TestResults) -> None:
        super().__init__(study, best, results)
        self._asked: dict[str, AskedSplit] = {}
        # Copies: where this task has nothing to do, what is there stays.
        self._section = (results.question_answering or QuestionAnswering()).model_copy(deep=True)
        self._classification = (results.classification or Classification()).model_copy(deep=True)
        stale = ["best", *TEXT_ONLY_ROWS] if self._section.best_trial != best.name else []
        stale += ["zero_shot", "answer_prior"] if self._section.evaluation != self.evaluation else []
        for row in stale:
            self._section.rows.pop(row, None)
            self._classification.rows.pop(row, None)
        self._section.best_trial, self._section.evaluation = best.name, self.evaluation
        self.needed = [*self.trials, "zero_shot"]  # all, for the table of answers
        rows = ("answer_prior", *self.needed, "shuffled_images")
        self.missing = [row for row in rows if row not in self._section.rows]
        has_all = not self.missing and "best" in self._section.rows and study.paths.answers.is_file()
        can_answer = find_family(best.config.model).answers_questions
        self.is_complete = has_all or not can_answer or self._ask(best.name).table.empty

    def choose_trials(self) -> dict[str, TrialRecord]:
        """See `Task`: of those whose models answer questions, the ones that are asked already or can still be."""
        return {
            name: record
            for name, record in super().choose_trials().items()
            if find_family(record.config.model).answers_questions
            and (
                record is self.best
                or record.config.freeze is FreezeMode.ZERO_SHOT
                or self.study.paths.trial(name).answers.is_file()
                or self.study.has_best_weights(name)
            )
        }

    def build_request(self, row: str) -> Request:
        """See `Task`."""
        asked = self._ask(row)
        return Request(questions=asked.list_wanted(), classes=asked.classes)

    def load_predictions(self, row: str) -> list[ImagePrediction] | None:
        """See `Task`: answers to other questions, of other scans or by other settings do not hold."""
        try:
            content = json.loads(self._path(row).read_text(encoding="utf-8"))
            evaluation, scans = content["evaluation"], content["scans"]
            kept = [(scan["id"], tuple(scan["questions"])) for scan in scans]
            found = [ImagePrediction(answers=scan["texts"], class_scores=scan["class_scores"]) for scan in scans]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None  # not there, or damaged
        asked = self._ask(row)
        wanted = list(zip(asked.ids, asked.list_wanted(), strict=True))
        return found if evaluation == describe_evaluation(self.config_of(row)) and kept == wanted else None

    def save_predictions(self, row: str) -> None:
        """See `Task`."""
        asked, found = self._ask(row), self.predictions[self.model_of(row)]
        scans = [
            {"id": name, "questions": questions, "texts": predicted.answers, "class_scores": predicted.class_scores}
            for name, questions, predicted in zip(asked.ids, asked.list_wanted(), found, strict=True)
        ]
        content = {"evaluation": describe_evaluation(self.config_of(row)), "scans": scans}
        write_json_atomically(self._path(row), content)

    def _path(self, row: str) -> Path:
        return self.study.paths.zero_shot_answers if row == "zero_shot" else self.study.paths.trial(row).answers

    def score(self, row: str, progress: Progress) -> AnswersScore:
        """See `Task`."""
        asked, answers, classes = self._ask(row), self._answer(row), None
        scopes = find_scopes(asked, self._unseen_cohorts)
        if asked.classes:
            named = name_by_answer(asked, answers)
            classes = ClassificationRow(by_answer=describe_classification(asked, named, scopes, self.seed))
            if row != "answer_prior":
                nearest = name_by_similarity([found.class_scores for _, found in self._look(row)])
                classes.by_similarity = describe_classification(asked, nearest, scopes, self.seed)
        return describe_answers(asked, answers, scopes, self.seed), classes

    def keep(self, row: str, score: AnswersScore) -> None:
        """See `Task`."""
        self._section.rows[row], classes = score
        if classes:
            self._classification.rows[row] = classes
        self._write()

    def finish(self) -> None:
        """See `Task`: `test_answers.csv` is written too."""
        asked, best = self._ask(self.best.name), self.best.name
        order = [*self.needed, *TEXT_ONLY_ROWS]
        self._section.rows = _put_in_order(self._section.rows, best, order)
        self._classification.rows = _put_in_order(self._classification.rows, best, order)
        columns = {"best": self._answer(best)}
        columns |= {row: self._answer(row) for row in order if self._ask(row).ids == asked.ids}
        scopes = find_scopes(asked, self._unseen_cohorts)
        self._section.comparisons = compare_with_text_only(asked, columns, scopes, self.seed)
        self._write()
        table = asked.table[list(ITEM_COLUMNS)].assign(**columns)
        write_text_atomically(self.study.paths.answers, table.to_csv(index=False))

    def _write(self) -> None:
        asked, section = self._ask(self.best.name), self._section
        section.unseen_cohorts = self._classification.unseen_cohorts = self._unseen_cohorts
        section.num_scans, section.num_questions = len(asked.records), len(asked.table)
        section.resampling = describe_resampling(asked.records, "subject", "scan")
        self.results.question_answering = section
        if asked.classes:
            self._classification.classes = list(asked.classes)
            self.results.classification = self._classification
        self.study.write_test_metrics(self.results)

    def _ask(self, row: str) -> AskedSplit:
        """Ask the test split as a row has it."""
        name = row if row in self.trials else self.best.name
        if name not in self._asked:
            records = self.split_of(name).records
            self._asked[name] = AskedSplit(records, draw_wrong_images([record.case for record in records], self.seed))
        return self._asked[name]

    def _look(self, row: str) -> list[tuple[tuple[str, ...], ImagePrediction]]:
        """Return for each scan the questions on the volume that the model saw in its place, and what it predicted."""
        asked = self._ask(row)
        is_shuffled = row == "shuffled_images"
        found = self.predictions[self.model_of(self.best.name if is_shuffled else row)]
        looked = list(zip(asked.list_wanted(), found, strict=True))
        return [looked[scan] for scan in asked.wrong] if is_shuffled else looked

    def _answer(self, row: str) -> list[str]:
        """Return the answers of a row to all items."""
        if row == "answer_prior":
            return self._prior_answers
        by_text = [dict(zip(questions, found.answers, strict=True)) for questions, found in self._look(row)]
        return self._ask(row).lay_out(by_text)

    @cached_property
    def _prior_answers(self) -> list[str]:
        training = load_split(self.best.config, "train").records
        prior = choose_answer_prior(question for record in training for question in list_questions(record))
        return [prior.answer(question) for own in self._ask(self.best.name).questions for question in own]

    @cached_property
    def _unseen_cohorts(self) -> list[str]:
        training = load_dataset(self.best.config).splits["train"]
        return find_unseen_cohorts(training, self._ask(self.best.name).records)


def _put_in_order(rows: dict[str, Row], best: str, order: list[str]) -> dict[str, Row]:
    """Name the best row and put it first."""
    rows = rows | ({"best": rows[best]} if best in rows else {})
    return {row: rows[row] for row in ("best", *order) if row in rows} | rows
