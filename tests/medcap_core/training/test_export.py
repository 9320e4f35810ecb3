from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, BlipForConditionalGeneration

from medcap_core.config import TrialConfig
from medcap_core.data.images import resize
from medcap_core.errors import RunFault
from medcap_core.models import Captioner, load_captioner
from medcap_core.models.tuning import apply_tuning
from medcap_core.training.export import (
    TRIAL_CONFIG_FILE,
    build_trained_captioner,
    export_captioner,
    load_trained_captioner,
)
from medcap_core.training.loop import fit
from tests.support.tiny_blip import tiny_config, tiny_data

MODES: dict[str, dict[str, object]] = {
    "full": {"freeze": "full", "learning_rate": 1e-3},
    "lora": {"freeze": "lora", "lora_targets": "attention_mlp", "lora_vision": True, "lora_rank": 4},
}
IMAGES = [Image.fromarray(noise) for noise in np.random.default_rng(6).integers(0, 256, (5, 37, 61, 3), dtype=np.uint8)]


@dataclass
class TrainedTrial:
    """A trial that ran one epoch; `captioner` holds its factors apart from the weights they adapt."""

    config: TrialConfig
    weights: Path
    captioner: Captioner


@pytest.fixture(scope="module", params=list(MODES))
def trial(request: pytest.FixtureRequest, tiny_blip: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedTrial:
    settings: dict[str, object] = {"num_epochs": 1, "num_beams": 3, "max_new_tokens": 11, "repetition_penalty": 1.2}
    config = tiny_config(tiny_blip, **settings, **MODES[request.param])
    folder = tmp_path_factory.mktemp("trial")
    fit(config, tiny_data(num_train=8, num_validation=3), folder, lambda _: None)
    weights = folder / "best" / "weights.safetensors"
    captioner = load_captioner(config.model)
    apply_tuning(captioner, config)
    missing, unexpected = captioner.load_state_dict(load_file(weights), strict=False)
    assert missing
    assert not unexpected
    return TrainedTrial(config, weights, captioner.eval())


def caption(captioner: Captioner, config: TrialConfig) -> list[str]:
    geometry = captioner.geometry
    pixels = torch.from_numpy(np.stack([resize(image, geometry.size, geometry.resample) for image in IMAGES]))
    with torch.inference_mode():
        return captioner.generate(captioner.encode_images(pixels), config)


def test_an_export_captions_with_plain_transformers_as_the_trial_did(trial: TrainedTrial, tmp_path: Path) -> None:
    export_captioner(trial.config, trial.weights, tmp_path / "best")
    network = BlipForConditionalGeneration.from_pretrained(tmp_path / "best").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "best")
    inputs = processor(images=IMAGES, return_tensors="pt")
    ids = network.generate(**inputs)
    captions = [text.strip() for text in processor.batch_decode(ids[:, 1:], skip_special_tokens=True)]
    assert captions == caption(trial.captioner, trial.config)
    assert len(set(captions)) > 1
    assert captions != caption(load_captioner(trial.config.model), trial.config)
    assert ids.shape[1] <= 12
    settings = network.generation_config
    assert (settings.max_new_tokens, settings.num_beams, settings.repetition_penalty) == (11, 3, 1.2)


def test_an_export_holds_a_plain_model_and_the_config(trial: TrainedTrial, tmp_path: Path) -> None:
    export_captioner(trial.config, trial.weights, tmp_path)
    plain = load_file(Path(trial.config.model) / "model.safetensors")
    assert load_file(tmp_path / "model.safetensors").keys() == plain.keys()
    assert TrialConfig.model_validate_json((tmp_path / TRIAL_CONFIG_FILE).read_text()) == trial.config
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_a_merged_captioner_captions_as_the_unmerged_one(trial: TrainedTrial) -> None:
    merged = build_trained_captioner(trial.config, trial.weights)
    assert not merged.training
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert caption(merged, trial.config) == caption(trial.captioner, trial.config)


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"weights_dtype": "bf16"}])
def test_an_export_after_training_in_bf16_is_merged(
    trial: TrainedTrial, tmp_path: Path, settings: dict[str, object]
) -> None:
    export_captioner(trial.config.model_copy(update=settings), trial.weights, tmp_path / "bf16")
    export_captioner(trial.config, trial.weights, tmp_path / "fp32")
    in_bf16, in_fp32 = (load_file(tmp_path / name / "model.safetensors") for name in ("bf16", "fp32"))
    assert in_bf16.keys() == in_fp32.keys()
    assert all(torch.equal(in_bf16[name], in_fp32[name]) for name in in_fp32)


def test_a_trained_captioner_is_kept_for_the_next_call(trial: TrainedTrial) -> None:
    first = load_trained_captioner(trial.config, trial.weights)
    assert load_trained_captioner(trial.config, trial.weights) is first
    assert load_trained_captioner(trial.config, None) is not first


@pytest.mark.parametrize("freeze", ["zero_shot", "full"])
def test_without_weights_it_is_the_base_model(tiny_blip: Path, tmp_path: Path, freeze: str) -> None:
    config = tiny_config(tiny_blip, freeze=freeze, image_size=64)
    export_captioner(config, None, tmp_path)
    assert caption(load_captioner(str(tmp_path)), config) == caption(load_captioner(str(tiny_blip), 64), config)


@pytest.mark.parametrize("freeze", ["decoder_only", "lora"])
def test_weights_of_another_freeze_mode_are_refused(trial: TrainedTrial, tiny_blip: Path, freeze: str) -> None:
    other = tiny_config(tiny_blip, freeze=freeze)
    with pytest.raises(RunFault, match="written by another model or another freeze mode"):
        build_trained_captioner(other, trial.weights)
