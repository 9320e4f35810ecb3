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
from dataclasses import replace
from pathlib import Path, PurePosixPath

from medcap_core.data.cohorts.visits import (
    DAYS_PER_YEAR,
    Cells,
    CohortTables,
    ScanKey,
    Sex,
    Visit,
    read_age,
    read_clinical_rows,
    read_clinical_tables,
    read_mmse,
    read_number,
    read_person,
    read_sex,
)
from medcap_core.data.scans.records import Diagnosis, read_diagnosis
from medcap_core.data.sources.rows import Table

_SESSION = re.compile(r"(OAS[12]_\d{4})_MR\d+")
_OASIS3_SUBJECT = re.compile(r"OAS3\d{4}")
_OASIS3_DAY = re.compile(r"(?:_MR_|ses-)d(\d{4})")
_MAX_CDR = 3


def read_sessions(paths: Sequence[Path], *, cohort: str, session_name: str) -> CohortTables:
    """Read the scans of OASIS-1 or -2, each with its session. Raises DataFault where a column is missing."""
    name = session_name.lower()
    visits = [
        Visit(
            match[1], match[0], None, read_diagnosis(row("group")) or _read_rating(row, {0.0: Diagnosis.NOT_DEMENTED}),
            *read_person(row, "age", "m/f"),
        )
        for table in read_clinical_tables(paths, {"scans": session_name}, cohort)["scans"]
        for row in read_clinical_rows(table, {"scan": name, "rating": "cdr", "age": "age", "sex": "m/f"})
        if (match := _SESSION.fullmatch(row(name)))
    ]  # fmt: skip
    return CohortTables(visits, _parse_session_path)


def _parse_session_path(path: PurePosixPath) -> ScanKey | None:
    match = _SESSION.search(str(path))
    return ScanKey(match[1], match[0]) if match else None


def _read_rating(row: Cells, below: dict[float, Diagnosis | None], name: str = "cdr") -> Diagnosis | None:
    """Read the class of a Clinical Dementia Rating, 0 to 3: one in `below`, else dementia; None where it is missing."""
    rating = read_number(row(name), 0, _MAX_CDR)
    return None if rating is None else below.get(rating, Diagnosis.DEMENTIA)


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
        visits[subject, day] = replace(visit, diagnosis=diagnosis or visit.diagnosis)
    return CohortTables(list(visits.values()), _parse_day_path)


def _parse_day_path(path: PurePosixPath) -> ScanKey | None:
    name = str(path)
    subject, day = _OASIS3_SUBJECT.search(name), _OASIS3_DAY.search(name)
    return ScanKey(subject[0], day=int(day[1]) if day else None) if subject else None


def _read_subjects(table: Table) -> dict[str, tuple[Sex | None, float | None]]:
    """Read sex and age at entry by subject."""
    rows = read_clinical_rows(table, {"subject": "oasisid", "age": "ageatentry"})
    return {row("oasisid"): (read_sex(row("gender")), read_age(row("ageatentry"))) for row in rows}


def _begin_visit(subject: str, day: int, subjects: dict[str, tuple[Sex | None, float | None]]) -> Visit:
    sex, age = subjects.get(subject, (None, None))
    return Visit(subject, None, day, None, None if age is None else age + day / DAYS_PER_YEAR, sex)


def _read_ratings(table: Table, subjects: dict[str, tuple[Sex | None, float | None]]) -> dict[tuple[str, int], Visit]:
    visits = {}
    for (subject, day), row in _key_rows(table).items():
        begun = _begin_visit(subject, day, subjects)
        visits[subject, day] = replace(
            begun,
            diagnosis=_read_rating(row, {0.0: Diagnosis.NOT_DEMENTED, 0.5: None}, "cdrtot"),
            age_years=read_age(row("age at visit")) or begun.age_years,
            mmse=read_mmse(row("mmse")),
        )
    return visits


def _read_diagnoses(table: Table) -> dict[tuple[str, int], Diagnosis | None]:
    columns = {
        Diagnosis.NOT_DEMENTED: ("normcog",),
        Diagnosis.DEMENTIA: ("demented",),
        Diagnosis.MCI: ("mciamem", "mciaplus", "mcinon1", "mcinon2"),
    }

    def diagnose(row: Cells) -> Diagnosis | None:
        found = [name for name, own in columns.items() if any(read_number(row(column), 1, 1) for column in own)]
        return found[0] if len(found) == 1 else None

    return {key: diagnose(row) for key, row in _key_rows(table, normal="normcog", demented="demented").items()}


def _key_rows(table: Table, **needs: str) -> dict[tuple[str, int], Cells]:
    """Index the rows by (subject, day); rows without a day are left out."""
    rows = read_clinical_rows(table, {"subject": "oasisid", "day": "days_to_visit", **needs})
    return {
        (row("oasisid"), round(day)): row
        for row in rows
        if (day := read_number(row("days_to_visit"), -1e5, 1e5)) is not None
    }
