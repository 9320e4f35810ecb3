"""BLIP-2 and InstructBLIP against transformers' own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import Blip2ForConditionalGeneration, InstructBlipForConditionalGeneration, InstructBlipProcessor

from medcap_core.data.records import fold_white_space
from medcap_core.errors import ModelFault
from medcap_core.models import Captioner, load_trial_captioner
from tests.support.tiny_blip import VOCABULARY, TinySplit, tiny_config
from tests.support.tiny_models import NUM_QUERIES, VISION_WIDTH

ALL = ["blip2-opt", "blip2-t5", "instructblip-opt", "instructblip-t5"]
every_kind = pytest.mark.parametrize("folder", ALL, indirect=True)
CAPTIONS = ["the left lung shows a large nodule .", "small opacity"]


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(TinySplit(1, seed=5).images[0].transpose(1, 2, 0))


def load_plain(folder: Path) -> Any:
    kind = InstructBlipForConditionalGeneration if "instruct" in folder.name else Blip2ForConditionalGeneration
    return kind.from_pretrained(folder).eval()


def process(captioner: Captioner, image: Image.Image, text: str) -> dict[str, Tensor]:
    """What transformers' own processor makes of an image and a text."""
    inputs: dict[str, Tensor] = captioner.processor(images=image, text=text, return_tensors="pt")
    return inputs


def as_pixels(image: Image.Image) -> Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, 48, 48, 3).permute(0, 3, 1, 2)


@every_kind
def test_images_are_encoded_as_by_transformers(folder: Path, image: Image.Image) -> None:
    captioner, plain = load_trial_captioner(tiny_config(folder)), load_plain(folder)
    with torch.inference_mode():
        expected = plain.vision_model(process(captioner, image, "a")["pixel_values"]).last_hidden_state
        encoded = captioner.encode_images(as_pixels(image))
    assert encoded.shape == (1, 10, VISION_WIDTH)
    torch.testing.assert_close(encoded, expected, atol=1e-5, rtol=0)


@every_kind
@pytest.mark.parametrize("prompt", ["", "a picture of"])
def test_the_loss_is_that_of_transformers(folder: Path, image: Image.Image, prompt: str) -> None:
    """Theirs is a mean and knows no smoothing; padding and prompt are taken out of it by their labels."""
    config = tiny_config(folder, prompt=prompt)
    captioner, plain = load_trial_captioner(config), load_plain(folder)
    tokens = captioner.tokenize(CAPTIONS, config)
    input_ids, labels = tokens.batch([0, 1])
    inputs = {key: value.expand(2, *value.shape[1:]) for key, value in process(captioner, image, prompt).items()}
    if "t5" in folder.name:
        inputs["labels"] = labels[:, 1:].contiguous()
    else:
        queries = torch.full((2, NUM_QUERIES), plain.config.image_token_index)
        inputs["input_ids"] = torch.cat([queries, input_ids], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["labels"] = torch.cat([torch.full((2, NUM_QUERIES), -100), labels], dim=1)
    with torch.inference_mode():
        expected = plain(**inputs).loss
        loss = captioner(as_pixels(image).expand(2, -1, -1, -1), input_ids, labels, label_smoothing=0.0, encoded=False)
    assert float(loss) / tokens.count_labels([0, 1]) == pytest.approx(float(expected), rel=1e-5)


@every_kind
@pytest.mark.parametrize(
    ("prompt", "settings"),
    [
        ("", {"num_beams": 1, "max_new_tokens": 7}),
        ("a picture of", {"num_beams": 3, "max_new_tokens": 9, "repetition_penalty": 1.3, "length_penalty": 0.5,
                          "min_new_tokens": 2}),
    ],
)  # fmt: skip
def test_captions_are_those_of_transformers(
    folder: Path, image: Image.Image, prompt: str, settings: dict[str, Any]
) -> None:
    config = tiny_config(folder, prompt=prompt, **settings)
    captioner, plain = load_trial_captioner(config), load_plain(folder)
    inputs = process(captioner, image, prompt)
    with torch.inference_mode():
        captions = captioner.generate(captioner.encode_images(as_pixels(image)), config)
        ids = plain.generate(**inputs, do_sample=False, **settings)
    given = 0 if "t5" in folder.name else inputs["input_ids"].shape[1]
    expected = captioner.processor.tokenizer.batch_decode(ids[:, given:], skip_special_tokens=True)
    assert captions == [fold_white_space(text) for text in expected]
    assert captions[0]


def test_a_caption_for_opt_ends_with_a_line_end_and_one_for_t5_opens_with_its_start_token(folder_of: Any) -> None:
    folder = folder_of("blip2-opt")
    captioner = load_trial_captioner(tiny_config(folder))
    (ids,) = captioner.tokenize(["small opacity"], tiny_config(folder)).ids
    tokens = captioner.processor.tokenizer.convert_ids_to_tokens(ids.tolist())
    assert tokens == ["</s>", "small", "\u0120opacity", "\u010a"]
    folder = folder_of("blip2-t5")
    captioner = load_trial_captioner(tiny_config(folder, prompt="a picture of"))
    (ids,) = captioner.tokenize(["small opacity"], tiny_config(folder, prompt="a picture of")).ids
    tokens = captioner.processor.tokenizer.convert_ids_to_tokens(ids.tolist())
    assert tokens == ["<pad>", "\u2581small", "\u2581opacity", "</s>"]
    read = captioner.processor.tokenizer.convert_ids_to_tokens(captioner.instruction_ids[0].tolist())
    assert read == ["\u2581a", "\u2581picture", "\u2581of", "</s>"]


def test_the_instruction_goes_into_the_queries_of_instructblip_alone(folder_of: Any) -> None:
    pixels = torch.from_numpy(TinySplit(2, seed=3).images)
    for name, is_read in (("blip2-opt", False), ("instructblip-opt", True)):
        found = []
        for prompt in ("", "the left lung"):
            captioner: Any = load_trial_captioner(tiny_config(folder_of(name), prompt=prompt))
            with torch.inference_mode():
                found.append(captioner._query_images(captioner.encode_images(pixels)))
        assert (not torch.equal(*found)) is is_read
    assert captioner.query_instruction_ids.tolist() == [
        [VOCABULARY[word] for word in ("[CLS]", "the", "left", "lung", "[SEP]")]
    ]
    assert not {name for name in captioner.state_dict() if name.endswith("instruction_ids")}


def test_a_saved_instructblip_keeps_both_tokenizers(folder_of: Any, tmp_path: Path) -> None:
    load_trial_captioner(tiny_config(folder_of("instructblip-t5"))).save(tmp_path)
    processor = InstructBlipProcessor.from_pretrained(tmp_path)
    assert processor.qformer_tokenizer("the left lung").input_ids[1:-1] == [
        VOCABULARY[word] for word in ("the", "left", "lung")
    ]
    assert processor.num_query_tokens == NUM_QUERIES


def test_what_does_not_go_with_these_models_is_refused(folder_of: Any) -> None:
    folder = folder_of("instructblip-t5")
    with pytest.raises(ModelFault, match="the prompt has 17 tokens and the model's Q-Former 16 positions"):
        load_trial_captioner(tiny_config(folder, prompt="the " * 15, max_caption_tokens=40))
    with pytest.raises(ModelFault, match="instructblip model keeps its own vision tower; remove vision_model"):
        load_trial_captioner(tiny_config(folder, vision_model=str(folder)))
