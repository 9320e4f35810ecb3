"""The questions of a test split: who is asked what, about which volume, and by whom the items are drawn anew."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.records import Record
from medcap_core.data.scans.records import Diagnosis, Question, ScanRecord
from medcap_core.scoring.baselines import draw_wrong_images
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
        """What to ask about each volume: the questions on its own scan, and those on the scan it stands in for."""
        wanted = [{question.text: None for question in own} for own in self.questions]
        for here, there in enumerate(self.wrong.tolist()):
            wanted[there] |= {question.text: None for question in self.questions[here]}
        return tuple(tuple(texts) for texts in wanted)

    def lay_out(self, answers: Sequence[Mapping[str, str]]) -> list[str]:
        """The answers of the items, given those to each scan's questions by their text."""
        return [answers[scan][text] for scan, text in zip(self.table["scan"], self.table["question"], strict=True)]

    def number_units(self, scans: Iterable[int]) -> IntArray:
        """For each of these scans (by position, repeats allowed) the number of its subject, or its own without one."""
        return number_units([_name_unit(scan, self.records[scan].case) for scan in scans])


def ask_split(split: PreparedSplit, seed: int) -> AskedSplit:
    """The questions of a split; `seed` decides how volumes are shuffled, always between subjects."""
    order = draw_wrong_images([record.case for record in split.records], seed)
    return AskedSplit(split.records, order)


def _name_unit(scan: int, subject: str | None) -> str:
    return f"scan {scan}" if subject is None else f"subject {subject}"


def list_questions(record: Record) -> tuple[Question, ...]:
    """The questions on a record, none for one that is no scan."""
    return record.questions if isinstance(record, ScanRecord) else ()


def cohort_of(record: Record) -> str | None:
    """The cohort of a scan, where known."""
    return record.cohort if isinstance(record, ScanRecord) else None


def find_unseen_cohorts(training: Iterable[Record], test: Iterable[Record]) -> list[str]:
    """The cohorts of the test scans that no training scan is of, in order; none where training names no cohorts."""
    seen = {cohort_of(record) for record in training} - {None}
    if not seen:
        return []
    return sorted({cohort for record in test if (cohort := cohort_of(record)) is not None} - seen)
