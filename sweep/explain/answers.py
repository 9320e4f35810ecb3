"""Explain answers to questions on scans, and reports."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from medcap_core.attention.explained import ExplainedText, enlarge_map, find_peak
from medcap_core.data.brain_phantoms import BrainPhantom
from medcap_core.data.brain_phantoms.anatomy import MaskName
from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.records import Record
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION
from medcap_core.data.scans.slices import cut_slices, find_in_slices, lay_out_slices
from medcap_core.errors import RunFault
from medcap_core.runtime.progress import Progress
from medcap_core.scoring.question_answering import compute_exact_match, score_answers
from sweep.explain.sheet import Panel, Sheet, View
from sweep.explain.task import Item, Task, build_title, choose_rows, is_synthetic, take
from sweep.held_out.questions import list_questions
from sweep.study.attention import PictureEntry, QueryEntry, WordEntry
from sweep.study.results import read_table

NUM_QUERIES_SHOWN = 4
NUM_WORDS_SHOWN = 16
"""Of a report on one picture, its first; `attention.npz` has the maps of all."""
_SEED = 0
_BILINEAR = Image.Resampling.BILINEAR

Mask = NDArray[np.bool_]

_STRUCTURES: dict[str, tuple[MaskName, ...]] = {
    "hippocampus": ("left_hippocampus", "right_hippocampus"),
    "cortex": ("cortex",),
    "left": ("left_hippocampus",),
    "right": ("right_hippocampus",),
    "ventricles": ("ventricles",),
}


class AnswerTask(Task):
    """The answer to one question on each scan, or its report where it was asked none; on phantoms with the structure.

    Maps are shown in three slices: of words, and of the queries that these attended to most.
    """

    noun = "answers"

    def choose(self, num: int, progress: Progress) -> list[Item]:
        """See `Task.choose`.

        All kinds of questions come by turns; with `questions` only these are asked, and where the run was not asked
        them, of random scans. Where the run answered no question at all its reports are chosen as captions are.
        """
        path = self.run.paths.answers
        if not path.is_file() and not self.questions:
            return super().choose(num, progress)
        split = self.run.load_split("test", progress)
        table = self._read_answers(split) if path.is_file() else pd.DataFrame()
        if not table.empty:
            scores = score_answers(table["best"].tolist(), table["answer"].tolist())[:, 1]
            chosen = [(table.iloc[row], kind) for row, kind in choose_rows(scores, num)]
            return [_ask(take(split, split.ids.index(own["id"]), kind), own["question"]) for own, kind in chosen]
        if not self.questions:
            raise RunFault(f"{path} names no scan of {self.run.config.data}: the data set has changed since the run.")
        drawn = np.random.default_rng(_SEED).permutation(len(split.records))[:num].tolist()
        return [_ask(take(split, place, "random"), text) for place, text in zip(drawn, cycle(self.questions))]

    def _read_answers(self, split: PreparedSplit) -> pd.DataFrame:
        """Read the answers to `questions`, or to all, on scans of the split; kinds of questions by turns."""
        table = read_table(self.run.paths.answers, ("id", "kind", "question", "answer", "best"))
        table = table[
            table["id"].isin(split.ids) & (table["question"].isin(self.questions) if self.questions else True)
        ]
        table = table.sample(frac=1, random_state=_SEED)
        return table.assign(turn=table.groupby("kind").cumcount()).sort_values(["turn", "kind"]).reset_index(drop=True)

    def read(self, names: list[str], progress: Progress) -> list[Item]:
        """See `Task.read`; without `questions` a test scan is asked its own, another for its diagnosis and report."""
        items = []
        for item in super().read(names, progress):
            wanted = list(self.questions) or [question.text for question in list_questions(item.record)]
            items += [_ask(item, question) for question in wanted or [DIAGNOSIS_QUESTION]]
            items += [] if wanted else [item]
        return items

    def describe(self, item: Item, explained: ExplainedText, file: str, maps: str) -> PictureEntry:
        """See `Task.describe`; peaks are shares of the scan along x, y, z."""
        mask = draw_structures(item)
        target = None if mask is None else find_patches(mask, explained.grid[0])

        def describe(values: NDArray[np.float32]) -> dict[str, Any]:
            in_structure = None if target is None else bool(target[_find_patch(values)])
            return {"peak": find_peak(values), "peak_in_structure": in_structure}

        strongest, num_words = find_strongest_queries(explained), min(len(explained.words), NUM_WORDS_SHOWN)
        noun = "Synthetic scan" if is_synthetic(item) else "Scan"
        asked = "its report" if item.question is None else f'the question "{item.question}"'
        return PictureEntry(
            image_id=item.record.id,
            kind=item.kind,
            question=item.question,
            question_kind=item.question_kind,
            caption=explained.text,
            reference=item.reference,
            is_synthetic=is_synthetic(item),
            structures=find_structures(item.record, item.question_kind),
            **describe(explained.map),
            words=[WordEntry(text=word.text, **describe(word.map)) for word in explained.words],
            queries=[QueryEntry(query=query, share=share, **describe(values)) for query, share, values in strongest],
            alt=f'{noun} {item.record.id}, {asked}, answered "{explained.text}"; three slices each under heat maps of '
            f"where the model looked for {num_words} words and {len(strongest)} queries.",
            file=file,
            maps=maps,
        )

    def lay_out(self, item: Item, explained: ExplainedText) -> Sheet:
        """See `Task.lay_out`."""
        cube, mask, num_words = item.pixels[0], draw_structures(item), len(explained.words)
        legend = [
            f"{self.describe_maps(explained)} Sagittal, coronal and axial slice through the ring, the strongest patch; "
            "the subject's right is on the left."
        ]
        if mask is not None:
            legend.append("Blue: the structure that the question is about, where it truly lies.")

        def build_panel(label: str, values: NDArray[np.float32]) -> Panel:
            x, y, z = find_peak(values)
            voxel = _locate(cube, (x, y, z))
            outlines = (None, None, None) if mask is None else cut_slices(mask, voxel)
            # Bilinear, so that no two patches outshine the strongest one between them.
            heats = [enlarge_map(part, (len(cube),) * 2, _BILINEAR) for part in cut_slices(values, _find_patch(values))]
            planes = zip(cut_slices(cube, voxel), heats, outlines, find_in_slices((x, y, z)), strict=True)
            views = [View(image, heat, mask=outline, ring=ring) for image, heat, outline, ring in planes]
            return Panel(label, views, float(values.max()))

        words = [build_panel(word.text, word.map) for word in explained.words[:NUM_WORDS_SHOWN]]
        queries = [
            build_panel(f"query {query} · {share:.0%} of the attention to the image", values)
            for query, share, values in find_strongest_queries(explained)
        ]
        is_cut = num_words > NUM_WORDS_SHOWN
        heading = f"The first {NUM_WORDS_SHOWN} of {num_words} words" if is_cut else "Word by word"
        plain = View(lay_out_slices(cut_slices(cube)))
        if mask is not None:
            x, y, z = (round(float(places.mean())) for places in np.nonzero(mask))
            plain = View(lay_out_slices(cut_slices(cube, (x, y, z))), mask=lay_out_slices(cut_slices(mask, (x, y, z))))
        sections = [(heading, words), ("Queries that the text's words attended to most", queries)]
        return Sheet(build_title(item), plain, _list_texts(item, explained.text), legend, sections)


def _ask(item: Item, text: str) -> Item:
    """Ask a question of a scan; its true answer is known if it is one of the scan's own."""
    for question in list_questions(item.record):
        if question.text == text:
            return replace(item, question=text, question_kind=question.kind, reference=question.answer)
    return replace(item, question=text, reference=None)


