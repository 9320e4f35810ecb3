"""Which wrong image each image is swapped for, where a model is shown the wrong ones."""

from collections.abc import Sequence

import numpy as np

from medcap_core.statistics import IntArray, number_units


def draw_wrong_images(cases: Sequence[str | None], seed: int) -> IntArray:
    """For each image the position of another one, each used once and of another case.

    Images stand in a circle, drawn by `seed` with those of a case side by side; each takes the one that stands as many
    places before it as the largest case has images. Where a case has more than half of all images, some of it get an
    image of their own case.
    """
    order = np.random.default_rng(seed).permutation(len(cases))
    units = number_units([cases[position] for position in order])  # in the order in which cases come up
    circle = order[np.argsort(units, kind="stable")]
    largest = int(np.bincount(units).max(initial=1))
    wrong = np.empty(len(cases), dtype=np.int64)
    wrong[circle] = np.roll(circle, min(largest, max(1, len(cases) - 1)))
    return wrong
