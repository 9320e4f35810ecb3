"""Attention of words to an image's tokens: as plain transformers returns it, on the patches where they lie."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from medcap_core.attention.maps import AttentionMethod, MapSettings, explain_texts, generate_ids, record
from medcap_core.errors import ModelFault
from medcap_core.models import load_trial_captioner
from medcap_core.training.export import export_captioner
from tests.medcap_core.models.vlm.test_captioner import IMAGES, SPLIT, and_further_ones, vlm_config
from tests.support.plain_vlms import build_plain_inputs
from tests.support.tiny_vlms import FURTHER, MAKERS
from tests.support.torchvision_vlms import with_torchvision

CROSS = AttentionMethod.CROSS_ATTENTION
SEARCH = {"num_beams": 3, "max_new_tokens": 7, "min_new_tokens": 4, "repetition_penalty": 1.3}
# Latents of a perceiver; an image in parts.
WITHOUT_A_GRID = ("idefics2", "llava_next", "llava_onevision", "molmo2", "perception_lm")
with_a_grid = pytest.mark.parametrize(
    "folder",
    [
        *MAKERS,
        *(pytest.param(name, marks=pytest.mark.slow) for name in FURTHER if name not in WITHOUT_A_GRID),
        *with_torchvision(*WITHOUT_A_GRID),
    ],
    indirect=True,
)


@and_further_ones
def test_maps_are_the_attention_that_plain_transformers_returns(folder: Path, tmp_path: Path) -> None:
    config = vlm_config(folder, **SEARCH)
    captioner = load_trial_captioner(config)
    pixels = torch.from_numpy(SPLIT.images[:2])
    if captioner.network.config.model_type in WITHOUT_A_GRID:
        with pytest.raises(ModelFault, match="not known on which patches the image tokens"):
            explain_texts(captioner, SPLIT.images[:1], config)
        return
    with torch.inference_mode():
        captions = captioner.generate(captioner.encode_images(pixels), config)
    explained = explain_texts(captioner, SPLIT.images[:2], config, MapSettings(CROSS, 1))
    assert [text.text for text in explained] == captions
    words = [word for text in explained for word in text.words]
    assert words
    for word in words:
        assert word.map.shape == explained[0].grid
        assert word.map.sum() == pytest.approx(1, abs=1e-5)

    ids, num_given = generate_ids(captioner, pixels, config)
    assert num_given == 1
    made = record(captioner.build_recording_copy(), pixels, ids, MapSettings(CROSS))
    best = tmp_path / folder.name
    export_captioner(config, None, best)
    model = AutoModelForImageTextToText.from_pretrained(best, attn_implementation="eager").eval()
    inputs = build_plain_inputs(best, IMAGES[:2], "a picture of")
    inputs.pop("labels", None)
    length = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids[:, 1:]], dim=1)
    for name in {"attention_mask", "token_type_ids", "mm_token_type_ids"} & inputs.keys():
        own = inputs[name]  # of the new tokens: seen; for PaliGemma of the answer, else no image
        value = 1 if name == "attention_mask" or (name == "token_type_ids" and not own.any()) else 0
        inputs[name] = torch.nn.functional.pad(own, (0, ids.shape[1] - 1), value=value)
    with torch.no_grad():
        plain = model(**inputs, output_attentions=True, use_cache=False)
    expected = [layer for layer in plain.attentions if layer is not None]
    assert len(expected) == len(made.decoder) == explained[0].num_layers
    start = made.decoder[0].shape[-1] - inputs["input_ids"].shape[1] + length - 1
    assert made.steps == slice(start, start + ids.shape[1] - 1)
    for own, layer in zip(made.decoder, expected, strict=True):
        torch.testing.assert_close(own, layer, atol=1e-4, rtol=1e-4)


@with_a_grid
def test_image_tokens_lie_row_by_row_where_their_patches_are(folder: Path) -> None:
    """Pixels of one cell of the grid change its token most, for each cell."""
    captioner = load_trial_captioner(vlm_config(folder))
    pixels = torch.from_numpy(SPLIT.images[:1])
    pixels = pixels ^ torch.randint(8, pixels.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    num_tokens = captioner.encode_images(pixels).shape[1]
    side = int(np.sqrt(len(captioner.find_image_places(num_tokens))))
    cell = 48 // side
    with torch.inference_mode():
        before = captioner.encode_images(pixels)[0]
        for place in range(side**2):
            row, column = divmod(place, side)
            changed = pixels.clone()
            changed[..., row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] ^= 255
            moved = (captioner.encode_images(changed)[0] - before).norm(dim=-1)[-(side**2) :]
            assert int(moved.argmax()) == place


@pytest.mark.parametrize("folder", ["qwen3_vl", "git"], indirect=True)
def test_methods_and_layers_differ_and_the_weights_stay_as_they_are(folder: Path) -> None:
    config = vlm_config(folder, prompt="", **SEARCH)
    captioner = load_trial_captioner(config)
    before = {name: value.clone() for name, value in captioner.state_dict().items()}
    methods = [method for method in AttentionMethod if method is not AttentionMethod.ROLLOUT]
    settings = [MapSettings(method, layer) for method in methods for layer in (1, 2, None)]
    maps = set()
    for chosen in settings:
        explained = explain_texts(captioner, SPLIT.images[:3], config, chosen)
        words = [word.map for text in explained for word in text.words]
        maps.add(np.concatenate(words).round(7).tobytes())
    assert len(maps) == len(settings)
    with pytest.raises(ModelFault, match="--method rollout needs a vision tower"):
        explain_texts(captioner, SPLIT.images[:1], config, MapSettings(AttentionMethod.ROLLOUT))
    assert all(torch.equal(value, before[name]) for name, value in captioner.state_dict().items())
    recorder = captioner.build_recording_copy()
    pairs = zip(captioner.parameters(), recorder.parameters(), strict=True)
    assert all(own.data_ptr() == other.data_ptr() for own, other in pairs)  # billions of weights are held once


@pytest.mark.parametrize("folder", ["idefics3"], indirect=True)
def test_an_image_split_into_parts_has_no_map(folder: Path) -> None:
    config = vlm_config(folder, image_size=96)
    with pytest.raises(ModelFault, match="an image of 96 pixels is 20 tokens here, which are no square of patches"):
        explain_texts(load_trial_captioner(config), np.zeros((1, 3, 96, 96), np.uint8), config)
