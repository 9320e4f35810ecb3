"""The rows of a table of scans, grouped by path, and the conflicts between rows of one scan."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from medcap_core.data.records import SplitName, fold_white_space
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION, Question
from medcap_core.data.sources.reading import Reading
from medcap_core.data.sources.tables import (
    CAPTION_COLUMNS,
    CASE_COLUMNS,
    ID_COLUMNS,
    IMAGE_COLUMNS,
    SPLIT_COLUMNS,
    Row,
    Table,
    find_column,
    find_splits,
    require_columns,
)

PATH_COLUMNS = (*IMAGE_COLUMNS, "scan", "volume", "img_path", "imgpath")
REPORT_COLUMNS = ("report", *(name for name in CAPTION_COLUMNS if name != "report"))
SUBJECT_COLUMNS = ("subject", *CASE_COLUMNS, "participant_id")
COHORT_COLUMNS = ("cohort",)
DIAGNOSIS_COLUMNS = ("diagnosis",)
QUESTION_COLUMNS = ("question",)
ANSWER_COLUMNS = ("answer",)
QUESTION_KIND_COLUMNS = ("question_type", "kind")
OTHER_KIND = "other"
"""The kind of a question without one in the table."""

_SINGLE_VALUED = ("report", "id", "subject", "cohort", "diagnosis")


@dataclass(frozen=True)
class ScanColumns:
    """The column name of each field; None where the table has no such column."""

    path: str
    report: str
    id: str | None
    split: str | None
    subject: str | None
    cohort: str | None
    diagnosis: str | None
    question: str | None
    answer: str | None
    question_kind: str | None

    @property
    def named(self) -> set[str | None]:
        """The columns assigned to a field."""
        return set(vars(self).values())


@dataclass
class ScanRows:
    """All rows of one path. `values` maps a field (such as "report") to its values and the first line of each."""

    name: str
    first: Row
    split: SplitName
    values: dict[str, dict[str, int]] = field(default_factory=dict)
    questions: dict[str, Question] = field(default_factory=dict)
    num_half_questions: int = 0

    def note(self, name: str, value: str, line: int) -> None:
        """Record the value of one field in one row, unless it is empty."""
        if value:
            self.values.setdefault(name, {}).setdefault(value, line)

    def value(self, name: str) -> str:
        """Return the first value of a field; empty where no row has one."""
        return next(iter(self.values.get(name, {})), "")

    @property
    def case(self) -> str:
        """The subject, preceded by its cohort where known, or the path."""
        cohort, subject = self.value("cohort"), self.value("subject")
        if not subject:
            return self.name
        return f"{cohort} {subject}" if cohort else subject

    def describe_conflicts(self, where: str) -> list[str]:
        """Write a sentence for each field in which two rows differ; `where` names the table."""
        return [
            f"{where}: rows of {self.name} differ in {name} (lines "
            f"{' and '.join(str(line) for line in list(known.values())[:2])}): let all rows of a scan say the same."
            for name, known in self.values.items()
            if len(known) > 1
        ]


def find_scan_columns(table: Table) -> ScanColumns:
    """Find the column of each field. Raises DataFault without a column of paths or of reports."""
    path, report = require_columns(table, {"scan": PATH_COLUMNS, "report": REPORT_COLUMNS})

    def find(names: Sequence[str]) -> str | None:
        return find_column(table.columns, names)

    return ScanColumns(
        path=path,
        report=report,
        id=find(ID_COLUMNS),
        split=find(SPLIT_COLUMNS),
        subject=find(SUBJECT_COLUMNS),
        cohort=find(COHORT_COLUMNS),
        diagnosis=find(DIAGNOSIS_COLUMNS),
        question=find(QUESTION_COLUMNS),
        answer=find(ANSWER_COLUMNS),
        question_kind=find(QUESTION_KIND_COLUMNS),
    )


def gather_scans(table: Table, columns: ScanColumns, reading: Reading) -> list[ScanRows]:
    """Group the rows by path, in order of first appearance; unusable rows are skipped."""
    scans: dict[str, ScanRows] = {}
    for row, split in zip(table.rows, find_splits(table, columns.split, columns.path), strict=True):
        name = row.text(columns.path).strip()
        if row.fault or not name:
            reading.skip(split, name or f"{table.path.name} line {row.line}", row.fault or "no scan named")
            continue
        scan = scans.setdefault(name, ScanRows(name, row, split))
        scan.note("split", split, row.line)
        for field_name in _SINGLE_VALUED:
            column = getattr(columns, field_name)
            scan.note(field_name, fold_white_space(row.text(column)) if column else "", row.line)
        _note_question(scan, row, columns)
    return list(scans.values())


def _note_question(scan: ScanRows, row: Row, columns: ScanColumns) -> None:
    text, answer, kind = (
        fold_white_space(row.text(column)) if column else ""
        for column in (columns.question, columns.answer, columns.question_kind)
    )
    if text and answer:
        scan.note(f"the answer to '{text}'", answer, row.line)
        if text.casefold() == DIAGNOSIS_QUESTION.casefold():
            text, kind = DIAGNOSIS_QUESTION, "diagnosis"
        scan.questions.setdefault(text, Question(kind or OTHER_KIND, text, answer))
    elif text or answer:
        scan.num_half_questions += 1


def describe_shared_subjects(scans: Iterable[ScanRows], where: str) -> list[str]:
    """Write a sentence if subjects have scans in more than one split, else nothing."""
    splits: dict[str, set[str]] = {}
    for scan in scans:
        splits.setdefault(scan.case, set()).update(scan.values.get("split", {}))
    shared = [case for case, found in splits.items() if len(found) > 1]
    if not shared:
        return []
    listed = ", ".join(shared[:5]) + (" ..." if len(shared) > 5 else "")
    return [
        f"{where}: {len(shared)} subjects have scans in more than one split ({listed}): give all scans of a subject "
        "one split, or name no splits, and they are cut by whole subjects."
    ]
