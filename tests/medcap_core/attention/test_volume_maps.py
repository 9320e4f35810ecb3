"""Maps over a volume: attention computed here once more by hand, and what words and queries make of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medcap_core.attention.explained import ExplainedText, WordMap, find_peak
from medcap_core.attention.maps import AttentionMethod, MapSettings, explain_texts, weigh_patches, weigh_tokens
from medcap_core.config import TrialConfig
from medcap_core.errors import ConfigFault
from medcap_core.models import load_trial_captioner
from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner
from tests.support.tiny_models import save_tiny_gpt2, save_tiny_t5, save_tiny_tower

SIZE, PATCH, NUM_QUERIES, SIDE = 18, 6, 5, 3
QUESTION = "left or right?"
METHODS = [MapSettings(method) for method in AttentionMethod]


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MedBlip3dCaptioner, TrialConfig]:
    folder = tmp_path_factory.mktemp(request.param)
    language_model = (
        save_tiny_gpt2(folder / "lm", num_positions=200) if request.param == "gpt2" else save_tiny_t5(folder / "lm")
    )
    return build(language_model, "phantom-blip")


def build(language_model: Path, vision_model: Path | str) -> tuple[MedBlip3dCaptioner, TrialConfig]:
    config = TrialConfig.model_validate({
        "model": "medblip3d", "language_model": str(language_model), "vision_model": str(vision_model),
        "image_size": SIZE, "patch_size": PATCH, "num_queries": NUM_QUERIES, "qformer_layers": 3,
        "freeze": "zero_shot", "max_caption_tokens": 12, "max_new_tokens": 5, "num_beams": 1,
    })  # fmt: skip
    captioner = load_trial_captioner(config)
    assert isinstance(captioner, MedBlip3dCaptioner)
    return captioner, config


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (3, 1, SIZE, SIZE, SIZE), dtype=np.uint8)


def attend(module: torch.nn.Module, heads: int, queries: Tensor, keys: Tensor) -> Tensor:
    """Scaled dot-product scores (B, H, R, C) of a layer with `query` and `key`."""
    split = lambda values: values.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    left, right = split(module.query(queries)), split(module.key(keys))
    return (left @ right.transpose(2, 3) / left.shape[-1] ** 0.5).softmax(-1)


def test_query_maps_are_the_q_formers_cross_attention(
    model: tuple[MedBlip3dCaptioner, TrialConfig], pixels: np.ndarray
) -> None:
    """The input of every cross-attention is caught in the captioner itself, which never writes scores out."""
    captioner, config = model
    network = captioner.network
    crossing = [layer.crossattention.attention for layer in network.qformer.encoder.layer if layer.has_cross_attention]
    assert len(crossing) == 2
    caught: list[Tensor] = []
    handles = [module.query.register_forward_pre_hook(lambda _, given: caught.append(given[0])) for module in crossing]
    with torch.inference_mode():
        hidden_states = captioner.encode_images(torch.from_numpy(pixels))
        network.query_scans(hidden_states)
        for handle in handles:
            handle.remove()
        keys = network.image_norm(hidden_states)
        by_hand = [attend(module, 2, given, keys).mean(1) for module, given in zip(crossing, caught, strict=True)]
    patches = torch.stack(by_hand).mean(0)[..., 1:]
    expected = (patches / patches.sum(-1, keepdim=True)).view(3, NUM_QUERIES, SIDE, SIDE, SIDE).numpy()
    settings = MapSettings(AttentionMethod.CROSS_ATTENTION)
    for answer, maps in zip(explain_texts(captioner, pixels, config, settings, [QUESTION] * 3), expected, strict=True):
        assert answer.query_maps is not None
        np.testing.assert_allclose(answer.query_maps, maps, rtol=2e-4, atol=1e-6)


def test_words_share_out_the_language_models_attention_to_the_image(
    model: tuple[MedBlip3dCaptioner, TrialConfig], pixels: np.ndarray
) -> None:
    """By GPT-2's or T5's own weights: the last layer's scores of the step that predicts each token."""
    captioner, _ = model
    recorder, prompt = ask(captioner)
    ids = torch.tensor(captioner._tokenize_text(" the left lung"))[None].expand(3, -1)
    language_model = captioner.network.language_model
    is_causal = not captioner.is_encoder_decoder
    last = language_model.transformer.h[-1].attn.c_attn if is_causal else language_model.decoder.block[-1].layer[1]
    caught: list[Tensor] = []
    with torch.no_grad():
        hidden_states = captioner.encode_images(torch.from_numpy(pixels))
        recorded = recorder.record_attention(torch.from_numpy(pixels), begin(captioner, ids), with_encoder=False)
        found = captioner.network.query_scans(hidden_states)
        embedded = captioner.embed_prompt(found, prompt)
        if is_causal:
            handle = last.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
            words = captioner.network.get_input_embeddings()(ids[:, :-1])
            language_model(inputs_embeds=torch.cat([embedded, words], 1))
            left, right, _ = last(caught[0]).unflatten(-1, (3, 4, -1)).unbind(2)
            scores = torch.einsum("brhd,bchd->bhrc", left, right) / left.shape[-1] ** 0.5
            length = scores.shape[-1]
            scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf)
        else:
            handle = last.layer_norm.register_forward_hook(lambda _, __, output: caught.append(output))
            begun = torch.cat([torch.full((3, 1), captioner.special_tokens.start), ids[:, :-1]], 1)
            read = language_model.encoder(inputs_embeds=embedded).last_hidden_state
            language_model(encoder_outputs=(read,), decoder_input_ids=begun)
            left = last.EncDecAttention.q(caught[0]).unflatten(-1, (4, -1))
            right = last.EncDecAttention.k(read).unflatten(-1, (4, -1))
            scores = torch.einsum("brhd,bchd->bhrc", left, right)  # T5 does not scale
        handle.remove()
    rows = range(len(prompt) + NUM_QUERIES - 1, scores.shape[2]) if is_causal else range(3)
    columns = slice(len(prompt), len(prompt) + NUM_QUERIES)
    expected = torch.stack([scores.softmax(-1)[:, :, row, columns] for row in rows], dim=2)
    got = recorded.decoder[-1][:, :, recorded.steps, recorded.places]
    assert got.shape == (3, 4, ids.shape[1], NUM_QUERIES)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)
    assert recorded.logits[:, recorded.steps].shape[:2] == ids.shape
    means = expected.mean(1)
    input_ids = begin(captioner, ids)
    own = weigh_tokens(recorded, input_ids, MapSettings(AttentionMethod.CROSS_ATTENTION, layer=2))
    torch.testing.assert_close(own, means, rtol=1e-3, atol=1e-5)
    cumulative = weigh_tokens(recorded, input_ids, MapSettings(AttentionMethod.CUMULATIVE, layer=2))
    torch.testing.assert_close(cumulative[:, 1], (means[:, 0] + means[:, 1]) / 2, rtol=1e-3, atol=1e-5)


