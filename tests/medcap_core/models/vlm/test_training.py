"""Trials of vision-language models: they learn, resume to the bit, cache features, and go out and back."""

import logging
import math
from pathlib import Path

import pytest
import torch

from medcap_core.caption import read_settings
from medcap_core.config import FreezeMode
from medcap_core.data.batches import PixelSource
from medcap_core.data.prepare import prepare_data
from medcap_core.inference import image_sources
from medcap_core.inference.image_sources import FeatureSource, hash_encoder, open_images
from medcap_core.models import load_captioner, load_trial_captioner
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.export import build_trained_captioner, export_captioner
from medcap_core.training.loop import fit
from tests.medcap_core.models.vlm.test_captioner import vlm_config
from tests.support.real_runs import write_images
from tests.support.tiny_blip import generate_captions, tiny_data
from tests.support.torchvision_vlms import with_torchvision

DATA = tiny_data(num_train=8, num_validation=3)


@pytest.mark.parametrize(
    ("folder", "freeze", "rate"),
    [
        pytest.param("qwen2_5_vl", "encoder_only", 3e-3, marks=pytest.mark.slow),
        ("qwen3_vl", "lora", 1e-2),
        ("idefics3", "decoder_only", 3e-3),
        pytest.param("paligemma", "bridge_only", 1e-1, marks=pytest.mark.slow),
        pytest.param("gemma4", "lora", 1e-2, marks=pytest.mark.slow),
        ("llava", "full", 3e-3),
        ("git", "lora", 1e-2),
        *(pytest.param(*name.values, "lora", 1e-2, marks=name.marks) for name in with_torchvision()),
    ],
    indirect=["folder"],
)
def test_a_trained_model_goes_out_in_hub_format_and_back_with_the_same_captions(
    folder: Path, freeze: str, rate: float, tmp_path: Path
) -> None:
    config = vlm_config(folder, freeze=freeze, lora_targets="attention_mlp", learning_rate=rate, num_epochs=2)
    reports = list[EpochReport]()
    fit(config, DATA, tmp_path / "checkpoints", reports.append)
    assert reports[-1].training_loss < 0.99 * reports[0].training_loss
    assert all(math.isfinite(report.score) for report in reports)
    best = tmp_path / "checkpoints" / "best" / "weights.safetensors"
    images = PixelSource(DATA.splits["validation"])
    captions = generate_captions(build_trained_captioner(config, best), images, config)
    export_captioner(config, best, tmp_path / "best")
    settings = read_settings(str(tmp_path / "best")).model_copy(update={"freeze": FreezeMode.ZERO_SHOT})
    again = load_trial_captioner(settings)
    assert again.geometry.size == 48
    assert generate_captions(again, images, settings) == captions
    assert again.network.state_dict().keys() == load_captioner(str(folder), 48).network.state_dict().keys()


class Interrupted(Exception):
    """Ends a trial from its report callback."""


def interrupt(report: EpochReport) -> None:
    raise Interrupted


@pytest.mark.parametrize("folder", ["qwen3_vl", pytest.param("gemma4", marks=pytest.mark.long), "git"], indirect=True)
def test_an_interrupted_trial_ends_as_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    config = vlm_config(folder, freeze="lora", lora_dropout=0.3, num_epochs=2, prompt="a picture of")
    whole, parts = list[EpochReport](), list[EpochReport]()
    fit(config, DATA, tmp_path / "whole", whole.append)
    with pytest.raises(Interrupted):
        fit(config, DATA, tmp_path / "parts", interrupt)
    fit(config, DATA, tmp_path / "parts", parts.append)
    assert [report.validation_loss for report in parts] == [report.validation_loss for report in whole]
    best = [(tmp_path / name / "best" / "weights.safetensors").read_bytes() for name in ("whole", "parts")]
    assert best[0] == best[1]


@pytest.mark.parametrize(
    "folder", ["qwen3_vl", "llava", pytest.param("gemma4", marks=pytest.mark.slow), "git"], indirect=True
)
def test_features_hold_what_the_language_model_reads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_sources, "_is_usable", {})
    monkeypatch.setattr(image_sources, "_is_worth_reading", lambda *_: True)
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "images")
    config = vlm_config(folder, data=str(tmp_path / "images"), freeze="lora", cache_features=True)
    captioner = load_trial_captioner(config)
    split = prepare_data(config, captioner.geometry).splits["validation"]
    features = open_images(captioner, split, config)
    assert isinstance(features, FeatureSource)
    fresh = load_trial_captioner(config)  # has encoded no image
    assert generate_captions(fresh, features, config) == generate_captions(captioner, PixelSource(split), config)

    with caplog.at_level(logging.INFO):
        open_images(captioner, split, config)
        tokens = f"{features.store.token_shape[0]} x {features.store.token_shape[1]} numbers"
        assert f"images of 48 pixels a side are encoded once, to {tokens}" in caplog.text
        bridge_only = config.model_copy(update={"freeze": FreezeMode.BRIDGE_ONLY})
        source = open_images(captioner, split, bridge_only)
    assert isinstance(source, FeatureSource) is (captioner.family == "git")
    assert ("encoded at each use" in caplog.text) is (captioner.family != "git")
    before = hash_encoder(captioner)
    if captioner.family != "git":
        with torch.no_grad():
            next(captioner.list_encoding_modules()[-1].parameters()).add_(1)
        assert hash_encoder(captioner) != before


@pytest.mark.parametrize(
    ("folder", "freeze"),
    [
        ("qwen3_vl", "lora"),
        ("idefics3", "bridge_only"),
        pytest.param("gemma3", "lora", marks=pytest.mark.slow),
        pytest.param("paligemma", "zero_shot", marks=pytest.mark.slow),
    ],
    indirect=["folder"],
)
def test_frozen_weights_in_bf16_are_trained_beside_in_float32(folder: Path, freeze: str, tmp_path: Path) -> None:
    config = vlm_config(folder, freeze=freeze, weights_dtype="bf16", num_epochs=2, learning_rate=1e-2)
    reports = list[EpochReport]()
    fit(config, DATA, tmp_path, reports.append)
    assert all(math.isfinite(report.validation_loss) for report in reports)
    assert freeze == "zero_shot" or reports[-1].validation_loss < reports[0].validation_loss
    weights = None if freeze == "zero_shot" else tmp_path / "best" / "weights.safetensors"
    trained = build_trained_captioner(config, weights)
    for name, value in trained.network.named_parameters():
        in_float = ".lora_" in name or (freeze == "bridge_only" and name.startswith("model.connector."))
        assert value.dtype is (torch.float32 if in_float else torch.bfloat16), name
    assert len(generate_captions(trained, PixelSource(DATA.splits["validation"]), config)) == 3
