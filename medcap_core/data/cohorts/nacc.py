"""NACC: the table of the Uniform Data Set, the table of MRI files, and the unpacked volumes.

Columns of the UDS table (`investigator_nacc*.csv`; names and codes confirmed by public code and NACC's derived-variable
code, not against the file itself): NACCID (such as NACC000123), VISITMO, VISITDAY, VISITYR, NACCUDSD (1 normal
cognition, 3 MCI, 4 dementia; 2, impaired but not MCI, is none of the three), NACCAGE, SEX (1 male, 2 female) and
NACCMMSE (88, 95 to 98 and -4 are missing).

Columns of the MRI table (`investigator_mri_nacc*.csv`): NACCID, NACCMRFI (name of the zip archive of a scan) and MRIMO,
MRIDY, MRIYR (date of the scan). A volume belongs to the archive whose name, without `.zip`, is a part of its path, so
unpack each archive into a folder of its own name. A path that names a NACCID but no archive belongs to that subject.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from medcap_core.data.cohorts import clinical
from medcap_core.data.cohorts.clinical import Cells, CohortTables, ScanKey, Visit
from medcap_core.data.scans.records import Diagnosis

_SUBJECT = re.compile(r"NACC\d{6}")
_VISIT_DATE = {"year": "visityr", "month": "visitmo", "day": "visitday"}
_SCAN_DATE = {"year": "mriyr", "month": "mrimo", "day": "mridy"}
_CLASSES = {"1": Diagnosis.NOT_DEMENTED, "3": Diagnosis.MCI, "4": Diagnosis.DEMENTIA}


def read_nacc(paths: Sequence[Path]) -> CohortTables:
    """Read the visits of the UDS table, and scans of the MRI table if given. Raises DataFault for missing columns."""
    kinds = {
        "UDS": ("NACCUDSD", {"subject": "naccid", **_VISIT_DATE, "diagnosis": "naccudsd"}),
        "MRI": ("NACCMRFI", {"subject": "naccid", "file": "naccmrfi", **_SCAN_DATE}),
    }
    rows = clinical.read_clinical_tables(paths, "NACC", kinds)
    archives = {
        name: ScanKey(row("naccid"), day=_read_date(row, _SCAN_DATE))
        for row in rows["MRI"]
        if (name := row("naccmrfi").split(".")[0])
    }
    visits = [
        Visit(
            row("naccid"), None, _read_date(row, _VISIT_DATE), _CLASSES.get(row("naccudsd")),
            *clinical.read_person(row, "naccage", "sex", "naccmmse"),
        )
        for row in rows["UDS"]
    ]  # fmt: skip

    def parse_path(path: PurePosixPath) -> ScanKey | None:
        keys = (archives.get(part.split(".")[0]) for part in path.parts)
        match = _SUBJECT.search(str(path))
        return next(filter(None, keys), ScanKey(match[0]) if match else None)

    return visits, parse_path


def _read_date(row: Cells, columns: dict[str, str]) -> int | None:
    return clinical.read_date("-".join(row(name) for name in columns.values()))