def ask(captioner: MedBlip3dCaptioner) -> tuple[MedBlip3dCaptioner, list[int]]:
    """A copy that records what is attended to after QUESTION, and the tokens of that prompt."""
    recorder = captioner.build_recording_copy()
    recorder.set_prompt(captioner.format_question(QUESTION))
    return recorder, recorder.report_prompt


def begin(captioner: MedBlip3dCaptioner, ids: Tensor) -> Tensor:
    """Tokens after the one that stands for prompt and image."""
    first = captioner._first_id
    return torch.nn.functional.pad(ids, (1, 0), value=first)


@pytest.mark.parametrize("settings", METHODS, ids=[settings.method.value for settings in METHODS])
def test_words_are_those_of_the_answer_and_maps_sum_to_one(
    model: tuple[MedBlip3dCaptioner, TrialConfig], pixels: np.ndarray, settings: MapSettings
) -> None:
    captioner, config = model
    asked = [None, QUESTION, None]
    explained = explain_texts(captioner, pixels, config, settings, asked)
    with torch.inference_mode():
        hidden_states = captioner.encode_images(torch.from_numpy(pixels))
        reports = captioner.generate(hidden_states, config)
        answers = captioner.answer(hidden_states[1:2], [QUESTION], config)
    assert [text.text for text in explained] == [reports[0], answers[0], reports[2]]
    for text in explained:
        assert "".join(word.text for word in text.words) == text.text.replace(" ", "")
        assert text.query_maps is not None
        assert text.query_maps.shape == (NUM_QUERIES, *text.grid) == (NUM_QUERIES, SIDE, SIDE, SIDE)
        np.testing.assert_allclose(text.query_maps.sum((1, 2, 3)), 1, rtol=1e-5)
        for word in text.words:
            assert word.queries is not None
            assert float(word.queries.sum()) == pytest.approx(1, rel=1e-5)
            assert word.map.min() >= 0
            assert float(word.map.sum()) == pytest.approx(1, rel=1e-5)
            laid = sum(share * own for share, own in zip(word.queries, text.query_maps, strict=True))
            np.testing.assert_allclose(word.map, laid, rtol=1e-4, atol=1e-7)


