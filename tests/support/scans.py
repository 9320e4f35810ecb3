"""Scans with flat images, for tests of classification: a tiny BLIP can look at them."""

from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from medcap_core.data.records import SPLITS, Dataset, ImageFile
from medcap_core.data.scans.records import Diagnosis, ScanRecord, ask_diagnosis
from tests.support.tiny_blip import IMAGE_SIZE

HEALTHY, MCI, DEMENTIA = Diagnosis
DIAGNOSES = (None, MCI, DEMENTIA, None, HEALTHY, MCI, DEMENTIA)
"""Of the validation scans, in order."""


class FlatScan(ScanRecord):
    """A scan of one slice."""

    noun: ClassVar[str] = "image"


def write_scans(folder: Path, diagnoses: tuple[Diagnosis | None, ...] = DIAGNOSES) -> Dataset:
    """A data set with the same scans in each split, each its own image."""
    generator = np.random.default_rng(3)
    splits = {}
    for split in SPLITS:
        (folder / split).mkdir(parents=True)
        splits[split] = []
        for index, diagnosis in enumerate(diagnoses):
            path = folder / split / f"{index}.png"
            Image.fromarray(generator.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)).save(path)
            questions = () if diagnosis is None else (ask_diagnosis(diagnosis),)
            splits[split].append(
                FlatScan(
                    id=f"{split}-{index}",
                    image=ImageFile(path),  # type: ignore[arg-type]
                    caption=f"the scan of subject {index}",
                    diagnosis=diagnosis,
                    questions=questions,
                )
            )
    return Dataset(str(folder), "scans in memory", splits)
