import numpy as np
import pytest

from medcap_core.scoring.baselines import draw_wrong_images


@pytest.mark.parametrize("cases", [list("aabcdeeefg"), [None, "a", "a", None, "b"], ["a", "b"], ["a", "a", "b", "b"]])
@pytest.mark.parametrize("seed", range(7))
def test_each_image_goes_once_to_another_case(cases: list[str | None], seed: int) -> None:
    wrong = draw_wrong_images(cases, seed)
    assert sorted(wrong.tolist()) == list(range(len(cases)))
    for here, there in enumerate(wrong):
        assert here != there
        assert cases[here] is None or cases[here] != cases[there]
    assert wrong.tolist() == draw_wrong_images(cases, seed).tolist()


def test_the_seed_decides() -> None:
    assert len({tuple(draw_wrong_images([None] * 11, seed)) for seed in range(5)}) == 5


def test_a_case_with_most_images_keeps_some_but_no_image_its_own() -> None:
    for cases in (["a"] * 5, ["a", "a", "a", "b"]):
        wrong = draw_wrong_images(cases, 3)
        assert (wrong != np.arange(len(cases))).all()
        assert sorted(wrong.tolist()) == list(range(len(cases)))
