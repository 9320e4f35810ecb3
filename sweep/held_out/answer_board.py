"""What `test_metrics.json` keeps of answers: its sections `question_answering` and `classification`."""

from collections.abc import Mapping, Sequence
from typing import Any

from medcap_core.data.prepare import load_dataset
from medcap_core.scoring.statistics import NUM_RESAMPLES
from sweep.held_out.answer_scores import (
    compare_with_text_only,
    describe_answers,
    describe_classification,
    find_scopes,
    name_by_answer,
    name_by_similarity,
)
from sweep.held_out.evaluation_key import describe_evaluation, read_evaluation
from sweep.held_out.questions import CLASSES, AskedSplit, find_unseen_cohorts
from sweep.study.record import TrialRecord
from sweep.study.scored_rows import TEXT_ONLY_ROWS
from sweep.study.study import Study

BASE_ROWS = ("zero_shot", "answer_prior")
"""Rows that depend on the base model and the data alone, not on which trial is the best."""


class AnswerBoard:
    """The rows scored so far; each is written as soon as it is scored. `metrics` is all of `test_metrics.json`."""

    def __init__(self, study: Study, best: TrialRecord) -> None:
        self._study = study
        self._best = best
        self._unseen: list[str] = []
        self.metrics = study.read_test_metrics()

    def has(self, trials: Sequence[str]) -> bool:
        """Whether every row is there, with these trials and the best one as they are now."""
        told = self.metrics.get("question_answering", {})
        rows = {"best", *BASE_ROWS, *TEXT_ONLY_ROWS, *trials}
        return self._best.name == told.get("best_trial") and not self._has_new_base(told) and rows <= set(told["rows"])

    def _has_new_base(self, told: Mapping[str, Any]) -> bool:
        return read_evaluation(dict(told)) != describe_evaluation(self._best.config)

    def begin(self, asked: AskedSplit) -> None:
        """Drop the rows that are others now, and say what all rows have in common."""
        told = self.metrics.setdefault("question_answering", {"rows": {}})
        stale = {"best", "shuffled_images"} if told.get("best_trial") != self._best.name else set()
        stale |= set(BASE_ROWS) if self._has_new_base(told) else set()
        training = load_dataset(self._best.config.data).splits["train"]
        self._unseen = find_unseen_cohorts(training, asked.records)
        units = asked.number_units(range(len(asked.records)))
        told |= {
            "best_trial": self._best.name,
            "evaluation": describe_evaluation(self._best.config),
            "unseen_cohorts": self._unseen,
            "num_scans": len(asked.records),
            "num_questions": len(asked.table),
            "resampling": {
                "unit": "scan" if all(record.case is None for record in asked.records) else "subject",
                "num_units": int(units.max()) + 1,
                "num_resamples": NUM_RESAMPLES,
            },
        }
        if asked.classes:
            classified = self.metrics.setdefault("classification", {"rows": {}})
            classified |= {"classes": list(CLASSES), "unseen_cohorts": self._unseen}
        for section in self._sections:
            section["rows"] = {row: figures for row, figures in section["rows"].items() if row not in stale}

    def put(
        self, row: str, asked: AskedSplit, answers: Sequence[str], class_scores: Sequence[Sequence[float]] | None
    ) -> None:
        """Score and keep a row of the answers of all items and, where there are some, similarities to the classes.

        A row that is there already stays as it is: nothing is scored twice.
        """
        seed, scopes = self._study.space.seed, find_scopes(asked, self._unseen)
        rows = self.metrics["question_answering"]["rows"]
        if row not in rows:
            rows[row] = describe_answers(asked, answers, scopes, seed)
        classified = self.metrics.get("classification", {}).get("rows")
        if classified is not None and row not in classified:
            ways = {"by_answer": name_by_answer(asked, answers)}
            ways |= {"by_similarity": name_by_similarity(class_scores)} if class_scores else {}
            classified[row] = {way: describe_classification(asked, named, scopes, seed) for way, named in ways.items()}
        self._study.write_test_metrics(self.metrics)

    def finish(self, asked: AskedSplit, answers: Mapping[str, Sequence[str]]) -> None:
        """Name the best row, compare it with those that see no right volume, and write."""
        for section in self._sections:
            rows = section["rows"]
            section["rows"] = {"best": rows[self._best.name], **{row: rows[row] for row in rows if row != "best"}}
        scopes = find_scopes(asked, self._unseen)
        compared = compare_with_text_only(asked, answers, scopes, self._study.space.seed)
        self.metrics["question_answering"]["comparisons"] = compared
        self._study.write_test_metrics(self.metrics)

    @property
    def _sections(self) -> list[dict[str, Any]]:
        return [self.metrics[name] for name in ("question_answering", "classification") if name in self.metrics]
