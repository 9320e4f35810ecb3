"""What holds for every vision-language model: its captions and its loss are those of plain transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer

from medcap_core.data.batches import PixelSource
from medcap_core.data.records import fold_white_space
from medcap_core.models import load_trial_captioner
from medcap_core.training.export import export_captioner
from tests.support.plain_vlms import build_plain_inputs
from tests.support.tiny_blip import TinySplit, generate_captions, tiny_config
from tests.support.tiny_vlms import FURTHER, MAKERS
from tests.support.torchvision_vlms import with_torchvision

every_architecture = pytest.mark.parametrize("folder", [*MAKERS, *with_torchvision()], indirect=True)
_FURTHER = [pytest.param(name, marks=pytest.mark.slow) for name in FURTHER]
and_further_ones = pytest.mark.parametrize("folder", [*MAKERS, *_FURTHER, *with_torchvision()], indirect=True)
LONG, SHORT = "the left lung shows a large nodule in the right lung", "small opacity"
SPLIT = TinySplit(5, seed=3)
IMAGES = [Image.fromarray(pixels.transpose(1, 2, 0)) for pixels in SPLIT.images]


def vlm_config(folder: Path, **changes: Any) -> Any:
    return tiny_config(folder, **({"image_size": 48, "max_caption_tokens": 30, "prompt": "a picture of"} | changes))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.from_numpy(SPLIT.images)


@and_further_ones
def test_a_model_captions_as_plain_transformers_does(folder: Path, tmp_path: Path) -> None:
    search = {
        "num_beams": 3,
        "max_new_tokens": 9,
        "min_new_tokens": 4,
        "repetition_penalty": 1.3,
        "length_penalty": 0.4,
    }
    config = vlm_config(folder, freeze="zero_shot", **search)
    captions = generate_captions(load_trial_captioner(config), PixelSource(SPLIT), config)
    assert len(set(captions)) > 1
    best = tmp_path / folder.name
    export_captioner(config, None, best)
    model = AutoModelForImageTextToText.from_pretrained(best).eval()
    inputs = build_plain_inputs(best, IMAGES, "a picture of")
    inputs.pop("labels", None)
    generated = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    tokenizer = AutoTokenizer.from_pretrained(best)
    expected = [fold_white_space(text) for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]
    assert captions == expected
    greedy = model.generate(**inputs, num_beams=1, repetition_penalty=1.0)[:, inputs["input_ids"].shape[1] :]
    assert tokenizer.batch_decode(greedy, skip_special_tokens=True) != expected


@and_further_ones
def test_the_loss_is_plain_transformers_of_what_follows_the_prompt(
    folder: Path, pixels: Tensor, tmp_path: Path
) -> None:
    config = vlm_config(folder)
    captioner = load_trial_captioner(config)
    answers = [SHORT, LONG]
    texts = captioner.tokenize(answers, config)
    input_ids, labels = texts.batch([0, 1])
    with torch.inference_mode():
        encoded = captioner.encode_images(pixels[:2])
        loss = captioner(encoded, input_ids, labels, label_smoothing=0.0, encoded=True)
        padded = captioner(pixels[:2].float() + 0.2, *texts.batch([0, 1], 16), label_smoothing=0.0, encoded=False)
        logits = captioner.compute_logits(encoded, input_ids)
    best = tmp_path / folder.name
    export_captioner(config, None, best)
    model = AutoModelForImageTextToText.from_pretrained(best).eval()
    inputs = build_plain_inputs(best, IMAGES[:2], "a picture of", answers)
    inputs.pop("labels", None)
    assert torch.equal(inputs["input_ids"], input_ids.where(inputs["input_ids"] >= 0, 0))
    with torch.inference_mode():
        expected = model(**inputs, labels=labels).loss * texts.count_labels([0, 1])
        own = model(**inputs).logits[:, -input_ids.shape[1] :]
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert float(padded) == pytest.approx(float(expected), rel=1e-5)
    length = texts.ids[0].size
    torch.testing.assert_close(logits[0, :length], own[0, :length], atol=1e-3, rtol=1e-4)
    trained = [row[row != -100].tolist() for row in labels]
    tokenizer = captioner.processor.tokenizer
    assert [tokenizer.decode(ids[:-1]).strip() for ids in trained] == answers
    assert {ids[-1] for ids in trained} == {captioner.special_tokens.end}
