"""What holds for every family: its loss, its captions, what each mode trains, and the way out and back."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    InstructBlipForConditionalGeneration,
    VisionEncoderDecoderModel,
    pipeline,
)

from medcap_core.captioning import caption, load_configured, read_settings
from medcap_core.config import FreezeMode
from medcap_core.data.batches import PixelSource
from medcap_core.data.images import resize
from medcap_core.data.records import ImageFile, Record, fold_white_space
from medcap_core.errors import ModelFault
from medcap_core.models import Captioner, load_captioner, load_geometry, load_trial_captioner
from medcap_core.models.tuning import apply_tuning, encoder_is_frozen, merge_tuning
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.export import build_trained_captioner, export_captioner
from medcap_core.training.loop import fit
from tests.medcap_core.models.conftest import MAKERS
from tests.support.tiny_blip import TinySplit, generate_captions, tiny_config, tiny_data

every_family = pytest.mark.parametrize("folder", list(MAKERS), indirect=True)
one_of_each = pytest.mark.parametrize("folder", ["blip2-opt", "instructblip-t5", "vit-gpt2"], indirect=True)
LONG, SHORT = "the left lung shows a large nodule in the right lung .", "small opacity"


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.from_numpy(TinySplit(5, seed=3).images)


def compute_loss(captioner: Captioner, images: Tensor, captions: list[str], *, pad_to: int = 1) -> float:
    batch = captioner.tokenize(captions, tiny_config(Path("unused"))).batch(range(len(captions)), pad_to)
    with torch.inference_mode():
        return float(captioner(images, *batch, label_smoothing=0.1, encoded=images.ndim == 3))


@every_family
def test_the_loss_of_a_batch_is_the_sum_of_its_captions_however_padded(folder: Path, pixels: Tensor) -> None:
    captioner = load_captioner(str(folder))
    captions = [SHORT, LONG, SHORT]
    alone = [compute_loss(captioner, pixels[i : i + 1], [text]) for i, text in enumerate(captions)]
    with torch.inference_mode():
        encoded = captioner.encode_images(pixels[:3])
    for images in (pixels[:3], encoded):
        for pad_to in (1, 8, 17):
            assert compute_loss(captioner, images, captions, pad_to=pad_to) == pytest.approx(sum(alone), rel=1e-5)
    assert abs(alone[0] - alone[2]) > 1e-3  # the same words of another image


@every_family
def test_only_what_follows_the_prompt_has_a_loss(folder: Path, pixels: Tensor) -> None:
    config = tiny_config(folder, prompt="a picture of ")
    captioner = load_trial_captioner(config)
    tokens = captioner.tokenize([SHORT], config)
    input_ids, *others = tokens.batch([0])
    with torch.inference_mode():
        log_probabilities = captioner.compute_logits(captioner.encode_images(pixels[:1]), input_ids).log_softmax(-1)[0]
        loss = float(captioner(pixels[:1], input_ids, *others, label_smoothing=0.0, encoded=False))
    places = range(tokens.prompt_length, input_ids.shape[1])
    expected = -sum(float(log_probabilities[place - 1, input_ids[0, place]]) for place in places)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert tokens.count_labels([0]) == len(places)
    words = captioner.processor.tokenizer.decode(input_ids[0, tokens.prompt_length :], skip_special_tokens=True)
    assert words.strip() == SHORT


@every_family
def test_of_several_captions_one_is_trained_on_in_each_epoch(folder: Path) -> None:
    captioner, config = load_captioner(str(folder)), tiny_config(folder)
    texts = captioner.tokenize_records([Record("a", ImageFile(folder), LONG, other_captions=(SHORT,))], config)
    expected = {tuple(captioner.tokenize([caption], config).batch([0])[0][0].tolist()) for caption in (LONG, SHORT)}
    assert {tuple(texts.for_epoch(epoch).batch([0])[0][0].tolist()) for epoch in range(20)} == expected


@every_family
def test_a_long_caption_is_cut_and_keeps_its_end_token(folder: Path) -> None:
    captioner, config = load_captioner(str(folder)), tiny_config(folder, max_caption_tokens=6)
    (whole,), (cut,) = (
        captioner.tokenize([LONG], config.model_copy(update={"max_caption_tokens": length})).ids for length in (40, 6)
    )
    assert len(cut) == 6
    assert cut.tolist() == [*whole[:5].tolist(), whole[-1]]


@every_family
def test_an_image_has_the_same_caption_in_any_company_from_pixels_or_features(folder: Path, pixels: Tensor) -> None:
    config = tiny_config(folder, num_beams=3, repetition_penalty=1.2, min_new_tokens=2)
    captioner = load_trial_captioner(config)
    with torch.inference_mode():
        encoded = captioner.encode_images(pixels)
        together = captioner.generate(encoded, config)
        alone = [captioner.generate(encoded[index : index + 1], config)[0] for index in range(len(pixels))]
    assert together == alone
    assert generate_captions(captioner, PixelSource(TinySplit(5, seed=3)), config) == together
    assert len(set(together)) > 1
    assert not any("\n" in text or text != text.strip() for text in together)


@one_of_each
@pytest.mark.parametrize(
    "mode", [mode for mode in FreezeMode if mode not in ("lora", "zero_shot") and "patch" not in mode]
)
def test_each_mode_trains_its_parts_and_each_trained_parameter_gets_a_gradient(
    folder: Path, mode: str, pixels: Tensor
) -> None:
    captioner, config = load_captioner(str(folder)), tiny_config(folder, freeze=mode)
    if mode == "bridge_only" and captioner.family == "vit-gpt2":
        with pytest.raises(ModelFault, match=r"bridge_only: a vit-gpt2 model has no bridge .* use encoder_only"):
            apply_tuning(captioner, config)
        return
    apply_tuning(captioner, config)
    image_side = {"vision_model", "encoder"}
    bridge = {"query_tokens", "qformer", "language_projection"}
    decoder = {"language_model", "decoder", "enc_to_dec_proj"}
    roots = {
        "full": image_side | bridge | decoder,
        "encoder_only": image_side | bridge,
        "bridge_only": bridge,
        "decoder_only": decoder,
    }[mode]
    unused = ("encoder.pooler.",) if captioner.family == "vit-gpt2" else ()
    if captioner.family == "instructblip":  # the last layer's feed-forward of the instruction's own words
        unused = ("qformer.encoder.layer.1.intermediate.", "qformer.encoder.layer.1.output.")
    parameters = dict(captioner.network.named_parameters())
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    assert trained == {name for name in parameters if name.partition(".")[0] in roots and not name.startswith(unused)}
    assert encoder_is_frozen(config) is not any(name.startswith(("vision_model.", "encoder.")) for name in trained)
    tokens = captioner.tokenize([SHORT, LONG], config)
    captioner(pixels[:2], *tokens.batch([0, 1]), label_smoothing=0.1, encoded=False).backward()
    assert [name for name in trained if parameters[name].grad is None] == []


@one_of_each
def test_lora_starts_as_the_base_model_and_merges_to_what_it_was(folder: Path, pixels: Tensor) -> None:
    captioner = load_captioner(str(folder))
    config = tiny_config(folder, freeze="lora", lora_rank=3, lora_targets="attention_mlp", lora_vision=True)
    before = compute_loss(captioner, pixels[:2], [SHORT, LONG])
    names = {name for name, _ in captioner.network.named_parameters()}
    summary = apply_tuning(captioner, config)
    assert compute_loss(captioner, pixels[:2], [SHORT, LONG]) == pytest.approx(before, rel=1e-6)
    trained = {name: value for name, value in captioner.named_parameters() if value.requires_grad}
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert any(name.startswith(("network.vision_model.", "network.encoder.")) for name in trained)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in trained.values():
            value.copy_(torch.randn(value.shape, generator=generator) / 10)
    adapted = compute_loss(captioner, pixels[:2], [SHORT, LONG])
    merge_tuning(captioner, summary)
    assert {name for name, _ in captioner.network.named_parameters()} == names
    assert compute_loss(captioner, pixels[:2], [SHORT, LONG]) == pytest.approx(adapted, rel=1e-4)
    assert abs(adapted - before) > 1e-2


ADAPTED = {
    "blip2-opt": {
        "query_key": {"q_proj", "k_proj"},
        "self_query_key": {"self_attn.q_proj", "self_attn.k_proj"},
        "query_value": {"q_proj", "v_proj"},
        "attention": {"q_proj", "k_proj", "v_proj", "out_proj"},
        "attention_mlp": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    },
    "instructblip-t5": {
        "query_key": {"q", "k"},
        "self_query_key": {"SelfAttention.q", "SelfAttention.k"},
        "query_value": {"q", "v"},
        "attention": {"q", "k", "v", "o"},
        "attention_mlp": {"q", "k", "v", "o", "wi_0", "wi_1", "wo"},
    },
    "vit-gpt2": {
        "query_key": {"c_attn", "q_attn"},
        "self_query_key": {"attn.c_attn"},
        "query_value": {"c_attn", "q_attn"},
        "attention": {"c_attn", "q_attn", "attn.c_proj", "crossattention.c_proj"},
        "attention_mlp": {"c_attn", "q_attn", "c_proj", "c_fc"},
    },
}


@one_of_each
def test_lora_adapts_the_named_layers_of_the_language_model_exactly(
    request: pytest.FixtureRequest, folder: Path
) -> None:
    base = load_captioner(str(folder))
    for targets, endings in ADAPTED[request.node.callspec.params["folder"]].items():
        captioner = copy.deepcopy(base)
        expected = {
            name
            for name, module in captioner.network.named_modules()
            if name.startswith(("language_model.", "decoder.")) and hasattr(module, "weight")
            if any(name.endswith(f".{ending}") for ending in endings)
        }
        apply_tuning(captioner, tiny_config(folder, freeze="lora", lora_targets=targets))
        names = dict(captioner.network.named_parameters())
        adapted = {name.partition(".lora_A.")[0] for name in names if ".lora_A." in name}
        assert adapted == expected != set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "freeze"),
    [("blip2-opt", "lora"), ("instructblip-t5", "full"), ("vit-gpt2", "full"), ("vit-gpt2", "lora")],
    indirect=["folder"],
)
def test_a_trained_model_goes_out_in_hub_format_and_back_with_the_same_captions(
    folder: Path, freeze: str, tmp_path: Path
) -> None:
    rate = {"full": 3e-3, "lora": 1e-2}[freeze]
    config = tiny_config(folder, freeze=freeze, lora_targets="attention_mlp", num_epochs=2, learning_rate=rate)
    data, reports = tiny_data(), list[EpochReport]()
    fit(config, data, tmp_path / "checkpoints", reports.append)
    assert reports[-1].training_loss < 0.95 * reports[0].training_loss
    assert all(math.isfinite(report.score) for report in reports)
    best = tmp_path / "checkpoints" / "best" / "weights.safetensors"
    trained = build_trained_captioner(config, best)
    images = PixelSource(data.splits["validation"])
    captions = generate_captions(trained, images, config)
    export_captioner(config, best, tmp_path / "best")
    assert not list((tmp_path / "best").glob("*.bin"))
    settings = read_settings(str(tmp_path / "best"))
    again = load_trial_captioner(settings.model_copy(update={"freeze": FreezeMode.ZERO_SHOT}))
    assert generate_captions(again, images, settings) == captions
    assert again.network.generation_config.num_beams == 2
    assert again.network.generation_config.max_new_tokens == 10
    Image.fromarray(TinySplit(1, seed=5).images[0].transpose(1, 2, 0)).save(tmp_path / "one.png")
    assert len(caption(load_configured(settings), [tmp_path / "one.png"])) == 1


@pytest.mark.parametrize("prompt", ["", "the left lung"])
@every_family
def test_plain_transformers_captions_by_a_saved_model_as_the_trial_did(
    folder: Path, prompt: str, tmp_path: Path
) -> None:
    settings = {"num_beams": 3, "max_new_tokens": 9, "min_new_tokens": 4, "length_penalty": 0.4, "prompt": prompt}
    config = tiny_config(folder, freeze="zero_shot", repetition_penalty=1.3, **settings)
    export_captioner(config, None, tmp_path / "first")
    export_captioner(config.model_copy(update={"model": str(tmp_path / "first")}), None, tmp_path / "best")
    images = [Image.fromarray(pixels.transpose(1, 2, 0)) for pixels in TinySplit(5, seed=3).images]
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    own = read_settings(str(tmp_path / "best"))
    expected = caption(load_configured(own), paths)
    greedy = {"num_beams": 1, "max_new_tokens": 20, "min_new_tokens": 0, "length_penalty": 1, "repetition_penalty": 1}
    assert caption(load_configured(own.model_copy(update=greedy)), paths) != expected

    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "best").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "best")
    begin = processor.tokenizer.bos_token if isinstance(model, VisionEncoderDecoderModel) else ""
    asked = bool(prompt) or isinstance(model, InstructBlipForConditionalGeneration)
    inputs = processor(images=images, return_tensors="pt", text=[begin + prompt] * len(images) if asked else None)
    ids = model.generate(**inputs)
    texts = list(map(fold_white_space, processor.batch_decode(ids, skip_special_tokens=True)))
    shown = "" if getattr(model.config, "use_decoder_only_language_model", True) is False else prompt
    assert [text.removeprefix("[DEC]").strip().removeprefix(shown).strip() for text in texts] == expected

    task = pipeline("image-text-to-text", model=str(tmp_path / "best"))
    written = [task(images=image, text=begin + prompt, return_full_text=False)[0]["generated_text"] for image in images]
    assert list(map(fold_white_space, written)) == expected


@one_of_each
def test_positions_are_interpolated_for_another_image_size_and_saved(folder: Path, tmp_path: Path) -> None:
    size = 80
    captioner = load_captioner(str(folder), size)
    config = tiny_config(folder, image_size=size)
    assert captioner.geometry == load_geometry(config)
    assert captioner.geometry.size == size
    image = Image.fromarray(TinySplit(1, seed=5).images[0].transpose(1, 2, 0))
    pixels = torch.from_numpy(resize(image, size, captioner.geometry.resample))[None]
    captioner.save(tmp_path)
    again = load_captioner(str(tmp_path))
    own = load_captioner(str(folder))
    with torch.inference_mode():
        encoded = captioner.encode_images(pixels)
        assert encoded.shape[1] == (size // 16) ** 2 + 1
        torch.testing.assert_close(again.encode_images(pixels), encoded, atol=1e-5, rtol=0)
        on_the_fly = own.encoder(own.scale_pixels(pixels), interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(encoded, on_the_fly, atol=1e-5, rtol=0)
    with pytest.raises(ModelFault, match=r"image_size 85 is no multiple of the 16-pixel patches .* give 80"):
        load_captioner(str(folder), size + 5)


@one_of_each
def test_all_that_a_model_cannot_do_is_told_at_once(folder: Path) -> None:
    captioner = load_captioner(str(folder))
    captioner.check(tiny_config(folder, max_caption_tokens=35, max_new_tokens=34))
    config = tiny_config(folder, max_caption_tokens=41, max_new_tokens=38, prompt="a picture of ")
    if getattr(captioner, "is_encoder_decoder", False):
        captioner.check(config)  # relative positions
        return
    with pytest.raises(ModelFault) as caught:
        captioner.check(config)
    assert len(caught.value.faults) == 2
    longest = 40 if captioner.family == "vit-gpt2" else 35
    assert caught.value.faults[1].endswith(f"lower max_new_tokens to at most {longest - 4}.")
    with pytest.raises(ModelFault, match="the prompt has 4 tokens and max_caption_tokens is 4"):
        captioner.check(tiny_config(folder, max_caption_tokens=4, prompt="a picture of "))


@one_of_each
def test_a_fresh_captioner_is_untouched_by_the_last(folder: Path) -> None:
    first = load_captioner(str(folder))
    before = copy.deepcopy(first.state_dict())
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.fill_(7.0)
    for name, value in load_captioner(str(folder)).state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "freeze"),
    [("blip2-opt", "bridge_only"), ("instructblip-t5", "lora"), ("instructblip-t5", "zero_shot")],
    indirect=["folder"],
)
def test_large_models_hold_frozen_weights_in_bf16_and_train_in_float32(
    folder: Path, freeze: str, tmp_path: Path
) -> None:
    config = tiny_config(folder, freeze=freeze, weights_dtype="bf16", num_epochs=2, learning_rate=1e-3)
    data, reports = tiny_data(), list[EpochReport]()
    fit(config, data, tmp_path, reports.append)
    assert all(math.isfinite(report.validation_loss) for report in reports)
    weights = None if freeze == "zero_shot" else tmp_path / "best" / "weights.safetensors"
    trained = build_trained_captioner(config, weights)
    dtypes = {name: value.dtype for name, value in trained.network.named_parameters()}
    assert dtypes["vision_model.embeddings.class_embedding"] is torch.bfloat16
    assert {dtypes[name] for name in dtypes if ".lora_" in name} <= {torch.float32}
    if freeze == "bridge_only":
        assert reports[-1].validation_loss < reports[0].validation_loss
        assert {dtypes[name] for name in dtypes if name.startswith(("query", "qformer"))} == {torch.float32}
    assert len(generate_captions(trained, PixelSource(data.splits["validation"]), config)) == 7
    export_captioner(config, weights, tmp_path / "best")
    exported = load_captioner(str(tmp_path / "best")).state_dict()
    assert {name: value.dtype for name, value in exported.items() if ".lora_" in name} == {}
    assert exported.keys() == load_captioner(str(folder)).state_dict().keys()


def test_what_is_trained_beside_bf16_weights_becomes_float32(folder_of: Callable[[str], Path]) -> None:
    captioner = load_captioner(str(folder_of("blip2-opt")))
    captioner.network.to(torch.bfloat16)
    apply_tuning(captioner, tiny_config(folder_of("blip2-opt"), freeze="bridge_only"))
    for name, parameter in captioner.network.named_parameters():
        assert parameter.dtype is (torch.float32 if parameter.requires_grad else torch.bfloat16), name


def test_quantization_says_what_it_does_not_go_with(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("blip2-opt")
    tiny_config(folder, freeze="bridge_only", quantization="8bit")
    for freeze in ("full", "decoder_only"):
        with pytest.raises(ValueError, match="makes untrainable; use freeze: lora"):
            tiny_config(folder, freeze=freeze, quantization="8bit")
    with pytest.raises(ValueError, match="parallel fsdp shards no weights of quantization 8bit; use parallel: ddp"):
        tiny_config(folder, freeze="lora", quantization="8bit", parallel="fsdp")
    with pytest.raises(ModelFault, match="a vit-gpt2 model is small enough as it is; remove quantization"):
        load_trial_captioner(tiny_config(folder_of("vit-gpt2"), freeze="lora", quantization="8bit"))
