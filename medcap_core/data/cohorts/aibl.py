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

from medcap_core.data.cohorts import clinical
from medcap_core.data.cohorts.clinical import Cells, CohortTables, ScanKey, Visit
from medcap_core.data.scans.records import Diagnosis
from medcap_core.errors import DataFault

_NAME = re.compile(r"AIBL_?(\d+)(?:_|/|$)")
_YEAR = re.compile(r"(\d{4})$")
_CLASSES = {"1": Diagnosis.NOT_DEMENTED, "2": Diagnosis.MCI, "3": Diagnosis.DEMENTIA}


def read_aibl(paths: Sequence[Path]) -> CohortTables:
    """Read the visits, joined over the given tables. Raises DataFault for missing columns and without aibl_pdxconv."""
    visit = {"subject": "rid", "visit": "viscode"}
    kinds = {
        "diagnoses": ("DXCURREN", {**visit, "dxcurren": "dxcurren"}),
        "subjects": ("PTDOB", {"subject": "rid", "birth": "ptdob"}),
        "scores": ("MMSCORE", {**visit, "mmscore": "mmscore", "examdate": "examdate"}),
        "scans": ("EXAMDATE", {**visit, "examdate": "examdate"}),
    }
    rows = clinical.read_clinical_tables(paths, "AIBL", kinds)
    if not rows["diagnoses"]:
        raise DataFault("AIBL needs its table of diagnoses, aibl_pdxconv_*.csv: give it by --table.")
    births = {row("rid"): _YEAR.search(row("ptdob")) for row in rows["subjects"]}
    sexes = {row("rid"): clinical.read_sex(row("ptgender")) for row in rows["subjects"]}
    scores = _read_by_visit(rows["scores"], "mmscore")
    dates = _read_by_visit([*rows["scores"], *rows["scans"]], "examdate")
    visits = []
    for key, label in _read_by_visit(rows["diagnoses"], "dxcurren").items():
        subject, session = key[0], clinical.read_viscode(key[1])
        day, birth = clinical.read_date(dates.get(key, "")), births.get(subject)
        years = datetime.date.fromordinal(day).year - int(birth[1]) if birth and day is not None else None
        age, mmse = clinical.read_age(str(years)), clinical.read_mmse(scores.get(key, ""))
        visits.append(Visit(subject, session, day, _CLASSES.get(label), age, sexes.get(subject), mmse))
    return visits, parse_path


def parse_path(path: PurePosixPath) -> ScanKey | None:
    """Parse the subject (file name, or a folder that is a number), and the BIDS session or the folder's date."""
    match = _NAME.search(str(path))
    subject = match[1] if match else next((part for part in path.parts[:-1] if part.isdigit()), None)
    return clinical.find_scan_key(path, subject) if subject else None


def _read_by_visit(rows: Sequence[Cells], name: str) -> dict[tuple[str, str], str]:
    """Read the cells of one column by (subject, visit) without missing ones; later tables win."""
    return {(row("rid"), row("viscode")): row(name) for row in rows if row(name) not in ("", "-4")}
