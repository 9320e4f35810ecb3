"""Tables of scans: a path and a report in each row, as published with MedBLIP or with a header and more columns."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from medcap_core.data.records import SplitName, VolumeReference, fold_white_space
from medcap_core.data.scans import files
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION, Question, ScanRecord, ask_diagnosis, read_diagnosis
from medcap_core.data.sources import tables
from medcap_core.data.sources.image_index import IMAGE_SUFFIXES, exists
from medcap_core.data.sources.reading import Reading
from medcap_core.data.sources.rows import Row, Table, is_table, read_rows
from medcap_core.errors import DataFault

SCAN_COLUMNS = (*tables.PATH_COLUMNS, "scan", "volume")
OTHER_KIND = "other"
"""The kind of a question without one in the table."""

_COLUMNS: dict[str, tuple[str, ...]] = {
    "path": SCAN_COLUMNS,
    "report": ("report", *(name for name in tables.CAPTION_COLUMNS if name != "report")),
    "id": tables.ID_COLUMNS,
    "split": tables.SPLIT_COLUMNS,
    "subject": ("subject", *tables.CASE_COLUMNS),
    "cohort": ("cohort",),
    "diagnosis": ("diagnosis",),
    "question": ("question",),
    "answer": ("answer",),
    "question_kind": ("question_type", "kind"),
}
"""The names of each field's column."""
_SINGLE_VALUED = ("report", "id", "subject", "cohort", "diagnosis")

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
    tables.flatten_columns(table)
    path_column = tables.find_column(table.columns, SCAN_COLUMNS)
    names = [row.text(path_column).strip() for row in table.rows] if path_column else []
    for name in names:
        if name.lower().endswith((*files.VOLUME_SUFFIXES, *files.OTHER_VOLUME_SUFFIXES)):
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
    tables.flatten_columns(table)
    tables.require_columns(table, {"scan": _COLUMNS["path"], "report": _COLUMNS["report"]})
    columns = {name: found for name, known in _COLUMNS.items() if (found := tables.find_column(table.columns, known))}
    reading = Reading(notes=list(table.notes), splits_by_user=True)
    scans = _gather_scans(table, columns, reading)
    faults = [
        f"{path.name}: rows of {scan.name} differ in {name} (lines {' and '.join(map(str, [*known.values()][:2]))}): "
        "let all rows of a scan say the same."
        for scan in scans
        for name, known in scan.values.items()
        if len(known) > 1
    ]
    if faults:
        rest = [f"... and {len(faults) - _NUM_LISTED} more"] if len(faults) > _NUM_LISTED else []
        raise DataFault([*faults[:_NUM_LISTED], *rest])
    unknown_labels: Counter[str] = Counter()
    for scan in scans:
        _add_scan(scan, table, columns, reading, unknown_labels)
    num_without_subject = sum(not scan.value("subject") for scan in scans)
    if "subject" not in columns:
        reading.notes.append(
            f"{path.name} has no column of subjects, so each path counts as a subject of its own; where subjects have "
            "several scans, name them in a column 'subject', or their scans will lie in several splits."
        )
    elif num_without_subject:
        reading.notes.append(f"{num_without_subject} scans name no subject; each counts as one of its own.")
    if unknown_labels:
        reading.notes.append(
            f"{unknown_labels.total()} scans carry a diagnosis that is none of the known ones "
            f"({', '.join(map(repr, list(unknown_labels)[:5]))}); they were kept without a diagnosis."
        )
    if num_half := sum(scan.num_half_questions for scan in scans):
        reading.notes.append(f"{num_half} questions without an answer, or answers without one, were left out.")
    return reading


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


@dataclass
class _Scan:
    """All rows of one path. `values` maps a field (such as "report") to its values and the first line of each."""

    name: str
    first: Row
    split: SplitName
    values: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    questions: dict[str, Question] = field(default_factory=dict)
    num_half_questions: int = 0

    def value(self, name: str) -> str:
        """Return the first value of a field; empty where no row has one."""
        return next(iter(self.values.get(name, {})), "")


