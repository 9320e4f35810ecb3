"""AIBL: the tables of its LONI release and the volumes, as downloaded or in a BIDS copy.

Tables and columns (names and codes confirmed by public code that reads them, not against the files themselves); give
each by `--table`:

| table | columns used |
| --- | --- |
| aibl_pdxconv_*.csv | RID, VISCODE (bl, m18 ...), DXCURREN: 1 normal, 2 MCI, 3 AD |
| aibl_ptdemog_*.csv | RID, PTGENDER (1 male, 2 female), PTDOB (`/1932`: the year of birth alone) |
| aibl_mmse_*.csv | RID, VISCODE, EXAMDATE, MMSCORE |
| aibl_mrimeta_*.csv, aibl_mri3meta_*.csv | RID, VISCODE, EXAMDATE: dates of scans, preferred to those of the score |

-4 stands for "missing". Ages are differences of years. Paths: `AIBL/<RID>/MPRAGE.../2008-05-21_14_29_50.0/...` and file
names `AIBL_<RID>_MR_...`, or `sub-AIBL<RID>/ses-M018` (BIDS). Without a table of dates only BIDS paths
identify the visit.
"""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from medcap_core.data.cohorts.visits import (
    CohortTables,
    ScanKey,
    Sex,
    Visit,
    find_scan_key,
    read_age,
    read_clinical_rows,
    read_clinical_tables,
    read_date,
    read_mmse,
    read_sex,
    read_viscode,
)
from medcap_core.data.scans.records import Diagnosis
from medcap_core.data.sources.rows import Table
from medcap_core.errors import DataFault

_NAME = re.compile(r"AIBL_?(\d+)(?:_|/|$)")
_YEAR = re.compile(r"(\d{4})$")
_CLASSES = {"1": Diagnosis.NOT_DEMENTED, "2": Diagnosis.MCI, "3": Diagnosis.DEMENTIA}


def read_aibl(paths: Sequence[Path]) -> CohortTables:
    """Read the visits, joined over the given tables. Raises DataFault for missing columns and without aibl_pdxconv."""
    kinds = {"diagnoses": "DXCURREN", "subjects": "PTDOB", "scores": "MMSCORE", "scans": "EXAMDATE"}
    tables = read_clinical_tables(paths, kinds, "AIBL")
    if not tables["diagnoses"]:
        raise DataFault("AIBL needs its table of diagnoses, aibl_pdxconv_*.csv: give it by --table.")
    subjects = {subject: known for table in tables["subjects"] for subject, known in _read_subjects(table).items()}
    scores = _read_by_visit(tables["scores"], "mmscore")
    dates = _read_by_visit([*tables["scores"], *tables["scans"]], "examdate")
    visits = []
    for (subject, code), label in _read_by_visit(tables["diagnoses"], "dxcurren").items():
        sex, birth_year = subjects.get(subject, (None, None))
        day = read_date(dates.get((subject, code), ""))
        age = None if birth_year is None or day is None else datetime.date.fromordinal(day).year - birth_year
        mmse = read_mmse(scores.get((subject, code), ""))
        visits.append(Visit(subject, read_viscode(code), day, _CLASSES.get(label), read_age(str(age)), sex, mmse))
    return CohortTables(visits, parse_path)


def parse_path(path: PurePosixPath) -> ScanKey | None:
    """Parse the subject (file name, or a folder that is a number), and the BIDS session or the folder's date."""
    match = _NAME.search(str(path))
    subject = match[1] if match else next((part for part in path.parts[:-1] if part.isdigit()), None)
    return find_scan_key(path, subject) if subject else None


def _read_subjects(table: Table) -> dict[str, tuple[Sex | None, int | None]]:
    """Read sex and year of birth by subject."""
    subjects = {}
    for row in read_clinical_rows(table, {"subject": "rid", "birth": "ptdob"}):
        year = _YEAR.search(row("ptdob"))
        subjects[row("rid")] = read_sex(row("ptgender")), int(year[1]) if year else None
    return subjects


def _read_by_visit(tables: Sequence[Table], name: str) -> dict[tuple[str, str], str]:
    """Read the cells of one column by (subject, visit) without missing ones; later tables win."""
    return {
        (row("rid"), row("viscode")): row(name)
        for table in tables
        for row in read_clinical_rows(table, {"subject": "rid", "visit": "viscode", name: name})
        if row(name) not in ("", "-4")
    }
