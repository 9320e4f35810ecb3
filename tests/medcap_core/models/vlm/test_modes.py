"""What each freeze mode trains, what LoRA adapts, and the way of a trained model out and back."""

import copy
from pathlib import Path

import pytest
import torch

from medcap_core.config import LoraTargets
from medcap_core.models import load_captioner
from medcap_core.models.tuning import apply_tuning, features_are_fixed, merge_tuning
from tests.medcap_core.models.vlm.test_captioner import LONG, SHORT, SPLIT, every_architecture, vlm_config

PARTS = {  # beginnings of parameter names: tower, projector, language model; and those no caption depends on
    "qwen2_5_vl": (["model.visual."], ["model.visual.merger."], ["model.language_model.", "lm_head."], []),
    "qwen3_vl": (
        ["model.visual."],
        ["model.visual.merger.", "model.visual.deepstack_merger_list."],
        ["model.language_model.", "lm_head."],
        [],
    ),
    "idefics3": (["model.vision_model."], ["model.connector."], ["model.text_model.", "lm_head."], []),
    "smolvlm": (["model.vision_model."], ["model.connector."], ["model.text_model.", "lm_head."], []),
    "paligemma": (["model.vision_tower."], ["model.multi_modal_projector."], ["model.language_model."], []),
    "gemma3": (["model.vision_tower."], ["model.multi_modal_projector."], ["model.language_model."], []),
    "gemma4": (
        ["model.vision_tower."],
        ["model.embed_vision."],
        ["model.language_model."],
        ["model.audio_tower.", "model.embed_audio."],
    ),
    "llava": (
        ["model.vision_tower."],
        ["model.multi_modal_projector."],
        ["model.language_model.", "lm_head."],
        ["model.vision_tower.encoder.layers.2.", "model.vision_tower.post_layernorm."],
    ),
    "molmo2": (["model.vision_tower."], ["model.multi_modal_projector."], ["model.language_model.", "lm_head."], []),
    "gemma4_unified": (
        ["model.embed_vision."],
        ["model.embed_vision.multimodal_embedder."],
        ["model.language_model."],
        ["model.embed_audio."],
    ),
    "deepseek_vl": (["model.vision_model."], ["model.aligner."], ["model.language_model."], []),
    "janus": (
        ["model.vision_model."],
        ["model.aligner."],
        ["model.language_model."],
        ["model.vqmodel.", "model.generation_"],
    ),
    "git": (["git.image_encoder."], ["git.visual_projection."], ["git.embeddings.", "git.encoder.", "output."], []),
}


PARTS |= dict.fromkeys(("mistral3", "cohere2_vision", "lfm2_vl"), PARTS["paligemma"])
PARTS |= {"qwen3_vl_moe": PARTS["qwen3_vl"], "perception_lm": PARTS["molmo2"]}


@every_architecture
def test_each_mode_trains_its_parts_exactly_and_each_trained_parameter_gets_a_gradient(folder: Path) -> None:
    tower, bridge, decoder, unused = PARTS[folder.name.partition("-")[0]]
    base = load_captioner(str(folder), 48)
    names = {name for name, _ in base.network.named_parameters() if not name.startswith(tuple(unused))}
    bridge_names = {name for name in names if name.startswith(tuple(bridge))}
    tower_names = {name for name in names if name.startswith(tuple(tower))} - bridge_names
    decoder_names = {name for name in names if name.startswith(tuple(decoder))}
    assert min(map(len, (tower_names, bridge_names, decoder_names))) > 0
    expected = {
        "full": names,
        "encoder_only": tower_names | bridge_names,
        "bridge_only": bridge_names,
        "decoder_only": decoder_names,
        "zero_shot": set(),
    }
    pixels = torch.from_numpy(SPLIT.images[:2])
    for mode, trained in expected.items():
        captioner, config = copy.deepcopy(base), vlm_config(folder, freeze=mode, prompt="")
        apply_tuning(captioner, config)
        own = {name for name, parameter in captioner.network.named_parameters() if parameter.requires_grad}
        assert own == trained, mode
        assert features_are_fixed(captioner, config) is not bool(
            own & (tower_names if captioner.family == "git" else tower_names | bridge_names)
        )
        if own:
            tokens = captioner.tokenize([SHORT, LONG], config)
            captioner(pixels, *tokens.batch([0, 1]), label_smoothing=0.1, encoded=False).backward()
            without = {name for name, value in captioner.network.named_parameters() if value.grad is None}
            assert not without & own, mode