def _gather_scans(table: Table, columns: dict[str, str], reading: Reading) -> list[_Scan]:
    """Group the rows by path, in order of first appearance; unusable rows are skipped."""
    scans: dict[str, _Scan] = {}
    for row, split in zip(table.rows, tables.find_splits(table, columns.get("split"), columns["path"]), strict=True):
        name = row.text(columns["path"]).strip()
        nested = [own for own in (columns["path"], columns["report"]) if isinstance(row.cells.get(own), list | dict)]
        fault = row.fault or (f"line {row.line}: {nested[0]} is not text" if nested else "")
        if fault or not name:
            reading.skip(split, name or f"{table.path.name} line {row.line}", fault or "no scan named")
            continue
        scan = scans.setdefault(name, _Scan(name, row, split))
        own = {key: fold_white_space(row.text(column)) for key, column in columns.items()}
        text, answer, kind = (own.get(key, "") for key in ("question", "answer", "question_kind"))
        noted = {"split": split, **{key: own.get(key, "") for key in _SINGLE_VALUED}}
        if text and answer:
            noted[f"the answer to '{text}'"] = answer
            if text.casefold() == DIAGNOSIS_QUESTION.casefold():
                text, kind = DIAGNOSIS_QUESTION, "diagnosis"
            scan.questions.setdefault(text, Question(kind or OTHER_KIND, text, answer))
        elif text or answer:
            scan.num_half_questions += 1
        for key, value in noted.items():
            if value:
                scan.values[key].setdefault(value, row.line)
    return list(scans.values())


def _add_scan(
    scan: _Scan, table: Table, columns: dict[str, str], reading: Reading, unknown_labels: Counter[str]
) -> None:
    """Add one record, with the diagnosis on which column, report and questions agree, or skip it."""
    record_id = scan.value("id") or scan.name
    reference = _find_reference(table.path.parent / scan.name)
    if isinstance(reference, str):
        reading.skip(scan.split, record_id, reference)
        return
    caption, labels = cut_diagnosis(scan.value("report"))
    if not caption:
        reason = "the report says nothing beside the diagnosis" if labels else "empty report"
        reading.skip(scan.split, record_id, reason)
        return
    asked = [question.answer for question in scan.questions.values() if question.kind == "diagnosis"]
    known = {label: read_diagnosis(label) for label in (scan.value("diagnosis"), *labels, *asked) if label}
    diagnosis = next(iter(known.values())) if len(set(known.values())) == 1 else None
    if known and diagnosis is None:
        unknown_labels[" / ".join(known)] += 1
    others = [question for question in scan.questions.values() if question.text != DIAGNOSIS_QUESTION]
    cohort, subject = scan.value("cohort"), scan.value("subject")
    case = f"{cohort} {subject}".strip() if subject else scan.name
    truth = {column: scan.first.cells.get(column) for column in table.columns if column not in columns.values()}
    questions = (*([ask_diagnosis(diagnosis)] if diagnosis else []), *others)
    record = ScanRecord(
        record_id, reference, caption, case, truth, cohort=cohort or None, diagnosis=diagnosis, questions=questions
    )
    reading.add(scan.split, record)


def cut_diagnosis(report: str) -> tuple[str, list[str]]:
    """Cut the sentences "The diagnosis is X." from a report; returns the rest and each X."""
    labels = [match["label"] for match in _DIAGNOSIS_SENTENCE.finditer(report)]
    return fold_white_space(_DIAGNOSIS_SENTENCE.sub(" ", report)), labels


def _find_reference(path: Path) -> VolumeReference | str:
    """Build the reference to the scan at `path`, or the reason for none. Raises DataFault without a DICOM reader."""
    if not exists(path):
        return f"scan '{path.name}' not found in {path.parent}"
    try:
        reference = files.find_volume(path)
    except ValueError as error:
        return str(error)
    if isinstance(reference, files.DicomSeries):
        files.require_dicom_reader()
    return reference
