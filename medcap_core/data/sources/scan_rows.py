"""The rows of a table of scans, grouped by path, and the conflicts between rows of one scan."""

from dataclasses import dataclass, field

from medcap_core.data.records import SplitName, fold_white_space
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION, Question
from medcap_core.data.sources.reading import Reading
from medcap_core.data.sources.rows import Row, Table
from medcap_core.data.sources.tables import (
    CAPTION_COLUMNS,
    CASE_COLUMNS,
    ID_COLUMNS,
    SPLIT_COLUMNS,
    find_column,
    find_splits,
    require_columns,
)
from medcap_core.data.sources.tables import PATH_COLUMNS as IMAGE_PATH_COLUMNS

PATH_COLUMNS = (*IMAGE_PATH_COLUMNS, "scan", "volume")
OTHER_KIND = "other"
"""The kind of a question without one in the table."""

_COLUMNS: dict[str, tuple[str, ...]] = {
    "path": PATH_COLUMNS,
    "report": ("report", *(name for name in CAPTION_COLUMNS if name != "report")),
    "id": ID_COLUMNS,
    "split": SPLIT_COLUMNS,
    "subject": ("subject", *CASE_COLUMNS),
    "cohort": ("cohort",),
    "diagnosis": ("diagnosis",),
    "question": ("question",),
    "answer": ("answer",),
    "question_kind": ("question_type", "kind"),
}
"""The names of each field's column."""
_SINGLE_VALUED = ("report", "id", "subject", "cohort", "diagnosis")

ScanColumns = dict[str, str]
"""The column of each field that the table has."""


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
    require_columns(table, {"scan": _COLUMNS["path"], "report": _COLUMNS["report"]})
    return {name: found for name, known in _COLUMNS.items() if (found := find_column(table.columns, known))}


def gather_scans(table: Table, columns: ScanColumns, reading: Reading) -> list[ScanRows]:
    """Group the rows by path, in order of first appearance; unusable rows are skipped."""
    scans: dict[str, ScanRows] = {}
    for row, split in zip(table.rows, find_splits(table, columns.get("split"), columns["path"]), strict=True):
        name = row.text(columns["path"]).strip()
        fault = row.find_fault(columns["path"], columns["report"]) or ("" if name else "no scan named")
        if fault:
            reading.skip(split, name or f"{table.path.name} line {row.line}", fault)
            continue
        scan = scans.setdefault(name, ScanRows(name, row, split))
        scan.note("split", split, row.line)
        for field_name in _SINGLE_VALUED:
            scan.note(field_name, _read_field(row, columns, field_name), row.line)
        _note_question(scan, row, columns)
    return list(scans.values())


def _read_field(row: Row, columns: ScanColumns, name: str) -> str:
    return fold_white_space(row.text(columns[name])) if name in columns else ""


def _note_question(scan: ScanRows, row: Row, columns: ScanColumns) -> None:
    text, answer, kind = (_read_field(row, columns, name) for name in ("question", "answer", "question_kind"))
    if text and answer:
        scan.note(f"the answer to '{text}'", answer, row.line)
        if text.casefold() == DIAGNOSIS_QUESTION.casefold():
            text, kind = DIAGNOSIS_QUESTION, "diagnosis"
        scan.questions.setdefault(text, Question(kind or OTHER_KIND, text, answer))
    elif text or answer:
        scan.num_half_questions += 1
