"""Captions of the same images beside each other: the leading trials that were captioned, and the untrained model.

The page shows them worst first, marks the words that a caption does not share with its reference, and filters them.
"""

import json
import math
from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd

from medcap_core.scoring.registry import load_scores
from sweep.report.pictures import load_images
from sweep.study.results import RunResults
from sweep.tables.blocks import Block, Captions, Text
from sweep.tables.caption_tables import describe_row

MAX_PICTURES = 200
PICTURE_PIXELS = 128
_Scores = dict[str, list[list[float | None]]]


def build_side_by_side(results: RunResults, with_images: bool) -> list[Block]:
    """Build the blocks; none where there are no captions.

    Captions of the validation split stand there where only one trial was shown the test split.
    """
    blocks = _build_test(results, with_images)
    is_one_tested = not results.trial_captions.keys() - {results.metrics.best_trial}
    return [*blocks, *_build_validation(results)] if is_one_tested else blocks


def _build_test(results: RunResults, with_images: bool) -> list[Block]:
    captions, best = results.captions, results.metrics.best_trial or "best"
    if captions is None or captions.empty:
        return []
    ids = captions["id"].tolist()
    texts = {best: captions["prediction"].tolist()}
    for trial, table in results.trial_captions.items():
        found = dict(zip(table["id"], table["prediction"], strict=True))
        if trial != best and found.keys() >= set(ids):
            texts[trial] = [found[name] for name in ids]
    texts["zero_shot"] = captions["zero_shot"].tolist()
    scores = _find_scores(results.image_scores, ids, list(texts))
    own = [math.inf if value is None else value for value in scores["CIDEr"][0]] if scores else [0.0] * len(ids)
    worst_first = sorted(range(len(ids)), key=lambda row: own[row])
    wanted = {ids[row] for row in worst_first[:MAX_PICTURES]}
    images, fault = load_images(results, wanted, PICTURE_PIXELS) if with_images else ({}, "")
    said = "Marked words are not in the reference, or not in that order."
    if images:
        said += f" The {len(images):,} {results.noun}s on which the best model is worst have their picture here."
    groups: Mapping[Hashable, object] = {}
    if results.image_groups is not None:  # several values of one kind are a line each
        groups = results.image_groups.drop_duplicates("id").set_index("id").reindex(ids).fillna("").to_dict("list")
    block = _build_block(results, "test", captions, texts, scores, {"groups": groups, "images": images})
    return [Text(f"{said} {fault}".strip(), "note"), block]


def _build_validation(results: RunResults) -> list[Block]:
    """Build the captions of the leading trials on validation: those of the images that the first one has."""
    table = results.validation_captions
    if table is None or table.empty:
        return []
    parts = dict(list(table.groupby("row")))
    rows = [row for row in (*(record.name for record in results.ranked), "zero_shot") if row in parts]
    first = parts[rows[0]]
    ids = first["id"].tolist()
    texts = {row: own["prediction"].tolist() for row in rows if (own := parts[row])["id"].tolist() == ids}
    scores = _find_scores(table[["row", "id", "CIDEr"]], ids, list(texts))
    said = "Of the validation split, by which the trials were ranked: on new images their captions are worse."
    block = _build_block(results, "validation", first, texts, scores, {"groups": {}, "images": {}})
    return [Text(said, "note"), block]


def _build_block(
    results: RunResults,
    split: str,
    table: pd.DataFrame,
    texts: dict[str, list[str]],
    scores: _Scores,
    more: Mapping[str, object],
) -> Captions:
    """Build a block of the images in `table`, of which it takes ids and references."""
    extra = [score for key in results.space.extra_scores for score in load_scores(key)]
    content = {
        "columns": [str(describe_row(results, row)) for row in texts],
        "texts": list(texts.values()),
        "references": table["reference"].tolist(),
        "ids": table["id"].tolist(),
        "scores": scores,
        "lower_is_better": [score.name for score in extra if not score.higher_is_better],
        **more,
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Captions(f"side-by-side-{split}", f"Captions of {len(table):,} {split} {results.noun}s", text)


def _find_scores(table: pd.DataFrame | None, ids: list[str], rows: list[str]) -> _Scores:
    """Find the scores of each image by metric: a list for each of `rows`; CIDEr first, empty where none are known."""
    if table is None or not {"id", "row", "CIDEr"} <= set(table.columns):
        return {}
    parts = {row: part.drop_duplicates("id").set_index("id").reindex(ids) for row, part in table.groupby("row")}
    empty = pd.DataFrame(np.nan, ids, table.columns)
    return {
        metric: [
            [round(value, 3) if np.isfinite(value) else None for value in parts.get(row, empty)[metric].astype(float)]
            for row in rows
        ]
        for metric in ("CIDEr", *table.columns.difference(["id", "row", "CIDEr"], sort=False))
    }
