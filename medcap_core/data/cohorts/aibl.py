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
    find_folder_date,
    format_month,
    read_age,
    read_cell,
    read_clinical_tables,
    read_date,
    read_mmse,
    read_sex,
    read_viscode,
)
from medcap_core.data.scans.records import Diagnosis
from medcap_core.data.sources.tables import Table, find_column, require_columns
from medcap_core.errors import DataFault

_NAME = re.compile(r"AIBL_?(\d+)(?:_|/|$)")
_BIDS_SESSION = re.compile(r"ses-M(\d{2,3})")
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
        age = "" if birth_year is None or day is None else str(datetime.date.fromordinal(day).year - birth_year)
        visits.append(
            Visit(
                subject=subject,
                session=read_viscode(code),
                day=day,
                diagnosis=_CLASSES.get(label),
                age_years=read_age(age),
                sex=sex,
                mmse=read_mmse(scores.get((subject, code), "")),
            )
        )
    return CohortTables(visits, parse_path)


def parse_path(path: PurePosixPath) -> ScanKey | None:
    """Parse the subject (file name, or a folder that is a number), and the BIDS session or the folder's date."""
    match = _NAME.search(str(path))
    subject = match[1] if match else next((part for part in path.parts[:-1] if part.isdigit()), None)
    if subject is None:
        return None
    session = _BIDS_SESSION.search(str(path))
    return ScanKey(subject, format_month(int(session[1])) if session else None, find_folder_date(path))


def _read_subjects(table: Table) -> dict[str, tuple[Sex | None, int | None]]:
    """Read sex and year of birth by subject."""
    subject, birth = require_columns(table, {"subject": ["rid"], "birth": ["ptdob"]})
    sex = find_column(table.columns, ["ptgender"])
    years = {read_cell(row, subject): _YEAR.search(read_cell(row, birth)) for row in table.rows}
    return {
        read_cell(row, subject): (read_sex(read_cell(row, sex)), int(year[1]) if year else None)
        for row in table.rows
        for year in (years[read_cell(row, subject)],)
    }


def _read_by_visit(tables: Sequence[Table], name: str) -> dict[tuple[str, str], str]:
    """Read the cells of one column by (subject, visit) without missing ones; later tables win."""
    cells = {}
    for table in tables:
        subject, visit, column = require_columns(table, {"subject": ["rid"], "visit": ["viscode"], name: [name]})
        for row in table.rows:
            text = read_cell(row, column)
            if text not in ("", "-4"):
                cells[read_cell(row, subject), read_cell(row, visit)] = text
    return cells
