"""The pictures of a report, small and embedded: test images with their captions, and what `sweep.explain` drew.

Scans are shown as their middle slices in three planes.
"""

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medcap_core.data.decoding import UnreadableImage
from medcap_core.data.images import decode_rgb
from medcap_core.data.prepare import load_dataset
from medcap_core.data.records import Record
from medcap_core.data.scans.records import ScanRecord
from medcap_core.data.scans.slices import cut_slices, lay_out_slices
from medcap_core.data.scans.volumes import VolumeGeometry
from medcap_core.errors import DataFault, RunFault
from medcap_core.scoring.question_answering import score_answers
from sweep.report.style import NothingToShow
from sweep.space import draw_configs
from sweep.study.attention import AttentionIndex, PointingResult
from sweep.study.directory import show_run
from sweep.study.paths import RunPaths
from sweep.study.results import RunResults
from sweep.tables.blocks import Block, Gallery, Picture, Text
from sweep.tables.formats import format_score

NUM_SAMPLES = 6
"""Number of the best cases, and of the worst."""
IMAGE_PIXELS = 288
SHEET_PIXELS = 1600
MAX_SHEETS = 12
_JPEG_QUALITY = 82


def build_samples(results: RunResults, *, with_images: bool) -> list[Block]:
    """Build a sentence on the choice of cases, and the cases. Raises NothingToShow where no test caption is there."""
    captions = results.captions
    if captions is None or captions.empty:
        raise NothingToShow("There are no captions of the test split yet.")
    scores = find_image_scores(results)
    how, groups = _choose_cases(results, captions, scores)
    texts = {}
    for name, *own in captions[["id", "reference", "zero_shot", "prediction"]].to_numpy():
        texts[name] = [*zip(("Reference", "Zero-shot", "Best model"), own, strict=True)]
        texts[name] += [("CIDEr", format_score(scores[name]))] if scores and name in scores else []
    return _build_galleries(results, how, groups, texts, "; its captions stand under it", with_images)


def _build_galleries(
    results: RunResults,
    how: str,
    groups: dict[str, list[str]],
    texts: dict[str, list[tuple[str, str]]],
    seen: str,
    with_images: bool,
) -> list[Block]:
    """Build a sentence on the choice of test images, and a gallery of each group of ids, with the texts of each."""
    wanted = {name for names in groups.values() for name in names}
    images, fault = load_images(results, wanted) if with_images else ({}, "")

    def build(name: str) -> Picture:
        return Picture(name, images.get(name, ""), f"Test {results.noun} {name}{seen}", tuple(texts[name]))

    galleries = [Gallery(title, tuple(map(build, names))) for title, names in groups.items()]
    return [Text(f"{how} {fault}".strip(), "note"), *galleries]


def load_attention(directory: Path) -> list[Block]:
    """Build sentences on the sheets that `sweep.explain` left in `attention/`, and the sheets.

    Raises NothingToShow where there are none.
    """
    folder = RunPaths(directory).attention
    try:
        index = AttentionIndex.load(folder / AttentionIndex.file_name)
        game = PointingResult.load(folder / PointingResult.file_name)
    except RunFault as fault:
        raise NothingToShow(str(fault)) from None
    pictures = []
    for entry in index.images[:MAX_SHEETS] if index else []:
        try:
            with Image.open(folder / entry.file) as image:
                uri = encode_image(image, SHEET_PIXELS)
        except (OSError, ValueError):
            continue  # just being replaced
        heading = "Answer" if entry.question else "Caption"
        texts = (("Question", entry.question), ("Reference", entry.reference), (heading, entry.caption))
        shown = tuple((label, text) for label, text in texts if text)
        pictures.append(Picture(entry.image_id, uri, entry.alt, shown, wide=True))
    if not index or not pictures:
        raise NothingToShow(f"No attention pictures yet; draw some by: python -m sweep.explain {show_run(directory)}")
    said = [f"Where {index.model} looked for each word: method {index.method}, layer {index.layer}."]
    if game:
        low, high = game.interval
        said.append(
            f"Pointing game ({game.method}, layer {game.layer}): {game.share:.3f} ({low:.3f} to {high:.3f}) of "
            f"{game.num_words:,} finding words in {game.num_images:,} {game.split} images peak in the true box; chance "
            f"is {game.area_chance:.3f} by area and {game.shuffled_chance:.3f} by other images' boxes."
        )
    said.append("A map shows where attention lay, which is no proof of what the caption came from.")
    gallery = Gallery("Attention of the decoder, word by word", tuple(pictures))
    return [*(Text(line, "note") for line in said), gallery]


