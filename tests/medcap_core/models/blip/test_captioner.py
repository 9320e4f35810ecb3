import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor, BlipForConditionalGeneration
from transformers.models.blip.modeling_blip import BlipAttention

from medcap_core.data.images import resize
from medcap_core.errors import ModelFault
from medcap_core.models import Captioner, load_captioner
from medcap_core.models.blip.captioner import FusedVisionAttention, fuse_attention
from tests.support.tiny_blip import DEC, PAD, SEP, UNKNOWN, VISION_WIDTH, VOCABULARY, TinySplit, tiny_config

LONG, SHORT = "the left lung shows a large nodule in the right lung .", "small opacity"


@pytest.fixture(scope="module")
def captioner(tiny_blip: Path) -> Captioner:
    return load_captioner(str(tiny_blip))


@pytest.fixture(scope="module")
def plain(tiny_blip: Path) -> BlipForConditionalGeneration:
    """The same checkpoint as transformers alone loads it."""
    return BlipForConditionalGeneration.from_pretrained(tiny_blip, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.from_numpy(TinySplit(5, seed=3).images)


def normalise(pixels: Tensor, captioner: Captioner) -> Tensor:
    images = captioner.processor.image_processor
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (images.image_mean, images.image_std))
    return (pixels.double() / 255 - mean).div(std).float()


def spell(text: str) -> list[int]:
    return [VOCABULARY[word] for word in text.split()]


def compute_loss(
    captioner: Captioner, pixels: Tensor, captions: list[str], smoothing: float, **changes: object
) -> float:
    tokens = captioner.tokenize(captions, tiny_config(Path("unused"), **changes))
    with torch.inference_mode():
        return float(captioner(pixels, *tokens.batch(range(len(captions))), label_smoothing=smoothing, encoded=False))