def test_gradient_maps_have_the_slope_of_the_log_probability(
    model: tuple[MedBlip3dCaptioner, TrialConfig], pixels: np.ndarray
) -> None:
    captioner, _ = model
    recorder, _ = ask(captioner)
    end = captioner.special_tokens.end
    ids = torch.tensor([[*captioner._tokenize_text(" left lung"), end, end]])
    input_ids = begin(captioner, ids)
    recorded = recorder.record_attention(torch.from_numpy(pixels[:1]), input_ids, with_encoder=False)
    logits = recorded.logits[0, recorded.steps].log_softmax(-1)
    target = logits[torch.arange(ids.shape[1] - 1), ids[0, :-1]].sum()  # one end token counts
    slopes = torch.autograd.grad(target, recorded.bridge, retain_graph=True)
    products = [(layer * slope).clamp(min=0)[0].mean(0) for layer, slope in zip(recorded.bridge, slopes, strict=True)]
    weights = weigh_patches(recorded, input_ids, AttentionMethod.GRADIENT)
    torch.testing.assert_close(weights[0], sum(products) / 2)
    assert float(weights.sum()) > 0


def test_rollout_goes_through_every_block_of_any_tower(tmp_path: Path, pixels: np.ndarray) -> None:
    language_model = save_tiny_gpt2(tmp_path / "lm", num_positions=200)
    for tower in ("phantom-blip", save_tiny_tower(tmp_path / "vit", "vit")):
        captioner, _ = build(language_model, tower)
        ids = begin(captioner, torch.tensor([captioner._tokenize_text(" left lung")]).expand(3, -1))
        recorder = captioner.build_recording_copy()
        images = torch.from_numpy(pixels)
        recorded = recorder.record_attention(images, ids, with_encoder=True)
        assert len(recorded.encoder) == len(captioner.network.encoder.blocks)
        for attention in recorded.encoder:
            assert attention.shape[2:] == (1 + SIDE**3, 1 + SIDE**3)
            torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:3]))
        assert recorder.record_attention(images, ids, with_encoder=False).encoder == ()
        logits = captioner.compute_logits(captioner.encode_images(images), ids[:, :-1])
        torch.testing.assert_close(recorded.logits[:, recorded.steps], logits, rtol=1e-3, atol=1e-3)


def test_a_layer_the_language_model_has_not_got(
    model: tuple[MedBlip3dCaptioner, TrialConfig], pixels: np.ndarray
) -> None:
    captioner, config = model
    (explained,) = explain_texts(captioner, pixels[:1], config)
    assert explained.num_layers == 2
    with pytest.raises(ConfigFault, match=r"--layer 3: the model's decoder has 2 layers"):
        explain_texts(captioner, pixels[:1], config, MapSettings(layer=3))


def test_a_texts_map_is_the_mean_of_its_words() -> None:
    queries = np.zeros((2, 2, 2, 2), dtype=np.float32)
    queries[0, 1, 0, 1] = queries[1, 0, 1, 1] = 1
    shares = [np.array(share, dtype=np.float32) for share in ([0.75, 0.25], [0.85, 0.15])]
    words = tuple(WordMap("left", np.tensordot(share, queries, 1), share) for share in shares)
    answer = ExplainedText("left left", words, (2, 2, 2), 1, queries)
    np.testing.assert_allclose(answer.queries, [0.8, 0.2], rtol=1e-6)
    assert float(answer.map[1, 0, 1]) == pytest.approx(0.8)
    assert find_peak(answer.map) == (0.75, 0.25, 0.75)
    silent = ExplainedText("", (), (2, 2, 2), 1, queries)
    np.testing.assert_allclose(silent.queries, [0.5, 0.5])
    assert find_peak(silent.map) == (0.25, 0.75, 0.75)
