"""Names and labels of the rows of the test table."""

from pathlib import Path

from medcap_core.data.records import Record

TEXT_ONLY_ROWS = ("shuffled_images", "answer_prior")
"""Rows that know the questions alone; the first is the best model itself, the second not even a model."""

BASELINE_ROWS = {
    "zero_shot": "zero-shot",
    "caption_prior": "caption prior",
    "nearest_image": "nearest training image",
    "shuffled_images": "shuffled images",
}
"""Rows of `test_metrics.json` that are no trial, and how they are called."""

ANSWER_ROWS = {
    "zero_shot": "zero-shot",
    "shuffled_images": "shuffled scans",
    "answer_prior": "most frequent answer",
}
"""Rows of the sections on answers that are no trial, and how they are called."""

PER_IMAGE_TABLE = Path("tables") / "per_image_scores.csv"


def name_baseline(row: str, noun: str) -> str:
    """How a row of `BASELINE_ROWS` is called where records are called `noun`."""
    return BASELINE_ROWS[row].replace(Record.noun, noun)


BLIND_ROWS = ("caption_prior", "nearest_image")
"""Rows that no model has part in; they draw on the training images of the best trial."""

BASE_ROWS = ("zero_shot", *BLIND_ROWS)
"""Rows that depend on the base model and the data, not on what the best trial has learnt."""
