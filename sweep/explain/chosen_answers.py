"""Which answers of a run on scans are explained: scans of its test split with their questions, or given ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.records import Record
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION
from medcap_core.errors import RunFault
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.scoring.question_answering import score_answers
from sweep.explain.chosen import ChosenImage, ExplainedRun, Kind, choose_images, choose_rows, read_given_images
from sweep.held_out.questions import list_questions

ANSWERS_NAME = "test_answers.csv"
_SEED = 0


@dataclass(frozen=True)
class ChosenAnswer:
    """One answer to explain: `pixels` is uint8 (1, S, S, S) as the model sees it.

    `question` is None where the report is explained, `reference` where the truth is not known.
    """

    record: Record
    kind: Kind
    pixels: NDArray[np.uint8]
    question: str | None
    question_kind: str | None
    reference: str | None


def choose_answers(
    run: ExplainedRun, num: int, questions: Sequence[str], progress: Progress = ignore_progress
) -> list[ChosenAnswer]:
    """Up to `num` test answers by the run's own: right and wrong ones, three eighths each, and random ones.

    All kinds of questions come by turns; with `questions` only these are asked, and where the run was not asked them,
    of random scans. Where the run answered no question at all its reports are chosen as captions are. Raises RunFault.
    """
    path = run.directory / ANSWERS_NAME
    if not path.is_file() and not questions:
        return [_explain_report(image) for image in choose_images(run, num, progress)]
    split = run.load_split("test", progress)
    table = _read_answers(run, split, questions) if path.is_file() else pd.DataFrame()
    if table.empty:
        if not questions:
            raise RunFault(f"{path} names no scan of {run.config.data}: the data set has changed since the run.")
        drawn = np.random.default_rng(_SEED).permutation(len(split.records))[:num].tolist()
        items: list[tuple[int, str, Kind]] = [
            (place, questions[turn % len(questions)], "random") for turn, place in enumerate(drawn)
        ]
    else:
        scores = score_answers(table["best"].tolist(), table["answer"].tolist())[:, 1]
        places = {record_id: place for place, record_id in enumerate(split.ids)}
        rows = choose_rows(scores, num)
        items = [(places[table["id"].iloc[row]], table["question"].iloc[row], kind) for row, kind in rows]
    return [_ask(split, place, question, kind) for place, question, kind in items]


def _read_answers(run: ExplainedRun, split: PreparedSplit, questions: Sequence[str]) -> pd.DataFrame:
    """The answers to `questions`, or to all, that belong to scans of the split; kinds of questions by turns."""
    table = pd.read_csv(run.directory / ANSWERS_NAME, keep_default_na=False, dtype=str)
    table = table[table["id"].isin(split.ids) & (table["question"].isin(questions) if questions else True)]
    table = table.sample(frac=1, random_state=_SEED)
    return table.assign(turn=table.groupby("kind").cumcount()).sort_values(["turn", "kind"]).reset_index(drop=True)


def read_given_scans(
    run: ExplainedRun, names: list[str], questions: Sequence[str], progress: Progress = ignore_progress
) -> list[ChosenAnswer]:
    """Scans given by path, or by the id they have in the run's test split, with `questions` on each.

    Without `questions` a test scan is asked its own, and any other for its diagnosis and its report. Raises DataFault
    naming every bad one.
    """
    chosen = []
    for image in read_given_images(run, names, progress):
        own = [question.text for question in list_questions(image.record)]
        wanted = list(questions) or own
        if wanted:
            chosen += [_attach(image, question) for question in wanted]
        else:
            chosen += [_attach(image, DIAGNOSIS_QUESTION), _explain_report(image)]
    return chosen


def _ask(split: PreparedSplit, place: int, question: str, kind: Kind) -> ChosenAnswer:
    record = split.records[place]
    return _attach(ChosenImage(record, kind, split.pixels([place])[0], None), question)


def _attach(image: ChosenImage, text: str) -> ChosenAnswer:
    known = [question for question in list_questions(image.record) if question.text == text]
    kind, answer = (known[0].kind, known[0].answer) if known else (None, None)
    return ChosenAnswer(image.record, image.kind, image.pixels, text, kind, answer)


def _explain_report(image: ChosenImage) -> ChosenAnswer:
    return ChosenAnswer(image.record, image.kind, image.pixels, None, None, image.reference)