ADAPTED = {
    "query_key": {"q_proj", "k_proj"},
    "self_query_key": {"q_proj", "k_proj"},
    "query_value": {"q_proj", "v_proj"},
    "attention": {"q_proj", "k_proj", "v_proj", "o_proj", "out_proj"},
}
ADAPTED["attention_mlp"] = ADAPTED["attention"] | {"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
ADAPTED_GIT = {
    "query_key": {"self.query", "self.key"},
    "self_query_key": {"self.query", "self.key"},
    "query_value": {"self.query", "self.value"},
    "attention": {"self.query", "self.key", "self.value", "attention.output.dense"},
    "attention_mlp": {"self.query", "self.key", "self.value", "output.dense", "intermediate.dense"},
}
IN_VISION = {"q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "attn.qkv", "attn.proj"}
IN_VISION |= {f"self_attn.{name}_proj.linear" for name in "qkvo"}


@every_architecture
def test_lora_adapts_the_named_layers_exactly_and_merges_to_what_it_was(folder: Path) -> None:
    base = load_captioner(str(folder), 48)
    is_git, has_tower = base.family == "git", not folder.name.startswith("gemma4_unified")
    tower, _, decoder, _ = PARTS[folder.name.partition("-")[0]]
    decoder = ["git.encoder."] if is_git else decoder[:1]
    modules = [name for name, module in base.network.named_modules() if isinstance(module, torch.nn.Linear)]

    def select(roots: list[str], endings: set[str]) -> set[str]:
        return {
            name
            for name in modules
            if name.startswith(tuple(roots)) and any(name.endswith(f".{ending}") for ending in endings)
        }

    for targets in LoraTargets:
        captioner = copy.deepcopy(base)
        vision = targets is LoraTargets.ATTENTION_MLP and has_tower
        config = vlm_config(folder, freeze="lora", lora_rank=2, lora_targets=targets, lora_vision=vision, prompt="")
        summary = apply_tuning(captioner, config)
        trained = [name for name, value in captioner.network.named_parameters() if value.requires_grad]
        assert all(".lora_A." in name or ".lora_B." in name for name in trained)
        adapted = {name.partition(".lora_A.")[0] for name in trained if ".lora_A." in name}
        expected = select(decoder, (ADAPTED_GIT if is_git else ADAPTED)[targets.value])
        assert adapted == expected | (select(tower, IN_VISION) if vision else set())
        assert expected
        assert bool(select(tower, IN_VISION)) is has_tower
    generator = torch.Generator().manual_seed(0)
    pixels, tokens = torch.from_numpy(SPLIT.images[:2]), captioner.tokenize([SHORT, LONG], config).batch([0, 1])
    with torch.inference_mode():
        before = float(base(pixels, *tokens, label_smoothing=0.1, encoded=False))
        assert float(captioner(pixels, *tokens, label_smoothing=0.1, encoded=False)) == pytest.approx(before, rel=1e-5)
        for value in captioner.network.parameters():
            if value.requires_grad:
                value.copy_(torch.randn(value.shape, generator=generator) / 10)
        adapted_loss = float(captioner(pixels, *tokens, label_smoothing=0.1, encoded=False))
        merge_tuning(captioner, summary)
        merged_loss = float(captioner(pixels, *tokens, label_smoothing=0.1, encoded=False))
    assert merged_loss == pytest.approx(adapted_loss, rel=1e-4)
    assert abs(adapted_loss - before) > 1e-2
    assert captioner.network.state_dict().keys() == base.network.state_dict().keys()
