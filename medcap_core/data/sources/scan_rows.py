"""The rows of a table of scans put together by path: what each says, and where two of them differ."""

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
"""The kind of a question whose kind the table does not tell."""

_SAID_ONCE = ("report", "id", "subject", "cohort", "diagnosis")


@dataclass(frozen=True)
class ScanColumns:
    """Which column of a table holds what; None where there is none."""

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
        """The columns with a meaning of their own."""
        return set(vars(self).values())


@dataclass
class ScanRows:
    """All rows of one path. `values`: what (such as "report") -> each value and the line that first has it."""

    name: str
    first: Row
    split: SplitName
    values: dict[str, dict[str, int]] = field(default_factory=dict)
    questions: dict[str, Question] = field(default_factory=dict)
    num_half_questions: int = 0

    def note(self, what: str, value: str, line: int) -> None:
        """Keep what a row says, unless it says nothing."""
        if value:
            self.values.setdefault(what, {}).setdefault(value, line)

    def value(self, what: str) -> str:
        """What the first row that says it has said; empty where none does."""
        return next(iter(self.values.get(what, {})), "")

    @property
    def case(self) -> str:
        """The subject, after its cohort where one is named, or the path."""
        cohort, subject = self.value("cohort"), self.value("subject")
        if not subject:
            return self.name
        return f"{cohort} {subject}" if cohort else subject

    def describe_conflicts(self, where: str) -> list[str]:
        """A sentence for each thing of which two rows differ; `where` names the table."""
        return [
            f"{where}: rows of {self.name} differ in {what} (lines "
            f"{' and '.join(str(line) for line in list(known.values())[:2])}): let all rows of a scan say the same."
            for what, known in self.values.items()
            if len(known) > 1
        ]


def find_scan_columns(table: Table) -> ScanColumns:
    """Raises DataFault where there is no column of paths or none of reports."""
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
    """The rows of each path put together, in the order of the paths' first rows; unusable rows are skipped."""
    scans: dict[str, ScanRows] = {}
    for row, split in zip(table.rows, find_splits(table, columns.split, columns.path), strict=True):
        name = row.text(columns.path).strip()
        if row.fault or not name:
            reading.skip(split, name or f"{table.path.name} line {row.line}", row.fault or "no scan named")
            continue
        scan = scans.setdefault(name, ScanRows(name, row, split))
        scan.note("split", split, row.line)
        for what in _SAID_ONCE:
            column = getattr(columns, what)
            scan.note(what, fold_white_space(row.text(column)) if column else "", row.line)
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
    """A sentence where subjects have scans in more than one split; empty where none has."""
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