def find_structures(record: Record, question_kind: str | None) -> tuple[MaskName, ...]:
    """Find what the true answer to a phantom's question is about; empty where that is no place in the head.

    A question on the `structure` is about what has shrunk most, one on the `side` about the smaller hippocampus.
    """
    if not isinstance(record.image, BrainPhantom):
        return ()
    truth = {"structure": record.truth["structure"], "side": record.truth["side"], "ventricles": "ventricles"}
    return _STRUCTURES.get(truth.get(question_kind or "", ""), ())


def draw_structures(item: Item) -> Mask | None:
    """Draw what a phantom's question is about in the cube that the model sees; None where that is no known place."""
    names = find_structures(item.record, item.question_kind)
    if not names:
        return None
    assert isinstance(item.record.image, BrainPhantom)
    mask = _draw_masks(item.record.image, names, item.pixels.shape[-1])
    return mask if mask.any() else None


@lru_cache(maxsize=4)
def _draw_masks(phantom: BrainPhantom, names: tuple[MaskName, ...], size: int) -> Mask:
    mask: Mask = np.any([phantom.cube_mask(name, size) for name in names], axis=0)
    return mask


def find_patches(mask: Mask, num_patches: int) -> Mask:
    """Find which patches, `num_patches` along each axis, hold a voxel of a mask (S, S, S): bool (n, n, n)."""
    side = len(mask) // num_patches
    patches: Mask = np.any(mask.reshape([num_patches, side] * 3), axis=(1, 3, 5))
    return patches


def _find_patch(values: NDArray[np.float32]) -> tuple[int, int, int]:
    return _locate(values, find_peak(values))


def _locate(cube: NDArray[Any], point: Sequence[float]) -> tuple[int, int, int]:
    """Find the voxel at a point that is given in shares of a cube."""
    x, y, z = (min(int(share * len(cube)), len(cube) - 1) for share in point)
    return x, y, z


def find_strongest_queries(explained: ExplainedText) -> list[tuple[int, float, NDArray[np.float32]]]:
    """Find the queries to which the text's words attend most, strongest first: number, share, map."""
    assert explained.query_maps is not None
    order = np.argsort(-explained.queries, kind="stable")[:NUM_QUERIES_SHOWN].tolist()
    return [(query, float(explained.queries[query]), explained.query_maps[query]) for query in order]


def _list_texts(item: Item, text: str) -> list[tuple[str, str]]:
    if item.question is None:
        texts = [] if item.reference is None else [("Reference report", item.reference)]
        return [*texts, ("Report by the model", text)]
    asked = ("Question", item.question)
    if item.reference is None:
        return [asked, ("Answer by the model", text)]
    verdict = "right" if compute_exact_match(text, item.reference) else "wrong"
    return [asked, ("True answer", item.reference), (f"Answer by the model ({verdict})", text)]
