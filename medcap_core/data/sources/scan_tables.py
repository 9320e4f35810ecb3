"""Tables of scans: a path and a report in each row, as published with MedBLIP or with a header and more columns."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from medcap_core.data.records import VolumeReference, fold_white_space
from medcap_core.data.scans.files import (
    OTHER_VOLUME_SUFFIXES,
    VOLUME_SUFFIXES,
    DicomSeries,
    find_volume,
    require_dicom_reader,
)
from medcap_core.data.scans.records import (
    DIAGNOSIS_QUESTION,
    Diagnosis,
    Question,
    ScanRecord,
    ask_diagnosis,
    read_diagnosis,
)
from medcap_core.data.sources.image_index import IMAGE_SUFFIXES, exists
from medcap_core.data.sources.reading import Reading
from medcap_core.data.sources.rows import Table, is_table, read_rows
from medcap_core.data.sources.scan_rows import (
    PATH_COLUMNS,
    ScanColumns,
    ScanRows,
    find_scan_columns,
    gather_scans,
)
from medcap_core.data.sources.tables import find_column, flatten_columns
from medcap_core.errors import DataFault

_DIAGNOSIS_SENTENCE = re.compile(
    r"[\s,;]*\bthe\s+(?:final\s+|clinical\s+)?diagnosis\s+is\b\s*:?\s*(?P<label>[^.!?]*?)\s*(?:[.!?]|$)", re.IGNORECASE
)
_BEGINS_WITH_VOLUME = re.compile(r"[\"']?[^\t,;\"']+\.(?:nii|nii\.gz|npy)[\"']?(?P<mark>[\t,;])", re.IGNORECASE)
_MAX_LINE = 2**20
_PUBLISHED_COLUMNS = ("path", "report")
_NUM_ROWS_LOOKED_AT = 100
_NUM_LISTED = 10


def is_scan_table(path: Path) -> bool:
    """Check whether `path` is a table of scans.

    Decided by the first row with a suffix of volumes or of images; without one, by the first path that exists, which
    must be a folder (DICOM).
    """
    if not is_table(path):
        return False
    if _lacks_header(path):
        return True
    table = read_rows(path, max_rows=_NUM_ROWS_LOOKED_AT)
    flatten_columns(table)
    path_column = find_column(table.columns, PATH_COLUMNS)
    names = [row.text(path_column).strip() for row in table.rows] if path_column else []
    for name in names:
        if name.lower().endswith((*VOLUME_SUFFIXES, *OTHER_VOLUME_SUFFIXES)):
            return True
        if name.rpartition(".")[2].lower() in IMAGE_SUFFIXES:
            return False
    found = next((path.parent / name for name in names if name and exists(path.parent / name)), None)
    return found is not None and found.is_dir()


def read_scan_table(path: Path) -> Reading:
    """Read the records of a CSV, TSV or JSONL file of scans; paths are relative to the file's folder.

    Required columns: a path and a report. A file of two tab-separated columns without a header is read as path and
    report, whatever its suffix: the format of MedBLIP's code. A sentence "The diagnosis is X." in the report is cut out
    and parsed into `diagnosis`. Optional columns: `id`, `split`, `subject`, `cohort`, `diagnosis`, and `question` with
    `answer` and `question_type`. Rows of one path are one scan with several questions; all other columns go into
    `truth`, from the first row. The case of a record is its subject, preceded by the cohort where known since subject
    numbers repeat between cohorts; without a subject it is the path.

    Raises DataFault for a scan whose rows differ.
    """
    table = read_rows(path, _PUBLISHED_COLUMNS if _lacks_header(path) else None)
    flatten_columns(table)
    columns = find_scan_columns(table)
    reading = Reading(notes=list(table.notes), splits_by_user=True)
    scans = gather_scans(table, columns, reading)
    faults = [fault for scan in scans for fault in scan.describe_conflicts(path.name)]
    if faults:
        rest = [f"... and {len(faults) - _NUM_LISTED} more"] if len(faults) > _NUM_LISTED else []
        raise DataFault([*faults[:_NUM_LISTED], *rest])
    counts = _Counts()
    for scan in scans:
        _add_scan(scan, table, columns, reading, counts)
    reading.notes.extend(counts.describe(path.name, has_subjects="subject" in columns))
    return reading


@dataclass
class _Counts:
    unknown_labels: dict[str, int] = field(default_factory=dict)
    num_half_questions: int = 0
    num_without_subject: int = 0

    def describe(self, where: str, *, has_subjects: bool) -> list[str]:
        notes = []
        if not has_subjects:
            notes.append(
                f"{where} has no column of subjects, so each path counts as a subject of its own; where subjects have "
                "several scans, name them in a column 'subject', or their scans will lie in several splits."
            )
        elif self.num_without_subject:
            notes.append(f"{self.num_without_subject} scans name no subject; each counts as one of its own.")
        if self.unknown_labels:
            labels = ", ".join(repr(label) for label in list(self.unknown_labels)[:5])
            notes.append(
                f"{sum(self.unknown_labels.values())} scans carry a diagnosis that is none of the known ones "
                f"({labels}); they were kept without a diagnosis."
            )
        if self.num_half_questions:
            notes.append(
                f"{self.num_half_questions} questions without an answer, or answers without one, were left out."
            )
        return notes


def _lacks_header(path: Path) -> bool:
    """Check whether the first line is a row of path and report separated by a tab.

    Raises DataFault where it begins with the path of a volume but has another separator.
    """
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = file.readline(_MAX_LINE)
    match = _BEGINS_WITH_VOLUME.match(line)
    if match is None or path.suffix.lower() == ".jsonl":
        return False
    if match["mark"] == "\t" and line.count("\t") == 1:
        return True
    raise DataFault(
        f"{path} has no header: give it a first line with the names of its columns (path, report, ...); without one "
        "only two columns parted by a tab are read, path and report."
    )


def _add_scan(scan: ScanRows, table: Table, columns: ScanColumns, reading: Reading, counts: _Counts) -> None:
    """Add one record, or skip it."""
    record_id = scan.value("id") or scan.name
    counts.num_without_subject += not scan.value("subject")
    counts.num_half_questions += scan.num_half_questions
    reference = _find_reference(table.path.parent / scan.name)
    if isinstance(reference, str):
        reading.skip(scan.split, record_id, reference)
        return
    caption, labels = cut_diagnosis(scan.value("report"))
    if not caption:
        reading.skip(
            scan.split, record_id, "the report says nothing beside the diagnosis" if labels else "empty report"
        )
        return
    diagnosis, questions = _read_known(scan, labels, counts)
    truth = {column: scan.first.cells.get(column) for column in table.columns if column not in columns.values()}
    reading.add(
        scan.split,
        ScanRecord(
            record_id, reference, caption, scan.case, truth,
            cohort=scan.value("cohort") or None, diagnosis=diagnosis, questions=questions,
        ),
    )  # fmt: skip


def cut_diagnosis(report: str) -> tuple[str, list[str]]:
    """Cut the sentences "The diagnosis is X." from a report; returns the rest and each X."""
    labels = [match["label"] for match in _DIAGNOSIS_SENTENCE.finditer(report)]
    return fold_white_space(_DIAGNOSIS_SENTENCE.sub(" ", report)), labels


def _read_known(scan: ScanRows, labels: list[str], counts: _Counts) -> tuple[Diagnosis | None, tuple[Question, ...]]:
    """Return the diagnosis, where column, report and questions agree, and all questions, the diagnosis first."""
    asked = [question.answer for question in scan.questions.values() if question.kind == "diagnosis"]
    stated = [label for label in (scan.value("diagnosis"), *labels, *asked) if label]
    known = {label: read_diagnosis(label) for label in stated}
    diagnosis = next(iter(known.values())) if len(set(known.values())) == 1 else None
    if stated and diagnosis is None:
        counts.unknown_labels[" / ".join(known)] = counts.unknown_labels.get(" / ".join(known), 0) + 1
    others = tuple(question for question in scan.questions.values() if question.text != DIAGNOSIS_QUESTION)
    return diagnosis, (*((ask_diagnosis(diagnosis),) if diagnosis else ()), *others)


def _find_reference(path: Path) -> VolumeReference | str:
    """Build the reference to the scan at `path`, or the reason for none. Raises DataFault without a DICOM reader."""
    if not exists(path):
        return f"scan '{path.name}' not found in {path.parent}"
    try:
        reference = find_volume(path)
    except ValueError as error:
        return str(error)
    if isinstance(reference, DicomSeries):
        require_dicom_reader()
    return reference