def encode_image(image: Image.Image, max_side: int) -> str:
    """Encode the image as a data URI with no side above `max_side` pixels: JPEG, or PNG where it is transparent."""
    small = image.copy()
    small.thumbnail((max_side, max_side))
    is_photo = not small.has_transparency_data
    buffer = io.BytesIO()
    if is_photo:
        rgb = small.convert("RGB")
        pixels = np.asarray(rgb)
        is_grey = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
        (rgb.convert("L") if is_grey else rgb).save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    else:
        small.save(buffer, "PNG", optimize=True)
    kind = "jpeg" if is_photo else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _choose_cases(
    results: RunResults, captions: pd.DataFrame, scores: dict[str, float] | None
) -> tuple[str, dict[str, list[str]]]:
    ids = captions["id"].tolist()
    if scores is None:
        first = ids[: 2 * NUM_SAMPLES]
        how = (
            f"The first {len(first)} of {len(ids):,} test {results.noun}s in the order of the data set; best and "
            f"worst cases are chosen once {results.paths.image_scores.relative_to(results.directory)} is there."
        )
        return how, {"Samples": first}
    order = sorted(filter(scores.__contains__, ids), key=lambda name: -scores[name])
    best = order[:NUM_SAMPLES]
    worst = [name for name in reversed(order) if name not in best][:NUM_SAMPLES]
    how = f"Chosen by CIDEr of the best model's caption for each of {len(order):,} test {results.noun}s."
    return how, {"Best cases": best, "Worst cases": worst} if worst else {"Cases": best}


def find_image_scores(results: RunResults) -> dict[str, float] | None:
    """Find CIDEr of the best model for each test image by id; None where they are not known."""
    table = results.image_scores
    if table is None or "CIDEr" not in table:
        return None
    table = table[table["row"].isin(["best", results.metrics.best_trial])]
    ids = [str(value) for value in table["id"]]
    scores = {name: float(value) for name, value in zip(ids, table["CIDEr"], strict=True) if np.isfinite(value)}
    return scores or None


def load_images(results: RunResults, wanted: set[str], max_side: int = IMAGE_PIXELS) -> tuple[dict[str, str], str]:
    """Load the wanted test images by id, as data URIs, and a sentence on what is missing."""
    config = results.best.config if results.best else None
    try:
        dataset = load_dataset(config or draw_configs(results.space, 1)[0])
    except DataFault as fault:
        return {}, f"The {results.noun}s are left out: {fault.faults[0]}"
    images = {}
    for record in dataset.splits.get("test", []):
        if record.id in wanted:
            try:
                images[record.id] = encode_image(_draw(record), max_side)
            except (UnreadableImage, DataFault):
                continue
    missing = len(wanted) - len(images)
    return images, f"{missing} of {len(wanted)} {results.noun}s can no longer be read." if missing else ""


def _draw(record: Record) -> Image.Image:
    """Draw an image as it is, a scan as three slices. Raises UnreadableImage, DataFault."""
    if isinstance(record, ScanRecord) and record.noun == ScanRecord.noun:
        cube = VolumeGeometry(IMAGE_PIXELS // 2).decode(record.image)
        return Image.fromarray(lay_out_slices(cut_slices(cube[0])))
    return decode_rgb(record.image)


NUM_ANSWER_SAMPLES = 4
"""Number of scans with most answers right, and of those with most wrong."""


def build_answer_samples(results: RunResults, *, with_images: bool) -> list[Block]:
    """Build a sentence on how the scans were chosen, and the scans. Raises NothingToShow where no answers are there."""
    table = results.answers
    if table is None or table.empty or "best" not in table:
        raise NothingToShow("There are no answers on the test split yet.")
    answering = results.metrics.question_answering
    unseen = answering.unseen_cohorts if answering else []
    table = table.assign(is_right=score_answers(table["best"].tolist(), table["answer"].tolist())[:, 0])
    shown = table[table["cohort"].isin(unseen)] if unseen else table
    how = f"Scans{' of unseen cohorts' if unseen else ''} by the share of their questions that the best model answered"
    how += " in the very words of the truth, one a subject; middle slices, the subject's right on the left."
    texts: dict[str, list[tuple[str, str]]] = {}
    columns = shown[["id", "cohort", "question", "best", "answer", "is_right"]].to_numpy()
    for name, cohort, question, answer, truth, is_right in columns:
        own = texts.setdefault(name, [("Cohort", cohort)] if cohort else [])
        own.append((question, f"✓ {answer}" if is_right else f"✗ {answer or '(nothing)'}; true: {truth}"))
    seen = ", three middle slices; questions and answers stand under it"
    return _build_galleries(results, how, _choose_scans(shown), texts, seen, with_images)


def _choose_scans(table: pd.DataFrame) -> dict[str, list[str]]:
    """Choose ids of scans with most answers right and with most answers wrong, no subject twice."""
    of_scans = table.groupby("id", sort=False).agg(share=("is_right", "mean"), subject=("subject", "first"))
    order = [str(name) for name in of_scans.index[np.argsort(-of_scans["share"].to_numpy(), kind="stable")]]
    taken: set[str] = set()

    def take(names: list[str]) -> list[str]:
        chosen: list[str] = []
        for name in names:
            unit = of_scans.loc[name, "subject"] or name
            if unit not in taken and len(chosen) < NUM_ANSWER_SAMPLES:
                taken.add(str(unit))
                chosen.append(name)
        return chosen

    half = -(-len(order) // 2)
    right, wrong = take(order[:half]), take(order[half:][::-1])
    groups = {"Most answers right": right, "Most answers wrong": wrong}
    return {title: names for title, names in groups.items() if names}
