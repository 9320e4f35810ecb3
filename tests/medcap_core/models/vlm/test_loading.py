"""What of a checkpoint and a config does not fit is one sentence; what fits is what was asked for."""

import json
import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, Florence2Config, Gemma4Config, Ovis2Config
from transformers.quantizers.quantizers_utils import should_convert_module

from medcap_core.errors import ModelFault, OutOfMemory
from medcap_core.models import load_captioner, load_geometry, load_trial_captioner
from medcap_core.models.loading.quantization import NOT_QUANTIZED
from medcap_core.models.tuning import find_part
from medcap_core.models.vlm import recording
from medcap_core.models.vlm.captioner import VlmCaptioner
from medcap_core.models.vlm.processing import FREE_SIZE
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.training.export import export_captioner
from tests.medcap_core.models.vlm.test_captioner import LONG, SHORT, SPLIT, vlm_config
from tests.support.plain_vlms import build_plain_inputs
from tests.support.tiny_blip import tiny_config
from tests.support.tiny_vlms import MAKERS
from tests.support.torchvision_vlms import save_tiny_llama4, with_torchvision


@pytest.mark.parametrize(
    "folder", ["qwen3_vl", "idefics3", pytest.param("gemma4", marks=pytest.mark.slow)], indirect=True
)
def test_a_larger_image_has_more_tokens(folder: Path, tmp_path: Path) -> None:
    """Idefics3 splits it into four and a whole; Gemma 4 sees up to 280 tokens in place of 70."""
    config = vlm_config(folder, image_size=96, num_beams=2, min_new_tokens=3, repetition_penalty=1.3)
    captioner = load_trial_captioner(config)
    assert captioner.geometry.size == load_geometry(config).size == 96
    large = SPLIT.images[:2].repeat(2, axis=2).repeat(2, axis=3)
    with torch.inference_mode():
        encoded = captioner.encode_images(torch.from_numpy(large))
        captions = captioner.generate(encoded, config)
    assert encoded.shape[1] == {"qwen3_vl": 16, "idefics3": 20, "gemma4": 256}[folder.name.partition("-")[0]]
    export_captioner(config, None, tmp_path / folder.name)
    assert load_captioner(str(tmp_path / folder.name)).geometry.size == 96
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / folder.name).eval()
    images = [Image.fromarray(pixels.transpose(1, 2, 0)) for pixels in large]
    inputs = build_plain_inputs(tmp_path / folder.name, images, "a picture of")
    generated = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    plain = captioner.processor.tokenizer.batch_decode(generated, skip_special_tokens=True)
    assert captions == [" ".join(text.split()) for text in plain]


def test_sizes_that_a_model_cannot_take_are_refused(folder_of: Callable[[str], Path]) -> None:
    assert load_geometry(tiny_config(folder_of("qwen3_vl"))).size == FREE_SIZE - FREE_SIZE % 24
    with pytest.raises(ModelFault, match=r"image_size 50 is no multiple of the 24-pixel patches .* give 48"):
        load_captioner(str(folder_of("qwen2_5_vl")), 50)
    with pytest.raises(ModelFault, match="image_size 96: llava models see images of one size; leave image_size out"):
        load_captioner(str(folder_of("llava")), 96)
    with pytest.raises(ModelFault, match="image_size 50: gemma4 models see squares of 48, 66, 96, 138, 198 pixels"):
        load_captioner(str(folder_of("gemma4")), 50)
    with pytest.raises(ModelFault, match="image_size 96: git models see images of one size"):
        load_geometry(tiny_config(folder_of("git"), image_size=96))


def test_what_is_for_other_models_is_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFault, match="a vlm model keeps its own vision tower; remove vision_model"):
        load_trial_captioner(vlm_config(folder_of("qwen3_vl"), vision_model=str(folder_of("git"))))
    with pytest.raises(ModelFault, match="a git model is small enough as it is; remove quantization"):
        load_trial_captioner(vlm_config(folder_of("git"), freeze="lora", quantization="4bit"))
    with pytest.raises(ModelFault, match="gradient_checkpointing: a git model is small enough without it; remove it"):
        load_trial_captioner(vlm_config(folder_of("git"), gradient_checkpointing=True))
    for config in (Florence2Config(), Ovis2Config(), Gemma4Config()):  # of texts alone
        config.save_pretrained(tmp_path)
        with pytest.raises(ModelFault, match=rf"a {config.model_type} has no decoder-only .* such as a qwen3_vl"):
            load_captioner(str(tmp_path))


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_an_architecture_that_does_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFault, match=r"a llama4 was never tried here and .* give one that docs/models.md names"):
        load_captioner(str(save_tiny_llama4(tmp_path)))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ValueError("2 and 3"),
            r"a llava was never tried here and does not read an image .* \(2 and 3\); give one",
        ),
        (torch.OutOfMemoryError("None."), r"model .*: no memory left to load it \(None\); take a smaller model"),
    ],
)
def test_lack_of_memory_is_no_fault_of_an_architecture(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: VlmCaptioner, pixels: torch.Tensor) -> torch.Tensor:
        raise error

    monkeypatch.setattr(recording, "TRIED", frozenset())
    monkeypatch.setattr(VlmCaptioner, "encode_images", fail)
    with pytest.raises(ModelFault if isinstance(error, ValueError) else OutOfMemory, match=said):
        load_captioner(str(MAKERS["llava"](tmp_path, seed=1)))


