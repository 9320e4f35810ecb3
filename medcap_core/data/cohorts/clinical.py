"""Visits of subjects, shared by the five cohorts, and the choice of a volume's visit."""

import contextlib
import datetime
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from medcap_core.data.scans.records import Diagnosis
from medcap_core.data.sources.rows import Row, read_rows
from medcap_core.data.sources.tables import find_column, require_columns
from medcap_core.errors import DataFault

Sex = Literal["female", "male"]
Cells = Callable[[str], str]
"""One row: a cell by the name of its column in any case, stripped; empty for NA and where there is no such column."""

_SEXES: dict[str, Sex] = {"f": "female", "female": "female", "2": "female", "m": "male", "male": "male", "1": "male"}
_DATES = {"%Y-%m-%d": re.compile(r"\d{4}-\d{1,2}-\d{1,2}"), "%m/%d/%Y": re.compile(r"\d{1,2}/\d{1,2}/\d{4}")}
_BIDS_SESSION = re.compile(r"ses-M(\d{2,3})")
DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class Visit:
    """One row of a cohort's clinical table.

    `session` is a name found in the paths of its scans; `day` a day on the cohort's scale (a date's ordinal, or days
    since the subject's entry). `mmse` is the Mini-Mental State Examination score, 0 to 30.
    """

    subject: str
    session: str | None = None
    day: int | None = None
    diagnosis: Diagnosis | None = None
    age_years: float | None = None
    sex: Sex | None = None
    mmse: int | None = None


@dataclass(frozen=True)
class ScanKey:
    """The parts of a volume's path that identify its visit: subject, and session or day where present."""

    subject: str
    session: str | None = None
    day: int | None = None


CohortTables = tuple[list[Visit], Callable[[PurePosixPath], ScanKey | None]]
"""A cohort's visits, and the parser of a path below the folder of volumes: None where it names no subject."""


def find_visit(key: ScanKey, visits: Sequence[Visit], max_days: int) -> Visit | str:
    """Find a scan's visit among those of its subject; returns a sentence with the reason where there is none.

    With a session: the visit of that session. With a day: the nearest visit within `max_days`, preferably one with a
    diagnosis. With neither: the subject's only visit.
    """
    if not visits:
        return f"subject {key.subject} is not in the table"
    if key.session is not None:
        found = [visit for visit in visits if visit.session == key.session]
        return found[0] if found else f"session {key.session} of subject {key.subject} is not in the table"
    day = key.day
    if day is not None:
        near = [visit for visit in visits if visit.day is not None and abs(visit.day - day) <= max_days]
        near = [visit for visit in near if visit.diagnosis is not None] or near
        if near:
            return min(near, key=lambda visit: abs((visit.day or 0) - day))
        return f"subject {key.subject} has no visit within {max_days} days of this scan"
    if len(visits) == 1:
        return visits[0]
    return f"the path does not tell which of the {len(visits)} visits of subject {key.subject} it belongs to"


def read_clinical_tables(
    paths: Sequence[Path], cohort: str, kinds: Mapping[str, tuple[str, Mapping[str, str]]]
) -> dict[str, list[Cells]]:
    """Read the rows of the tables, grouped by kind.

    `kinds` maps each kind to the column that identifies it, in order, and to its required columns, by what they hold.
    Raises DataFault for every table that is of no kind or lacks columns.
    """
    rows: dict[str, list[Cells]] = {kind: [] for kind in kinds}
    faults = []
    for table in map(read_rows, paths):
        find = functools.cache(lambda name, columns=table.columns: find_column(columns, [name]))
        kind = next((kind for kind, (column, _) in kinds.items() if find(column)), None)
        if kind is None:
            known = ", ".join(f"{column} ({kind})" for kind, (column, _) in kinds.items())
            faults.append(f"{table.path} is no table of {cohort} that is known here: none of its columns is {known}.")
            continue
        try:
            require_columns(table, {need: [name] for need, name in kinds[kind][1].items()})
        except DataFault as fault:
            faults += fault.faults
        rows[kind] += [functools.partial(_read_cell, row, find) for row in table.rows]
    if faults:
        raise DataFault(faults)
    return rows


def _read_cell(row: Row, find: Callable[[str], str | None], name: str) -> str:
    column = find(name)
    text = row.text(column).strip() if column else ""
    return "" if text.casefold() in ("na", "n/a", "nan", "none", ".") else text


def read_person(row: Cells, age: str, sex: str, mmse: str = "mmse") -> tuple[float | None, Sex | None, int | None]:
    """Read age in years, sex and score from the columns of these names: the last fields of a `Visit`."""
    return read_age(row(age)), read_sex(row(sex)), read_mmse(row(mmse))


def read_number(text: str, low: float, high: float) -> float | None:
    """Parse a number in [low, high]; None for anything else, such as the codes for "missing"."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if low <= number <= high else None


def read_age(text: str) -> float | None:
    """Parse an age in years."""
    return read_number(text, 1, 120)


def read_mmse(text: str) -> int | None:
    """Parse a score from 0 to 30; codes such as -4, -1, 88 and 95 to 98 stand for "missing"."""
    score = read_number(text, 0, 30)
    return None if score is None else round(score)


def read_sex(text: str) -> Sex | None:
    """Parse the sex: F, Female or 2; M, Male or 1, as coded by all five cohorts."""
    number = read_number(text, 1, 2)
    return _SEXES.get(f"{number:g}" if number is not None else text.casefold())


def read_date(text: str) -> int | None:
    """Parse a date, 2006-04-18 or 4/18/2006, to its ordinal; None for other text or an impossible date."""
    for form, pattern in _DATES.items():
        if match := pattern.match(text):
            with contextlib.suppress(ValueError):
                return datetime.datetime.strptime(match[0], form).toordinal()
    return None


def find_scan_key(path: PurePosixPath, subject: str) -> ScanKey:
    """Find the session `ses-M012` of a BIDS copy, and the date in a folder of LONI's, `2006-04-18_08_20_30.0`."""
    session = _BIDS_SESSION.search(str(path))
    dates = (read_date(part) for part in path.parts[:-1])
    day = next((date for date in dates if date is not None), None)
    return ScanKey(subject, f"M{int(session[1]):03d}" if session else None, day)


def read_viscode(text: str) -> str | None:
    """Parse a visit code to a session: `bl` and `m12` are M000 and M012; None without a month (`sc`, `uns1`)."""
    match = re.fullmatch(r"m(\d+)", "m0" if text.casefold() == "bl" else text.casefold())
    return f"M{int(match[1]):03d}" if match else None
