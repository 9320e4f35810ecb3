"""The pointing game in three dimensions: targets, hits and chances worked out by hand."""

import numpy as np
import pytest

from medcap_core.attention.volume_pointing import (
    PointedAnswer,
    draw_structures,
    find_patches,
    find_structures,
    play_volume_game,
)
from medcap_core.data.brain_phantoms import load_brain_phantoms


def build_target(*patches: tuple[int, int, int]) -> np.ndarray:
    target = np.zeros((2, 2, 2), dtype=bool)
    for patch in patches:
        target[patch] = True
    return target


ONE, TWO = build_target((0, 0, 0)), build_target((0, 0, 1), (1, 1, 1))


def test_a_patch_counts_if_it_holds_one_voxel() -> None:
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[2, 3, 5] = mask[3, 0, 0] = True
    assert np.argwhere(find_patches(mask, 2)).tolist() == [[0, 1, 1], [1, 0, 0]]
    assert np.argwhere(find_patches(mask, 3)).tolist() == [[1, 0, 0], [1, 1, 2]]


def test_shares_and_chances_by_hand() -> None:
    answers = [
        PointedAnswer("a0", "a", "side", (0, 0, 0), ONE),  # hit; of b and c neither has it
        PointedAnswer("a1", "a", "side", (1, 1, 1), ONE),  # miss; b has it, c has not: its own subject does not count
        PointedAnswer("b0", "b", "side", (0, 0, 1), TWO),  # hit; a0, a1 and c have it not
        PointedAnswer("c0", "c", "side", (0, 0, 0), build_target((1, 0, 0))),  # miss; a0 and a1 of three have it
        PointedAnswer("a0", "a", "ventricles", (1, 1, 1), TWO),  # hit; nobody else was asked
    ]
    games = play_volume_game(answers)
    assert list(games) == [None, "side", "ventricles"]
    side = games["side"]
    assert (side.num_images, side.num_words, side.share) == (4, 4, 0.5)
    assert side.area_chance == pytest.approx((1 + 1 + 2 + 1) / 8 / 4)
    assert side.shuffled_chance == pytest.approx((0 + 1 / 2 + 0 + 2 / 3) / 4)
    assert side.gain == pytest.approx(0.5 - (1 / 2 + 2 / 3) / 4)
    # Three subjects are drawn: all of them b is the best that can happen, all of them c the worst.
    assert side.interval == (0.0, 1.0)
    assert (games["ventricles"].share, games["ventricles"].shuffled_chance) == (1.0, 0.0)
    everything = games[None]
    assert (everything.num_images, everything.num_words, everything.share) == (4, 5, 0.6)
    assert everything.shuffled_chance == pytest.approx((1 / 2 + 2 / 3) / 5)


def test_nothing_to_score() -> None:
    assert play_volume_game([]) == {}


def test_what_questions_on_phantoms_are_about() -> None:
    records = load_brain_phantoms(num_train=40, num_validation=0, num_test=0).splits["train"]
    about = {(record.truth["side"], find_structures(record, "side")) for record in records}
    assert about == {("left", ("left_hippocampus",)), ("right", ("right_hippocampus",)), ("neither", ())}
    about = {(record.truth["structure"], find_structures(record, "structure")) for record in records}
    assert about == {("hippocampus", ("left_hippocampus", "right_hippocampus")), ("cortex", ("cortex",)), ("none", ())}
    assert find_structures(records[0], "ventricles") == ("ventricles",)
    assert find_structures(records[0], "sex") == find_structures(records[0], "") == ()


def test_masks_lie_where_the_model_sees_the_structures() -> None:
    """RAS: x grows to the subject's right, so the left hippocampus lies in the lower half of x."""
    (record,) = load_brain_phantoms(num_train=1, num_validation=0, num_test=0).splits["train"]
    left, right = (draw_structures(record, [name], 32) for name in ("left_hippocampus", "right_hippocampus"))
    assert np.nonzero(left)[0].max() < 16 <= np.nonzero(right)[0].min()
    both = draw_structures(record, ["left_hippocampus", "right_hippocampus"], 32)
    assert np.array_equal(both, left | right)
