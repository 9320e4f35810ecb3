"""BLIP's text decoder without padding computes what transformers' own does with it."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BlipForConditionalGeneration

from medcap_core.config import FreezeMode, LoraTargets
from medcap_core.models import load_captioner
from medcap_core.models.blip import packed_decoder
from medcap_core.models.blip.captioner import BlipCaptioner
from medcap_core.models.blip.packed_decoder import PackedCaptions, compute_packed_logits
from medcap_core.models.tokens import IGNORED_LABEL
from medcap_core.models.tuning import apply_tuning
from tests.support.tiny_blip import VISION_WIDTH, tiny_config

CAPTIONS = ["small opacity", "the left lung shows a large nodule in the right lung .", "", "a nodule"]


@pytest.fixture
def captioner(tiny_blip: Path) -> BlipCaptioner:
    captioner = load_captioner(str(tiny_blip))
    assert isinstance(captioner, BlipCaptioner)
    return captioner


@pytest.fixture
def theirs(tiny_blip: Path) -> nn.Module:
    network = BlipForConditionalGeneration.from_pretrained(tiny_blip, attn_implementation="eager")
    decoder: nn.Module = network.text_decoder
    return decoder


@pytest.fixture
def tokens(captioner: BlipCaptioner) -> PackedCaptions:
    return captioner.tokenize(CAPTIONS, tiny_config(Path("unused")))


@pytest.fixture
def features() -> Tensor:
    return torch.randn(len(CAPTIONS), 10, VISION_WIDTH, generator=torch.Generator().manual_seed(0))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}


@pytest.fixture(params=["by_image", "by_word"])
def crossing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Cross-attention by keys and values, or without them wherever that can be."""
    monkeypatch.setattr(packed_decoder, "_CLEARLY_LESS", 0.0 if request.param == "by_image" else math.inf)
    return str(request.param)


@pytest.mark.parametrize("pad_to", [1, 8])
def test_logits_and_gradients_are_those_of_transformers(
    captioner: BlipCaptioner,
    theirs: nn.Module,
    tokens: PackedCaptions,
    features: Tensor,
    crossing: str,
    pad_to: int,
) -> None:
    own = captioner.network.text_decoder.eval().double()
    input_ids, labels, slots = tokens.batch(range(len(CAPTIONS)), pad_to)
    own_features, their_features = (features.double().requires_grad_() for _ in range(2))
    logits = compute_packed_logits(own, own_features, input_ids, slots)
    mask = (torch.arange(input_ids.shape[1]) < torch.tensor([len(ids) for ids in tokens.ids])[:, None]).long()
    whole = theirs.double()(
        input_ids=input_ids, attention_mask=mask, encoder_hidden_states=their_features, use_cache=False
    ).logits
    next_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
    has_label = next_labels.flatten()[slots] != IGNORED_LABEL
    assert int(has_label.sum()) == sum(len(ids) - 1 for ids in tokens.ids)
    torch.testing.assert_close(logits[has_label], whole[next_labels != IGNORED_LABEL])

    nn.functional.cross_entropy(logits, next_labels.flatten()[slots]).backward()  # type: ignore[no-untyped-call]
    nn.functional.cross_entropy(whole.flatten(0, 1), next_labels.flatten()).backward()  # type: ignore[no-untyped-call]
    expected, found = gradients(theirs), gradients(own)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(own_features.grad, their_features.grad)


