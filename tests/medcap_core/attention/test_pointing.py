"""The pointing game: shares and chances worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from medcap_core.attention.explained import ExplainedText, WordMap
from medcap_core.attention.pointing import find_finding_words, is_inside, play_pointing_game
from medcap_core.data.phantoms import load_phantoms
from medcap_core.data.records import ImageFile, Record


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("bedside film depicting a pneumothorax with visible pleural line of limited extent", [4, 6, 7, 8]),
        ("bedside film depicting a pneumothorax of limited extent", [4]),
        ("A ring-like abscess with vasogenic oedema, left.", [1, 2, 4, 5]),
        ("FLAIR sequence: right frontal territory, demyelinating plaque of 1.5 cm extent.", [5, 6]),
        ("preserved anatomy of the nodule", []),
        ("pneumothorax, pneumothorax", [0, 1]),
        ("CT scan of the belly showing a big bright stone in the right kidney.", [8, 9]),
        ("", []),
    ],
)
def test_words_that_name_a_finding(caption: str, expected: list[int]) -> None:
    assert find_finding_words(caption.split()) == expected


def test_every_caption_of_an_abnormal_phantom_names_one() -> None:
    for record in load_phantoms(sizes={"train": 60}).splits["train"]:
        assert bool(find_finding_words(record.caption.split())) is not record.truth["normal"], record.caption


def test_the_edges_of_a_box() -> None:
    box = (0.25, 0.5, 0.75, 1.0)
    assert is_inside((0.25, 0.5), box)
    assert not is_inside((0.75, 0.6), box)
    assert not is_inside((0.5, 0.49), box)


def look(*quarters: tuple[str, int]) -> ExplainedText:
    """Words that look at the upper left (0), upper right (1), lower left (2) or lower right (3) quarter."""
    maps = np.eye(4, dtype=np.float32).reshape(4, 2, 2)
    return ExplainedText("", tuple(WordMap(word, maps[quarter]) for word, quarter in quarters), (2, 2), 1)


def record(name: str, box: tuple[float, float, float, float] | None, case: str | None = None) -> Record:
    return Record(name, ImageFile(Path(name)), "", case, {"box": box})


UPPER_LEFT, LOWER = (0.0, 0.0, 0.5, 0.5), (0.0, 0.5, 1.0, 1.0)


def test_shares_and_chances_by_hand() -> None:
    explained = [
        look(("solitary", 0), ("rounded", 1), ("density", 0), ("left", 1)),  # 2 of 3; in the other box 0
        look(("pneumothorax", 3)),  # 1 of 1; in the other box 0
        look(("pneumothorax", 2)),  # normal: not counted
        look(("film", 2)),  # names nothing: not counted
    ]
    records = [record("a", UPPER_LEFT), record("b", LOWER), record("c", None), record("d", LOWER)]
    game = play_pointing_game(explained, records)
    assert game is not None
    assert (game.num_images, game.num_words) == (2, 4)
    assert game.share == 3 / 4
    assert game.area_chance == pytest.approx((3 * 0.25 + 1 * 0.5) / 4)
    assert game.shuffled_chance == 0
    assert game.gain == 3 / 4
    # Cases are drawn whole: either of them twice, or both.
    assert game.interval == pytest.approx((2 / 3, 1.0))
    assert game.is_above_chance


def test_peaks_that_fit_any_box_gain_nothing() -> None:
    explained = [look(("pneumothorax", 2)), look(("pneumothorax", 3)), look(("hydronephrosis", 2))]
    game = play_pointing_game(explained, [record(name, LOWER) for name in "abc"])
    assert game is not None
    assert game.num_words == 3
    assert (game.share, game.shuffled_chance, game.gain, game.gain_interval) == (1.0, 1.0, 0.0, (0.0, 0.0))
    assert not game.is_above_chance


def test_images_of_a_case_are_resampled_together() -> None:
    explained = [look(("pneumothorax", quarter)) for quarter in (0, 0, 3, 3)]
    apart = play_pointing_game(explained, [record(name, UPPER_LEFT) for name in "abcd"])
    same = play_pointing_game(explained, [record(name, UPPER_LEFT, "one") for name in "abcd"])
    assert apart is not None
    assert same is not None
    assert apart.interval == (0.0, 1.0)
    assert same.interval == (0.5, 0.5)


def test_nothing_to_score() -> None:
    assert play_pointing_game([look(("film", 0))], [record("a", LOWER)]) is None
    assert play_pointing_game([], []) is None
