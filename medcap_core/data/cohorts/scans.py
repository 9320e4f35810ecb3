"""The volumes of a cohort's folder, each with its visit, and the table of scans that is written of them."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath

from medcap_core.data.cohorts.adni import read_adni
from medcap_core.data.cohorts.aibl import read_aibl
from medcap_core.data.cohorts.clinical import CohortTables, Visit, find_visit
from medcap_core.data.cohorts.miriad import read_miriad
from medcap_core.data.cohorts.nacc import read_nacc
from medcap_core.data.cohorts.oasis import read_oasis3, read_sessions
from medcap_core.data.scans.files import VOLUME_SUFFIXES
from medcap_core.errors import DataFault
from medcap_core.runtime.files import write_csv_atomically


@dataclass(frozen=True)
class Cohort:
    """One cohort. `max_days` is the most days between scan and visit; `example` a path in the expected form."""

    name: str
    read: Callable[[Sequence[Path]], CohortTables]
    max_days: int
    example: str


_OASIS1 = partial(read_sessions, cohort="OASIS-1", session_name="ID")
_OASIS2 = partial(read_sessions, cohort="OASIS-2", session_name="MRI ID")

COHORTS: dict[str, Cohort] = {
    "adni": Cohort("ADNI", read_adni, 180, "002_S_0295/MP-RAGE/2006-04-18_08_20_30.0/I118671/scan.nii"),
    "nacc": Cohort("NACC", read_nacc, 365, "mri1234/scan.nii.gz (of an archive NACCMRFI mri1234.zip)"),
    "oasis1": Cohort("OASIS-1", _OASIS1, 0, "OAS1_0001_MR1/scan.nii.gz"),
    "oasis2": Cohort("OASIS-2", _OASIS2, 0, "OAS2_0001_MR1/scan.nii.gz"),
    "oasis3": Cohort("OASIS-3", read_oasis3, 365, "sub-OAS30001/ses-d0129/anat/scan_T1w.nii.gz"),
    "aibl": Cohort("AIBL", read_aibl, 180, "AIBL/12/MPRAGE/2008-05-21_14_29_50.0/I1234/scan.nii"),
    "miriad": Cohort("MIRIAD", read_miriad, 0, "miriad_199_HC_F_01_MR_1.nii"),
}


@dataclass(frozen=True)
class CohortScans:
    """The volumes of a folder: those with a visit, and the others with the reason."""

    cohort: Cohort
    scans: list[tuple[Path, Visit]]
    unmatched: list[tuple[Path, str]]


def find_cohort_scans(name: str, tables: Sequence[Path], images: Path, only: str = "*") -> CohortScans:
    """Find the volumes below `images` whose name matches the pattern `only`, each with its visit, sorted by path.

    Raises DataFault for an unknown cohort, an absent folder, a faulty table, and where no volume has a visit.
    """
    if name not in COHORTS:
        raise DataFault(f"'{name}' is no cohort known here; choose one of {', '.join(COHORTS)}.")
    faults = [f"{path} is no file: give a CSV table of the cohort by --table." for path in tables if not path.is_file()]
    if not images.is_dir():
        faults.append(f"{images} is no folder: give the folder of the volumes by --images.")
    if faults:
        raise DataFault(faults)
    cohort = COHORTS[name]
    visits, parse_path = cohort.read(tables)
    if not visits:
        raise DataFault(f"the tables given hold no visit of {cohort.name}: give the one with its diagnoses by --table.")
    subjects: dict[str, list[Visit]] = {}
    for own in visits:
        subjects.setdefault(own.subject, []).append(own)
    found = CohortScans(cohort, [], [])
    for path in _list_volumes(images):
        if not fnmatch(path.name, only):
            continue
        key = parse_path(PurePosixPath(path.relative_to(images).as_posix()))
        visit = find_visit(key, subjects.get(key.subject, []), cohort.max_days) if key else "its path names no subject"
        if isinstance(visit, str):
            found.unmatched.append((path, visit))
        else:
            found.scans.append((path, visit))
    if not (found.scans or found.unmatched):
        raise DataFault(
            f"{images} holds no volume ({', '.join(VOLUME_SUFFIXES)}, or folders of .dcm) with a name like '{only}'; "
            "check --images and --only."
        )
    if not found.scans:
        path, reason = found.unmatched[0]
        raise DataFault(
            f"{images}: none of its {len(found.unmatched)} volumes belongs to a visit of {cohort.name}; {path.name}: "
            f"{reason}. Paths should be like {cohort.example}."
        )
    return found


def describe_visit(visit: Visit) -> str:
    """Write the report: sex, age, score and, where known, the sentence with the diagnosis."""
    person = {"female": "woman", "male": "man", None: "person"}[visit.sex]
    years = None if visit.age_years is None else int(visit.age_years)
    sentences = [f"The subject is a {person}." if years is None else f"The subject is a {person} of {years} years."]
    if visit.mmse is not None:
        sentences.append(f"The Mini-Mental State Examination score is {visit.mmse} of 30.")
    if visit.diagnosis is not None:
        sentences.append(f"The diagnosis is {visit.diagnosis}.")
    return " ".join(sentences)


def write_scan_table(found: CohortScans, path: Path) -> None:
    """Write `path,report,cohort,subject` for `read_scan_table`; paths below the table's folder are relative to it."""
    rows = [("path", "report", "cohort", "subject")]
    folder = path.parent.resolve()
    for scan, visit in found.scans:
        volume = scan.resolve()
        shown = volume.relative_to(folder) if volume.is_relative_to(folder) else volume
        rows.append((shown.as_posix(), describe_visit(visit), found.cohort.name, visit.subject))
    write_csv_atomically(path, rows)


def _list_volumes(folder: Path) -> Iterator[Path]:
    """List the volume files below `folder`, and each folder with `.dcm` files as one volume, sorted."""
    for current, folders, files in os.walk(folder):
        folders.sort()
        if any(name.lower().endswith(".dcm") for name in files):
            yield Path(current)
        yield from (Path(current, name) for name in sorted(files) if name.lower().endswith(VOLUME_SUFFIXES))