def test_the_two_ways_across_agree_in_bf16(
    captioner: BlipCaptioner, tokens: PackedCaptions, features: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As near as two ways of rounding are."""
    losses = []
    for share in (0.0, math.inf):
        monkeypatch.setattr(packed_decoder, "_CLEARLY_LESS", share)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.append(captioner(features, *tokens.batch([0, 1, 2, 3]), label_smoothing=0.0, encoded=True))
    torch.testing.assert_close(losses[0], losses[1], rtol=2e-2, atol=0.0)


def count_keys(captioner: BlipCaptioner, features: Tensor, tokens: PackedCaptions) -> int:
    """For how many of the first layer's images keys are computed in one batch."""
    sizes: list[int] = []
    key = captioner.network.text_decoder.bert.encoder.layer[0].crossattention.self.key
    hook = key.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    captioner(features, *tokens.batch(range(len(features))), label_smoothing=0.0, encoded=True)
    hook.remove()
    return sum(sizes)


def test_keys_are_computed_only_where_that_is_cheaper(captioner: BlipCaptioner, tokens: PackedCaptions) -> None:
    many, few = (torch.randn(len(CAPTIONS), size, VISION_WIDTH) for size in (400, 4))
    width = captioner.network.config.text_config.hidden_size
    short = captioner.tokenize(["nodule"] * len(CAPTIONS), tiny_config(Path("unused"), prompt=""))
    assert len(short.ids[0]) * captioner.network.config.text_config.num_attention_heads < 0.5 * width
    assert count_keys(captioner, many, short) == 0
    assert count_keys(captioner, few, short) == len(CAPTIONS)
    assert count_keys(captioner, many, tokens) == len(CAPTIONS)  # a longer caption is among them
    captioner.requires_grad_(False)
    assert count_keys(captioner, many, short) == len(CAPTIONS)
    assert count_keys(captioner, many.requires_grad_(), short) == 0  # as in encoder_only


def test_attention_dropout_and_lora_keep_keys(captioner: BlipCaptioner) -> None:
    config = tiny_config(Path("unused"), freeze=FreezeMode.LORA, lora_targets=LoraTargets.QUERY_KEY, prompt="")
    short = captioner.tokenize(["nodule"] * 2, config)
    many = torch.randn(2, 400, VISION_WIDTH)
    layer = captioner.network.text_decoder.bert.encoder.layer[0].crossattention.self
    layer.dropout.p = 0.3
    assert count_keys(captioner.train(), many, short) == 2
    assert count_keys(captioner.eval(), many, short) == 0
    apply_tuning(captioner, config)
    assert count_keys(captioner, many, short) == 2


def test_nothing_is_computed_for_padding(captioner: BlipCaptioner, tokens: PackedCaptions, features: Tensor) -> None:
    sizes: list[int] = []
    layer = captioner.network.text_decoder.bert.encoder.layer[0]
    layer.intermediate.register_forward_hook(lambda _module, inputs, _output: sizes.append(inputs[0].numel()))
    captioner(features, *tokens.batch([0, 1, 2, 3]), label_smoothing=0.0, encoded=True)
    assert sizes[0] // layer.intermediate.dense.in_features == sum(len(ids) - 1 for ids in tokens.ids)


@pytest.mark.parametrize(("rows", "multiple"), [([0, 1, 2, 3], 8), ([1, 1, 1], 8), ([2], 8), ([0, 1], 3)])
def test_slots_are_distinct_and_few_in_number(tokens: PackedCaptions, rows: list[int], multiple: int) -> None:
    """They fill up to a multiple with places of padding, as far as there are any."""
    input_ids, labels, slots = tokens.batch(rows, multiple)
    assert len(set(slots.tolist())) == len(slots)
    step = -(-4 * len(rows) // multiple) * multiple  # four words a caption
    assert len(slots) % step == 0 or len(slots) == input_ids.numel()
    next_labels = nn.functional.pad(labels.flatten()[1:], (0, 1), value=IGNORED_LABEL)
    assert set(torch.nonzero(next_labels != IGNORED_LABEL)[:, 0].tolist()) <= set(slots.tolist())


def test_batches_of_one_step_have_one_shape(tokens: PackedCaptions) -> None:
    """On a GPU, where each shape of a step is recorded by itself."""
    parts = [np.array([0, 2]), np.array([1, 1]), np.array([3, 0])]
    alike = [tokens.batch(part, 8, alike=parts) for part in parts]
    assert len({tuple(tensor.shape for tensor in batch) for batch in alike}) == 1
    apart = [tokens.batch(part, 8) for part in parts]
    assert len({tuple(tensor.shape for tensor in batch) for batch in apart}) > 1
    for (ids, labels, slots), (own_ids, own_labels, _) in zip(alike, apart, strict=True):
        assert (ids[:, : own_ids.shape[1]] == own_ids).all()
        assert (labels != IGNORED_LABEL).sum() == (own_labels != IGNORED_LABEL).sum()
        assert len(set(slots.tolist())) == len(slots)


def test_dropout_of_a_checkpoint_is_applied_in_training_alone(
    captioner: BlipCaptioner, tokens: PackedCaptions, features: Tensor, dropouts: None
) -> None:
    def compute() -> float:
        with torch.no_grad():
            return float(captioner(features, *tokens.batch([0, 1, 2, 3]), label_smoothing=0.0, encoded=True))

    captioner.eval()
    assert compute() == compute()
    captioner.train()
    assert len({compute() for _ in range(3)}) == 3


@pytest.fixture(params=["hidden", "attention"])
def dropouts(request: pytest.FixtureRequest, captioner: BlipCaptioner) -> Iterator[None]:
    """Some of the text decoder's dropout layers drop."""
    for name, module in captioner.network.text_decoder.named_modules():
        if isinstance(module, nn.Dropout) and name.endswith("self.dropout") == (request.param == "attention"):
            module.p = 0.3
    yield


def test_a_caption_without_a_word_costs_nothing_and_has_no_loss(captioner: BlipCaptioner, features: Tensor) -> None:
    tokens = captioner.tokenize(["", "a nodule"], tiny_config(Path("unused"), max_caption_tokens=4))
    loss = captioner(features[:1], *tokens.batch([0], unlabelled=True), label_smoothing=0.1, encoded=True)
    assert loss == 0
    loss.backward()  # nor does it break
