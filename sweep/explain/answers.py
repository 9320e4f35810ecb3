"""Pictures of what a model of volumes saw: one for each answer, words and strongest queries over the scan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcap_core.attention.maps import BATCH_SIZE, DEFAULT_WAY, AttentionWay
from medcap_core.attention.volume_maps import ExplainedAnswer, VolumeExplainer, find_peak
from medcap_core.attention.volume_pointing import Mask, draw_structures, find_patches, find_structures
from medcap_core.data.brain_phantoms import BrainPhantom
from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.scoring.question_answering import compute_exact_match
from sweep.explain.chosen import ExplainedRun
from sweep.explain.chosen_answers import ChosenAnswer, choose_answers, read_given_scans
from sweep.explain.files import AttentionPicture, describe_run, list_earlier, save_picture, slug, write_index
from sweep.explain.volume_sheet import LabelledMap, VolumeSheet, draw_volume_sheet

NUM_QUERIES_SHOWN = 4
NUM_WORDS_SHOWN = 16
"""Of a report on one picture, its first; `attention.npz` has the maps of all."""


def write_volume_pictures(
    run: ExplainedRun,
    folder: Path,
    *,
    images: Sequence[str] = (),
    questions: Sequence[str] = (),
    num: int = 8,
    way: AttentionWay = DEFAULT_WAY,
    progress: Progress = ignore_progress,
) -> list[AttentionPicture]:
    """As `write_attention_pictures` for a run on scans: `num` pictures, each of one answer or report.

    `images` are paths or ids of the test split, `questions` what they are asked instead of their own. In
    `attention.npz` lie `maps_000` (words, n, n, n), `queries_000` (words, Q) and `query_maps_000` (Q, n, n, n).
    """
    assert isinstance(run.captioner, MedBlip3dCaptioner)
    explainer = VolumeExplainer(run.captioner, run.config)
    if images:
        chosen = read_given_scans(run, list(images), questions, progress)
    else:
        chosen = choose_answers(run, num, questions, progress)
    earlier = list_earlier(folder)
    entries: list[dict[str, Any]] = []
    maps: dict[str, NDArray[np.float32]] = {}
    for index, (item, explained) in enumerate(zip(chosen, _explain(explainer, chosen, way, progress), strict=True)):
        mask = _draw_mask(item)
        entry = _describe(item, explained, mask)
        name = f"{index + 1:02d}-{item.kind}-{slug(item.record.id)}-{slug(item.question_kind or _word(item))}.png"
        entry |= {"file": name, "maps": f"maps_{index:03d}"}
        maps |= _collect_maps(index, explained)
        save_picture(draw_volume_sheet(_build_sheet(run, item, explained, way, explainer, mask)), folder / name)
        entries.append(entry)
        progress("drawing pictures", index + 1, len(chosen))
    return write_index(folder, describe_run(run, way, explainer.num_layers), entries, maps, earlier)


def _word(item: ChosenAnswer) -> str:
    return "report" if item.question is None else "question"


def _explain(
    explainer: VolumeExplainer, chosen: Sequence[ChosenAnswer], way: AttentionWay, progress: Progress
) -> list[ExplainedAnswer]:
    explained: list[ExplainedAnswer] = []
    for start in range(0, len(chosen), BATCH_SIZE):
        part = chosen[start : start + BATCH_SIZE]
        pixels = np.stack([item.pixels for item in part])
        told = explainer.explain(pixels, [[item.question] for item in part], [way])[way]
        explained += [answer for (answer,) in told]
        progress("explaining answers", len(explained), len(chosen))
    return explained


def _draw_mask(item: ChosenAnswer) -> Mask | None:
    """What a phantom's question is about, in the cube; None where that is no known place."""
    names = find_structures(item.record, item.question_kind or "")
    return draw_structures(item.record, names, item.pixels.shape[-1]) if names else None


def _collect_maps(index: int, explained: ExplainedAnswer) -> dict[str, NDArray[np.float32]]:
    num_queries, *grid = explained.query_maps.shape
    words = np.array([word.map for word in explained.words], dtype=np.float32).reshape(-1, *grid)
    shares = np.array([word.queries for word in explained.words], dtype=np.float32).reshape(-1, num_queries)
    return {
        f"maps_{index:03d}": words,
        f"queries_{index:03d}": shares,
        f"query_maps_{index:03d}": explained.query_maps,
    }


