"""How a metric is called."""

from typing import get_args

import pytest

from medcap_core.objective import OBJECTIVES, Metric


def test_every_metric_has_its_words() -> None:
    assert tuple(OBJECTIVES) == get_args(Metric)
    assert all(objective.metric == name for name, objective in OBJECTIVES.items())


@pytest.mark.parametrize(
    ("metric", "title", "shown"),
    [("cider", "CIDEr, validation", "3.142"), ("balanced_accuracy", "Balanced accuracy, validation", "3.142")],
)
def test_titles_begin_with_a_capital(metric: Metric, title: str, shown: str) -> None:
    assert OBJECTIVES[metric].validation_title == title
    assert OBJECTIVES[metric].show(3.14159) == shown
    assert OBJECTIVES[metric].show(None) == "0.000"
