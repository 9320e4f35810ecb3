"""Small data sets on disk for the tests, and what is read of them."""

import json
from pathlib import Path

import numpy as np

from medcap_core.data.records import Dataset, Record


def write(path: Path, content: object) -> Path:
    """Write text, or anything else as JSON, and make the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode())
    return path


def level(record: Record) -> int:
    """The value of an image's first pixel."""
    return int(np.asarray(record.image.open())[0, 0])


def levels(data: Dataset) -> list[list[int]]:
    """The levels of the images of train, validation and test."""
    return [[level(record) for record in records] for records in data.splits.values()]


def ids(data: Dataset) -> list[list[str]]:
    """The ids of train, validation and test."""
    return [[record.id for record in records] for records in data.splits.values()]


def sizes(data: Dataset) -> list[int]:
    """The numbers of records of train, validation and test."""
    return [len(records) for records in data.splits.values()]
