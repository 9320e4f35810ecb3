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

from medcap_core.data.cohorts import clinical
from medcap_core.data.cohorts.clinical import Cells, CohortTables, ScanKey, Visit
from medcap_core.data.scans.records import Diagnosis, read_diagnosis

_SESSION = re.compile(r"(OAS[12]_\d{4})_MR\d+")
_OASIS3_SUBJECT = re.compile(r"OAS3\d{4}")
_OASIS3_DAY = re.compile(r"(?:_MR_|ses-)d(\d{4})")
_MAX_CDR = 3


def read_sessions(paths: Sequence[Path], *, cohort: str, session_name: str) -> CohortTables:
    """Read the scans of OASIS-1 or -2, each with its session. Raises DataFault where a column is missing."""
    name = session_name.lower()
    needs = {"scan": name, "rating": "cdr", "age": "age", "sex": "m/f"}
    visits = [
        Visit(
            match[1], match[0], None, read_diagnosis(row("group")) or _read_rating(row, {0.0: Diagnosis.NOT_DEMENTED}),
            *clinical.read_person(row, "age", "m/f"),
        )
        for row in clinical.read_clinical_tables(paths, cohort, {"scans": (session_name, needs)})["scans"]
        if (match := _SESSION.fullmatch(row(name)))
    ]  # fmt: skip
    return visits, _parse_session_path


def _parse_session_path(path: PurePosixPath) -> ScanKey | None:
    match = _SESSION.search(str(path))
    return ScanKey(match[1], match[0]) if match else None


def _read_rating(row: Cells, below: dict[float, Diagnosis | None], name: str = "cdr") -> Diagnosis | None:
    """Read the class of a Clinical Dementia Rating, 0 to 3: one in `below`, else dementia; None where it is missing."""
    rating = clinical.read_number(row(name), 0, _MAX_CDR)
    return None if rating is None else below.get(rating, Diagnosis.DEMENTIA)


def read_oasis3(paths: Sequence[Path]) -> CohortTables:
    """Read the visits, joined over the given tables by subject and day. Raises DataFault where a column is missing."""
    visit = {"subject": "oasisid", "day": "days_to_visit"}
    kinds = {
        "diagnoses": ("NORMCOG", {**visit, "normal": "normcog", "demented": "demented"}),
        "ratings": ("CDRTOT", visit),
        "subjects": ("AgeatEntry", {"subject": "oasisid", "age": "ageatentry"}),
    }
    rows = clinical.read_clinical_tables(paths, "OASIS-3", kinds)
    subjects = {row("oasisid"): clinical.read_person(row, "ageatentry", "gender") for row in rows["subjects"]}

    def begin_visit(subject: str, day: int) -> Visit:
        age, sex, _ = subjects.get(subject, (None, None, None))
        return Visit(subject, None, day, None, None if age is None else age + day / clinical.DAYS_PER_YEAR, sex)

    visits = {}
    for (subject, day), row in _key_rows(rows["ratings"]).items():
        begun = begin_visit(subject, day)
        visits[subject, day] = replace(
            begun,
            diagnosis=_read_rating(row, {0.0: Diagnosis.NOT_DEMENTED, 0.5: None}, "cdrtot"),
            age_years=clinical.read_age(row("age at visit")) or begun.age_years,
            mmse=clinical.read_mmse(row("mmse")),
        )
    for (subject, day), row in _key_rows(rows["diagnoses"]).items():
        known = visits.get((subject, day)) or begin_visit(subject, day)
        visits[subject, day] = replace(known, diagnosis=_read_diagnosis(row) or known.diagnosis)
    return list(visits.values()), _parse_day_path


def _parse_day_path(path: PurePosixPath) -> ScanKey | None:
    name = str(path)
    subject, day = _OASIS3_SUBJECT.search(name), _OASIS3_DAY.search(name)
    return ScanKey(subject[0], day=int(day[1]) if day else None) if subject else None


def _read_diagnosis(row: Cells) -> Diagnosis | None:
    """Read the diagnosis of form D1; None where it names none or several."""
    columns = {
        Diagnosis.NOT_DEMENTED: ("normcog",),
        Diagnosis.DEMENTIA: ("demented",),
        Diagnosis.MCI: ("mciamem", "mciaplus", "mcinon1", "mcinon2"),
    }
    found = [name for name, own in columns.items() if any(clinical.read_number(row(column), 1, 1) for column in own)]
    return found[0] if len(found) == 1 else None


def _key_rows(rows: Sequence[Cells]) -> dict[tuple[str, int], Cells]:
    """Index the rows by (subject, day); rows without a day are left out."""
    days = [clinical.read_number(row("days_to_visit"), -1e5, 1e5) for row in rows]
    return {(row("oasisid"), round(day)): row for row, day in zip(rows, days, strict=True) if day is not None}
