"""MedBLIP in 3D: what it reads, learns and writes, with each kind of language model and of 2D encoder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForImageTextToText, Blip2QFormerConfig, Blip2VisionConfig, T5Config

from medcap_core.config import TrialConfig
from medcap_core.data.records import ImageFile
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION, Diagnosis, Question, ScanRecord, ask_diagnosis
from medcap_core.data.scans.volumes import VolumeGeometry
from medcap_core.errors import ModelFault
from medcap_core.models import load_captioner, load_geometry, load_trial_captioner, resolve_model
from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner
from medcap_core.models.medblip3d.composing import load_vision_tower
from medcap_core.models.medblip3d.network import (
    MedBlip3dConfig,
    MedBlip3dNetwork,
    compute_contrastive_loss,
    compute_similarity,
)
from medcap_core.models.medblip3d.texts import MedBlip3dTexts
from medcap_core.models.tuning import apply_tuning, encoder_is_frozen
from medcap_core.training.checkpoint import save_weights, trained_weights
from medcap_core.training.export import build_trained_captioner, export_captioner
from tests.support.tiny_models import save_tiny_biogpt, save_tiny_gpt2, save_tiny_t5, save_tiny_tower

SIZE, PATCH, NUM_QUERIES = 18, 6, 5


SAVE: dict[str, Callable[[Path], Path]] = {
    "gpt2": lambda directory: save_tiny_gpt2(directory, num_positions=200),
    "t5": save_tiny_t5,
    "biogpt": save_tiny_biogpt,
}
FULL_SIZE: dict[str, object] = {
    "vision_config": Blip2VisionConfig().to_dict(),
    "qformer_config": Blip2QFormerConfig(encoder_hidden_size=1408, use_qformer_text_input=True).to_dict(),
    "text_config": T5Config(
        vocab_size=32128, d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
    ).to_dict(),
}  # fmt: skip
SIDE = Question("side", "left or right?", "left")


@pytest.fixture(scope="module", params=list(SAVE))
def language_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVE[request.param](tmp_path_factory.mktemp(request.param) / request.param)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVE["gpt2"](tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def volumes() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, 1, SIZE, SIZE, SIZE), dtype=torch.uint8, generator=generator)


def build_config(language_model: Path, vision_model: Path | str = "phantom-blip", **changes: object) -> TrialConfig:
    values: dict[str, object] = {
        "model": "medblip3d", "language_model": str(language_model), "vision_model": str(vision_model),
        "image_size": SIZE, "patch_size": PATCH, "num_queries": NUM_QUERIES, "qformer_layers": 2,
        "freeze": "patch_and_bridge", "max_caption_tokens": 12, "max_new_tokens": 4, "num_beams": 2,
    }  # fmt: skip
    return TrialConfig.model_validate(values | changes)


def build_records() -> list[ScanRecord]:
    def record(name: str, report: str, diagnosis: Diagnosis, *others: Question) -> ScanRecord:
        image = ImageFile(Path(name))
        return ScanRecord(name, image, report, diagnosis=diagnosis, questions=(ask_diagnosis(diagnosis), *others))  # type: ignore[arg-type]

    return [
        record("a", "the left lung shows a small nodule", Diagnosis.MCI, SIDE),
        record("b", "a large opacity", Diagnosis.DEMENTIA, SIDE, Question("size", "small?", "large")),
        record("c", "the right lung", Diagnosis.MCI),
    ]


def load(config: TrialConfig) -> MedBlip3dCaptioner:
    captioner = load_trial_captioner(config)
    assert isinstance(captioner, MedBlip3dCaptioner)
    return captioner


def prepare(language_model: Path, **changes: object) -> tuple[TrialConfig, MedBlip3dCaptioner, MedBlip3dTexts]:
    """A config, its captioner, and the texts of `build_records`."""
    config = build_config(language_model, **changes)
    captioner = load(config)
    return config, captioner, captioner.tokenize_records(build_records(), config)


def test_a_volume_becomes_patches_and_a_class_token_of_the_encoders_width(gpt2: Path, volumes: Tensor) -> None:
    captioner = load(build_config(gpt2))
    with torch.inference_mode():
        hidden_states = captioner.encode_images(volumes)
        found = captioner.network.query_scans(hidden_states)
    assert (hidden_states.shape, found.shape) == ((3, 1 + (SIZE // PATCH) ** 3, 128), (3, NUM_QUERIES, 128))


def test_the_patch_embedding_sees_a_slab_as_the_2d_one_sees_its_slice(gpt2: Path) -> None:
    captioner = load(build_config(gpt2, image_size=32, patch_size=16))
    tower = load_vision_tower(resolve_model("phantom-blip"), torch.float32)
    blip = load_captioner("phantom-blip")
    picture = torch.randint(0, 256, (1, 1, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        flat = tower.embeddings.patch_embedding(blip.scale_pixels(picture.expand(-1, 3, -1, -1)))
        slab = captioner.scale_pixels(picture[..., None].expand(-1, -1, -1, -1, 32))
        deep = captioner.encoder.patch_embedding(slab)
    for height in range(2):
        torch.testing.assert_close(deep[..., height], flat, rtol=1e-3, atol=1e-3)


def test_positions_differ_by_place_and_height_as_loudly_as_in_the_plane(gpt2: Path) -> None:
    captioner = load(build_config(gpt2, image_size=96, patch_size=16))
    own = load_captioner("phantom-blip").network.vision_model.embeddings.position_embedding[0]
    found = captioner.encoder.position_embedding[0, 1:].view(6, 6, 6, 128)
    with torch.inference_mode():
        in_plane = found - found[:1, :1]
        assert torch.allclose(in_plane[:, :, 0], in_plane[:, :, 5], atol=1e-5)
        torch.testing.assert_close(in_plane[:, :, 0].flatten(0, 1), own[1:] - own[1], rtol=1e-4, atol=1e-5)
        assert float((found[0, 0] - own[1]).std()) == pytest.approx(float(own[1:].std()), rel=0.1)


def test_any_vit_gives_its_blocks(gpt2: Path, tmp_path: Path, volumes: Tensor) -> None:
    config = build_config(gpt2, save_tiny_tower(tmp_path / "vit", "vit"))
    captioner = load(config)
    with torch.inference_mode():
        assert len(captioner.generate(captioner.encode_images(volumes), config)) == 3


def test_the_base_model_is_the_same_in_every_process_and_seed(gpt2: Path) -> None:
    torch.manual_seed(5)
    first = load(build_config(gpt2)).state_dict()
    torch.manual_seed(6)
    second = load(build_config(gpt2, seed=9)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_geometry_is_known_without_weights(gpt2: Path) -> None:
    assert load_geometry(build_config(gpt2)) == VolumeGeometry(SIZE)
    assert load_geometry(build_config(gpt2, image_size=None)) == VolumeGeometry(224)


def test_rows_have_the_image_between_prompt_and_answer(gpt2: Path) -> None:
    _, captioner, texts = prepare(gpt2, max_caption_tokens=90)
    *_, ids, mask, starts, scan_of_row, labels = texts.batch([0, 2])
    spell = captioner.processor.tokenizer
    asked = ["Question: What will this subject be diagnosed with? Answer:", " mild cognitive impairment"]
    words, answer = spell(asked, add_special_tokens=False).input_ids
    answer.append(0)
    assert scan_of_row.tolist() == [0, 0, 0, 1, 1]  # report, diagnosis, side; report, diagnosis
    row = 1
    assert int(starts[row]) == len(words)
    length = len(words) + NUM_QUERIES + len(answer)
    assert int(mask[row].sum()) == length
    kept = [*words, *[0] * NUM_QUERIES, *answer][: ids.shape[1]]
    assert ids[row, :length].tolist() == kept
    assert labels[row, :length].tolist() == [-100, *words[1:], *[-100] * NUM_QUERIES, *answer]
    assert texts.count_labels([0, 2]) == int((labels != -100).sum())


def test_the_other_questions_come_by_turns(gpt2: Path) -> None:
    _, _, texts = prepare(gpt2)
    asked = [texts.for_epoch(epoch).scans[1].rows(epoch + 1)[2] for epoch in range(4)]
    assert asked[0] == asked[2] != asked[1] == asked[3]


def test_an_unlabelled_batch_has_no_loss(language_model: Path, volumes: Tensor) -> None:
    _, captioner, texts = prepare(language_model)
    loss = captioner(volumes[:1], *texts.batch([0], unlabelled=True), label_smoothing=0.0, encoded=False)
    assert loss == 0


def test_padding_changes_no_loss(language_model: Path, volumes: Tensor) -> None:
    _, captioner, texts = prepare(language_model)
    with torch.inference_mode():
        batches = [texts.batch([0, 1, 2], multiple) for multiple in (1, 16)]
        losses = [float(captioner(volumes, *batch, label_smoothing=0.1, encoded=False)) for batch in batches]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_word_loss_is_what_the_logits_of_reports_say(language_model: Path, volumes: Tensor) -> None:
    """`compute_logits` and the rows of `forward` go different ways to the same words."""
    config = build_config(language_model)
    captioner = load(config)
    record = ScanRecord("a", ImageFile(Path("a")), "the left lung")  # type: ignore[arg-type]
    batch = captioner.tokenize_records([record], config).batch([0])
    with torch.inference_mode():
        hidden_states = captioner.encode_images(volumes[:1])
        total = float(captioner(volumes[:1], *batch, label_smoothing=0.0, encoded=False))
        input_ids, labels = captioner.tokenize(["the left lung"], config).batch([0])
        logits = captioner.compute_logits(hidden_states, input_ids)
        answer = torch.nn.functional.cross_entropy(logits[0, :-1].float(), labels[0, 1:], reduction="sum")
        prompt = 0.0
        if not captioner.is_encoder_decoder:
            words = torch.tensor([captioner.report_prompt])
            foretold = captioner.network.language_model(input_ids=words).logits[0, :-1]
            prompt = float(torch.nn.functional.cross_entropy(foretold, words[0, 1:], reduction="sum"))
    # One scan has nothing to be told apart from: both contrastive losses are 0.
    assert total == pytest.approx(float(answer) + prompt, rel=1e-4)


def test_contrastive_loss_by_hand() -> None:
    queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, -1.0]]])
    texts = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(compute_similarity(queries, texts), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    loss = compute_contrastive_loss(queries, texts, torch.eye(2, dtype=torch.bool), torch.tensor(1.0))
    # Scan 0: both texts 1/2. Scan 1: e / (e + 1), 1 / (e + 1), of which the second is right. Texts likewise.
    half, high, low = np.log(2), np.log(1 + np.e) - 1, np.log(1 + np.e)
    assert float(loss) == pytest.approx((half + 0.95 * low + 0.05 * high) / 2, rel=1e-5)


def test_equal_texts_are_not_each_others_negatives() -> None:
    queries = torch.nn.functional.normalize(torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    text = torch.nn.functional.normalize(torch.ones(1, 4), dim=-1).expand(3, -1).clone().requires_grad_()
    same = torch.ones(3, 3, dtype=torch.bool)
    loss = compute_contrastive_loss(queries, text, same, torch.tensor(0.07))
    uniform = compute_contrastive_loss(queries[:1].expand(3, -1, -1), text, same, torch.tensor(0.07))
    assert float(uniform) == pytest.approx(np.log(3), rel=1e-5)
    assert float(loss) > float(uniform)


PATCHES = {"encoder.position_embedding", "encoder.patch_embedding.weight", "encoder.patch_embedding.bias"}
BRIDGE = (
    "image_norm.", "query_tokens", "text_embeddings.", "qformer.", "image_projection.", "report_projection.",
    "answer_projection.", "temperature", "language_projection.",
)  # fmt: skip


@pytest.mark.parametrize("freeze", ["patch_and_bridge", "bridge_only", "patch_and_bridge_lora", "zero_shot", "full"])
def test_each_mode_trains_exactly_its_parameters(gpt2: Path, freeze: str) -> None:
    config = build_config(gpt2, freeze=freeze, lora_rank=2, lora_targets="attention_mlp")
    captioner = load(config)
    names = {name for name, _ in captioner.network.named_parameters()}
    apply_tuning(captioner, config)
    trained = {name for name, parameter in captioner.network.named_parameters() if parameter.requires_grad}
    bridge = {name for name in names if name.startswith(BRIDGE)}
    factors = {
        f"language_model.transformer.h.{layer}.{module}.lora_{factor}.default.weight"
        for layer in range(2)
        for module in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        for factor in "AB"
    }
    expected = {
        "patch_and_bridge": PATCHES | bridge,
        "bridge_only": bridge,
        "patch_and_bridge_lora": PATCHES | bridge | factors,
        "zero_shot": set(),
        "full": names,
    }[freeze]
    assert trained == expected
    assert encoder_is_frozen(config) == (freeze in ("bridge_only", "zero_shot"))


@pytest.mark.parametrize("freeze", ["patch_and_bridge", "bridge_only"])
def test_every_trained_parameter_has_a_gradient(language_model: Path, volumes: Tensor, freeze: str) -> None:
    config, captioner, texts = prepare(language_model, freeze=freeze)
    apply_tuning(captioner, config)
    captioner.train()
    assert not captioner.network.language_model.training
    captioner(volumes, *texts.batch([0, 1, 2]), label_smoothing=0.0, encoded=False).backward()
    without = {name for name, weight in captioner.named_parameters() if weight.requires_grad and weight.grad is None}
    assert not without


def test_patches_are_refused_to_a_model_that_has_none(tiny_blip: Path) -> None:
    config = TrialConfig(model=str(tiny_blip), freeze="patch_and_bridge", max_caption_tokens=9, max_new_tokens=9)
    with pytest.raises(ModelFault, match="has no 3D patch embedding"):
        apply_tuning(load_trial_captioner(config), config)


def test_answers_do_not_depend_on_who_else_is_asked(language_model: Path, volumes: Tensor) -> None:
    config = build_config(language_model, num_beams=1)
    captioner = load(config)
    with torch.inference_mode():
        hidden_states = captioner.encode_images(volumes)
        questions = ["left or right?", DIAGNOSIS_QUESTION, "left or right?"]
        together = captioner.answer(hidden_states, questions, config)
        alone = [captioner.answer(hidden_states[i : i + 1], [questions[i]], config)[0] for i in range(3)]
    assert together == alone


def test_class_scores_are_similarities_of_question_and_answer(gpt2: Path, volumes: Tensor) -> None:
    captioner = load(build_config(gpt2))
    answers = [diagnosis.value for diagnosis in Diagnosis]
    with torch.inference_mode():
        hidden_states = captioner.encode_images(volumes)
        scores = captioner.compute_class_scores(hidden_states, DIAGNOSIS_QUESTION, answers)
        single = captioner.compute_class_scores(hidden_states, DIAGNOSIS_QUESTION, answers[1:2])
    assert scores.shape == (3, 3)
    torch.testing.assert_close(scores[:, 1:2], single)
    assert float(scores.abs().max()) <= 1 + 1e-5


@pytest.mark.parametrize("freeze", ["patch_and_bridge", "patch_and_bridge_lora"])
def test_a_trained_model_is_saved_and_loaded_in_hub_format(
    language_model: Path, volumes: Tensor, tmp_path: Path, freeze: str
) -> None:
    config, captioner, texts = prepare(language_model, freeze=freeze, lora_rank=2, lora_targets="attention")
    apply_tuning(captioner, config)
    trained = [parameter for parameter in captioner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(2):
        captioner(volumes, *texts.batch([0, 1, 2]), label_smoothing=0.0, encoded=False).backward()
        optimizer.step()
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, trained_weights(captioner))
    export_captioner(config, weights, tmp_path / "model")
    loaded = load(TrialConfig(model=str(tmp_path / "model"), max_caption_tokens=12))
    rebuilt = build_trained_captioner(config, weights)
    texts_of, logits_of = [], []
    with torch.inference_mode():
        for model in (rebuilt, loaded):
            encoded = model.encode_images(volumes)
            ids, _ = model.tokenize(["the left lung"] * 3, config).batch(range(3))
            answers = model.answer(encoded, [SIDE.text] * 3, config)
            texts_of.append([*model.generate(encoded, config), *answers])
            logits_of.append(model.compute_logits(encoded, ids))
    assert texts_of[0] == texts_of[1]
    torch.testing.assert_close(*logits_of, rtol=1e-4, atol=1e-4)
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as file:
        assert "qformer.layernorm.weight" in file.keys()  # noqa: SIM118 - not a dict
    with pytest.raises(ValueError, match="Unrecognized configuration class"):  # so docs/runs.md says
        AutoModelForImageTextToText.from_pretrained(tmp_path / "model")


def test_a_saved_model_keeps_its_parts(gpt2: Path, tmp_path: Path) -> None:
    export_captioner(build_config(gpt2, freeze="zero_shot"), None, tmp_path)
    with pytest.raises(ModelFault) as fault:
        load_trial_captioner(TrialConfig(model=str(tmp_path), language_model=str(gpt2), patch_size=3))
    assert list(fault.value.faults) == [
        f"model {tmp_path} has its own language_model; remove language_model, which is for model medblip3d.",
        f"model {tmp_path} has patch_size 6; give that or leave patch_size out.",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 19}, "image_size 19 is no multiple of patch_size 6"),
        ({"language_model": "phantom-blip"}, "language_model .* is a blip, which is no language model"),
        ({"max_caption_tokens": 196}, "max_caption_tokens 196 exceeds the 195 positions"),
        ({"vision_model": "owner/none"}, "^vision_model owner/none: neither the local cache"),
        ({"augment": True}, "augment turns and brightens images"),
        ({"quantization": "8bit", "freeze": "lora"}, "remove quantization"),
    ],
)
def test_parts_that_do_not_fit_are_named(
    gpt2: Path, changes: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    parts = {"language_model": gpt2} | changes
    with pytest.raises(ModelFault, match=said):
        load_trial_captioner(build_config(Path(str(parts.pop("language_model"))), **parts))


def test_a_question_too_long_for_the_language_model_is_named(tmp_path: Path) -> None:
    config = build_config(save_tiny_gpt2(tmp_path / "gpt2", num_positions=40))
    with pytest.raises(ModelFault, match=r"record a: 'Question: What .* and the 40 positions"):
        load(config).tokenize_records(build_records(), config)


def test_settings_of_the_3d_model_are_refused_elsewhere() -> None:
    with pytest.raises(ModelFault, match="num_queries is for model medblip3d"):
        load_trial_captioner(TrialConfig(num_queries=4))


def test_the_full_size_model_counts_its_parameters_on_the_meta_device() -> None:
    """BLIP-2's ViT-g (width 1408, 39 blocks) at 343 patches, Q-Former of BERT-base's size, FLAN-T5-XL."""
    with torch.device("meta"):
        network = MedBlip3dNetwork(MedBlip3dConfig(**FULL_SIZE))
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    width, mlp, queries, text = 1408, 6144, 768, 2048
    block = 4 * width * width + 2 * width * mlp + width * (3 + 1 + 1 + 4) + mlp
    assert parts["encoder"] == 39 * block + 32**3 * width + width + 344 * width + width
    attention, cross, feed = 4 * queries**2, 2 * (queries**2 + queries * width), 2 * 4 * queries**2
    per_layer = attention + 2 * feed + 4 * queries + 2 * (4 + 1) * queries + 3 * 2 * queries
    assert parts["qformer"] == 12 * per_layer + 6 * (cross + 4 * queries + 2 * queries) + 2 * queries
    assert parts["language_projection"] == queries * text + text
    assert 2.75e9 < parts["language_model"] < 2.9e9
    assert network.query_tokens.numel() == 32 * queries
