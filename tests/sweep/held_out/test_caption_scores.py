"""Figures of one row beside its scores: facts and concepts with their intervals, and what they rest on."""

from pathlib import Path

import numpy as np
import pytest

from medcap_core.data.images import ImageGeometry
from medcap_core.data.phantoms import load_phantoms
from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.records import ImageFile, Record
from medcap_core.data.stores.images import ImageStore
from medcap_core.scoring.captions import CaptionScorer
from medcap_core.scoring.corpus_statistics import CaptionStatistics
from medcap_core.scoring.registry import ScoreValues
from medcap_core.scoring.statistics import number_units
from sweep.held_out.caption_scores import MIN_SUBGROUP_IMAGES, score_captions, score_subgroups
from sweep.held_out.task import describe_resampling
from sweep.study.test_results import CaptionVariety, ConceptScore, FactScore, Resampling

NAMES = {"C1": "Hematoma", "C2": "Pleural Effusion"}


def build_split(records: list[Record], root: Path) -> PreparedSplit:
    """Records without pixels: none of this looks at an image."""
    return PreparedSplit("test", records, ImageStore(records, ImageGeometry(size=16), root), np.arange(len(records)))


def build_radiographs(cases: list[str | None]) -> list[Record]:
    concepts = [["C1"], ["C2"], ["C1", "C2"], []]
    return [
        Record(str(number), ImageFile(Path("x.png")), f"caption {number}", case, {"concepts": concepts[number % 4]})
        for number, case in enumerate(cases)
    ]


FOUR = CaptionScorer([f"caption {number}" for number in range(4)])


@pytest.mark.usefixtures("meteor")
def test_concepts_have_an_interval_unless_all_images_are_of_one_case(tmp_path: Path) -> None:
    split = build_split(build_radiographs([None] * 4), tmp_path)
    captions = ["a hematoma", "a hematoma", "pleural effusion, hematoma", "nothing"]
    score = score_captions(split, captions, FOUR, NAMES, seed=0)
    assert score.facts is None
    assert score.concepts is not None
    low, high = score.concepts.interval
    assert score.concepts == ConceptScore(precision=3 / 4, recall=3 / 4, f1=3 / 4, interval=(low, high), num_images=3)
    assert 0 <= low < 0.75 < high <= 1
    assert score_captions(split, captions, FOUR, {}, seed=0).concepts is None
    assert list(score.per_image) == ["id", "METEOR", "ROUGE-L", "CIDEr"]
    assert score.variety == CaptionVariety(num_distinct=3, top_share=0.5, empty_share=0)
    assert set(score.intervals) == set(score.scores)
    assert all(low <= high for low, high in score.intervals.values())
    split = build_split(build_radiographs(["one"] * 4), tmp_path)
    score = score_captions(split, split.captions, FOUR, {}, seed=0)
    assert (score.intervals, score.scores["METEOR"]) == ({}, 1)  # all of one case
    assert describe_resampling(split.records, "case", "image").num_units == 1


@pytest.mark.usefixtures("meteor")
def test_true_captions_of_phantoms_name_every_fact(tmp_path: Path) -> None:
    records = load_phantoms(sizes={"test": 40}).splits["test"]
    split = build_split(records, tmp_path)
    score = score_captions(split, split.captions, CaptionScorer(split.captions), {}, seed=0)
    num_abnormal = sum(not record.truth["normal"] for record in records)
    assert score.facts == {
        fact: FactScore(accuracy=1.0, interval=(1.0, 1.0), num_images=count)
        for fact, count in {"finding": 40, "side": num_abnormal, "level": num_abnormal}.items()
    }
    num_cases = len({record.case for record in records})
    assert num_cases < 40
    resampling = describe_resampling(records, "case", "image")
    assert resampling.num_units == num_cases == number_units([r.case for r in records]).max() + 1
    without_cases = describe_resampling(build_radiographs([None] * 3), "case", "image")
    assert without_cases == Resampling(unit="image", num_units=3, num_resamples=1000)


def test_subgroups_are_scored_by_their_own_images(tmp_path: Path) -> None:
    """Cases are drawn within a subgroup; one of few images is left out."""
    kinds = ["CT"] * 12 + ["MR"] * MIN_SUBGROUP_IMAGES + ["US"] * (MIN_SUBGROUP_IMAGES - 1)
    cider = np.array([float(number) for number in range(12)] + [2.0] * (len(kinds) - 12))
    records = [
        Record(str(number), ImageFile(Path("x.png")), "caption", "case" if kind == "MR" else None, {"modality": kind})
        for number, kind in enumerate(kinds)
    ]
    statistics = CaptionStatistics({"CIDEr": ScoreValues(cider)})
    found = score_subgroups(build_split(records, tmp_path), statistics, seed=0)
    assert list(found) == ["modality"]
    assert list(found["modality"]) == ["CT", "MR"]
    one, other = found["modality"].values()
    assert (one.num_images, one.scores["CIDEr"]) == (12, 5.5)
    assert 2 < one.intervals["CIDEr"][0] < 5.5 < one.intervals["CIDEr"][1] < 9
    assert (other.scores["CIDEr"], other.intervals) == (2.0, {})  # all of one case
