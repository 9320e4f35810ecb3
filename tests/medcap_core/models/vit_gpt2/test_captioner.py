"""ViT-GPT2 against transformers' own, and other vision towers under it."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, VisionEncoderDecoderModel

from medcap_core.convert import convert_weights
from medcap_core.data.records import fold_white_space
from medcap_core.errors import ModelFault
from medcap_core.models import load_captioner, load_geometry, load_trial_captioner
from medcap_core.models.tuning import apply_tuning
from tests.support.tiny_blip import IMAGE_SIZE, TinySplit, tiny_config
from tests.support.tiny_models import MEAN, STD, VISION_WIDTH, save_tiny_gpt2, save_tiny_tower

CAPTIONS = ["the left lung shows a large nodule .", "small opacity"]
SETTINGS = [
    {"num_beams": 1, "max_new_tokens": 7},
    {"num_beams": 3, "max_new_tokens": 9, "repetition_penalty": 1.3, "length_penalty": 0.5, "min_new_tokens": 2},
]


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.fromarray(pixels.transpose(1, 2, 0)) for pixels in TinySplit(3, seed=5).images]


@pytest.fixture
def vit_gpt2(folder_of: Any) -> Path:
    folder: Path = folder_of("vit-gpt2")
    return folder


def test_images_loss_and_captions_are_those_of_transformers(vit_gpt2: Path, images: list[Image.Image]) -> None:
    captioner, plain = load_captioner(str(vit_gpt2)), VisionEncoderDecoderModel.from_pretrained(vit_gpt2).eval()
    values = AutoImageProcessor.from_pretrained(vit_gpt2)(images, return_tensors="pt").pixel_values
    pixels = torch.from_numpy(TinySplit(3, seed=5).images)
    tokens = captioner.tokenize(CAPTIONS, tiny_config(vit_gpt2))
    assert tokens.ids[1].tolist() == [0, *captioner.processor.tokenizer("small opacity").input_ids, 0]
    input_ids, labels = tokens.batch([0, 1])
    with torch.inference_mode():
        encoded = captioner.encode_images(pixels)
        assert encoded.shape == (3, 10, VISION_WIDTH)
        torch.testing.assert_close(encoded, plain.encoder(values).last_hidden_state, atol=1e-5, rtol=0)
        expected = plain(pixel_values=values[:2], labels=labels[:, 1:]).loss
        loss = captioner(pixels[:2], input_ids, labels, label_smoothing=0.0, encoded=False)
        assert float(loss) / tokens.count_labels([0, 1]) == pytest.approx(float(expected), rel=1e-5)
        for settings in SETTINGS:
            captions = captioner.generate(encoded, tiny_config(vit_gpt2, **settings))
            ids = plain.generate(values, do_sample=False, **settings)
            texts = captioner.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
            assert captions == [fold_white_space(text) for text in texts]
    assert len(set(captions)) > 1


@pytest.mark.parametrize(
    ("kind", "num_tokens", "width", "has_cross_attention"),
    [("vit", 10, 32, False), ("vit", 10, 32, True), ("deit", 11, 24, False), ("swin", 36, 16, True)],
)
def test_another_vision_tower_joins_a_gpt2(
    vit_gpt2: Path,
    kind: str,
    num_tokens: int,
    width: int,
    has_cross_attention: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tower = save_tiny_tower(tmp_path / kind, kind)
    model = vit_gpt2 if has_cross_attention else save_tiny_gpt2(tmp_path / "gpt2")
    config = tiny_config(model, vision_model=str(tower), freeze="decoder_only")
    with caplog.at_level(logging.WARNING, logger="medcap_core"):
        captioner = load_trial_captioner(config)
    told = " ".join(record.getMessage() for record in caplog.records)
    assert f"its vision tower is now that of {tower}" in told
    assert ("it has no cross-attention; that starts from random weights (seed 0)" in told) is not has_cross_attention
    assert (f"a projection from {width} to 32 starts from random weights" in told) is (width != 32)
    assert captioner.geometry == load_geometry(config)
    pixels = torch.from_numpy(TinySplit(2, seed=3).images)
    with torch.inference_mode():
        encoded = captioner.encode_images(pixels)
        assert encoded.shape == (2, num_tokens, width)
        captions = captioner.generate(encoded, config)
        again = load_trial_captioner(config)
        assert again.generate(again.encode_images(pixels), config) == captions
    if has_cross_attention:
        own, new = (load_captioner(str(vit_gpt2)).network, captioner.network)
        name = "decoder.transformer.h.1.crossattention.c_attn.weight"
        assert torch.equal(own.get_parameter(name), new.get_parameter(name))
    captioner.save(tmp_path / "out")
    plain = load_captioner(str(tmp_path / "out"))
    with torch.inference_mode():
        torch.testing.assert_close(plain.encode_images(pixels), encoded, atol=1e-5, rtol=0)
        assert plain.generate(encoded, config) == captions
    apply_tuning(captioner, config)
    tokens = captioner.tokenize(CAPTIONS, config)
    captioner(pixels, *tokens.batch([0, 1]), label_smoothing=0.1, encoded=False).backward()
    trained = {name: value for name, value in captioner.network.named_parameters() if value.requires_grad}
    assert all(value.grad is not None and not name.startswith("encoder.") for name, value in trained.items())
    lora = load_trial_captioner(config)
    apply_tuning(lora, tiny_config(model, freeze="lora", lora_vision=True))


def test_towers_without_positions_to_interpolate_keep_their_size(vit_gpt2: Path, tmp_path: Path) -> None:
    swin, deit = save_tiny_tower(tmp_path / "swin", "swin"), save_tiny_tower(tmp_path / "deit", "deit")
    with pytest.raises(ModelFault, match=r"\(swin\) has no position embedding .* leave image_size out, .* 48 pixels"):
        load_trial_captioner(tiny_config(vit_gpt2, vision_model=str(swin), image_size=64))
    larger = load_trial_captioner(tiny_config(vit_gpt2, vision_model=str(deit), image_size=80))
    with torch.inference_mode():
        assert larger.encode_images(torch.zeros(1, 3, 80, 80, dtype=torch.uint8)).shape == (1, 27, VISION_WIDTH)


def test_what_does_not_fit_together_is_told(vit_gpt2: Path, tiny_blip: Path, tmp_path: Path) -> None:
    gpt2 = save_tiny_gpt2(tmp_path / "gpt2")
    with pytest.raises(ModelFault, match="a GPT-2 alone sees no image; give vision_model"):
        load_captioner(str(gpt2))
    with pytest.raises(ModelFault, match="names no image_size, so it sees no images"):
        load_geometry(tiny_config(gpt2))
    with pytest.raises(ModelFault, match=r"vision_model .*gpt2: its model_type 'gpt2' is no ViT-like vision tower"):
        load_trial_captioner(tiny_config(vit_gpt2, vision_model=str(gpt2)))
    with pytest.raises(ModelFault, match="a blip model keeps its own vision tower"):
        load_trial_captioner(tiny_config(tiny_blip, vision_model=str(gpt2)))


def test_an_image_processor_of_the_old_kind_is_read(vit_gpt2: Path, tmp_path: Path) -> None:
    """As nlpconnect/vit-gpt2-image-captioning has it."""
    captioner = load_captioner(str(vit_gpt2))
    captioner.save(tmp_path)
    old = {
        "do_normalize": True, "do_resize": True, "feature_extractor_type": "ViTFeatureExtractor",
        "image_mean": MEAN, "image_std": STD, "resample": 2, "size": IMAGE_SIZE,
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    again = load_captioner(str(tmp_path))
    assert again.geometry == captioner.geometry == load_geometry(tiny_config(tmp_path))
    assert torch.equal(again.pixel_shift, captioner.pixel_shift)


def test_pickled_weights_are_refused_with_the_command_that_converts_them(vit_gpt2: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    captioner = load_captioner(str(vit_gpt2))
    captioner.save(old)
    (old / "model.safetensors").unlink()
    torch.save(captioner.network.state_dict(), old / "pytorch_model.bin")
    with pytest.raises(ModelFault) as caught:
        load_captioner(str(old))
    (sentence,) = caught.value.faults
    assert sentence.endswith(f"convert it by `python -m medcap_core.convert {old} FOLDER` and give that folder.")
    convert_weights(str(old), tmp_path / "new")
    again = load_captioner(str(tmp_path / "new"))
    for name, value in captioner.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name
    with pytest.raises(ModelFault, match="is not empty; name a new folder"):
        convert_weights(str(old), tmp_path / "new")
    with pytest.raises(ModelFault, match=r"has no pytorch_model\.bin"):
        convert_weights(str(vit_gpt2), tmp_path / "newer")
