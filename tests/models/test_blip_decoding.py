"""The decoder that words are searched with is the one that was trained."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medcap_core.models import Captioner, blip_decoding, load_captioner
from medcap_core.models.blip_decoding import BlipDecoder
from medcap_core.tuning import apply_tuning, merge_tuning
from tests.tiny_blip import DEC, VOCABULARY, TinySplit, tiny_config

PROMPT = [DEC, 7, 8, 9]
WORDS = torch.tensor([[[10, 11, 12, 13], [14, 15, 16, 17]], [[18, 10, 9, 8], [7, 7, 12, 19]], [[8, 9, 9, 8]] * 2])
"""Four words of each of two beams of three images."""


@pytest.fixture
def captioner(tiny_blip: Path) -> Captioner:
    return load_captioner(str(tiny_blip))


def encode(captioner: Captioner, num_images: int = 3) -> Tensor:
    return captioner.encode_images(torch.from_numpy(TinySplit(num_images, seed=3).images))


def read_words(decoder: BlipDecoder) -> Iterator[Tensor]:
    """Logits of the word after the prompt (B, V), then after each of WORDS (B, K, V), no beam taking over another."""
    yield decoder.begin(torch.tensor(PROMPT))
    visible = torch.zeros(3, 2, len(PROMPT) + 8, dtype=torch.bool)
    visible[:, :, : len(PROMPT)] = True
    for place in range(4):
        end = len(PROMPT) + 2 * place + 2
        visible[:, :, end - 2 : end] = torch.eye(2, dtype=torch.bool)
        yield decoder.step(WORDS[:, :, place], visible[:, :, :end])


def whole_captions(beam: int) -> Tensor:
    return torch.cat([torch.tensor(PROMPT).expand(3, -1), WORDS[:, beam]], dim=1)


@pytest.mark.parametrize("room", [5, 128])
def test_logits_are_those_of_the_whole_caption(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(blip_decoding, "_ROOM", room)
    with torch.inference_mode():
        states = encode(captioner)
        expected = [captioner.compute_logits(states, whole_captions(beam)) for beam in (0, 1)]
        first, *others = read_words(BlipDecoder(captioner.network.text_decoder, states))
    torch.testing.assert_close(first, expected[0][:, len(PROMPT) - 1], atol=1e-4, rtol=0)
    for beam in (0, 1):
        found = torch.stack([logits[:, beam] for logits in others], dim=1)
        torch.testing.assert_close(found, expected[beam][:, len(PROMPT) :], atol=1e-4, rtol=0)


def test_mixed_precision_is_that_of_the_layers(captioner: Captioner) -> None:
    with torch.inference_mode():
        states = encode(captioner)
        exact = captioner.compute_logits(states, whole_captions(0))[:, -1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            decoder = BlipDecoder(captioner.network.text_decoder, states)
            *_, found = read_words(decoder)
            expected = captioner.compute_logits(states, whole_captions(0))[:, -1]
    assert found.dtype is expected.dtype is decoder.layers[0].past.dtype is torch.bfloat16
    rounding = float((expected.float() - exact).abs().max())
    assert float((found[:, 0].float() - exact).abs().max()) < 2 * rounding


def test_moved_images_take_what_they_remember_along(captioner: Captioner) -> None:
    kept = torch.tensor([2, 1])
    with torch.inference_mode():
        states = encode(captioner)
        decoder = BlipDecoder(captioner.network.text_decoder, states)
        decoder.begin(torch.tensor(PROMPT))
        decoder.move_images(torch.tensor([0]), torch.tensor([2]), 2)
        visible = torch.cat([torch.ones(2, 2, 4, dtype=torch.bool), torch.eye(2, dtype=torch.bool).expand(2, 2, 2)], 2)
        found = decoder.step(WORDS[kept, :, 0], visible)
        expected = captioner.compute_logits(states[kept], whole_captions(1)[kept, : len(PROMPT) + 1])
    torch.testing.assert_close(found[:, 1], expected[:, -1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("targets", ["query_key", "attention_mlp"])
def test_lora_factors_are_part_of_it(captioner: Captioner, targets: str) -> None:
    config = tiny_config(Path("unused"), freeze="lora", lora_targets=targets, lora_rank=2, lora_dropout=0.5)
    with torch.inference_mode():
        plain = list(read_words(BlipDecoder(captioner.network.text_decoder, encode(captioner))))[-1]
    tuning = apply_tuning(captioner, config)
    captioner.eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in captioner.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5, generator=generator)
    with torch.inference_mode():
        states = encode(captioner)
        adapted = list(read_words(BlipDecoder(captioner.network.text_decoder, states)))[-1]
        expected = captioner.compute_logits(states, whole_captions(0))[:, -1]
        merge_tuning(captioner, tuning)
        merged = list(read_words(BlipDecoder(captioner.network.text_decoder, states)))[-1]
    torch.testing.assert_close(adapted[:, 0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(adapted, merged, atol=1e-4, rtol=0)
    assert float((adapted - plain).abs().max()) > 0.1
    assert adapted.shape[2] == len(VOCABULARY)
