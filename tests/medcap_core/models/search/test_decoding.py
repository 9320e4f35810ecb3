"""The decoders that words are searched with are those that were trained."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medcap_core.models import Captioner, load_captioner
from medcap_core.models.blip.captioner import BlipCaptioner
from medcap_core.models.search import decoding
from medcap_core.models.search.decoding import TextDecoder
from medcap_core.models.tuning import apply_tuning, merge_tuning
from medcap_core.models.vit_gpt2.captioner import ViTGpt2Captioner
from tests.support.tiny_blip import TinySplit, tiny_config

PROMPT = [5, 7, 8, 9]
WORDS = torch.tensor([[[10, 11, 12, 13], [14, 15, 16, 17]], [[18, 10, 9, 8], [7, 7, 12, 19]], [[8, 9, 9, 8]] * 2])
"""Four words of each of two beams of three images."""


@pytest.fixture(params=["blip", "vit-gpt2"])
def captioner(request: pytest.FixtureRequest, tiny_blip: Path, folder_of: Callable[[str], Path]) -> Captioner:
    return load_captioner(str(tiny_blip if request.param == "blip" else folder_of("vit-gpt2")))


def encode(captioner: Captioner) -> Tensor:
    return captioner.encode_images(torch.from_numpy(TinySplit(3, seed=3).images))


def build_decoder(captioner: Captioner, states: Tensor) -> TextDecoder:
    assert isinstance(captioner, BlipCaptioner | ViTGpt2Captioner)
    return captioner.build_decoder(states)


def read_words(decoder: TextDecoder) -> Iterator[Tensor]:
    """Logits of the word after the prompt (B, V), then after each of WORDS (B, K, V), no beam taking over another."""
    yield decoder.begin(torch.tensor(PROMPT))
    visible = torch.zeros(3, 2, len(PROMPT) + 8, dtype=torch.bool)
    visible[:, :, : len(PROMPT)] = True
    for place in range(4):
        end = len(PROMPT) + 2 * place + 2
        visible[:, :, end - 2 : end] = torch.eye(2, dtype=torch.bool)
        yield decoder.step(WORDS[:, :, place], visible[:, :, :end])


def read_to_the_end(captioner: Captioner, states: Tensor) -> Tensor:
    """Logits (B, K, V) after the last of WORDS."""
    *_, logits = read_words(build_decoder(captioner, states))
    return logits


def whole_captions(beam: int) -> Tensor:
    return torch.cat([torch.tensor(PROMPT).expand(3, -1), WORDS[:, beam]], dim=1)


@pytest.mark.parametrize("room", [5, 128])
def test_logits_are_those_of_the_whole_caption(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(decoding, "_ROOM", room)
    with torch.inference_mode():
        states = encode(captioner)
        expected = [captioner.compute_logits(states, whole_captions(beam)) for beam in (0, 1)]
        first, *others = read_words(build_decoder(captioner, states))
    torch.testing.assert_close(first, expected[0][:, len(PROMPT) - 1], atol=1e-4, rtol=0)
    for beam in (0, 1):
        found = torch.stack([logits[:, beam] for logits in others], dim=1)
        torch.testing.assert_close(found, expected[beam][:, len(PROMPT) :], atol=1e-4, rtol=0)


def test_slots_not_in_use_change_nothing(captioner: Captioner) -> None:
    with torch.inference_mode():
        states = encode(captioner)
        exact, wider = build_decoder(captioner, states), build_decoder(captioner, states)
        visible = torch.cat([torch.ones(3, 2, 4, dtype=torch.bool), torch.eye(2, dtype=torch.bool).expand(3, 2, 2)], 2)
        logits = []
        for reader, num_unused in ((exact, 0), (wider, 5)):
            reader.begin(torch.tensor(PROMPT))
            logits.append(reader.step(WORDS[:, :, 0], nn.functional.pad(visible, (0, num_unused))))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)


def test_mixed_precision_is_that_of_the_modules(captioner: Captioner) -> None:
    with torch.inference_mode():
        states = encode(captioner)
        exact = captioner.compute_logits(states, whole_captions(0))[:, -1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = read_to_the_end(captioner, states)[:, 0]
            expected = captioner.compute_logits(states, whole_captions(0))[:, -1]
            assert build_decoder(captioner, states).layers[0].past.dtype is torch.bfloat16
    assert found.dtype is expected.dtype is torch.bfloat16
    rounding = float((expected.float() - exact).abs().max())
    assert 0 < float((found.float() - exact).abs().max()) < 2 * rounding


def test_moved_images_take_what_they_remember_along(captioner: Captioner) -> None:
    kept = torch.tensor([2, 1])
    with torch.inference_mode():
        states = encode(captioner)
        decoder = build_decoder(captioner, states)
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
        plain = read_to_the_end(captioner, encode(captioner))
    tuning = apply_tuning(captioner, config)
    captioner.eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in captioner.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5, generator=generator)
    with torch.inference_mode():
        states = encode(captioner)
        adapted = read_to_the_end(captioner, states)
        expected = captioner.compute_logits(states, whole_captions(0))[:, -1]
        merge_tuning(captioner, tuning)
        merged = read_to_the_end(captioner, states)
    torch.testing.assert_close(adapted[:, 0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(adapted, merged, atol=1e-4, rtol=0)
    assert float((adapted - plain).abs().max()) > 0.1
