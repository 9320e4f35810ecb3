"""What a run that answered questions has in its files: figures of made-up answers on small drawn scans."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sweep.held_out.answer_scores import (
    compare_with_text_only,
    describe_answers,
    describe_classification,
    find_scopes,
    name_by_answer,
    name_by_similarity,
)
from sweep.held_out.questions import CLASSES, ITEM_COLUMNS, AskedSplit
from sweep.study.test_results import Classification, ClassificationRow, QuestionAnswering, Resampling
from tests.support.drawn_scans import TEST, Row, build_dataset

# Two items of scan 0, three of scan 1, two of each of 2 and 3, one of 4 and 5, two of 6, none of 7.
ANSWERS = (
    "not demented", "left.", "dementia", "right", "nodule", "It is MCI", "right", "I cannot tell", "left", "The left",
    "dementia", "alzheimer's disease", "right",
)  # fmt: skip
ROWS: dict[str, Sequence[str]] = {
    "best": ANSWERS,
    "zero_shot": [""] * len(ANSWERS),
    "shuffled_images": ANSWERS[::-1],
    "answer_prior": ["dementia" if answer in ANSWERS[::5] else "right" for answer in ANSWERS],
}


def ask(test: Sequence[Row] = TEST) -> AskedSplit:
    """The scans, each one's volume standing in for that of the next."""
    records = build_dataset("any", tuple(test)).splits["test"]
    return AskedSplit(records, np.roll(np.arange(len(records)), 1))


def build_answer_metrics(unseen: Sequence[str] = ("green",), rows: Sequence[str] = tuple(ROWS)) -> dict[str, Any]:
    """The two sections of `test_metrics.json`; `rows` may name trials, which answer as the best one."""
    asked = ask()
    scopes = find_scopes(asked, unseen)
    answers = {row: ROWS.get(row, ANSWERS) for row in rows}
    near = name_by_similarity([[0.1, 0.3, 0.2]] * len(asked.records))
    classified: dict[str, ClassificationRow] = {}
    for row, own in answers.items():
        classified[row] = ClassificationRow(
            by_answer=describe_classification(asked, name_by_answer(asked, own), scopes, 0),
            by_similarity=None if row == "answer_prior" else describe_classification(asked, near, scopes, 0),
        )
    classification = Classification(classes=list(CLASSES), unseen_cohorts=list(unseen), rows=classified)
    answering = QuestionAnswering(
        best_trial="trial_0000",
        unseen_cohorts=list(unseen),
        resampling=Resampling(unit="subject", num_units=7, num_resamples=1000),
        rows={row: describe_answers(asked, own, scopes, 0) for row, own in answers.items()},
        comparisons=compare_with_text_only(asked, answers, scopes, 0),
    )
    return {
        "classification": classification.model_dump(mode="json"),
        "question_answering": answering.model_dump(mode="json"),
    }


def build_answer_table() -> pd.DataFrame:
    """The content of `test_answers.csv`."""
    return ask().table[list(ITEM_COLUMNS)].assign(**ROWS)
