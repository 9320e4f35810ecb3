"""Groups of records: those that belong in one split, and subgroups by modality, region, view, cohort or concept."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medcap_core.data.records import SPLITS, ImageFile, Record, SkippedRecord, SplitName
from medcap_core.data.scans.records import ScanRecord

_MIDDLE_BYTES = 4096
GROUP_NOUNS = {"image": "cases", "scan": "subjects"}
MAX_VALUES = 20
"""Most values of a column that names subgroups, and most concepts."""
_COMPUTED = ("box", "concepts", "concept_names")
"""Labels that are no text, of which the box is drawn on access."""

Splits = dict[SplitName, list[Record]]


def group_records(records: Sequence[Record], most: int) -> tuple[list[list[int]], str]:
    """Group the rows of `records` that must stay in one split, and name what groups them.

    By case, where one has several records; else by image files of equal bytes and by equal captions. A caption of more
    than `most` records is a stock phrase and groups none. The name is empty where each record stands alone.
    """
    noun = records[0].noun if records else Record.noun
    by_case: dict[object, list[int]] = {}
    for row, record in enumerate(records):
        by_case.setdefault((record.case,) if record.case is not None else row, []).append(row)
    if len(by_case) < len(records):
        return list(by_case.values()), f"whole {GROUP_NOUNS[noun]}"
    equal_images = _find_equal_images(records)
    rows_of_captions: dict[str, list[int]] = {}
    for row, record in enumerate(records):
        for caption in record.references:
            rows_of_captions.setdefault(caption, []).append(row)
    equal_captions = [rows for rows in rows_of_captions.values() if 1 < len(rows) <= most]
    names = {"equal images": equal_images, "equal captions": equal_captions}
    groups = _join(len(records), [*equal_images, *equal_captions])
    return groups, " and ".join(name for name, found in names.items() if found)


def _join(count: int, links: Sequence[Sequence[int]]) -> list[list[int]]:
    """Join the rows that links connect, in order of first appearance."""
    parents = list(range(count))

    def find(row: int) -> int:
        while parents[row] != row:
            parents[row] = row = parents[parents[row]]
        return row

    for rows in links:
        for row in rows[1:]:
            low, high = sorted((find(rows[0]), find(row)))
            parents[high] = low
    groups: dict[int, list[int]] = {}
    for row in range(count):
        groups.setdefault(find(row), []).append(row)
    return list(groups.values())


def _find_equal_images(records: Sequence[Record]) -> list[list[int]]:
    """Find the rows whose image files hold equal bytes; only files of one size and of equal middles are read whole."""
    groups = [list(range(len(records)))]
    for compute in (_measure, _read_middle, _hash_file):
        split: dict[tuple[int, object], list[int]] = {}
        for number, rows in enumerate(groups):
            for row in rows:
                image = records[row].image
                if isinstance(image, ImageFile):
                    try:
                        split.setdefault((number, compute(image.path)), []).append(row)
                    except OSError:
                        continue  # reported when it is decoded
        groups = [rows for rows in split.values() if len(rows) > 1]
    return groups


def _measure(path: Path) -> int:
    if not path.is_file():
        raise OSError("a pipe or device, on which reading may wait for ever")
    return path.stat().st_size


def _read_middle(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(path.stat().st_size // 2)
        return file.read(_MIDDLE_BYTES)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_shared(splits: Splits) -> dict[str, set[SplitName]]:
    """Find the cases, and the images without one, that lie in more than one split, by name, with their splits."""
    found: dict[object, tuple[str, set[SplitName]]] = {}
    for split in SPLITS:
        for record in splits.get(split, []):
            key, name = (record.image, record.id) if record.case is None else (record.case, record.case)
            found.setdefault(key, (name, set()))[1].add(split)
    return {name: where for name, where in found.values() if len(where) > 1}


def describe_shared(splits: Splits, where: str) -> str:
    """Write the fault of cases in more than one split, with its remedies."""
    shared = list(find_shared(splits))
    noun = next(record.noun for records in splits.values() for record in records)
    groups = GROUP_NOUNS[noun]
    return (
        f"{where}: {len(shared):,} {groups} have {noun}s in more than one split ({list_some(shared)}): give all "
        f"{noun}s of a {groups[:-1]} one split, or name no splits, and they are cut by whole {groups}, or set "
        "drop_shared_cases: true to drop them from train."
    )


def list_some(names: Sequence[str], most: int = 5) -> str:
    """List the first names, and say by dots that there are more."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def note_shared(splits: Splits) -> list[str]:
    """Write how many images of test and of validation share a case with train."""
    train = {record.case for record in splits.get("train", [])} - {None}
    notes = []
    for split in ("test", "validation"):
        records = splits.get(split, [])
        count = sum(record.case in train for record in records if record.case is not None)
        if count:
            noun = records[0].noun
            notes.append(
                f"{count:,} of {len(records):,} {split} {noun}s ({count / len(records):.1%}) share a "
                f"{GROUP_NOUNS[noun][:-1]} with train; drop_shared_cases: true drops those cases from train."
            )
    return notes


def drop_shared(splits: Splits) -> tuple[Splits, list[SkippedRecord]]:
    """Drop from train what validation or test also have, and from validation what test has: cases and images."""
    kept: Splits = {}
    dropped: list[SkippedRecord] = []
    taken: dict[object, SplitName] = {}
    for split in reversed(SPLITS):
        if split not in splits:
            continue
        kept[split] = []
        for record in splits[split]:
            keys = [record.image, *([record.case] if record.case is not None else [])]
            other = next((taken[key] for key in keys if key in taken), None)
            if other is None:
                kept[split].append(record)
            else:
                what = f"its case {record.case}" if record.case is not None else f"this {record.noun}"
                dropped.append(SkippedRecord(split, record.id, f"{other} has {what} too"))
        for record in splits[split]:
            taken[record.image] = split
            if record.case is not None:
                taken[record.case] = split
    return {split: kept[split] for split in SPLITS if split in kept}, dropped


def list_subgroups(records: Sequence[Record]) -> dict[str, list[tuple[str, ...]]]:
    """List the values of each record by kind: none, one, or several concepts.

    A kind is a text label of the records with 2 to `MAX_VALUES` values, their cohort, or their most frequent concepts
    (by name where the source has names).
    """
    kinds = dict.fromkeys(kind for record in records for kind in record.truth if kind not in _COMPUTED)
    found = {kind: [_as_values(record.truth.get(kind)) for record in records] for kind in kinds}
    found["cohort"] = [_as_values(record.cohort if isinstance(record, ScanRecord) else None) for record in records]
    found = {kind: own for kind, own in found.items() if 2 <= len(set().union(*own)) <= MAX_VALUES}
    concepts = []
    for truth in (record.truth for record in records):
        names = truth.get("concept_names", {})
        concepts.append(dict.fromkeys(names.get(concept, concept) for concept in truth.get("concepts", ())))
    frequent = {name for name, _ in Counter(name for own in concepts for name in own).most_common(MAX_VALUES)}
    if frequent:
        found["concept"] = [tuple(name for name in own if name in frequent) for own in concepts]
    return found


def _as_values(label: object) -> tuple[str, ...]:
    return (label.strip(),) if isinstance(label, str) and label.strip() else ()
