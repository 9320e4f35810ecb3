"""Attention maps: worked out by hand on made-up attention, and on a tiny model whose attention is known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from medcap_core.attention.explained import ExplainedText, enlarge_map, find_peak, join_words
from medcap_core.attention.maps import (
    AttentionMethod,
    MapSettings,
    build_maps,
    compute_maps,
    compute_rollout,
    explain_texts,
    generate_ids,
    record,
    weigh_tokens,
)
from medcap_core.config import TrialConfig
from medcap_core.errors import ConfigFault, ModelFault
from medcap_core.models import Captioner, load_captioner
from medcap_core.models.captioner import RecordedAttention
from medcap_core.models.search.captioner import SearchedCaptioner
from tests.support.tiny_blip import IMAGE_SIZE, TEXT_LAYERS, TEXT_WIDTH, tiny_config
from tests.support.tiny_models import save_tiny_vit_gpt2

CROSS, CUMULATIVE, GRADIENT, ROLLOUT = (
    AttentionMethod(name) for name in ("cross_attention", "cumulative", "gradient", "rollout")
)
PIXELS = np.random.default_rng(4).integers(0, 256, (5, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
SIDE = IMAGE_SIZE // 16


@pytest.fixture(scope="module")
def captioner(tiny_blip: Path) -> Captioner:
    return load_captioner(str(tiny_blip))


@pytest.fixture(scope="module", params=["blip", "vit-gpt2"])
def any_captioner(
    request: pytest.FixtureRequest, captioner: Captioner, tmp_path_factory: pytest.TempPathFactory
) -> Captioner:
    """Each family whose words attend to patches."""
    if request.param == "blip":
        return captioner
    return load_captioner(str(save_tiny_vit_gpt2(tmp_path_factory.mktemp("tiny-vit-gpt2"))))


@pytest.fixture(scope="module")
def config(tiny_blip: Path) -> TrialConfig:
    return tiny_config(tiny_blip, prompt="a picture of", num_beams=3, max_new_tokens=7)


def recorded(*layers: list[list[list[float]]], encoder: tuple[torch.Tensor, ...] = ()) -> RecordedAttention:
    """One image, layers of (heads, steps, encoder tokens): a class token and two patches."""
    cross = tuple(torch.tensor([layer]) for layer in layers)
    return RecordedAttention(cross, encoder, torch.zeros(1, cross[0].shape[2], 5), (1, 2))


# Two layers of two heads and three steps; the last step's word would be the fourth, which is not there.
FIRST = [[[0.0, 1.0, 0.0], [0.2, 0.6, 0.2], [1, 0, 0]], [[0.5, 0.0, 0.5], [0.0, 0.2, 0.8], [1, 0, 0]]]
SECOND = [[[0.25, 0.75, 0.0], [1.0, 0.0, 0.0], [1, 0, 0]], [[0.25, 0.25, 0.5], [1.0, 0.0, 0.0], [1, 0, 0]]]
IDS = torch.tensor([[1, 2, 3]])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (MapSettings(CROSS, 1), [[2 / 3, 1 / 3], [4 / 9, 5 / 9]]),  # (0.5, 0.25), (0.4, 0.5)
        (MapSettings(CROSS, 2), [[2 / 3, 1 / 3], [1 / 2, 1 / 2]]),  # (0.5, 0.25), nothing: even
        (MapSettings(CROSS, None), [[2 / 3, 1 / 3], [4 / 9, 5 / 9]]),  # (0.5, 0.25), (0.2, 0.25)
        (MapSettings(CUMULATIVE, 1), [[2 / 3, 1 / 3], [6 / 11, 5 / 11]]),  # then (0.9, 0.75) / 2
        (MapSettings(CUMULATIVE, 2), [[2 / 3, 1 / 3], [2 / 3, 1 / 3]]),
    ],
)
def test_layers_and_steps_are_taken_together_as_worked_out_by_hand(
    settings: MapSettings, expected: list[list[float]]
) -> None:
    maps = build_maps(weigh_tokens(recorded(FIRST, SECOND), IDS, settings), (1, 2))
    assert maps.shape == (1, 2, 1, 2)
    np.testing.assert_allclose(maps[0, :, 0], expected, rtol=1e-6)


def test_rollout_worked_out_by_hand() -> None:
    swapped = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])  # one head: each token looks at the other
    to_first = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    np.testing.assert_allclose(compute_rollout([swapped])[0], [[0.5, 0.5], [0.5, 0.5]])
    # ((0.5, 0.5) and identity halved) times the one before: first row stays, second is the mean of both.
    np.testing.assert_allclose(compute_rollout([swapped, to_first])[0], [[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(compute_rollout([to_first, swapped])[0], [[0.75, 0.25], [0.75, 0.25]])


def test_rollout_traces_tokens_back_to_patches() -> None:
    # The class token comes from the second patch; rollout halves it with what it was.
    encoder = torch.tensor([[[[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]])
    step = [[[0.6, 0.3, 0.1], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]
    weights = weigh_tokens(recorded(step, encoder=(encoder,)), IDS, MapSettings(ROLLOUT))
    np.testing.assert_allclose(weights[0], [[0.3, 0.3, 0.4], [0.5, 0.0, 0.5]], rtol=1e-6)


def test_gradient_weights_worked_out_by_hand() -> None:
    # Logits of word 1 are attention times these values, those of word 0 stay 0; step 1 also sees step 0's patches.
    values = torch.tensor([0.0, 2.0, -3.0])
    cross = torch.tensor([[[[0.2, 0.5, 0.3], [0.1, 0.6, 0.3], [0.4, 0.3, 0.3]]]], requires_grad=True)
    scores = cross[:, 0] @ values
    scores = torch.stack([scores[:, 0], scores[:, 1] + 0.5 * scores[:, 0], scores[:, 2]], dim=1)
    logits = torch.stack([torch.zeros_like(scores), scores], dim=-1)
    made = RecordedAttention((cross,), (), logits, (1, 2))
    ids = torch.tensor([[0, 1, 0]])
    weights = weigh_tokens(made, ids, MapSettings(GRADIENT, 1))
    first = 1 / (1 + math.exp(0.1))  # of word 0 at step 0, whose score is 0.1
    second = 1 / (1 + math.exp(-0.35))  # of word 1 at step 1: 0.3 + 0.05
    np.testing.assert_allclose(weights[0, 0].numpy(), [0, 0.5 * 2 * first, 0], rtol=1e-5)
    # Word 0 at step 1 gains where word 1 loses: on the second patch, in both steps.
    np.testing.assert_allclose(weights[0, 1].numpy(), [0, 0, (0.3 * 3 + 0.3 * 1.5) * second], rtol=1e-5)


def test_a_map_with_no_weight_is_even_and_class_tokens_are_left_out() -> None:
    weights = torch.tensor([[[9.0, 0.0, 0.0, 0.0, 0.0], [7.0, 1.0, 0.0, 2.0, 1.0]]])
    maps = build_maps(weights, (2, 2))
    np.testing.assert_array_equal(maps[0], [[[0.25, 0.25], [0.25, 0.25]], [[0.25, 0.0], [0.5, 0.25]]])


def test_the_peak_is_where_the_drawn_map_is_strongest() -> None:
    values = np.zeros((2, 3), np.float32)
    values[1, 2] = 1
    x, y = find_peak(values)
    assert x > 2 / 3
    assert y > 1 / 2
    drawn = enlarge_map(values, (31, 17))
    assert drawn.shape == (17, 31)
    assert drawn.min() == 0


def word_maps(count: int) -> np.ndarray:
    """Maps of `count` ids after the first, each with all its weight in another of 3 x 5 patches."""
    return np.eye(15, dtype=np.float32)[:count].reshape(count, 3, 5)


def test_word_pieces_become_whole_words() -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "pneumo", "##tho", "##rax", "left", ",", "of", "a"]
    tokenizer = BertTokenizerFast(vocab={token: index for index, token in enumerate(tokens)})
    ids = [2, 11, 10, 5, 6, 7, 9, 8, 3, 0]  # begin, a of | pneumothorax , left | end, padding
    text, words = join_words(tokenizer, ids, 3, word_maps(9), TrialConfig())
    assert [word.text for word in words] == ["pneumothorax,", "left"]
    np.testing.assert_allclose(words[0].map, word_maps(9)[2:5].mean(0))
    np.testing.assert_array_equal(words[1].map, word_maps(9)[6])
    assert text == "pneumothorax, left"


def test_words_are_those_of_the_caption() -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "thick", "-", "walled", "(", "1", ".", "5", "cm", ")"]
    tokenizer = BertTokenizerFast(vocab={token: index for index, token in enumerate(tokens)})
    ids = [2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 3]
    text, words = join_words(tokenizer, ids, 1, word_maps(10), TrialConfig())
    assert [word.text for word in words] == text.split() == ["thick-walled", "(1.5", "cm)"]
    np.testing.assert_allclose(words[0].map, word_maps(10)[[0, 2]].mean(0))
    np.testing.assert_allclose(words[1].map, word_maps(10)[[4, 6]].mean(0))


def test_pieces_of_letters_become_whole_words() -> None:
    # Byte-level pieces as GPT-2 has them: Ġ begins a word, Â µ are the two bytes of one letter.
    tokens = ["a", "Ġ5", "Ġ", "Â", "µ", "m", ".", "<end>"]
    made = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")
    text, words = join_words(tokenizer, [7, 0, 1, 2, 3, 4, 5, 6, 7], 1, word_maps(8), TrialConfig())
    assert text == "a 5 µm."
    assert [word.text for word in words] == ["a", "5", "µm."]
    np.testing.assert_allclose(words[0].map, word_maps(8)[0])
    np.testing.assert_allclose(words[1].map, word_maps(8)[1])
    assert words[2].map.reshape(-1)[[4, 5]].min() > 0
    np.testing.assert_allclose(words[2].map.sum(), 1, rtol=1e-6)


def test_an_empty_caption_has_no_words(captioner: Captioner) -> None:
    text, words = join_words(captioner.processor.tokenizer, [5, 3, 0], 1, word_maps(2), TrialConfig())
    assert (text, words) == ("", ())
    np.testing.assert_array_equal(ExplainedText(text, words, (2, 5), 1).map, np.full((2, 5), 0.1, np.float32))


@pytest.mark.parametrize("method", list(AttentionMethod))
@pytest.mark.parametrize("layer", [1, 2, None])
def test_every_map_of_a_model_sums_to_one_over_its_patches(
    any_captioner: Captioner, config: TrialConfig, method: AttentionMethod, layer: int | None
) -> None:
    pixels = torch.from_numpy(PIXELS[:3])
    ids, _ = generate_ids(any_captioner, pixels, config)
    settings = MapSettings(method, layer)
    maps = compute_token_maps(any_captioner.build_recording_copy(), pixels, ids, settings)
    assert maps.shape == (3, ids.shape[1] - 1, SIDE, SIDE)
    assert maps.min() >= 0
    np.testing.assert_allclose(maps.sum((-2, -1)), 1, rtol=1e-5)
    assert maps.std() > 1e-4


def compute_token_maps(
    recorder: Captioner, pixels: torch.Tensor, ids: torch.Tensor, settings: MapSettings
) -> np.ndarray:
    return compute_maps(record(recorder, pixels, ids, settings), ids, settings)[0]


def test_layers_and_methods_differ(any_captioner: Captioner, config: TrialConfig) -> None:
    choices = [MapSettings(method, layer) for method in AttentionMethod for layer in (1, 2, None)]
    maps = set()
    for settings in choices:
        (explained,) = explain_texts(any_captioner, PIXELS[:1], config, settings)
        maps.add(np.concatenate([word.map for word in explained.words]).round(7).tobytes())
    assert len(maps) == len(choices)


@pytest.mark.parametrize("prompt", ["", "the left lung shows"])
def test_the_explained_caption_is_the_generated_one(any_captioner: Captioner, config: TrialConfig, prompt: str) -> None:
    asked = config.model_copy(update={"prompt": prompt})
    with torch.inference_mode():
        generated = any_captioner.generate(any_captioner.encode_images(torch.from_numpy(PIXELS)), asked)
    done: list[tuple[str, int, int]] = []
    explained = explain_texts(any_captioner, PIXELS, asked, progress=lambda *part: done.append(part))
    assert [caption.text for caption in explained] == generated
    assert ["".join(word.text for word in caption.words).replace(" ", "") for caption in explained] == [
        text.replace(" ", "") for text in generated
    ]
    assert len(set(generated)) > 1
    assert done == [("explaining captions", 5, 5)]


def test_a_recording_copy_computes_as_the_model_does(any_captioner: Captioner, config: TrialConfig) -> None:
    pixels = torch.from_numpy(PIXELS)
    with torch.no_grad():
        ids = generate_ids(any_captioner, pixels, config)[0].clone()
        made = any_captioner.build_recording_copy().record_attention(pixels, ids, with_encoder=True)
        logits = any_captioner.compute_logits(any_captioner.encode_images(pixels), ids)
    torch.testing.assert_close(made.logits, logits, rtol=1e-4, atol=1e-4)
    assert [attention.shape for attention in made.encoder] == [(5, 4, 10, 10)] * 3
    assert not any(parameter.grad is not None for parameter in any_captioner.parameters())


def test_maps_of_a_decoder_whose_attention_is_known(captioner: Captioner, config: TrialConfig) -> None:
    # The query is a constant, the key the image token through known weights: attention follows from the image alone.
    recorder = captioner.build_recording_copy()
    query = torch.linspace(-1, 1, TEXT_WIDTH)
    pixels = torch.from_numpy(PIXELS[:2])
    with torch.no_grad():
        attention = recorder.network.text_decoder.bert.encoder.layer[1].crossattention.self
        attention.query.weight.zero_()
        attention.query.bias.copy_(query)
        tokens = recorder.encode_images(pixels) @ attention.key.weight.T + attention.key.bias
    heads = (tokens * query).unflatten(-1, (4, TEXT_WIDTH // 4)).sum(-1) / math.sqrt(TEXT_WIDTH // 4)
    patches = heads.softmax(1).mean(-1)[:, 1:]
    expected = (patches / patches.sum(1, keepdim=True)).reshape(2, 1, SIDE, SIDE)
    ids, _ = generate_ids(captioner, pixels, config)
    maps = compute_token_maps(recorder, pixels, ids, MapSettings(CROSS, 2))
    np.testing.assert_allclose(maps, np.broadcast_to(expected.numpy(), maps.shape), rtol=1e-4, atol=1e-6)
    other = compute_token_maps(recorder, pixels, ids, MapSettings(CROSS, 1))
    assert np.abs(other - maps).max() > 1e-3


def test_a_layer_that_is_not_there_is_named(captioner: Captioner, config: TrialConfig) -> None:
    (explained,) = explain_texts(captioner, PIXELS[:1], config)
    assert (explained.num_layers, explained.grid) == (TEXT_LAYERS, (SIDE, SIDE))
    with pytest.raises(ConfigFault, match=r"--layer 3: the model's decoder has 2 layers; give 1 to 2, or mean\."):
        explain_texts(captioner, PIXELS[:1], config, MapSettings(CROSS, 3))


def test_a_family_without_answers_is_asked_nothing(captioner: Captioner, config: TrialConfig) -> None:
    with pytest.raises(ModelFault, match="Models of the family 'blip' answer no questions"):
        explain_texts(captioner, PIXELS[:1], config, questions=["left or right?"])


def test_rollout_needs_a_tower_whose_patches_all_meet() -> None:
    made = recorded(FIRST, encoder=(torch.full((1, 2, 2, 2), 0.5),))
    with pytest.raises(ModelFault, match="--method rollout needs a vision tower whose patches all attend"):
        weigh_tokens(made, IDS, MapSettings(ROLLOUT))


def test_a_family_without_maps_says_so(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SearchedCaptioner, "record_attention", Captioner.record_attention)
    with pytest.raises(ModelFault, match="Models of the family 'blip' have no attention"):
        captioner.build_recording_copy()
