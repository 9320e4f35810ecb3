"""ADNI: `ADNIMERGE.csv` and the volumes of the LONI archive, as downloaded or in a BIDS copy.

Columns of ADNIMERGE.csv (names confirmed by public code that reads it, not against the file itself):

| column | use |
| --- | --- |
| PTID | subject, such as 002_S_0295 |
| VISCODE | visit: bl, m06, m12 ... |
| EXAMDATE | date of the visit |
| DX | CN, MCI or Dementia; in older files NL, and changes such as "MCI to Dementia", of which the last word counts |
| AGE | at baseline; the time since is added |
| PTGENDER | Male, Female |
| MMSE | score of the visit |

Paths: `ADNI/002_S_0295/MP-RAGE/2006-04-18_08_20_30.0/I118671/*.nii` holds subject and date of the scan; the 17 digits
in LONI's file names are the date of an upload and are not read. `sub-ADNI002S0295/ses-M012` (BIDS) holds subject and
visit.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from medcap_core.data.cohorts.visits import (
    CohortTables,
    ScanKey,
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
from medcap_core.data.scans.records import Diagnosis, read_diagnosis
from medcap_core.data.sources.tables import Table, find_column, require_columns

_PTID = re.compile(r"(\d{3})_S_(\d{4,5})")
_BIDS = re.compile(r"sub-ADNI(\d{3})S(\d{4,5})")
_BIDS_SESSION = re.compile(r"ses-M(\d{2,3})")
_DAYS_PER_YEAR = 365.25


def read_adni(paths: Sequence[Path]) -> CohortTables:
    """Read the visits of ADNIMERGE.csv. Raises DataFault where a column is missing."""
    tables = read_clinical_tables(paths, {"ADNIMERGE": "PTID"}, "ADNI")
    return CohortTables([visit for table in tables["ADNIMERGE"] for visit in _read_visits(table)], parse_path)


def parse_path(path: PurePosixPath) -> ScanKey | None:
    """Parse the subject, and the session of a BIDS copy or the date of the archive's folder."""
    name = str(path)
    match = _BIDS.search(name) or _PTID.search(name)
    if match is None:
        return None
    subject = f"{match[1]}_S_{match[2]}"
    session = _BIDS_SESSION.search(name)
    return ScanKey(subject, format_month(int(session[1])) if session else None, find_folder_date(path))


def _read_visits(table: Table) -> list[Visit]:
    subject, viscode, date, diagnosis = require_columns(
        table, {"subject": ["ptid"], "visit": ["viscode"], "date": ["examdate"], "diagnosis": ["dx"]}
    )
    age, sex, mmse = (find_column(table.columns, [name]) for name in ("age", "ptgender", "mmse"))
    starts: dict[str, int] = {}
    for row in table.rows:
        day = read_date(read_cell(row, date))
        if day is not None:
            starts[read_cell(row, subject)] = min(day, starts.get(read_cell(row, subject), day))
    visits = []
    for row in table.rows:
        name, day = read_cell(row, subject), read_date(read_cell(row, date))
        at_start = read_age(read_cell(row, age))
        last_diagnosis = read_cell(row, diagnosis).rpartition(" to ")[2].strip()
        visits.append(
            Visit(
                subject=name,
                session=read_viscode(read_cell(row, viscode)),
                day=day,
                diagnosis=Diagnosis.NOT_DEMENTED if last_diagnosis == "NL" else read_diagnosis(last_diagnosis),
                age_years=None if at_start is None or day is None else at_start + (day - starts[name]) / _DAYS_PER_YEAR,
                sex=read_sex(read_cell(row, sex)),
                mmse=read_mmse(read_cell(row, mmse)),
            )
        )
    return visits
