"""ADNI: `ADNIMERGE.csv` and the volumes of the LONI archive, as downloaded or in a BIDS copy.

Columns (names confirmed by public code that reads the file, not against the file itself): PTID (such as 002_S_0295),
VISCODE (bl, m06, m12 ...), EXAMDATE, DX (CN, MCI or Dementia; in older files NL, and changes such as "MCI to Dementia",
of which the last word counts), AGE (at baseline; the time since is added), PTGENDER (Male, Female) and MMSE.

Paths: `ADNI/002_S_0295/MP-RAGE/2006-04-18_08_20_30.0/I118671/*.nii` holds subject and date of the scan; the 17 digits
in LONI's file names are the date of an upload and are not read. `sub-ADNI002S0295/ses-M012` (BIDS) holds subject and
visit.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from medcap_core.data.cohorts import clinical
from medcap_core.data.cohorts.clinical import CohortTables, ScanKey, Visit
from medcap_core.data.scans.records import Diagnosis, read_diagnosis

_PTID = re.compile(r"(\d{3})_S_(\d{4,5})")
_BIDS = re.compile(r"sub-ADNI(\d{3})S(\d{4,5})")


def read_adni(paths: Sequence[Path]) -> CohortTables:
    """Read the visits of ADNIMERGE.csv. Raises DataFault where a column is missing."""
    needs = {"subject": "ptid", "visit": "viscode", "date": "examdate", "diagnosis": "dx"}
    rows = clinical.read_clinical_tables(paths, "ADNI", {"ADNIMERGE": ("PTID", needs)})["ADNIMERGE"]
    days = [clinical.read_date(row("examdate")) for row in rows]
    starts: dict[str, int] = {}
    for row, day in zip(rows, days, strict=True):
        if day is not None:
            starts[row("ptid")] = min(day, starts.get(row("ptid"), day))
    visits = []
    for row, day in zip(rows, days, strict=True):
        at_start, sex, mmse = clinical.read_person(row, "age", "ptgender")
        age = None
        if at_start is not None and day is not None:
            age = at_start + (day - starts[row("ptid")]) / clinical.DAYS_PER_YEAR
        label = row("dx").rpartition(" to ")[2].strip()
        diagnosis = Diagnosis.NOT_DEMENTED if label == "NL" else read_diagnosis(label)
        visits.append(Visit(row("ptid"), clinical.read_viscode(row("viscode")), day, diagnosis, age, sex, mmse))
    return visits, parse_path


def parse_path(path: PurePosixPath) -> ScanKey | None:
    """Parse the subject, and the session of a BIDS copy or the date of the archive's folder."""
    name = str(path)
    match = _BIDS.search(name) or _PTID.search(name)
    return clinical.find_scan_key(path, f"{match[1]}_S_{match[2]}") if match else None