def test_images_are_encoded_as_by_transformers(
    captioner: Captioner, plain: BlipForConditionalGeneration, tiny_blip: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    pixels = torch.from_numpy(resize(image, captioner.geometry.size, captioner.geometry.resample))[None]
    processed = AutoImageProcessor.from_pretrained(tiny_blip, backend="pil")(image, return_tensors="pt")
    with torch.inference_mode():
        expected = plain.vision_model(pixel_values=processed["pixel_values"]).last_hidden_state
        encoded = captioner.encode_images(pixels)
    assert encoded.shape == (1, 10, VISION_WIDTH)
    torch.testing.assert_close(encoded, expected, atol=1e-5, rtol=0)


def test_a_saved_captioner_is_a_plain_one(captioner: Captioner, pixels: Tensor, tmp_path: Path) -> None:
    captioner.save(tmp_path)
    again = BlipForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert type(again.vision_model.encoder.layers[0].self_attn) is BlipAttention
    with torch.inference_mode():
        expected = again.vision_model(pixel_values=normalise(pixels, captioner)).last_hidden_state
        torch.testing.assert_close(captioner.encode_images(pixels), expected, atol=1e-5, rtol=0)
    assert [path.suffix for path in tmp_path.iterdir() if path.stat().st_size > 50_000] == [".safetensors"]


@pytest.mark.parametrize("size", [32, 80])
def test_positions_are_interpolated_for_another_image_size(
    tiny_blip: Path, plain: BlipForConditionalGeneration, tmp_path: Path, size: int
) -> None:
    captioner = load_captioner(str(tiny_blip), size)
    assert captioner.geometry.size == size
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8))
    pixels = torch.from_numpy(resize(image, size, captioner.geometry.resample))[None]
    captioner.save(tmp_path)
    saved, processor = (
        BlipForConditionalGeneration.from_pretrained(tmp_path).eval(),
        AutoProcessor.from_pretrained(tmp_path),
    )
    with torch.inference_mode():
        encoded = captioner.encode_images(pixels)
        on_the_fly = plain.vision_model(pixel_values=normalise(pixels, captioner), interpolate_pos_encoding=True)
        from_disk = saved.vision_model(**processor(images=image, return_tensors="pt"))
    assert encoded.shape == (1, (size // 16) ** 2 + 1, VISION_WIDTH)
    torch.testing.assert_close(encoded, on_the_fly.last_hidden_state, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded, from_disk.last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "remedy"), [(70, "give 64."), (17, "give 16."), (15, "give 16.")])
def test_an_image_size_must_be_made_of_whole_patches(tiny_blip: Path, size: int, remedy: str) -> None:
    with pytest.raises(ModelFault, match=f"image_size {size} is no multiple of the 16-pixel patches") as caught:
        load_captioner(str(tiny_blip), size)
    assert str(caught.value).endswith(remedy)


def test_a_caption_opens_with_the_begin_token_and_ends_with_the_end_token(captioner: Captioner) -> None:
    tokens = captioner.tokenize(["the Left lung", "a pneumothorax", ""], tiny_config(Path("unused")))
    expected = [[DEC, *spell("the left lung"), SEP], [DEC, *spell("a"), UNKNOWN, SEP], [DEC, SEP]]
    assert [ids.tolist() for ids in tokens.ids] == expected
    assert tokens.prompt_length == 1
    assert tokens.count_labels([0, 2]) == 5
    input_ids, labels, slots = tokens.batch([2, 0])
    assert input_ids.tolist() == [[DEC, SEP, PAD, PAD, PAD], expected[0]]
    assert labels.tolist() == [[-100, SEP, -100, -100, -100], [-100, *expected[0][1:]]]
    assert slots.tolist() == [0, 5, 6, 7, 8]  # the last token of a caption has no successor
    assert tokens.batch([1], pad_to_multiple=8)[0].tolist() == [[*expected[1], PAD, PAD, PAD, PAD]]


@pytest.mark.parametrize("prompt", ["a picture of ", "a picture of"])
def test_a_prompt_is_given_and_carries_no_loss(captioner: Captioner, prompt: str) -> None:
    tokens = captioner.tokenize(["left lung"], tiny_config(Path("unused"), prompt=prompt))
    assert tokens.prompt_length == 4
    assert tokens.count_labels([0]) == 3
    input_ids, labels, _slots = tokens.batch([0])
    assert input_ids.tolist() == [[DEC, *spell("a picture of left lung"), SEP]]
    assert labels.tolist() == [[-100, -100, -100, -100, *spell("left lung"), SEP]]


def test_all_that_a_model_cannot_do_is_told_at_once(captioner: Captioner) -> None:
    captioner.check(tiny_config(Path("unused"), max_caption_tokens=40, max_new_tokens=39))
    config = tiny_config(Path("unused"), max_caption_tokens=41, max_new_tokens=37, prompt="a picture of ")
    with pytest.raises(ModelFault) as caught:
        captioner.check(config)
    assert len(caught.value.faults) == 2
    assert caught.value.faults[0].startswith("max_caption_tokens 41 exceeds the model's 40 positions")
    assert caught.value.faults[1].endswith("lower max_new_tokens to at most 36.")
    with pytest.raises(ModelFault, match="the prompt has 4 tokens and max_caption_tokens is 4"):
        captioner.check(tiny_config(Path("unused"), max_caption_tokens=4, prompt="a picture of "))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_one_caption_is_that_of_transformers(
    captioner: Captioner, plain: BlipForConditionalGeneration, pixels: Tensor, smoothing: float
) -> None:
    network = copy.deepcopy(plain)
    network.text_decoder.label_smoothing = smoothing
    input_ids = torch.tensor([[DEC, *spell(LONG), SEP]])
    with torch.inference_mode():
        values = normalise(pixels[:1], captioner)
        expected = network(pixel_values=values, input_ids=input_ids, labels=input_ids).loss
    loss = compute_loss(captioner, pixels[:1], [LONG], smoothing)
    assert loss / (input_ids.shape[1] - 1) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("prompt", ["", "a picture of "])
@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 1, "max_new_tokens": 7},
        {"num_beams": 3, "max_new_tokens": 9, "repetition_penalty": 1.3, "length_penalty": 0.5, "min_new_tokens": 2},
    ],
)
def test_captions_are_those_of_transformers(
    captioner: Captioner,
    plain: BlipForConditionalGeneration,
    pixels: Tensor,
    prompt: str,
    settings: dict[str, object],
) -> None:
    tokenizer = captioner.processor.tokenizer
    # transformers writes its begin token over the first of these and drops the last.
    input_ids = torch.tensor([tokenizer(prompt).input_ids] * len(pixels)) if prompt else None
    with torch.inference_mode():
        captions = captioner.generate(
            captioner.encode_images(pixels), tiny_config(Path("unused"), prompt=prompt, **settings)
        )
        expected_ids = plain.generate(normalise(pixels, captioner), input_ids, do_sample=False, **settings)
    num_given = 4 if prompt else 1
    expected = tokenizer.batch_decode(expected_ids[:, num_given:], skip_special_tokens=True)
    assert captions == expected
    assert len(set(captions)) > 1
    assert expected_ids[0, :num_given].tolist() == [DEC, *spell(prompt)]


def test_fused_attention_is_that_of_transformers_and_can_be_undone(plain: BlipForConditionalGeneration) -> None:
    vision_model = copy.deepcopy(plain.vision_model)
    hidden_states = torch.randn(2, 7, VISION_WIDTH, generator=torch.Generator().manual_seed(0))
    expected = vision_model.encoder.layers[1].self_attn(hidden_states)[0]
    for fused, kind in ((True, FusedVisionAttention), (False, BlipAttention)):
        fuse_attention(vision_model, fused=fused)
        assert [type(layer.self_attn) for layer in vision_model.encoder.layers] == [kind] * 3
        found = vision_model.encoder.layers[1].self_attn(hidden_states)[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
