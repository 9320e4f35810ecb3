"""OASIS-1, -2 and -3: a table with one row a scan for the first two, tables of visits for the third.

OASIS-1, `oasis_cross-sectional.csv` (header confirmed by public copies of the file): ID (OAS1_0001_MR1), M/F, Hand,
Age, Educ, SES, MMSE, CDR, eTIV, nWBV, ASF, Delay. CDR 0 is not demented, 0.5 and more dementia ("very mild to moderate
Alzheimer's disease" in its documentation); where it is empty (young subjects, who were not rated) there is no
diagnosis.

OASIS-2, `oasis_longitudinal.csv` (header confirmed by public copies of the file): Subject ID, MRI ID (OAS2_0001_MR1),
Group, Visit, MR Delay, M/F, Hand, Age, EDUC, SES, MMSE, CDR, eTIV, nWBV, ASF. Group is Nondemented, Demented or
Converted; a Converted subject was not demented at first, so the CDR of the visit is used.

OASIS-3 (columns confirmed by public code that reads them, not against the files themselves):

| table | columns used |
| --- | --- |
| OASIS3_UDSd1_diagnoses.csv | OASISID, days_to_visit; 1 in NORMCOG, DEMENTED, MCIAMEM, MCIAPLUS, MCINON1 or MCINON2 |
| OASIS3_UDSb4_cdr.csv | OASISID, days_to_visit, `age at visit`, MMSE, CDRTOT |
| OASIS3_demographics.csv | OASISID, GENDER (1 male, 2 female), AgeatEntry |

Without a diagnosis of form D1 the CDR is used: 0 not demented, 1 and more dementia; 0.5, MCI or very mild dementia, no
diagnosis. Days count from the subject's entry, in tables and in paths (OAS30001_MR_d0129, or sub-OAS30001 with
ses-d0129 in the BIDS layout).

OASIS-1 and -2 are published as Analyze pairs (.hdr, .img), whose orientation nibabel does not read: convert them to
NIfTI with the orientation set, and keep the session's name in the path.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from medcap_core.data.cohorts.visits import (
    CohortTables,
    ScanKey,
    Sex,
    Visit,
    read_age,
    read_cell,
    read_clinical_tables,
    read_mmse,
    read_number,
    read_sex,
)
from medcap_core.data.scans.records import Diagnosis, read_diagnosis
from medcap_core.data.sources.tables import Row, Table, find_column, require_columns

_SESSION = re.compile(r"(OAS[12]_\d{4})_MR\d+")
_OASIS3_SUBJECT = re.compile(r"OAS3\d{4}")
_OASIS3_DAY = re.compile(r"(?:_MR_|ses-)d(\d{4})")
_MCI_COLUMNS = ("mciamem", "mciaplus", "mcinon1", "mcinon2")
_MAX_CDR = 3
_DAYS_PER_YEAR = 365.25


def read_oasis1(paths: Sequence[Path]) -> CohortTables:
    """Read the scans of oasis_cross-sectional.csv. Raises DataFault where a column is missing."""
    return _read_sessions(paths, "OASIS-1", "ID")


def read_oasis2(paths: Sequence[Path]) -> CohortTables:
    """Read the scans of oasis_longitudinal.csv. Raises DataFault where a column is missing."""
    return _read_sessions(paths, "OASIS-2", "MRI ID")


def _read_sessions(paths: Sequence[Path], cohort: str, session_name: str) -> CohortTables:
    visits = []
    for table in read_clinical_tables(paths, {"scans": session_name}, cohort)["scans"]:
        session, cdr, age, sex = require_columns(
            table, {"scan": [session_name.lower()], "rating": ["cdr"], "age": ["age"], "sex": ["m/f"]}
        )
        mmse, group = (find_column(table.columns, [name]) for name in ("mmse", "group"))
        visits += [
            Visit(
                subject=match[1],
                session=match[0],
                diagnosis=_read_group(read_cell(row, group), read_cell(row, cdr)),
                age_years=read_age(read_cell(row, age)),
                sex=read_sex(read_cell(row, sex)),
                mmse=read_mmse(read_cell(row, mmse)),
            )
            for row in table.rows
            if (match := _SESSION.fullmatch(read_cell(row, session)))
        ]
    return CohortTables(visits, _parse_session_path)


def _parse_session_path(path: PurePosixPath) -> ScanKey | None:
    match = _SESSION.search(str(path))
    return ScanKey(match[1], match[0]) if match else None


def _read_group(group: str, cdr: str) -> Diagnosis | None:
    """Read the diagnosis of Group (Demented or Nondemented), else of the Clinical Dementia Rating."""
    diagnosis = read_diagnosis(group)
    rating = read_number(cdr, 0, _MAX_CDR)
    if diagnosis is not None or rating is None:
        return diagnosis
    return Diagnosis.NOT_DEMENTED if rating == 0 else Diagnosis.DEMENTIA


def read_oasis3(paths: Sequence[Path]) -> CohortTables:
    """Read the visits, joined over the given tables by subject and day. Raises DataFault where a column is missing."""
    kinds = {"diagnoses": "NORMCOG", "ratings": "CDRTOT", "subjects": "AgeatEntry"}
    tables = read_clinical_tables(paths, kinds, "OASIS-3")
    subjects = {subject: known for table in tables["subjects"] for subject, known in _read_subjects(table).items()}
    rated = {key: visit for table in tables["ratings"] for key, visit in _read_ratings(table, subjects).items()}
    diagnosed = {key: found for table in tables["diagnoses"] for key, found in _read_diagnoses(table).items()}
    visits = dict(rated)
    for (subject, day), diagnosis in diagnosed.items():
        visit = rated.get((subject, day)) or _begin_visit(subject, day, subjects)
        visits[subject, day] = Visit(
            subject, None, day, diagnosis or visit.diagnosis, visit.age_years, visit.sex, visit.mmse
        )
    return CohortTables(list(visits.values()), _parse_day_path)


def _parse_day_path(path: PurePosixPath) -> ScanKey | None:
    name = str(path)
    subject, day = _OASIS3_SUBJECT.search(name), _OASIS3_DAY.search(name)
    return ScanKey(subject[0], day=int(day[1]) if day else None) if subject else None


def _read_subjects(table: Table) -> dict[str, tuple[Sex | None, float | None]]:
    """Read sex and age at entry by subject."""
    subject, age = require_columns(table, {"subject": ["oasisid"], "age": ["ageatentry"]})
    sex = find_column(table.columns, ["gender"])
    return {
        read_cell(row, subject): (read_sex(read_cell(row, sex)), read_age(read_cell(row, age))) for row in table.rows
    }


def _begin_visit(subject: str, day: int, subjects: dict[str, tuple[Sex | None, float | None]]) -> Visit:
    sex, age = subjects.get(subject, (None, None))
    return Visit(subject, None, day, None, None if age is None else age + day / _DAYS_PER_YEAR, sex)


def _read_ratings(table: Table, subjects: dict[str, tuple[Sex | None, float | None]]) -> dict[tuple[str, int], Visit]:
    cdr, age, mmse = (find_column(table.columns, [name]) for name in ("cdrtot", "age at visit", "mmse"))
    visits = {}
    for (subject, day), row in _key_rows(table).items():
        begun = _begin_visit(subject, day, subjects)
        rating = read_number(read_cell(row, cdr), 0, _MAX_CDR)
        diagnosis = (
            {0.0: Diagnosis.NOT_DEMENTED, 0.5: None}.get(rating, Diagnosis.DEMENTIA) if rating is not None else None
        )
        years = read_age(read_cell(row, age)) or begun.age_years
        visits[subject, day] = Visit(subject, None, day, diagnosis, years, begun.sex, read_mmse(read_cell(row, mmse)))
    return visits


def _read_diagnoses(table: Table) -> dict[tuple[str, int], Diagnosis | None]:
    normal, demented = require_columns(table, {"normal": ["normcog"], "demented": ["demented"]})
    mci = [column for name in _MCI_COLUMNS if (column := find_column(table.columns, [name]))]

    def is_yes(row: Row, column: str) -> bool:
        return read_number(read_cell(row, column), 1, 1) is not None

    def diagnose(row: Row) -> Diagnosis | None:
        found = [
            *([Diagnosis.NOT_DEMENTED] if is_yes(row, normal) else []),
            *([Diagnosis.DEMENTIA] if is_yes(row, demented) else []),
            *([Diagnosis.MCI] if any(is_yes(row, column) for column in mci) else []),
        ]
        return found[0] if len(found) == 1 else None

    return {key: diagnose(row) for key, row in _key_rows(table).items()}


def _key_rows(table: Table) -> dict[tuple[str, int], Row]:
    """Index the rows by (subject, day); rows without a day are left out."""
    subject, day = require_columns(table, {"subject": ["oasisid"], "day": ["days_to_visit"]})
    days = ((row, read_number(read_cell(row, day), -1e5, 1e5)) for row in table.rows)
    return {(read_cell(row, subject), round(number)): row for row, number in days if number is not None}
