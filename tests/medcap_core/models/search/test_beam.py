"""Searching finds what transformers' `generate` finds, and what can be worked out by hand."""

import math

import pytest
import torch
from torch import Tensor
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from medcap_core.config import TrialConfig
from medcap_core.models.blip.search_decoder import BlipDecoder
from medcap_core.models.generation import SpecialTokens, build_generation_config
from medcap_core.models.search import beam
from medcap_core.models.search.beam import search_captions

PAD, BEGIN, END, FIRST_WORD, NUM_TOKENS = 0, 1, 2, 3, 47
NUM_IMAGES, NUM_PATCHES, VISION_WIDTH = 7, 5, 12


@pytest.fixture
def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look only every third word whether images may leave, and attend to slots by elevens."""
    original = beam._Search.__init__

    def pretend(self: beam._Search, *arguments: object) -> None:
        original(self, *arguments)
        self.on_cpu = False
        extra = self._round_up(self.visible.shape[2]) - self.visible.shape[2]
        self.visible = torch.nn.functional.pad(self.visible, (0, extra))

    monkeypatch.setattr(beam._Search, "__init__", pretend)
    monkeypatch.setattr(beam, "_TOKENS_BETWEEN_CHECKS", 3)
    monkeypatch.setattr(beam, "_SLOTS_AT_ONCE", 11)


# Against transformers


def build_random_decoder(seed: int) -> BlipTextLMHeadModel:
    """A decoder with loud random weights that ends captions early and late."""
    torch.set_num_threads(1)
    config = BlipTextConfig(
        vocab_size=NUM_TOKENS, hidden_size=16, encoder_hidden_size=VISION_WIDTH, intermediate_size=20,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=40, initializer_range=0.6,
        bos_token_id=BEGIN, eos_token_id=END, sep_token_id=END, pad_token_id=PAD, is_decoder=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = BlipTextLMHeadModel._from_config(config, attn_implementation="eager").eval()
        for name, parameter in decoder.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.5)
    head = decoder.cls.predictions
    head.transform.LayerNorm.weight.data *= 0.5  # several words are likely enough to vie
    head.transform.LayerNorm.bias.data *= 0.3
    head.decoder.weight.data[END] *= 0.3
    head.decoder.bias.data[END] = 3.0
    return decoder


SETTINGS: list[dict[str, object]] = [
    {"num_beams": 1},
    {"num_beams": 1, "min_new_tokens": 4, "repetition_penalty": 1.4},
    {"num_beams": 2},
    {"num_beams": 3},
    {"num_beams": 3, "min_new_tokens": 5},
    {"num_beams": 3, "repetition_penalty": 1.5},
    {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 4},
    {"num_beams": 4, "length_penalty": -1.3, "repetition_penalty": 1.2, "min_new_tokens": 2},
    {"num_beams": 5, "length_penalty": 2.0},
    {"num_beams": 4, "early_stopping": True},
    {"num_beams": 3, "early_stopping": True, "length_penalty": 1.7, "min_new_tokens": 3},
    {"num_beams": 16, "max_new_tokens": 9},
]
PROMPTS = [[BEGIN], [BEGIN, 7, 11, 5]]


def cut(ids: Tensor, num_given: int) -> list[list[int]]:
    """Each caption up to its end token; transformers fills up with whatever is at hand."""
    captions = []
    for row in ids.tolist():
        end = row.index(END, num_given) + 1 if END in row[num_given:] else len(row)
        captions.append(row[:end])
    return captions


def compare_with_transformers(seed: int) -> list[list[int]]:
    decoder = build_random_decoder(seed)
    states = torch.randn(NUM_IMAGES, NUM_PATCHES, VISION_WIDTH, generator=torch.Generator().manual_seed(seed))
    seen = []
    for index, settings in enumerate(SETTINGS):
        config = TrialConfig.model_validate({"max_new_tokens": 11} | settings)
        prompt = torch.tensor(PROMPTS[(index + seed) % 2])
        expected = decoder.generate(
            input_ids=prompt.expand(NUM_IMAGES, -1),
            attention_mask=torch.ones(NUM_IMAGES, len(prompt), dtype=torch.int64),
            encoder_hidden_states=states,
            generation_config=build_generation_config(config, SpecialTokens(BEGIN, END, PAD)),
        )
        found = search_captions(BlipDecoder(decoder, states), prompt, config, end_id=END, pad_id=PAD)
        assert cut(found, len(prompt)) == cut(expected, len(prompt)), settings
        seen += [row[len(prompt) :] for row in cut(found, len(prompt))]
    return seen


@pytest.mark.parametrize("seed", range(3))
def test_captions_are_those_of_transformers(seed: int) -> None:
    seen = compare_with_transformers(seed)
    assert len({len(caption) for caption in seen}) >= 8
    assert len({tuple(caption) for caption in seen}) > 20


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_captions_are_the_same_where_the_host_looks_seldom() -> None:
    compare_with_transformers(seed=3)


# By hand


class Grammar:
    """A decoder whose next word hangs on the last word alone, and that keeps account of what it is asked.

    `odds[image][word]` names the words that may follow and their probabilities.
    """

    def __init__(self, odds: list[dict[int, dict[int, float]]]) -> None:
        self.num_images = len(odds)
        self.table = torch.full((len(odds), NUM_TOKENS, NUM_TOKENS), -1e4)
        for image, rules in enumerate(odds):
            for word, following in rules.items():
                for next_word, probability in following.items():
                    self.table[image, word, next_word] = math.log(probability)
        self.slots: list[Tensor] = []
        self.batch_sizes: list[int] = []
        self.histories: list[list[list[list[int]]]] = []

    def begin(self, prompt: Tensor) -> Tensor:
        self.slots = [token.expand(len(self.table)) for token in prompt]
        return self.table[:, prompt[-1]]

    def step(self, tokens: Tensor, visible: Tensor) -> Tensor:
        self.slots += list(tokens.T)
        self.batch_sizes.append(len(tokens))
        given = torch.stack(self.slots, dim=1)
        self.histories.append(
            [[row[beam[: len(row)]].tolist() for beam in beams] for row, beams in zip(given, visible, strict=True)]
        )
        return self.table[torch.arange(len(tokens))[:, None], tokens]

    def move_images(self, targets: Tensor, origins: Tensor, num_images: int) -> None:
        self.slots = [slot.clone() for slot in self.slots]
        for rows in (self.table, *self.slots):
            rows[targets] = rows[origins]
        self.table, self.slots = self.table[:num_images], [slot[:num_images] for slot in self.slots]


A, B, C, D = range(FIRST_WORD, FIRST_WORD + 4)
GARDEN_PATH = {BEGIN: {A: 0.6, B: 0.4}, A: {C: 0.5, D: 0.5}, B: {D: 1.0}, C: {END: 1.0}, D: {END: 1.0}}
"""Greedily A (0.6), then C or D: 0.3 in all. B D has 0.4."""
SHORT = {BEGIN: {A: 0.9, B: 0.1}, A: {END: 1.0}, B: {END: 1.0}}


def search(grammar: Grammar, **settings: object) -> list[list[int]]:
    config = TrialConfig.model_validate({"max_new_tokens": 6, "num_beams": 2} | settings)
    return search_captions(grammar, torch.tensor([BEGIN]), config, end_id=END, pad_id=PAD).tolist()


def test_two_beams_find_what_one_misses() -> None:
    assert search(Grammar([GARDEN_PATH]), num_beams=2) == [[BEGIN, B, D, END]]
    one = search(Grammar([GARDEN_PATH]), num_beams=1)
    assert one[0][:2] == [BEGIN, A]


def test_a_length_penalty_weighs_the_sum_of_log_probabilities() -> None:
    # A END: log 0.45 over 2 words; B C D END: log 0.4 over 4.
    odds = {BEGIN: {A: 0.6, B: 0.4}, A: {END: 0.75, C: 0.25}, B: {C: 1.0}, C: {D: 1.0}, D: {END: 1.0}}
    assert search(Grammar([odds]), length_penalty=0.0) == [[BEGIN, A, END]]
    assert search(Grammar([odds]), length_penalty=1.0) == [[BEGIN, B, C, D, END]]


def test_beams_see_the_words_they_stem_from() -> None:
    grammar = Grammar([GARDEN_PATH, SHORT])
    search(grammar)
    first = [[BEGIN, A], [BEGIN, B]]
    assert grammar.histories[0] == [first, first]
    assert grammar.histories[1][0] == [[BEGIN, B, D], [BEGIN, A, C]]


def test_an_image_leaves_when_its_caption_is_settled() -> None:
    grammar = Grammar([SHORT, GARDEN_PATH, SHORT])
    captions = search(grammar)
    assert captions == [[BEGIN, A, END, PAD], [BEGIN, B, D, END], [BEGIN, A, END, PAD]]
    # After the second word both captions of SHORT have ended, after the third those of the other.
    assert grammar.batch_sizes == [3, 1]


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_images_leave_at_the_next_look() -> None:
    grammar = Grammar([SHORT, GARDEN_PATH, SHORT])
    assert search(grammar)[0] == [BEGIN, A, END, PAD]
    assert grammar.batch_sizes == [3, 3]


def test_captions_end_at_the_most_words_allowed() -> None:
    odds = {BEGIN: {A: 1.0}, A: {B: 1.0}, B: {A: 1.0}}
    for num_beams in (1, 2):
        assert search(Grammar([odds]), num_beams=num_beams, max_new_tokens=5) == [[BEGIN, A, B, A, B, A]]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_decoder_gone_mad_still_ends(num_beams: int) -> None:
    grammar = Grammar([GARDEN_PATH, GARDEN_PATH])
    grammar.table[1] = torch.nan
    captions = search(grammar, num_beams=num_beams)
    assert captions[0][0] == captions[1][0] == BEGIN
    assert all(0 <= token < NUM_TOKENS for token in captions[1])
