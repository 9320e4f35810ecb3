"""Captions of the same test images beside each other: the leading trials that were captioned, and the untrained model.

The page shows them worst first, marks the words that a caption does not share with its reference, and filters them.
"""

import json
import math

import numpy as np

from sweep.report.pictures import load_images
from sweep.study.results import RunResults
from sweep.tables.blocks import Captions, Section, Text
from sweep.tables.caption_tables import describe_row

MAX_PICTURES = 200
PICTURE_PIXELS = 128


def build_side_by_side(results: RunResults, with_images: bool) -> Section:
    """Build the section; without blocks where there are no test captions."""
    captions = results.captions
    if captions is None or captions.empty:
        return Section("captions", "Captions side by side", [])
    ids = captions["id"].tolist()
    best = results.metrics.best_trial or "best"
    texts = {best: captions["prediction"].tolist()}
    for trial, table in results.trial_captions.items():
        found = dict(zip(table["id"], table["prediction"], strict=True))
        if trial != best and found.keys() >= set(ids):
            texts[trial] = [found[name] for name in ids]
    texts["zero_shot"] = captions["zero_shot"].tolist()
    scores = _find_scores(results, ids, list(texts))
    own = [math.inf if value is None else value for value in scores["CIDEr"][0]] if scores else [0.0] * len(ids)
    worst_first = sorted(range(len(ids)), key=lambda row: own[row])
    wanted = {ids[row] for row in worst_first[:MAX_PICTURES]}
    images, fault = load_images(results, wanted, PICTURE_PIXELS) if with_images else ({}, "")
    content = {
        "columns": [str(describe_row(results, row)) for row in texts],
        "texts": list(texts.values()),
        "references": captions["reference"].tolist(),
        "ids": ids,
        "scores": scores,
        "groups": _find_groups(results, ids),
        "images": images,
    }
    said = "Marked words are not in the reference, or not in that order."
    if images:
        said += f" The {len(images):,} {results.noun}s on which the best model is worst have their picture here."
    said = f"{said} {fault}".strip()
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    title = f"Captions of {len(ids):,} test {results.noun}s"
    return Section("captions", "Captions side by side", [Text(said, "note"), Captions("side-by-side", title, text)])


def _find_scores(results: RunResults, ids: list[str], rows: list[str]) -> dict[str, list[list[float | None]]]:
    """Find the scores of each image by metric: a list for each of `rows`; CIDEr first, empty where none are known."""
    table = results.image_scores
    if table is None or not {"id", "row", "CIDEr"} <= set(table.columns):
        return {}
    parts = {row: part.set_index("id").reindex(ids) for row, part in table.groupby("row")}
    found: dict[str, list[list[float | None]]] = {}
    for metric in ["CIDEr", *(name for name in table.columns if name not in ("id", "row", "CIDEr"))]:
        found[metric] = [
            [round(value, 3) if np.isfinite(value) else None for value in parts[row][metric].astype(float)]
            if row in parts
            else [None] * len(ids)
            for row in rows
        ]
    return found


def _find_groups(results: RunResults, ids: list[str]) -> dict[str, list[str]]:
    """Find the subgroups of each image by kind, several values of one kind a line each."""
    table = results.image_groups
    if table is None:
        return {}
    table = table.drop_duplicates("id").set_index("id").reindex(ids).fillna("")
    return {str(kind): table[kind].tolist() for kind in table.columns}
