"""Trials beside weights in 8 and 4 bits, on any device that bitsandbytes knows, the CPU among them."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from medcap_core.data.batches import PixelSource
from medcap_core.errors import ConfigFault
from medcap_core.models import load_captioner, load_trial_captioner
from medcap_core.models.tuning import apply_tuning
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.export import build_trained_captioner, export_captioner
from medcap_core.training.loop import fit
from tests.support.tiny_blip import generate_captions, tiny_config, tiny_data
from tests.support.tiny_models import save_tiny_blip2
from tests.support.tiny_vlms import MAKERS

DATA = tiny_data(num_train=8, num_validation=3)
IMAGES = PixelSource(DATA.splits["validation"])
_MAKERS: dict[str, Callable[..., Path]] = {"qwen3_vl": MAKERS["qwen3_vl"], "blip2-opt": save_tiny_blip2}


def quantized_config(folder: Path, bits: str, **changes: Any) -> Any:
    size = {"image_size": 48} if folder.name == "qwen3_vl" else {}
    lora = {"freeze": "lora", "lora_targets": "attention_mlp", "learning_rate": 1e-2, "max_caption_tokens": 12}
    return tiny_config(folder, quantization=bits, **size, **(lora | changes))


class Interrupted(Exception):
    """Ends a trial from its report callback."""


def interrupt(report: EpochReport) -> None:
    raise Interrupted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bits", "freeze"),
    [
        ("qwen3_vl", "4bit", "lora"),
        ("qwen3_vl", "8bit", "bridge_only"),
        ("blip2-opt", "4bit", "lora"),
        ("blip2-opt", "8bit", "lora"),
    ],
)
def test_a_trial_learns_resumes_to_the_bit_and_goes_out_whole(
    name: str, bits: str, freeze: str, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra quantized)")
    folder = _MAKERS[name](tmp_path / name, seed=1)
    config = quantized_config(folder, bits, freeze=freeze, lora_dropout=0.2, num_epochs=2, num_beams=1)
    stored = torch.int8 if bits == "8bit" else torch.uint8
    assert stored in {value.dtype for value in load_trial_captioner(config).network.parameters()}

    whole, parts = list[EpochReport](), list[EpochReport]()
    fit(config, DATA, tmp_path / "whole", whole.append)
    assert whole[1].training_loss < 0.99 * whole[0].training_loss
    with pytest.raises(Interrupted):
        fit(config, DATA, tmp_path / "parts", interrupt)
    fit(config, DATA, tmp_path / "parts", parts.append)
    assert [report.validation_loss for report in parts] == [report.validation_loss for report in whole]
    best = [tmp_path / run / "best" / "weights.safetensors" for run in ("whole", "parts")]
    assert best[0].read_bytes() == best[1].read_bytes()

    captions = [generate_captions(build_trained_captioner(config, weights), IMAGES, config) for weights in best]
    assert captions[0] == captions[1]
    export_captioner(config, best[0], tmp_path / "best")
    exported = load_captioner(str(tmp_path / "best"), config.image_size)
    assert {value.dtype for value in exported.network.parameters()} == {torch.float32}
    assert exported.network.state_dict().keys() == load_captioner(str(folder)).network.state_dict().keys()


def test_gradients_after_captions_are_those_before(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra quantized)")
    config = quantized_config(MAKERS["qwen3_vl"](tmp_path / "qwen3_vl", seed=1), "4bit")
    captioner = load_trial_captioner(config)
    apply_tuning(captioner, config)
    trained = [value for value in captioner.network.parameters() if value.requires_grad]
    pixels = torch.from_numpy(DATA.splits["train"].images[:2])
    tokens = captioner.tokenize(["small opacity", "a large nodule"], config).batch([0, 1])
    gradients = []
    for _ in range(2):
        loss = captioner.train()(pixels, *tokens, label_smoothing=0.1, encoded=False)
        gradients.append(torch.autograd.grad(loss, trained))
        generate_captions(captioner.eval(), IMAGES, config)
    for before, after in zip(*gradients, strict=True):
        torch.testing.assert_close(after, before)
    assert any(value.abs().max() > 0 for value in gradients[0])


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_remedy_is_named(tmp_path: Path) -> None:
    config = quantized_config(save_tiny_blip2(tmp_path), "4bit")
    with pytest.raises(ConfigFault, match=r"quantization 4bit: needs the package bitsandbytes; install it by pip"):
        load_trial_captioner(config)
