"""Small synthetic scans with questions, some of which lack a diagnosis, a cohort, a subject or all questions."""

from dataclasses import dataclass

import numpy as np

from medcap_core.data.records import Dataset, SplitName, Volume, VolumeReference
from medcap_core.data.scans.records import Diagnosis, Question, ScanRecord, ask_diagnosis

HEALTHY, MCI, DEMENTIA = Diagnosis
SIDE, NODULE = "left or right?", "is there a nodule?"

# Subject, cohort, diagnosis, answers on side and nodule.
Row = tuple[str | None, str | None, Diagnosis | None, str | None, str | None]
TRAIN: tuple[Row, ...] = (
    ("t0", "red", HEALTHY, "left", None),
    ("t1", "red", MCI, "right", None),
    ("t2", "blue", DEMENTIA, "right", "a large nodule"),
    ("t3", "blue", DEMENTIA, "right", None),
)
TEST: tuple[Row, ...] = (
    ("s0", "green", HEALTHY, "left", None),
    ("s0", "green", HEALTHY, "left", "a small nodule"),
    ("s1", "green", MCI, "right", None),
    ("s2", "red", DEMENTIA, "right", None),
    ("s3", "red", None, "left", None),
    (None, None, MCI, None, None),
    (None, "green", DEMENTIA, "the right", None),
    ("s4", "blue", None, None, None),
)


@dataclass(frozen=True)
class DrawnVolume(VolumeReference):
    """Random voxels."""

    number: int

    def read(self) -> Volume:
        voxels = np.random.default_rng(self.number).random((7, 8, 9), dtype=np.float32)
        return Volume(voxels, (1.0, 1.0, 1.0))

    def fingerprint(self) -> str:
        return f"drawn {self.number}"


def build_scan(split: SplitName, index: int, row: Row) -> ScanRecord:
    subject, cohort, diagnosis, side, nodule = row
    questions = () if diagnosis is None else (ask_diagnosis(diagnosis),)
    questions += () if side is None else (Question("side", SIDE, side),)
    questions += () if nodule is None else (Question("finding", NODULE, nodule),)
    return ScanRecord(
        id=f"{split}-{index}",
        image=DrawnVolume(1000 * len(split) + index),
        caption="the left lung shows a small nodule" if index % 2 else "a large opacity",
        case=subject,
        cohort=cohort,
        diagnosis=diagnosis,
        questions=questions,
    )


def build_dataset(name: str, test: tuple[Row, ...] = TEST, train: tuple[Row, ...] = TRAIN) -> Dataset:
    """Validation holds what training does."""
    rows: dict[SplitName, tuple[Row, ...]] = {"train": train, "validation": train, "test": test}
    splits = {split: [build_scan(split, *pair) for pair in enumerate(part)] for split, part in rows.items()}
    return Dataset(name, "synthetic scans drawn in memory", splits)  # type: ignore[arg-type]
