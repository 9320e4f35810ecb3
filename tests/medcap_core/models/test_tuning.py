from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch

from medcap_core.config import FreezeMode, LoraTargets, TrialConfig
from medcap_core.errors import ModelFault
from medcap_core.models import Captioner, load_captioner
from medcap_core.models.tuning import (
    TuningSummary,
    apply_tuning,
    disable_input_casting,
    encoder_is_frozen,
    merge_tuning,
)
from tests.support.tiny_blip import (
    MAX_POSITIONS,
    TEXT_LAYERS,
    TEXT_MLP,
    TEXT_WIDTH,
    VISION_LAYERS,
    VISION_MLP,
    VISION_WIDTH,
    VOCABULARY,
    TinySplit,
    tiny_config,
)


def both(*modules: str) -> set[str]:
    """Weight and bias of each module."""
    return {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


def vision_names() -> set[str]:
    base = "vision_model"
    names = {f"{base}.embeddings.class_embedding", f"{base}.embeddings.position_embedding"}
    names |= both(f"{base}.embeddings.patch_embedding", f"{base}.post_layernorm")
    parts = ("self_attn.qkv", "self_attn.projection", "layer_norm1", "mlp.fc1", "mlp.fc2", "layer_norm2")
    for layer in range(VISION_LAYERS):
        names |= both(*(f"{base}.encoder.layers.{layer}.{part}" for part in parts))
    return names


def text_names() -> set[str]:
    base = "text_decoder.bert"
    names = {f"{base}.embeddings.{part}_embeddings.weight" for part in ("word", "position")}
    names |= both(f"{base}.embeddings.LayerNorm")
    attention = ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
    parts = [f"{kind}.{part}" for kind in ("attention", "crossattention") for part in attention]
    parts += ["intermediate.dense", "output.dense", "output.LayerNorm"]
    for layer in range(TEXT_LAYERS):
        names |= both(*(f"{base}.encoder.layer.{layer}.{part}" for part in parts))
    head = "text_decoder.cls.predictions"
    # The head's matrix is the word embedding, and its layer's bias is this one: each counts once.
    return names | both(f"{head}.transform.dense", f"{head}.transform.LayerNorm") | {f"{head}.bias"}


def attention_size(query_width: int, source_width: int) -> int:
    """Parameters of query, key, value, output and norm of the text decoder's attention."""
    return 2 * (query_width**2 + query_width) + 2 * (source_width * query_width + query_width) + 2 * query_width


VISION_SIZE = (
    VISION_WIDTH  # class token
    + 10 * VISION_WIDTH  # positions: 9 patches and the class token
    + (3 * 16 * 16 + 1) * VISION_WIDTH
    + 2 * VISION_WIDTH
    + VISION_LAYERS * (4 * (VISION_WIDTH**2 + VISION_WIDTH) + 4 * VISION_WIDTH)
    + VISION_LAYERS * (2 * VISION_WIDTH * VISION_MLP + VISION_WIDTH + VISION_MLP)
)
TEXT_SIZE = (
    (len(VOCABULARY) + MAX_POSITIONS + 2) * TEXT_WIDTH
    + TEXT_LAYERS * (attention_size(TEXT_WIDTH, TEXT_WIDTH) + attention_size(TEXT_WIDTH, VISION_WIDTH))
    + TEXT_LAYERS * (2 * TEXT_WIDTH * TEXT_MLP + TEXT_MLP + TEXT_WIDTH + 2 * TEXT_WIDTH)
    + TEXT_WIDTH**2
    + 3 * TEXT_WIDTH
    + len(VOCABULARY)
)


def lora_modules(targets: LoraTargets, *, vision: bool) -> dict[str, tuple[int, int]]:
    """Name of each adapted linear layer -> its input and output width."""
    selves = {
        LoraTargets.QUERY_KEY: ["query", "key"],
        LoraTargets.SELF_QUERY_KEY: ["query", "key"],
        LoraTargets.QUERY_VALUE: ["query", "value"],
        LoraTargets.ATTENTION: ["query", "key", "value"],
        LoraTargets.ATTENTION_MLP: ["query", "key", "value"],
    }[targets]
    modules = {}
    kinds = ("attention",) if targets is LoraTargets.SELF_QUERY_KEY else ("attention", "crossattention")
    for layer, kind in product(range(TEXT_LAYERS), kinds):
        base = f"text_decoder.bert.encoder.layer.{layer}"
        for name in selves:
            from_image = kind == "crossattention" and name != "query"
            modules[f"{base}.{kind}.self.{name}"] = (VISION_WIDTH if from_image else TEXT_WIDTH, TEXT_WIDTH)
        if targets in (LoraTargets.ATTENTION, LoraTargets.ATTENTION_MLP):
            modules[f"{base}.{kind}.output.dense"] = (TEXT_WIDTH, TEXT_WIDTH)
        if targets is LoraTargets.ATTENTION_MLP:
            modules[f"{base}.intermediate.dense"] = (TEXT_WIDTH, TEXT_MLP)
            modules[f"{base}.output.dense"] = (TEXT_MLP, TEXT_WIDTH)
    for layer in range(VISION_LAYERS if vision else 0):
        base = f"vision_model.encoder.layers.{layer}.self_attn"
        modules |= {f"{base}.qkv": (VISION_WIDTH, 3 * VISION_WIDTH), f"{base}.projection": (VISION_WIDTH, VISION_WIDTH)}
    return modules


def trained_names(captioner: Captioner) -> set[str]:
    return {name for name, parameter in captioner.named_parameters() if parameter.requires_grad}


def tune(folder: Path, **changes: object) -> tuple[Captioner, TuningSummary, TrialConfig]:
    captioner, config = load_captioner(str(folder)), tiny_config(folder, **changes)
    return captioner, apply_tuning(captioner, config), config


@pytest.mark.parametrize(
    ("freeze", "names", "size"),
    [
        ("full", vision_names() | text_names(), VISION_SIZE + TEXT_SIZE),
        ("encoder_only", vision_names(), VISION_SIZE),
        ("decoder_only", text_names(), TEXT_SIZE),
        ("zero_shot", set(), 0),
    ],
)
def test_each_freeze_mode_trains_its_parameters_exactly(
    tiny_blip: Path, freeze: str, names: set[str], size: int
) -> None:
    captioner, summary, _ = tune(tiny_blip, freeze=freeze)
    assert trained_names(captioner) == {f"network.{name}" for name in names}
    assert (summary.trainable_parameters, summary.total_parameters) == (size, VISION_SIZE + TEXT_SIZE)
    assert summary.peft_model is None


@pytest.mark.parametrize("vision", [False, True])
@pytest.mark.parametrize("targets", list(LoraTargets))
def test_lora_trains_its_factors_exactly(tiny_blip: Path, targets: LoraTargets, vision: bool) -> None:
    captioner, summary, _ = tune(tiny_blip, freeze="lora", lora_rank=3, lora_targets=targets, lora_vision=vision)
    modules = lora_modules(targets, vision=vision)
    factors = product(modules, ("lora_A", "lora_B"))
    assert trained_names(captioner) == {f"network.{name}.{factor}.default.weight" for name, factor in factors}
    size = sum(3 * (width_in + width_out) for width_in, width_out in modules.values())
    assert summary.trainable_parameters == size
    assert summary.total_parameters == VISION_SIZE + TEXT_SIZE + size


def test_lora_starts_as_the_base_model(tiny_blip: Path) -> None:
    captioner, _, _ = tune(tiny_blip, freeze="lora", lora_targets="attention_mlp", lora_vision=True)
    base, pixels = load_captioner(str(tiny_blip)), torch.from_numpy(TinySplit(2, seed=1).images)
    with torch.inference_mode():
        assert torch.equal(captioner.encode_images(pixels), base.encode_images(pixels))


def note_dtype(seen: set[torch.dtype], _module: object, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
    seen.add(inputs[0].dtype)


def test_lora_reads_bfloat16_without_a_copy_in_float32(tiny_blip: Path) -> None:
    """And computes the same to the bit."""
    config = tiny_config(tiny_blip, freeze="lora", lora_targets="attention", prompt="a picture of")
    results = []
    for as_they_are in (False, True):
        torch.manual_seed(0)
        captioner = load_captioner(str(tiny_blip))
        apply_tuning(captioner, config)
        if as_they_are:
            disable_input_casting(captioner)
        features = torch.randn(2, 10, VISION_WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16()
        seen: set[torch.dtype] = set()
        attention = captioner.network.text_decoder.bert.encoder.layer[0].crossattention.self
        attention.value.lora_A["default"].register_forward_hook(partial(note_dtype, seen))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens = captioner.tokenize(["small opacity", "a nodule"], config).batch([0, 1])
            loss = captioner(features, *tokens, label_smoothing=0.1, encoded=True)
        loss.backward()
        assert seen == {torch.bfloat16 if as_they_are else torch.float32}
        results.append([loss, *(parameter.grad for parameter in captioner.parameters() if parameter.requires_grad)])
    for own, other in zip(*results, strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("missing", ["text", "vision"])
def test_lora_targets_that_match_nothing_are_an_error(tiny_blip: Path, missing: str) -> None:
    captioner = load_captioner(str(tiny_blip))
    config = tiny_config(tiny_blip, freeze="lora", lora_vision=True)
    if missing == "text":
        captioner.lora_patterns = {LoraTargets.QUERY_KEY: r"decoder\..*\.query"}  # type: ignore[misc]
    else:
        captioner.vision_lora_pattern = r"vision_model\..*\.self_attn"  # type: ignore[misc]
    with pytest.raises(ModelFault, match="lora_targets query_key: no linear layer of the blip model matches"):
        apply_tuning(captioner, config)


def test_a_parameter_that_no_rule_decides_is_an_error(tiny_blip: Path) -> None:
    captioner = load_captioner(str(tiny_blip))
    captioner.freeze_rules = ((r"^vision_model\.", "encoder"), (r"^text_decoder\.bert\.", "decoder"))  # type: ignore[misc]
    with pytest.raises(ModelFault, match=r"no freeze rule decides parameter text_decoder\.cls\.predictions\.bias"):
        apply_tuning(captioner, tiny_config(tiny_blip, freeze="full"))


def shift(captioner: Captioner, divisor: float) -> None:
    """Set the factors to noise over the divisor, and magnitudes to about 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in captioner.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + noise / 10 if "magnitude" in name else noise / divisor)


@pytest.mark.parametrize("alpha", [None, 5.0])
def test_merging_adds_the_scaled_product_of_the_factors(tiny_blip: Path, alpha: float | None) -> None:
    captioner, summary, _ = tune(
        tiny_blip, freeze="lora", lora_rank=4, lora_alpha=alpha, lora_targets="attention_mlp", lora_vision=True
    )
    shift(captioner, 10)
    layer = captioner.network.text_decoder.bert.encoder.layer[1].crossattention.self.key
    product_of_factors = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach()
    pixels = torch.from_numpy(TinySplit(2, seed=1).images)
    input_ids = torch.tensor([[5, 7, 8, 9], [5, 10, 11, 12]])
    with torch.inference_mode():
        adapted = captioner.compute_logits(captioner.encode_images(pixels), input_ids)
    merge_tuning(captioner, summary)

    base = load_captioner(str(tiny_blip))
    name = "text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"
    change = captioner.network.get_parameter(name) - base.network.get_parameter(name)
    scale = 2.0 if alpha is None else 1.25
    torch.testing.assert_close(change.detach(), scale * product_of_factors, atol=1e-6, rtol=0)
    assert {name for name, _ in captioner.network.named_parameters()} == vision_names() | text_names()
    with torch.inference_mode():
        plain = captioner.compute_logits(captioner.encode_images(pixels), input_ids)
        untouched = base.compute_logits(base.encode_images(pixels), input_ids)
    torch.testing.assert_close(plain, adapted, atol=2e-4, rtol=0)
    assert (plain - untouched).abs().max() > 0.1


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"use_rslora": True}, {"use_dora": True, "use_rslora": True}])
def test_other_kinds_of_lora_say_the_same_merged_and_apart(tiny_blip: Path, changes: dict[str, object]) -> None:
    captioner, summary, config = tune(
        tiny_blip, freeze="lora", lora_rank=4, lora_targets="attention_mlp", repetition_penalty=1.5, **changes
    )
    shift(captioner, 5)
    magnitudes = [name for name in trained_names(captioner) if "lora_magnitude_vector" in name]
    assert bool(magnitudes) is ("use_dora" in changes)
    layer = captioner.network.text_decoder.bert.encoder.layer[1].attention.self.key
    assert layer.scaling["default"] == (8 / 2 if "use_rslora" in changes else 8 / 4)
    pixels = torch.from_numpy(TinySplit(4, seed=1).images)
    with torch.inference_mode():
        apart = captioner.generate(captioner.encode_images(pixels), config)
        input_ids = torch.tensor([[5, 7, 8, 9]])
        logits = captioner.compute_logits(captioner.encode_images(pixels[:1]), input_ids)
        merge_tuning(captioner, summary)
        merged = captioner.compute_logits(captioner.encode_images(pixels[:1]), input_ids)
        assert captioner.generate(captioner.encode_images(pixels), config) == apart
    torch.testing.assert_close(merged, logits, atol=2e-4, rtol=0)
    assert len({*apart}) > 1


def test_merging_leaves_other_modes_alone(tiny_blip: Path) -> None:
    captioner, summary, _ = tune(tiny_blip, freeze="decoder_only")
    network = captioner.network
    merge_tuning(captioner, summary)
    assert captioner.network is network


@pytest.mark.parametrize(
    ("changes", "frozen"),
    [
        ({"freeze": "full"}, False),
        ({"freeze": "encoder_only"}, False),
        ({"freeze": "decoder_only"}, True),
        ({"freeze": "lora"}, True),
        ({"freeze": "lora", "lora_vision": True}, False),
        ({"freeze": "zero_shot", "lora_vision": True}, True),
    ],
)
def test_the_encoder_is_frozen_where_no_parameter_of_it_is_trained(
    tiny_blip: Path, changes: dict[str, object], frozen: bool
) -> None:
    captioner, _, config = tune(tiny_blip, **changes)
    assert encoder_is_frozen(config) is frozen
    assert any(name.startswith("network.vision_model.") for name in trained_names(captioner)) is not frozen
    assert config.freeze is FreezeMode(str(changes["freeze"]))