def test_captions_too_long_for_the_positions_beside_the_prompt_are_refused(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("gemma3")
    beside = 128 - load_trial_captioner(vlm_config(folder)).prompt_layout.length
    load_trial_captioner(vlm_config(folder, max_caption_tokens=beside, max_new_tokens=beside))
    with pytest.raises(ModelFault) as caught:
        load_trial_captioner(vlm_config(folder, max_caption_tokens=beside + 1, max_new_tokens=beside + 1))
    assert len(caught.value.faults) == 2
    assert caught.value.faults[1].endswith(f"lower max_new_tokens to at most {beside}.")


def test_a_long_caption_is_cut_and_keeps_its_end_token_beside_a_prompt_that_does_not_count(
    folder_of: Callable[[str], Path],
) -> None:
    config = vlm_config(folder_of("qwen3_vl"), prompt="", max_caption_tokens=5)
    tokens = load_trial_captioner(config).tokenize([LONG], config)
    (ids,) = tokens.ids
    assert len(ids) - tokens.num_uncounted == 5
    decode = load_trial_captioner(config).processor.tokenizer.decode
    assert decode(ids[tokens.prompt_length :]) == "the left lung shows<|im_end|>"
    assert "Describe this image." in decode(ids[: tokens.prompt_length])


@pytest.mark.parametrize(
    "folder", ["qwen3_vl", "idefics3", "paligemma", "llava", "gemma4", *with_torchvision()], indirect=True
)
def test_language_models_alone_are_quantized(folder: Path) -> None:
    captioner = load_captioner(str(folder), 48)
    for name, module in captioner.network.named_modules():
        if isinstance(module, torch.nn.Linear):
            in_decoder = find_part(captioner, f"{name}.weight") == "decoder" and name != "lm_head"
            assert should_convert_module(name, NOT_QUANTIZED) is in_decoder, name


@pytest.mark.parametrize(
    "folder", ["qwen3_vl", "gemma3", pytest.param("gemma4", marks=pytest.mark.slow)], indirect=True
)
def test_gradient_checkpointing_keeps_the_gradients_and_less_of_the_activations(folder: Path) -> None:
    config = vlm_config(folder, freeze="full")
    pixels, gradients, kept = torch.from_numpy(SPLIT.images[:2]), [], [0, 0]
    for checkpointing in (False, True):
        captioner = load_trial_captioner(config.model_copy(update={"gradient_checkpointing": checkpointing})).train()
        tokens = captioner.tokenize([SHORT, LONG], config).batch([0, 1])

        def keep(tensor: Tensor, number: int = checkpointing) -> Tensor:
            kept[number] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = captioner(pixels, *tokens, label_smoothing=0.1, encoded=False)
        loss.backward()
        gradients.append({name: value.grad for name, value in captioner.network.named_parameters()})
    assert kept[1] < 0.6 * kept[0]
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, msg=name)


def test_users_see_no_name_that_transformers_deprecated(folder_of: Callable[[str], Path]) -> None:
    with warnings.catch_warnings(action="always", record=True) as shown:
        set_up_libraries()
        load_trial_captioner(vlm_config(folder_of("qwen3_vl"), gradient_checkpointing=True))
    assert [str(warning.message) for warning in shown if warning.category is FutureWarning] == []


def test_settings_of_the_parts_for_videos_and_sounds_are_kept(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    export_captioner(vlm_config(folder_of("qwen3_vl")), None, tmp_path / "one")
    settings = json.loads((tmp_path / "one" / "processor_config.json").read_text())
    assert settings["processor_class"] == "Qwen3VLProcessor"
    assert settings["video_processor"] == {"video_processor_type": "Qwen2VLVideoProcessor"}

    export_captioner(vlm_config(folder_of("gemma4")), None, tmp_path / "two")
    before, after = (
        json.loads((folder / "processor_config.json").read_text()) for folder in (folder_of("gemma4"), tmp_path / "two")
    )
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("folder", ["qwen3_vl", "smolvlm"], indirect=True)
def test_processors_load_as_the_hub_has_them(folder: Path, tmp_path: Path) -> None:
    """Under the names of torchvision's classes, apart from the processor's settings, with bounds by their old keys."""
    copy = shutil.copytree(folder, tmp_path / folder.name)
    of_images, of_all = copy / "preprocessor_config.json", copy / "processor_config.json"
    if of_all.exists():
        settings = json.loads(of_all.read_text())
        images = settings.pop("image_processor") | {"image_processor_type": "SmolVLMImageProcessorFast"}
        of_all.write_text(json.dumps(settings | {"processor_class": "SmolVLMProcessor"}))
    else:
        images = json.loads(of_images.read_text()) | {"image_processor_type": "Qwen2VLImageProcessorFast"}
        images |= {"min_pixels": 3136, "max_pixels": 12845056}
        del images["size"]
    of_images.write_text(json.dumps(images))
    pixels = torch.from_numpy(SPLIT.images[:2])
    with torch.inference_mode():
        encoded = load_captioner(str(copy), 48).encode_images(pixels)
        assert torch.equal(encoded, load_captioner(str(folder), 48).encode_images(pixels))