def find_strongest_queries(explained: ExplainedAnswer, count: int = NUM_QUERIES_SHOWN) -> list[int]:
    """The queries to which the answer's words attend most, strongest first."""
    return [int(query) for query in np.argsort(-explained.queries, kind="stable")[:count]]


def _describe(item: ChosenAnswer, explained: ExplainedAnswer, mask: Mask | None) -> dict[str, Any]:
    """What `attention.json` says of one answer, but for its files; peaks are shares of the cube along x, y, z."""
    side = explained.query_maps.shape[-1]
    target = None if mask is None else find_patches(mask, side)

    def locate(values: NDArray[np.float32]) -> dict[str, Any]:
        peak = find_peak(values)
        return {
            "peak": [(place + 0.5) / side for place in peak],
            "peak_in_structure": None if target is None else bool(target[peak]),
        }

    is_synthetic = isinstance(item.record.image, BrainPhantom)
    asked = "its report" if item.question is None else f'the question "{item.question}"'
    strongest, num_words = find_strongest_queries(explained), len(explained.words)
    return {
        "image_id": item.record.id,
        "kind": item.kind,
        "question": item.question,
        "question_kind": item.question_kind,
        "caption": explained.answer,
        "reference": item.reference,
        "is_synthetic": is_synthetic,
        "structures": list(find_structures(item.record, item.question_kind or "")),
        **locate(explained.map),
        "words": [{"text": word.text, **locate(word.map)} for word in explained.words],
        "queries": [
            {"query": query, "share": float(explained.queries[query]), **locate(explained.query_maps[query])}
            for query in strongest
        ],
        "alt": f'{"Synthetic scan" if is_synthetic else "Scan"} {item.record.id}, {asked}, answered "{explained.answer}'
        f'"; three slices each under heat maps of where the model looked for {min(num_words, NUM_WORDS_SHOWN)} words '
        f"and {len(strongest)} queries.",
    }


def _build_sheet(
    run: ExplainedRun,
    item: ChosenAnswer,
    explained: ExplainedAnswer,
    way: AttentionWay,
    explainer: VolumeExplainer,
    mask: Mask | None,
) -> VolumeSheet:
    side, num_words = explained.query_maps.shape[-1], len(explained.words)
    layer = f"mean of {explainer.num_layers} layers" if way.layer is None else f"layer {way.layer}"
    legend = [
        f"Model {run.model_name}; method {way.method.value}, {layer}, {side}×{side}×{side} patches. Sagittal, coronal "
        "and axial slice through the ring, the strongest patch; the subject's right is on the left. Each map has its "
        f"own scale; in the corner, the strongest patch's share ({1 / side**3:.1%} if spread evenly).",
    ]
    if mask is not None:
        legend.append("Blue: the structure that the question is about, where it truly lies.")
    title = (
        f"{item.record.id} · synthetic data, no patient"
        if isinstance(item.record.image, BrainPhantom)
        else item.record.id
    )
    return VolumeSheet(
        cube=item.pixels[0],
        title=title,
        texts=_list_texts(item, explained),
        legend=legend,
        sections=[
            (
                "Words" if num_words <= NUM_WORDS_SHOWN else f"The first {NUM_WORDS_SHOWN} of {num_words} words",
                [LabelledMap(word.text, word.map) for word in explained.words[:NUM_WORDS_SHOWN]],
            ),
            (
                "Queries that the answer's words attended to most",
                [
                    LabelledMap(
                        f"query {query} · {explained.queries[query]:.0%} of the attention to the image",
                        explained.query_maps[query],
                    )
                    for query in find_strongest_queries(explained)
                ],
            ),
        ],
        mask=mask,
    )


def _list_texts(item: ChosenAnswer, explained: ExplainedAnswer) -> list[tuple[str, str]]:
    if item.question is None:
        texts = [("Report by the model", explained.answer)]
        return texts if item.reference is None else [("Reference report", item.reference), *texts]
    texts = [("Question", item.question)]
    if item.reference is None:
        return [*texts, ("Answer by the model", explained.answer)]
    verdict = "right" if compute_exact_match(explained.answer, item.reference) else "wrong"
    return [*texts, ("True answer", item.reference), (f"Answer by the model ({verdict})", explained.answer)]
