"""The questions on the scans of a test split, and what is drawn anew where they are resampled: subjects."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from medcap_core.data.records import Record
from medcap_core.data.scans.records import Diagnosis, Question, ScanRecord
from medcap_core.scoring.statistics import IntArray, number_units

CLASSES = tuple(diagnosis.value for diagnosis in Diagnosis)
ITEM_COLUMNS = ("id", "cohort", "subject", "kind", "question", "answer")


@dataclass(frozen=True)
class AskedSplit:
    """The scans of a split with their questions; an item is one question on one scan.

    `wrong[i]` is the position of the scan whose volume stands in for that of scan i where volumes are shuffled.
    """

    records: list[Record]
    wrong: IntArray

    @cached_property
    def questions(self) -> list[tuple[Question, ...]]:
        """Of each scan."""
        return [list_questions(record) for record in self.records]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row an item, of `ITEM_COLUMNS` and `scan`, the position of its scan; all others are text."""
        rows = [
            (position, record.id, cohort_of(record) or "", record.case or "", asked.kind, asked.text, asked.answer)
            for position, (record, own) in enumerate(zip(self.records, self.questions, strict=True))
            for asked in own
        ]
        return pd.DataFrame(rows, columns=["scan", *ITEM_COLUMNS])

    @property
    def ids(self) -> list[str]:
        """Of the scans."""
        return [record.id for record in self.records]

    @property
    def diagnoses(self) -> list[Diagnosis | None]:
        """Of the scans."""
        return [record.diagnosis if isinstance(record, ScanRecord) else None for record in self.records]

    @property
    def classes(self) -> tuple[str, ...]:
        """What a scan may be diagnosed with; empty where no diagnosis is known."""
        return CLASSES if any(self.diagnoses) else ()

    def list_wanted(self) -> tuple[tuple[str, ...], ...]:
        """List what to ask about each volume: the questions on its own scan, and those on the scan it stands in for."""
        wanted = [{question.text: None for question in own} for own in self.questions]
        for here, there in enumerate(self.wrong.tolist()):
            wanted[there] |= {question.text: None for question in self.questions[here]}
        return tuple(tuple(texts) for texts in wanted)

    def lay_out(self, answers: Sequence[Mapping[str, str]]) -> list[str]:
        """Put the answers to each scan's questions, by their text, in the order of the items."""
        return [answers[scan][text] for scan, text in zip(self.table["scan"], self.table["question"], strict=True)]

    def number_units(self, scans: Iterable[int]) -> IntArray:
        """Return the subject number of each of these scans, by first appearance; one without a subject is its own."""
        own = number_units([record.case for record in self.records])
        return number_units([str(own[scan]) for scan in scans])


def list_questions(record: Record) -> tuple[Question, ...]:
    """List the questions on a record, none for one that is no scan."""
    return record.questions if isinstance(record, ScanRecord) else ()


def cohort_of(record: Record) -> str | None:
    """Return the cohort of a scan, where known."""
    return record.cohort if isinstance(record, ScanRecord) else None


def find_unseen_cohorts(training: Iterable[Record], test: Iterable[Record]) -> list[str]:
    """Find the cohorts of test scans that no training scan is of, in order; none where training names no cohorts."""
    seen = {cohort_of(record) for record in training} - {None}
    if not seen:
        return []
    return sorted({cohort for record in test if (cohort := cohort_of(record)) is not None} - seen)
