"""MIRIAD: the list of MR sessions that its XNAT site exports as CSV, and the NIfTI volumes.

Columns (names confirmed by public code that reads the export, not against the file itself): MR ID (miriad_199_1_MR_2 is
the second scan of visit 1 of subject 199), Group (AD, or HC, healthy control), Age, M/F, and MMSE if there is such a
column. File names hold all of these but the age: `miriad_199_HC_F_01_MR_2.nii`.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from medcap_core.data.cohorts import clinical
from medcap_core.data.cohorts.clinical import CohortTables, ScanKey, Visit
from medcap_core.data.scans.records import read_diagnosis

_SESSION = re.compile(r"miriad_(\d+)_(?:(?:AD|HC)_[MF]_)?(\d+)_MR_(\d+)", re.IGNORECASE)


def read_miriad(paths: Sequence[Path]) -> CohortTables:
    """Read the sessions of the export. Raises DataFault where a column is missing."""
    needs = {"session": "mr id", "group": "group", "age": "age", "sex": "m/f"}
    visits = [
        Visit(key.subject, key.session, None, read_diagnosis(row("group")), *clinical.read_person(row, "age", "m/f"))
        for row in clinical.read_clinical_tables(paths, "MIRIAD", {"sessions": ("MR ID", needs)})["sessions"]
        if (key := parse_path(PurePosixPath(row("mr id"))))
    ]
    return visits, parse_path


def parse_path(path: PurePosixPath) -> ScanKey | None:
    """Parse subject and session from a file name or an MR ID; leading zeros of the visit are ignored."""
    match = _SESSION.search(str(path))
    return ScanKey(match[1], f"{int(match[2])}_MR_{int(match[3])}") if match else None
