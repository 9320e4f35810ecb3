"""A report that the tests of its parts and of its page share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.space import SearchSpace
from sweep.study.study import Study
from tests.support.reported_runs import Page, fill, finish, report_on, scores
from tests.support.small_runs import space

ALL_KEYS = {
    "intervals": {"best": {"CIDEr": [2.25, 2.75]}, "zero_shot": {"CIDEr": [0.125, 0.375]}},
    "comparisons": {
        "baseline": "zero_shot",
        "metric": "CIDEr",
        "rows": {"best": {"difference": 2.25, "interval": [2.0, 2.5], "p_value": 0.0002, "p_adjusted": 0.0312}},
    },
    "nearest_image": scores(1.0),
    "facts": {"best": {"side": {"accuracy": 0.75, "interval": [0.5, 1.0], "num_images": 3}}},
    "concepts": {"best": {"precision": 0.5, "recall": 0.25, "f1": 0.375, "interval": [0.25, 0.5], "num_images": 3}},
    "groups": [
        {"label": "lora", "trials": ["trial_0000"], "scores": {"CIDEr": {"mean": 2.5, "std": 0.125, "num_seeds": 2}}}
    ],
}


@pytest.fixture(scope="session")
def reported(
    empty_runs: Callable[[Path, SearchSpace], Study], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Page]:
    """A finished run of twelve trials, all of whose files are there, and its page."""
    wanted = space(trials=12, scheduler="none", sampler="random")
    with empty_runs(tmp_path_factory.mktemp("reported") / "run", wanted) as study:
        fill(study)
        directory = finish(study, **ALL_KEYS)
    return directory, report_on(directory)
