from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medcap_core.data.batches import BatchMaker, PixelSource, Positions, SourcePart
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION
from medcap_core.inference.generation import (
    Request,
    Variety,
    compute_validation_loss,
    compute_variety,
    generate_predictions,
)
from medcap_core.models import Captioner, load_captioner
from tests.support.tiny_blip import TinySplit, generate_captions, tiny_config

SPLIT = TinySplit(7, seed=5)


class EncodedSource:
    """The split's images as the encoder's hidden states."""

    encoded = True

    def __init__(self, captioner: Captioner) -> None:
        with torch.inference_mode():
            self.hidden_states = captioner.encode_images(torch.from_numpy(SPLIT.images))

    def __len__(self) -> int:
        return len(self.hidden_states)

    def fetch(self, positions: Positions) -> Tensor:
        return self.hidden_states[positions]


@pytest.fixture(scope="module")
def captioner(tiny_blip: Path) -> Captioner:
    return load_captioner(str(tiny_blip))


@pytest.fixture(scope="module")
def one_by_one(captioner: Captioner) -> list[str]:
    config = tiny_config(Path("unused"))
    with torch.inference_mode():
        encoded = captioner.encode_images(torch.from_numpy(SPLIT.images))
        return [captioner.generate(encoded[index : index + 1], config)[0] for index in range(len(SPLIT))]


@pytest.mark.parametrize("eval_batch_size", [1, 3, 7, 50])
def test_captions_come_in_the_order_of_the_images(
    captioner: Captioner, one_by_one: list[str], eval_batch_size: int
) -> None:
    config = tiny_config(Path("unused"), eval_batch_size=eval_batch_size)
    assert generate_captions(captioner, PixelSource(SPLIT), config) == one_by_one
    assert len(set(one_by_one)) >= 4


def test_captions_as_long_as_allowed_count_as_cut(captioner: Captioner) -> None:
    config = tiny_config(Path("unused"), max_new_tokens=4)
    assert captioner.find_cut(["the left lung", "a picture of the", ""], config) == [False, True, False]
    found = generate_predictions(captioner, PixelSource(SPLIT), Request(captions=True), config)
    assert [image.is_cut for image in found] == captioner.find_cut([image.text for image in found], config)


