"""Features of a frozen encoder: computed once, right, bounded, and without any effect on scores."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.batches import PixelSource
from medcap_core.data.prepare import PreparedData, prepare_data
from medcap_core.data.stores.features import measure_stored_bytes
from medcap_core.data.stores.rows import RowStore
from medcap_core.errors import DataFault
from medcap_core.inference import image_sources
from medcap_core.inference.image_sources import FeatureSource, estimate_encoding_seconds, hash_encoder, open_images
from medcap_core.models import Captioner, load_captioner
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.loop import fit
from tests.support.real_runs import NUM_IMAGES, write_images
from tests.support.tiny_blip import VISION_WIDTH, save_tiny_blip, tiny_config

NUM_TOKENS = 10  # 3 x 3 patches and the class token


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_sources, "_is_usable", {})  # as in a new process
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


@pytest.fixture
def config(tiny_blip: Path, images: Path) -> TrialConfig:
    return tiny_config(tiny_blip, data=str(images), freeze="decoder_only", cache_features=True)


def prepare(config: TrialConfig) -> tuple[Captioner, PreparedData]:
    captioner = load_captioner(config.model, config.image_size)
    return captioner, prepare_data(config, captioner.geometry)


def count_stores(cache: Path) -> int:
    return len(list((cache / "features").glob("*/features")))


def test_features_are_those_of_the_encoder_and_computed_once(
    config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner, data = prepare(config)
    told: list[tuple[str, int, int]] = []
    source = open_images(captioner, data.splits["train"], config, progress=lambda *call: told.append(call))
    assert source.encoded
    assert len(source) == NUM_IMAGES["train"]
    assert told[-1] == ("encoding train images once", 22, 22)
    positions = np.array([5, 0, 21, 5])
    fetched = source.fetch(positions)
    assert fetched.shape == (4, NUM_TOKENS, VISION_WIDTH)
    with torch.inference_mode():
        fresh = captioner.encode_images(PixelSource(data.splits["train"]).fetch(positions))
    assert torch.equal(fetched, fresh)

    told.clear()
    encodings: list[object] = []
    monkeypatch.setattr(image_sources.FrozenEncoder, "encode", lambda *call: encodings.append(call))
    again = open_images(load_captioner(config.model), data.splits["train"], config, progress=lambda *c: told.append(c))
    assert torch.equal(again.fetch(positions), fresh)
    assert told == []
    assert encodings == []  # a process checks a store once


@pytest.mark.parametrize(
    ("changes", "augmented"),
    [({"freeze": "full"}, False), ({"freeze": "encoder_only"}, False), ({"freeze": "lora", "lora_vision": True}, False),
     ({"cache_features": False}, False), ({}, True), ({"freeze": "zero_shot"}, False)],
)  # fmt: skip
def test_pixels_where_features_would_change_or_are_not_wanted(
    config: TrialConfig, cache: Path, changes: dict[str, object], augmented: bool
) -> None:
    other = TrialConfig.model_validate(config.model_dump() | changes)
    captioner, data = prepare(other)
    assert not open_images(captioner, data.splits["train"], other, augmented=augmented).encoded
    assert count_stores(cache) == 0


def test_the_key_follows_the_encoder_alone(config: TrialConfig, tiny_blip: Path) -> None:
    captioner = load_captioner(config.model)
    known = hash_encoder(captioner)
    with torch.no_grad():
        next(iter(captioner.network.text_decoder.parameters())).add_(1.0)
    assert hash_encoder(captioner) == known
    with torch.no_grad():
        list(captioner.network.vision_model.parameters())[-1].view(-1)[0].add_(1e-6)
    moved = hash_encoder(captioner)
    other_pixels = load_captioner(config.model)
    other_pixels.pixel_shift += 0.01
    other_size = load_captioner(config.model, 64)
    assert len({known, moved, hash_encoder(other_pixels), hash_encoder(other_size)}) == 4


def run(config: TrialConfig, folder: Path) -> list[EpochReport]:
    reports: list[EpochReport] = []
    _, data = prepare(config)
    fit(config, data, folder, reports.append)
    measured = dict.fromkeys(
        ("seconds", "training_seconds", "encoding_seconds", "images_per_second", "peak_memory_bytes"), 0
    )
    return [report.model_copy(update=measured) for report in reports]


def test_what_encoding_took_is_known_wherever_features_are_read(config: TrialConfig) -> None:
    captioner, data = prepare(config)
    pixels = config.model_copy(update={"cache_features": False})
    assert estimate_encoding_seconds(open_images(captioner, data.splits["train"], pixels)) == 0.0
    source = open_images(captioner, data.splits["train"], config)
    taken = estimate_encoding_seconds(source)
    assert 0 < taken < 60
    assert estimate_encoding_seconds(open_images(captioner, data.splits["train"], config)) == taken  # stored before
    half = data.splits["train"].part(np.arange(11))
    assert estimate_encoding_seconds(open_images(captioner, half, config)) == pytest.approx(taken / 2)
    assert isinstance(source, FeatureSource)
    (source.store.folder / "encoding.json").unlink()
    assert math.isnan(estimate_encoding_seconds(source))


@pytest.mark.parametrize("freeze", [FreezeMode.DECODER_ONLY, FreezeMode.LORA, FreezeMode.ZERO_SHOT])
def test_scores_with_and_without_are_bit_equal(config: TrialConfig, tmp_path: Path, freeze: FreezeMode) -> None:
    cached = config.model_copy(update={"freeze": freeze, "lora_dropout": 0.1})
    plain = cached.model_copy(update={"cache_features": False})
    assert run(cached, tmp_path / "cached") == run(plain, tmp_path / "plain")


def test_bfloat16_features_stay_within_rounding(config: TrialConfig) -> None:
    half = config.model_copy(update={"precision": "bf16"})
    captioner, data = prepare(half)
    features = open_images(captioner, data.splits["validation"], half).fetch(np.arange(9))
    assert features.dtype is torch.bfloat16
    with torch.inference_mode():
        exact = captioner.encode_images(PixelSource(data.splits["validation"]).fetch(np.arange(9)))
    difference = (features - exact).square().mean((1, 2)).sqrt() / exact.square().mean((1, 2)).sqrt()
    assert 0 < difference.max() < 0.02


def test_rows_of_other_images_are_found_out_and_encoded_anew(
    config: TrialConfig, caplog: pytest.LogCaptureFixture
) -> None:
    captioner, data = prepare(config)
    source = open_images(captioner, data.splits["train"], config)
    assert isinstance(source, FeatureSource)
    right = source.fetch(np.arange(22))
    path = source.store.folder / "features"
    rows = np.fromfile(path, np.float32).reshape(22, -1)
    np.roll(rows, 1, axis=0).tofile(path)
    image_sources._is_usable.clear()
    with caplog.at_level(logging.WARNING, "medcap_core"):
        mended = open_images(captioner, data.splits["train"], config)
    assert "stored features do not belong to these images" in caplog.text
    assert torch.equal(mended.fetch(np.arange(22)), right)


def test_an_encoder_that_gives_other_features_each_time_is_not_stored(
    config: TrialConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner, data = prepare(config)
    encode = captioner.encode_images
    monkeypatch.setattr(captioner, "encode_images", lambda pixels: encode(pixels) + torch.randn(1))
    source = open_images(captioner, data.splits["train"], config)
    assert not source.encoded
    assert "other features each time" in caplog.text


def test_no_more_disk_than_allowed(config: TrialConfig, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    row_bytes = NUM_TOKENS * VISION_WIDTH * 4
    captioner, data = prepare(config)
    small = config.model_copy(update={"max_feature_cache_gb": 21 * row_bytes / 1e9})
    assert not open_images(captioner, data.splits["train"], small).encoded
    assert "max_feature_cache_gb" in caplog.text
    assert str(cache / "features") in caplog.text
    assert open_images(captioner, data.splits["validation"], small).encoded  # 9 images fit
    assert count_stores(cache) == 1
    used_bytes = measure_stored_bytes()
    assert used_bytes >= 9 * row_bytes
    (cache / "features" / "discarded").mkdir()
    (cache / "features" / "discarded" / "features").symlink_to("nowhere")  # listed, then gone
    assert measure_stored_bytes() == used_bytes


def test_what_a_kill_left_out_is_encoded_later(config: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner, data = prepare(config)
    monkeypatch.setattr("medcap_core.data.stores.rows._MAX_CHUNK_ROWS", 5)
    mark = RowStore._mark
    marked: list[int] = []

    def die_at_the_third(self: RowStore, file: object, chunk: list[int], *sets: object) -> None:
        if len(marked) == 10:
            raise KeyboardInterrupt
        marked.extend(chunk)
        mark(self, file, chunk, *sets)  # type: ignore[arg-type]

    monkeypatch.setattr(RowStore, "_mark", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        open_images(captioner, data.splits["train"], config)
    monkeypatch.setattr(RowStore, "_mark", mark)
    told: list[tuple[str, int, int]] = []
    source = open_images(captioner, data.splits["train"], config, progress=lambda *call: told.append(call))
    assert told[-1] == ("encoding train images once", 12, 12)
    with torch.inference_mode():
        fresh = captioner.encode_images(PixelSource(data.splits["train"]).fetch(np.arange(22)))
    assert torch.equal(source.fetch(np.arange(22)), fresh)


def test_a_cache_that_cannot_be_made_is_a_fault(config: TrialConfig, cache: Path) -> None:
    captioner, data = prepare(config)
    (cache / "features").write_text("a file in the way")
    with pytest.raises(DataFault, match="cannot be written"):
        open_images(captioner, data.splits["train"], config)


def test_features_kept_in_memory_are_the_same(config: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner, data = prepare(config)
    from_disk = open_images(captioner, data.splits["train"], config)
    monkeypatch.setattr(image_sources, "_fit_into_memory", lambda *_: True)
    resident = open_images(captioner, data.splits["train"], config)
    assert isinstance(resident, FeatureSource)
    assert resident.resident is not None
    order = np.array([20, 3, 3, 11])
    assert torch.equal(resident.fetch(order), from_disk.fetch(order))
    other_trial = open_images(captioner, data.splits["train"], config)
    assert isinstance(other_trial, FeatureSource)
    assert other_trial.resident is resident.resident


def test_features_leave_the_memory_for_another_model_and_for_a_trained_encoder(
    config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_sources, "_fit_into_memory", lambda *_: True)
    monkeypatch.setattr(image_sources, "_resident", {})
    captioner, data = prepare(config)
    sources = [open_images(captioner, data.splits[name], config) for name in ("train", "validation")]
    assert all(isinstance(source, FeatureSource) and source.resident is not None for source in sources)
    assert len(image_sources._resident) == 2
    other_model = config.model_copy(update={"model": str(save_tiny_blip(tmp_path / "other", seed=5))})
    other, other_data = prepare(other_model)
    open_images(other, other_data.splits["validation"], other_model)
    assert len(image_sources._resident) == 1
    open_images(other, other_data.splits["validation"], other_model.model_copy(update={"freeze": FreezeMode.FULL}))
    assert not image_sources._resident
