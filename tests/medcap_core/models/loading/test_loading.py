import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor

from medcap_core.errors import ModelFault
from medcap_core.models import (
    EMBEDDED_MODELS,
    hash_weights,
    load_captioner,
    load_geometry,
    load_trial_captioner,
    resolve_model,
)
from medcap_core.models.loading.load_faults import check_sizes, name_load_faults
from tests.support.tiny_blip import tiny_config

Break = Callable[[Path], object]


def set_key(*keys: str, to: object) -> Break:
    """A function that changes one value of a folder's config.json."""

    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        section: Any = config
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = to
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def drop_tensors(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if ".intermediate." not in name},
        folder / "model.safetensors",
        {"format": "pt"},
    )


DAMAGE: dict[str, tuple[Break, str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json; give a folder in Hub format"),
    "config cut off": (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
    "no model type": (lambda folder: (folder / "config.json").write_text("{}"), "model_type"),
    "another family": (set_key("model_type", to="bert"), "model_type 'bert'; supported are blip."),
    "unheard of family": (set_key("model_type", to="blop"), "model type `blop`"),
    "wrong type": (set_key("text_config", "num_hidden_layers", to="two"), "num_hidden_layers"),
    "no layers": (set_key("text_config", "num_hidden_layers", to=0), "text_config: num_hidden_layers 0 cannot be"),
    "more layers": (
        set_key("text_config", "num_hidden_layers", to=3),
        r"26 tensors .*layer\.2.*give a whole checkpoint",
    ),
    "other width": (set_key("text_config", "intermediate_size", to=57), "6 tensors .* have another shape"),
    "some weights lost": (drop_tensors, r"4 tensors .*layer\.0\.intermediate\.dense\.bias"),
    "weights cut off": (
        truncate,
        "cannot be read .*give a whole one in Hub format, with config.json, model.safetensors",
    ),
    "weights empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "cannot be read"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
    "no processor": (lambda folder: (folder / "processor_config.json").unlink(), "image processor"),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
        "its tokenizer knows 0 words, .*give the checkpoint its own tokenizer.json",
    ),
}


def test_layers_of_one_kind_may_be_none() -> None:
    check_sizes("model x", {"text_config": {"num_kv_shared_layers": 0, "num_hidden_layers": 2}})
    with pytest.raises(ModelFault, match="num_kv_shared_layers 2000 cannot be"):
        check_sizes("model x", {"text_config": {"num_kv_shared_layers": 2000}})


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_named_in_one_sentence(tiny_blip: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_blip, folder)
    spoil, expected = DAMAGE[damage]
    spoil(folder)
    with pytest.raises(ModelFault, match=expected) as caught:
        load_captioner(str(folder))
    (sentence,) = caught.value.faults
    assert sentence.startswith(f"model {folder}: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("{tmp}/nowhere", "no such folder"),
        ("./nowhere", "no such folder"),
        ("blip", "no such folder, and not a Hub name of the form owner/name"),
        ("a/b/c", "embedded models: phantom-blip"),
        ("{tiny_blip}/config.json", "this is a file; give the folder"),
        ("{tmp}", "the folder has no config.json"),
    ],
)
def test_a_name_that_is_no_model_is_told_apart(tiny_blip: Path, tmp_path: Path, name: str, expected: str) -> None:
    name = name.format(tmp=tmp_path, tiny_blip=tiny_blip)
    with pytest.raises(ModelFault, match=expected) as caught:
        load_captioner(name)
    assert str(caught.value).startswith(f"model {name}: ")


def test_a_package_that_transformers_lacks_is_named(tmp_path: Path) -> None:
    text = "PixtralProcessor requires the Torchvision library but it was not found in your environment. Check out\nmore"
    expected = r"^model m: transformers needs a package .* \(PixtralProcessor .* environment\); install that"
    with pytest.raises(ModelFault, match=expected), name_load_faults("model m", str(tmp_path)):
        raise ImportError(f"\n{text}")


def test_a_hub_model_without_network_or_copy_says_where_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelFault) as caught:
        load_captioner("nobody/no-such-captioner")
    (sentence,) = caught.value.faults
    assert sentence.startswith(
        f"model nobody/no-such-captioner: neither the local cache {constants.HF_HUB_CACHE} nor the"
    )
    assert sentence.endswith("check the name and the network, or pass a local folder in Hub format.")
    assert "\n" not in sentence
    assert hash_weights("nobody/no-such-captioner") is None


def test_a_checkpoint_without_safetensors_has_no_hash(tiny_blip: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_blip / "config.json", tmp_path)
    assert hash_weights(str(tmp_path)) is None


def test_names_are_resolved(tiny_blip: Path) -> None:
    assert resolve_model("phantom-blip") == str(EMBEDDED_MODELS["phantom-blip"])
    assert resolve_model(str(tiny_blip)) == str(tiny_blip)
    assert resolve_model("Salesforce/blip-image-captioning-base") == "Salesforce/blip-image-captioning-base"


def test_every_call_gives_a_fresh_captioner(tiny_blip: Path) -> None:
    first = load_captioner(str(tiny_blip))
    before = {name: parameter.detach().clone() for name, parameter in first.named_parameters()}
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.fill_(7.0).requires_grad_(requires_grad=False)
    first.processor.image_processor.size = {"height": 1, "width": 1}
    second = load_captioner(str(tiny_blip))
    assert second.geometry.size == 48
    assert second.processor.image_processor.size["height"] == 48
    assert all(parameter.requires_grad for parameter in second.parameters())
    assert not second.training
    for name, parameter in second.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_a_checkpoint_that_changed_is_read_again(tiny_blip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_blip, folder)
    captioner = load_captioner(str(folder))
    assert hash_weights(str(folder)) == hash_weights(str(tiny_blip))
    with torch.no_grad():
        captioner.network.vision_model.post_layernorm.bias.fill_(0.25)
    captioner.save(folder)
    again = load_captioner(str(folder))
    assert again.network.vision_model.post_layernorm.bias.tolist() == [0.25] * 24
    assert hash_weights(str(folder)) != hash_weights(str(tiny_blip))


def test_settings_are_read_once_a_process_unless_they_change(
    tiny_blip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at a Hub model asks the Hub, which a sweep of many trials should not."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny_blip, folder)
    config = tiny_config(folder)
    own = load_geometry(config)
    load_trial_captioner(config)
    with monkeypatch.context() as patch:
        patch.setattr(AutoConfig, "from_pretrained", lambda *_: pytest.fail("read again"))
        patch.setattr(AutoImageProcessor, "from_pretrained", lambda *_: pytest.fail("read again"))
        assert load_geometry(config) == own
        assert load_trial_captioner(config).geometry == own
    settings_file = next(path for path in folder.glob("*processor_config.json") if "resample" in path.read_text())
    text = settings_file.read_text()
    settings_file.write_text(text.replace(f'"resample": {own.resample}', '"resample": 2'))
    assert load_geometry(config) == replace(own, resample=2)
    assert load_trial_captioner(config).geometry == replace(own, resample=2)


def test_half_precision_weights_are_loaded_in_float32(tiny_blip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_blip, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value.half() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    captioner = load_captioner(str(folder))
    assert {parameter.dtype for parameter in captioner.parameters()} == {torch.float32}