def test_known_hidden_states_give_the_same_captions_and_loss(captioner: Captioner, one_by_one: list[str]) -> None:
    config = tiny_config(Path("unused"))
    source = EncodedSource(captioner)
    assert generate_captions(captioner, source, config) == one_by_one
    captions = captioner.tokenize(SPLIT.captions, config)
    losses = [
        compute_validation_loss(captioner, BatchMaker(images, captions, torch.device("cpu")), config)
        for images in (source, PixelSource(SPLIT))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_equal_empty_and_cut_texts_are_counted() -> None:
    texts, is_cut = ["a mass", "", "", "", "a mass"], [True, False, False, False, False]
    assert compute_variety(texts) == Variety(num_distinct=2, top_share=0.6, empty_share=0.6)
    assert compute_variety(texts, is_cut).cut_share == 0.2
    assert compute_variety(texts, [None, *is_cut[1:]]).cut_share is None


def test_progress_is_told_after_each_batch(captioner: Captioner) -> None:
    told: list[tuple[str, int, int]] = []
    config = tiny_config(Path("unused"), eval_batch_size=1)  # four of them at once, so small is the model
    generate_captions(captioner, PixelSource(SPLIT), config, None, lambda *note: told.append(note), "test captions")
    assert told == [("test captions", 4, 7), ("test captions", 7, 7)]


@pytest.mark.parametrize("eval_batch_size", [1, 3, 7])
def test_the_validation_loss_is_a_mean_over_caption_tokens_without_smoothing(
    captioner: Captioner, eval_batch_size: int
) -> None:
    config = tiny_config(Path("unused"), eval_batch_size=eval_batch_size, label_smoothing=0.2)
    captions = captioner.tokenize(SPLIT.captions, config)
    total, num_tokens = 0.0, 0
    with torch.inference_mode():
        encoded = captioner.encode_images(torch.from_numpy(SPLIT.images))
        for index, ids in enumerate(captions.ids):
            logits = captioner.compute_logits(encoded[index : index + 1], torch.from_numpy(ids)[None])[0, :-1]
            log_probabilities = logits.double().log_softmax(-1)
            right = log_probabilities[np.arange(len(ids) - 1), ids[1:]]
            total -= float(right.sum())
            num_tokens += len(ids) - 1
    batches = BatchMaker(PixelSource(SPLIT), captions, torch.device("cpu"))
    assert compute_validation_loss(captioner, batches, config) == pytest.approx(total / num_tokens, rel=1e-5)


def test_evaluation_switches_dropout_off(captioner: Captioner, one_by_one: list[str]) -> None:
    captioner.train()
    assert generate_captions(captioner, PixelSource(SPLIT), tiny_config(Path("unused"))) == one_by_one
    assert not captioner.training


@pytest.mark.parametrize("eval_batch_size", [1, 3, 7])
def test_each_image_is_asked_its_own_questions(
    captioner: Captioner, one_by_one: list[str], eval_batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that name which image was seen, from a captioner that gives no others."""
    source = EncodedSource(captioner)

    def find(hidden_states: torch.Tensor) -> list[int]:
        return [int((source.hidden_states == own).all((1, 2)).nonzero().item()) for own in hidden_states]

    def answer(hidden_states: torch.Tensor, questions: list[str], _: object) -> list[str]:
        return [f"{question} {image}" for image, question in zip(find(hidden_states), questions, strict=True)]

    def score(hidden_states: torch.Tensor, question: str, classes: tuple[str, ...]) -> torch.Tensor:
        assert (question, classes) == (DIAGNOSIS_QUESTION, ("a", "b"))
        return torch.tensor([[image, -image] for image in find(hidden_states)])

    monkeypatch.setattr(captioner, "answer", answer)
    monkeypatch.setattr(captioner, "compute_class_scores", score)
    questions = (("who", "what"), (), ("who",), ("what", "who", "why"), ("why",), (), ("who",))
    config = tiny_config(Path("unused"), eval_batch_size=eval_batch_size)
    request = Request(captions=True, questions=questions, classes=("a", "b"))
    found = generate_predictions(captioner, source, request, config)
    assert [prediction.answers for prediction in found] == [
        [f"{question} {image}" for question in asked] for image, asked in enumerate(questions)
    ]
    assert [prediction.class_scores for prediction in found] == [[image, -image] for image in range(7)]
    assert [prediction.text for prediction in found] == one_by_one
    (last,) = generate_predictions(captioner, SourcePart(source, np.array([3])), request.part(np.array([3])), config)
    assert (last.answers, last.class_scores) == (["what 3", "who 3", "why 3"], [3, -3])
    (alone,) = generate_predictions(
        captioner, SourcePart(source, np.array([3])), Request(questions=(("who",),)), config
    )
    assert (alone.caption, alone.text, alone.class_scores) == (None, "who 3", [])
    assert Request(captions=True) | Request(questions=questions) | Request(classes=("a", "b")) == request
    with pytest.raises(ValueError, match="questions on 6 images, but there are 7"):
        generate_predictions(captioner, source, Request(questions=questions[:6]), config)


def test_all_that_is_asked_is_predicted_of_images_encoded_once(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = captioner.encode_images

    def count(pixels: Tensor) -> Tensor:
        encoded.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(captioner, "encode_images", count)
    monkeypatch.setattr(captioner, "answer", lambda _, questions, __: questions)
    request = Request(captions=True, questions=(("who", "what"),) * len(SPLIT.images))
    generate_predictions(captioner, PixelSource(SPLIT), request, tiny_config(Path("unused")))
    assert sum(encoded) == len(SPLIT.images)
