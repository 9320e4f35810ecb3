"""Spaces that WordPiece decoding puts beside punctuation."""

import csv
from pathlib import Path

import pytest
import torch
from tokenizers import decoders, normalizers, pre_tokenizers
from transformers import BertTokenizerFast

from medcap_core.config import TrialConfig
from medcap_core.data.phantoms import load_phantoms
from medcap_core.models.wordpiece import decode_texts, rejoin_wordpieces
from medcap_core.pretraining.brain_gpt2 import build_tokenizer
from medcap_core.pretraining.phantom_blip import build_vocabulary
from medcap_core.scoring.captions import CaptionScorer

_normalise = normalizers.BertNormalizer().normalize_str
_split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str


def _pass_through_tokens(text: str) -> str:
    """Split and decode a text as BERT's tokenizer with all words in its vocabulary does."""
    return str(decoders.WordPiece(cleanup=True).decode([word for word, _ in _split(_normalise(text))]))


@pytest.mark.parametrize(
    ("decoded", "written"),
    [
        ("chest x - ray of a t - shirt", "chest x-ray of a t-shirt"),
        ("3. 5 x 1. 2 cm", "3.5 x 1.2 cm"),
        ("4. 0x3. 7 cm", "4.0x3.7 cm"),
        ("a / b , w / contrast, w / o contrast", "a/b , w/ contrast, w/o contrast"),
        ("( left ) [ see text ]", "(left) [see text]"),
        ("L4 - L5 and t1 - 2 - 3", "L4-L5 and t1-2-3"),
        ("a 45 - year - old man's scan", "a 45-year-old man's scan"),
        ("the patient ' s 1, 500 ml", "the patient's 1,500 ml"),
        ("intra - and extra - axial", "intra- and extra-axial"),
        ("75 % of 12 : 30", "75% of 12:30"),
        ("hu of - 50, ( > 3 mm ), e. g. fat", "hu of -50, (>3 mm), e.g. fat"),
        ('the " target " sign : seen', 'the "target" sign: seen'),
        ("a state - of - the - art scanner", "a state-of-the-art scanner"),
    ],
)
def test_spaces_beside_punctuation_are_taken_out(decoded: str, written: str) -> None:
    assert rejoin_wordpieces(decoded) == written


@pytest.mark.parametrize(
    "written",
    [
        "no. 3 is at level l4. 5 mm",
        "a mass. 2 nodules, 3 cysts",
        "the right kidney - the mass is seen",
        "normal. - enhancing",
        "a dose of 10, 20 and 30 mg",
        "no acute finding.",
        "",
    ],
)
def test_text_that_is_written_so_stays(written: str) -> None:
    assert rejoin_wordpieces(written) == written


def test_most_real_captions_survive_the_tokenizer(sample_data: Path) -> None:
    captions = []
    for split in ("train", "validation", "test"):
        with (sample_data / "data" / "medpix2" / split / "metadata.csv").open(newline="", encoding="utf-8") as file:
            captions += [_normalise(" ".join(row["caption"].split())) for row in csv.DictReader(file)]
    captions = list(dict.fromkeys(captions))
    decoded = [_pass_through_tokens(caption) for caption in captions]
    rejoined = [rejoin_wordpieces(text) for text in decoded]
    num_before = sum(text == caption for text, caption in zip(decoded, captions, strict=True))
    num_after = sum(text == caption for text, caption in zip(rejoined, captions, strict=True))
    assert num_before < 0.6 * len(captions)
    assert num_after > 0.92 * len(captions)


def test_only_wordpieces_are_rejoined_and_only_if_asked() -> None:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "x", "-", "ray"])}
    tokenizer = BertTokenizerFast(vocab=vocabulary)
    ids = torch.tensor([tokenizer("X-ray").input_ids])
    assert decode_texts(tokenizer, ids, TrialConfig()) == ["x-ray"]
    assert decode_texts(tokenizer, ids, TrialConfig(rejoin_wordpieces=False)) == ["x - ray"]


def test_a_perfect_copy_of_the_phantoms_captions_scores_as_one_only_where_rejoined() -> None:
    captions = [record.caption for record in load_phantoms(sizes={"train": 120}).splits["train"]]
    tokenizer = BertTokenizerFast(vocab=build_vocabulary())
    ids = tokenizer(captions, padding=True, return_tensors="pt").input_ids
    scorer = CaptionScorer([[caption] for caption in captions])
    copied = {
        rejoined: scorer.cider(decode_texts(tokenizer, ids, TrialConfig(rejoin_wordpieces=rejoined)))
        for rejoined in (True, False)
    }
    assert copied[True] == pytest.approx(scorer.cider(captions))
    assert copied[False] < 0.95 * copied[True]


def test_byte_pairs_keep_their_spaces() -> None:
    tokenizer = build_tokenizer()
    ids = torch.tensor([tokenizer("x - ray").input_ids])
    assert decode_texts(tokenizer, ids, TrialConfig()) == ["x - ray"]
