"""Captions of an untrained model are made once for each image, and never taken for another model's."""

from pathlib import Path

import numpy as np
import pytest

from medcap_core.config import TrialConfig
from medcap_core.data.batches import ImageSource
from medcap_core.data.prepare import PreparedSplit, prepare_data
from medcap_core.data.stores.captions import CaptionStore
from medcap_core.inference import zero_shot
from medcap_core.inference.generation import ImagePrediction, Request, generate_captions, generate_predictions
from medcap_core.inference.image_sources import open_images
from medcap_core.inference.zero_shot import describe_captioner, predict_zero_shot
from medcap_core.models import Captioner, load_captioner
from medcap_core.runtime.progress import Progress, ignore_progress
from tests.support.real_runs import write_images
from tests.support.tiny_blip import save_tiny_blip, tiny_config


@pytest.fixture
def config(tiny_blip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialConfig:
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path / "images")
    return tiny_config(tiny_blip, data=str(tmp_path / "images"), freeze="zero_shot", cache_features=True)


@pytest.fixture
def captioner(config: TrialConfig) -> Captioner:
    return load_captioner(config.model)


@pytest.fixture
def split(config: TrialConfig, captioner: Captioner) -> PreparedSplit:
    return prepare_data(config, captioner.geometry).splits["train"]


def test_each_image_is_captioned_once(
    config: TrialConfig, captioner: Captioner, split: PreparedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate_captions(captioner, open_images(captioner, split, config), config)
    captioned: list[int] = []
    asked: list[int] = []

    def count(
        captioner: Captioner, images: ImageSource, request: Request, *rest: TrialConfig, **others: Progress
    ) -> list[ImagePrediction]:
        captioned.append(len(images) * request.captions)
        asked.append(len(request.questions))
        return generate_predictions(captioner, images, request, *rest, **others)

    def caption(split: PreparedSplit, progress: Progress = ignore_progress, questions: int = 0) -> list[str]:
        request = Request(captions=True, questions=(("who",),) * questions)
        found = predict_zero_shot(captioner, split, request, config, progress)
        assert [prediction.answers for prediction in found] == [["nobody"] if questions else []] * len(split)
        return [prediction.text for prediction in found]

    monkeypatch.setattr(zero_shot, "generate_predictions", count)
    monkeypatch.setattr(zero_shot, "SAVED_EVERY", 4)
    monkeypatch.setattr(captioner, "answer", lambda _, questions, __: ["nobody"] * len(questions))
    some = np.array([17, 3, 8, 20, 5])
    told: list[tuple[int, int]] = []
    assert caption(split.part(some), lambda _, *n: told.append(n)) == [expected[position] for position in some]
    assert captioned == [4, 1]
    assert told[-1] == (5, 5)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert caption(split.part(some), questions=5) == [expected[position] for position in some]
    assert (captioned[2:], asked) == ([0, 0], [0, 0, 4, 1])  # all are asked, none is captioned again
    assert caption(split) == expected
    assert captioned[4:] == [4, 4, 4, 4, 1]
    assert caption(split) == expected
    assert len(captioned) == 9


def test_another_model_or_search_has_captions_of_its_own(
    config: TrialConfig, captioner: Captioner, tmp_path: Path
) -> None:
    other = config.model_copy(update={"model": str(save_tiny_blip(tmp_path / "other", seed=5))})
    described = [
        describe_captioner(captioner, config.model_copy(update=changes))
        for changes in ({}, {"num_beams": 3}, {"prompt": "a picture of"}, {"precision": "bf16"}, {"model": other.model})
    ]
    paths = {CaptionStore("images", settings).path for settings in described}
    assert len(paths) == 5
    assert CaptionStore("other images", described[0]).path not in paths
    irrelevant = config.model_copy(update={"learning_rate": 0.5, "freeze": "full", "eval_batch_size": 1})
    assert describe_captioner(captioner, irrelevant) == described[0]


def test_models_whose_weights_cannot_be_hashed_are_told_apart_by_name(
    config: TrialConfig, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero_shot, "hash_weights", lambda _: None)
    models = [config.model_copy(update={"model": name}) for name in ("one/captioner", "another/captioner")]
    one, another = (describe_captioner(captioner, model) for model in models)
    assert CaptionStore("images", one).path != CaptionStore("images", another).path


def test_a_line_cut_off_by_a_kill_is_captioned_again(tmp_path: Path) -> None:
    store = CaptionStore("images", {}, tmp_path)
    rows = np.array([4, 2])
    assert store.missing(rows).tolist() == [4, 2]
    store.add(rows, ["image 4", "image 2"])
    with store.path.open("a") as file:
        file.write('\n{"row": 9, "capt')
    assert store.missing(np.array([9, 4])).tolist() == [9]
    store.add(np.array([9]), ["nine"])
    assert store.captions(np.array([2, 9, 4])) == ["image 2", "nine", "image 4"]
