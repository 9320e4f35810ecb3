"""Test scans with what the best model answered, for a report: those with most questions answered right, and wrong."""

import numpy as np
import pandas as pd

from medcap_core.question_answering import score_answers
from sweep.report_blocks import Gallery, Picture
from sweep.report_pictures import NoPictures, load_images
from sweep.results import RunResults

NUM_SAMPLES = 4
"""So many scans of either kind."""


def build_answer_samples(results: RunResults, *, with_images: bool) -> tuple[str, list[Gallery]]:
    """A sentence on how the scans were chosen, and the scans. Raises NoPictures where no answers are there."""
    table = results.answers
    if table is None or table.empty or "best" not in table:
        raise NoPictures("There are no answers on the test split yet.")
    unseen = results.section("question_answering").get("unseen_cohorts") or []
    table = table.assign(is_right=score_answers(table["best"].tolist(), table["answer"].tolist())[:, 0])
    shown = table[table["cohort"].isin(unseen)] if unseen else table
    how = f"Scans{' of unseen cohorts' if unseen else ''} by the share of their questions that the best model answered"
    how += " in the very words of the truth, one a subject; middle slices, the subject's right on the left."
    groups = _choose_scans(shown)
    wanted = {name for names in groups.values() for name in names}
    images, fault = load_images(results, wanted) if with_images else ({}, "")
    galleries = [
        Gallery(title, tuple(_build_picture(name, table[table["id"] == name], images) for name in names))
        for title, names in groups.items()
    ]
    return f"{how} {fault}".strip(), galleries


def _choose_scans(table: pd.DataFrame) -> dict[str, list[str]]:
    """Ids of scans with most answers right and with most answers wrong, no subject twice."""
    of_scans = table.groupby("id", sort=False).agg(share=("is_right", "mean"), subject=("subject", "first"))
    order = [str(name) for name in of_scans.index[np.argsort(-of_scans["share"].to_numpy(), kind="stable")]]
    taken: set[str] = set()

    def take(names: list[str]) -> list[str]:
        chosen: list[str] = []
        for name in names:
            unit = of_scans.loc[name, "subject"] or name
            if unit not in taken and len(chosen) < NUM_SAMPLES:
                taken.add(str(unit))
                chosen.append(name)
        return chosen

    half = -(-len(order) // 2)
    right, wrong = take(order[:half]), take(order[half:][::-1])
    groups = {"Most answers right": right, "Most answers wrong": wrong}
    return {title: names for title, names in groups.items() if names}


def _build_picture(name: str, items: pd.DataFrame, images: dict[str, str]) -> Picture:
    texts = [("Cohort", str(items["cohort"].iloc[0]))] if items["cohort"].iloc[0] else []
    texts += [
        (str(item.question), _judge(str(item.best), str(item.answer), is_right=bool(item.is_right)))
        for item in items.itertuples()
    ]
    alternative = f"Test scan {name}, three middle slices; questions and answers stand under it"
    return Picture(name, images.get(name, ""), alternative, tuple(texts))


def _judge(answer: str, truth: str, *, is_right: bool) -> str:
    return f"✓ {answer}" if is_right else f"✗ {answer or '(nothing)'}; true: {truth}"
