"""What the five cohorts have in common: visits of subjects, and which of them a volume belongs to."""

import datetime
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from medcap_core.data.scans.records import Diagnosis
from medcap_core.data.sources.tables import Row, Table, find_column, read_rows
from medcap_core.errors import DataFault

Sex = Literal["female", "male"]

_SEXES: dict[str, Sex] = {"f": "female", "female": "female", "2": "female", "m": "male", "male": "male", "1": "male"}
_ISO_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")
_US_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})")
_MAX_MMSE, _MAX_AGE_YEARS = 30, 120


@dataclass(frozen=True)
class Visit:
    """One row of a cohort's clinical table.

    `session` is a name that paths of its scans carry; `day` the number of a day on any scale the cohort has (a date's
    ordinal, or days since the subject's entry). `mmse` is the Mini-Mental State Examination score, 0 to 30.
    """

    subject: str
    session: str | None = None
    day: int | None = None
    diagnosis: Diagnosis | None = None
    age_years: float | None = None
    sex: Sex | None = None
    mmse: int | None = None


@dataclass(frozen=True)
class Place:
    """What a volume's path tells: its subject, and its session or day where it tells them."""

    subject: str
    session: str | None = None
    day: int | None = None


@dataclass(frozen=True)
class CohortTables:
    """A cohort's tables as read. `locate` reads a path below the folder of volumes; None for one that tells nothing."""

    visits: list[Visit]
    locate: Callable[[PurePosixPath], Place | None]


def group_visits(visits: Iterable[Visit]) -> dict[str, list[Visit]]:
    """The visits of each subject, in the table's order."""
    grouped: dict[str, list[Visit]] = {}
    for visit in visits:
        grouped.setdefault(visit.subject, []).append(visit)
    return grouped


def find_visit(place: Place, visits: Sequence[Visit], max_days: int) -> Visit | str:
    """Of a subject's visits the one a scan belongs to, or a sentence on why there is none.

    By session where path and visits have one; else the visit nearest in days, at most `max_days` away, one with a
    diagnosis if there is any; a path that tells neither belongs to a subject's only visit.
    """
    if not visits:
        return f"subject {place.subject} is not in the table"
    if place.session is not None:
        found = [visit for visit in visits if visit.session == place.session]
        return found[0] if found else f"session {place.session} of subject {place.subject} is not in the table"
    day = place.day
    if day is not None:
        near = [visit for visit in visits if visit.day is not None and abs(visit.day - day) <= max_days]
        near = [visit for visit in near if visit.diagnosis is not None] or near
        if near:
            return min(near, key=lambda visit: abs((visit.day or 0) - day))
        return f"subject {place.subject} has no visit within {max_days} days of this scan"
    if len(visits) == 1:
        return visits[0]
    return f"the path does not tell which of the {len(visits)} visits of subject {place.subject} it belongs to"


def read_clinical_tables(paths: Sequence[Path], kinds: dict[str, str], cohort: str) -> dict[str, list[Table]]:
    """The tables by kind, each told by one column: `kinds` is kind -> that column, asked in order.

    Raises DataFault for every table that is of no kind.
    """
    tables: dict[str, list[Table]] = {kind: [] for kind in kinds}
    faults = []
    for path in paths:
        table = read_rows(path)
        kind = next((kind for kind, column in kinds.items() if find_column(table.columns, [column.lower()])), None)
        if kind is None:
            known = ", ".join(f"{column} ({kind})" for kind, column in kinds.items())
            faults.append(f"{path} is no table of {cohort} that is known here: none of its columns is {known}.")
        else:
            tables[kind].append(table)
    if faults:
        raise DataFault(faults)
    return tables


def read_cell(row: Row, column: str | None) -> str:
    """A cell without the space around it; empty for a missing column and for NA."""
    text = row.text(column).strip() if column else ""
    return "" if text.casefold() in ("na", "n/a", "nan", "none", ".") else text


def read_number(text: str, low: float, high: float) -> float | None:
    """A number between `low` and `high`; None for anything else, such as the codes that stand for "missing"."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if low <= number <= high else None


def read_age(text: str) -> float | None:
    """Years."""
    return read_number(text, 1, _MAX_AGE_YEARS)


def read_mmse(text: str) -> int | None:
    """A score from 0 to 30; codes such as -4, -1, 88 and 95 to 98 mean that it is missing."""
    score = read_number(text, 0, _MAX_MMSE)
    return None if score is None else round(score)


def read_sex(text: str) -> Sex | None:
    """F, Female or 2; M, Male or 1, as all five cohorts code it."""
    number = read_number(text, 1, 2)
    return _SEXES.get(f"{number:g}" if number is not None else text.casefold())


def read_date(text: str) -> int | None:
    """The ordinal of a date written as 2006-04-18 or 4/18/2006; None for another text or an impossible date."""
    if match := _ISO_DATE.match(text):
        year, month, day = map(int, match.groups())
    elif match := _US_DATE.match(text):
        month, day, year = map(int, match.groups())
    else:
        return None
    try:
        return datetime.date(year, month, day).toordinal()
    except ValueError:
        return None


def find_folder_date(path: PurePosixPath) -> int | None:
    """The date in a folder named as the LONI archive names them, `2006-04-18_08_20_30.0`: when a scan was made."""
    dates = (read_date(part) for part in path.parts[:-1])
    return next((date for date in dates if date is not None), None)


def format_month(months: int) -> str:
    """A visit's session as in BIDS copies of ADNI and AIBL: M000 for baseline, M012 for month 12."""
    return f"M{months:03d}"


def read_viscode(text: str) -> str | None:
    """The session of a visit code: `bl` and `m12` are M000 and M012; None for codes without a month (`sc`, `uns1`)."""
    code = text.casefold()
    if code == "bl":
        return format_month(0)
    return format_month(int(code[1:])) if re.fullmatch(r"m\d+", code) else None
