"""What a trial is scored by: captions by CIDEr, answers on the diagnosis by balanced accuracy.

The model that answers is a tiny BLIP whose answers are written here; what is tested is who is asked and what is made of
the answers.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medcap_core.config import TrialConfig
from medcap_core.data import prepare
from medcap_core.data.images import ImageGeometry
from medcap_core.data.prepare import PreparedData, PreparedSplit, prepare_data
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION
from medcap_core.errors import ConfigFault, ModelFault
from medcap_core.models import load_captioner
from medcap_core.models.blip.captioner import BlipCaptioner
from medcap_core.objective import Objective, read_objective
from medcap_core.scoring.captions import CaptionScorer
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.loop import fit
from medcap_core.training.validation import (
    check_objective,
    check_truth,
    compute_scores,
    describe_alike_captions,
    find_scored,
)
from tests.support.scans import DEMENTIA, HEALTHY, MCI, write_scans
from tests.support.tiny_blip import tiny_config, tiny_data

ANSWERS = ("MCI.", "dementia", "I do not know", "The diagnosis is dementia.", "alzheimer's disease")
"""To the five scans of known diagnosis: MCI, dementia, not demented, MCI, dementia."""
SCORE = (0 / 1 + 1 / 2 + 2 / 2) / 3


class Oracle:
    """Gives the answers above in order, and keeps what it was asked."""

    def __init__(self, answers: Iterable[str]) -> None:
        self.answers = list(answers)
        self.questions: list[str] = []
        self.seen: list[torch.Tensor] = []

    def answer(self, hidden_states: torch.Tensor, questions: list[str], _: object) -> list[str]:
        start = len(self.questions)
        self.questions += questions
        self.seen.append(hidden_states)
        return self.answers[start : len(self.questions)]


def let_answer(answers: Iterable[str], monkeypatch: pytest.MonkeyPatch) -> Oracle:
    """Make every BLIP answer so, in the order of the questions."""
    oracle = Oracle(answers)
    monkeypatch.setattr(BlipCaptioner, "answers_questions", True)
    monkeypatch.setattr(BlipCaptioner, "answer", oracle.answer)
    return oracle


@pytest.fixture
def config(tiny_blip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialConfig:
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "cache"))
    dataset = write_scans(tmp_path / "scans")
    monkeypatch.setattr(prepare, "load_data", lambda *_, **__: dataset)
    return tiny_config(
        tiny_blip, data=dataset.name, objective="balanced_accuracy", freeze="zero_shot", eval_batch_size=3
    )


@pytest.fixture
def data(config: TrialConfig) -> PreparedData:
    return prepare_data(config, load_captioner(config.model).geometry)


def test_answers_on_the_scans_of_known_diagnosis_are_scored(
    config: TrialConfig, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = let_answer(ANSWERS, monkeypatch)
    reports: list[EpochReport] = []
    fit(config, data, tmp_path / "checkpoints", reports.append)
    assert [report.score for report in reports] == [pytest.approx(SCORE)]
    assert oracle.questions == [DIAGNOSIS_QUESTION] * 5
    pixels = torch.from_numpy(data.splits["validation"].pixels(np.array([1, 2, 4, 5, 6])))
    with torch.inference_mode():
        expected = load_captioner(config.model).eval().encode_images(pixels)
    torch.testing.assert_close(torch.cat(oracle.seen), expected, rtol=0, atol=1e-5)


def score(split: PreparedSplit, texts: Sequence[str], objective: str = "balanced_accuracy") -> float:
    wanted = TrialConfig.model_validate({"objective": objective})
    return wanted.objective.combine(compute_scores(split, texts, wanted))


def test_texts_of_a_split_are_scored_by_the_objective(data: PreparedData) -> None:
    split = data.splits["validation"]
    every = ["dementia", *ANSWERS[:2], "MCI", *ANSWERS[2:]]  # two more, to scans of unknown diagnosis
    assert score(split, every) == pytest.approx(SCORE)
    scored = split.part(find_scored(split.records, "answers"))
    assert scored.ids == [f"validation-{index}" for index in (1, 2, 4, 5, 6)]
    assert score(scored, ANSWERS) == pytest.approx(SCORE)
    assert split.part(find_scored(split.records, "captions")).ids == split.ids
    captions = [*split.captions[:4], "a scan", "the subject", ""]
    assert score(split, captions, "CIDEr") == CaptionScorer(split.captions).cider(captions) > 0
    with pytest.raises(ValueError, match="shorter"):
        score(split, ANSWERS)


def test_a_family_that_cannot_answer_is_told(config: TrialConfig, data: PreparedData, tmp_path: Path) -> None:
    captioner = load_captioner(config.model)
    with pytest.raises(ConfigFault) as raised:
        fit(config, data, tmp_path, lambda _: None)
    assert raised.value.faults == (
        "objective balanced_accuracy needs a model that answers questions, such as medblip3d, but "
        f"{config.model} is of the family 'blip'; choose such a model, or objective: CIDEr.",
    )
    with pytest.raises(ModelFault, match="family 'blip' answer no questions"):
        captioner.answer(torch.zeros(1, 1, 1), ["?"], config)
    captions = tiny_data().splits["validation"].records
    with pytest.raises(ConfigFault) as raised:
        check_objective(config, captioner, captions)
    assert len(raised.value.faults) == 2
    check_objective(config.model_copy(update={"objective": Objective()}), captioner, captions)


@pytest.mark.parametrize(
    ("diagnoses", "told"),
    [
        ((None, None), "those of here have none"),
        ((MCI, None, MCI), "those of here have mild cognitive impairment alone"),
    ],
)
def test_scans_of_one_diagnosis_cannot_be_scored(diagnoses: tuple[object, ...], told: str, tmp_path: Path) -> None:
    records = write_scans(tmp_path / "scans", diagnoses).splits["validation"]  # type: ignore[arg-type]
    with pytest.raises(ConfigFault, match=told):
        check_truth(read_objective("balanced_accuracy"), "here", records)
    check_truth(Objective(), "here", records)
    check_truth(
        read_objective("balanced_accuracy"),
        "here",
        write_scans(tmp_path / "two", (HEALTHY, DEMENTIA)).splits["validation"],
    )


def test_each_reference_of_an_image_counts(tmp_path: Path) -> None:
    rows = []
    for number in range(30):
        Image.new("L", (6, 4), number).save(tmp_path / f"{number}.png")
        rows += [f"{number}.png,a nodule of {number} mm,val\n", f"{number}.png,small lesion number {number},val\n"]
        Image.new("L", (6, 4), number).save(tmp_path / f"t{number}.png")
        rows.append(f"t{number}.png,text {number},{'train' if number % 2 else 'test'}\n")
    (tmp_path / "d.csv").write_text("path,caption,split\n" + "".join(rows))
    split = prepare_data(TrialConfig(data=str(tmp_path / "d.csv")), ImageGeometry(8)).splits["validation"]
    second = [record.references[1] for record in split.records]
    assert second[0] == "small lesion number 0"
    assert score(split, second, "CIDEr") == pytest.approx(CaptionScorer(split.references).cider(second))
    assert score(split, second, "CIDEr") > 2 * CaptionScorer(split.captions).cider(second)


def test_captions_that_cider_cannot_rank_are_told() -> None:
    normal = "No acute finding."
    (line,) = describe_alike_captions(Objective(), [[normal], ["no acute finding."]] * 3)
    assert line.startswith(
        "Captions       6 of 6 validation captions are alike: an exact copy has CIDEr 0.000, this one caption for all "
        "0.000, so CIDEr hardly ranks models; "
    )
    (line,) = describe_alike_captions(Objective(), [[normal]] * 5 + [["A large opacity in the left upper lung."]])
    assert "5 of 6 validation captions are alike: an exact copy has CIDEr 7.917, this one caption for all 6.250" in line
    assert describe_alike_captions(read_objective("balanced_accuracy"), [[normal]] * 6) == []
    varied = [[normal]] * 50 + [[f"Finding number {number} in lobe {number % 7}."] for number in range(50)]
    assert describe_alike_captions(Objective(), varied) == []
