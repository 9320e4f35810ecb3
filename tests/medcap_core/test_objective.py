"""What an objective is called, and which values of it are better."""

import math
from typing import Any

import pytest

from medcap_core.config import TrialConfig
from medcap_core.objective import RANKED_SCORES, Objective, read_objective

SUM = {"CIDEr": 0.5, "METEOR": 2, "validation_loss": 0.25}


@pytest.mark.parametrize(
    ("given", "title", "short", "column"),
    [
        ("CIDEr", "CIDEr, validation", "CIDEr", "cider"),
        ("BLEU-4", "BLEU-4, validation", "BLEU-4", "bleu_4"),
        ("balanced_accuracy", "Balanced accuracy, validation", "bal.acc.", "balanced_accuracy"),
        ("validation_loss", "Validation loss", "val.loss", "validation_loss"),
        (SUM, "0.5 CIDEr + 2 METEOR - 0.25 validation loss, validation", "objective", "objective"),
    ],
)
def test_an_objective_has_its_words(given: Any, title: str, short: str, column: str) -> None:
    objective = read_objective(given)
    assert (objective.validation_title, objective.short_label, objective.column) == (title, short, column)
    assert objective.axis_title == ("Objective, validation" if objective.is_sum else title)
    assert objective.dump() == given
    assert (objective.show(3.14159), objective.show(None)) == ("3.142", "0.000")


def test_higher_is_better_but_for_losses() -> None:
    loss = read_objective("validation_loss")
    assert (loss.direction, loss.predictions) == ("minimize", None)
    assert {
        name: read_objective(name).direction for name in RANKED_SCORES if name != "validation_loss"
    } == dict.fromkeys([name for name in RANKED_SCORES if name != "validation_loss"], "maximize")
    assert loss.rank(0.5) > loss.rank(1.5) > loss.rank(math.inf) == loss.rank(None) == -math.inf
    assert Objective().rank(1.5) > Objective().rank(0.5) > Objective().rank(math.nan)


def test_a_sum_adds_scores_and_subtracts_losses() -> None:
    both = read_objective(SUM)
    assert both.combine({"CIDEr": 3.0, "METEOR": 0.25, "validation_loss": 4.0, "BLEU-4": 9.0}) == 1.5 + 0.5 - 1.0
    assert (both.direction, both.predictions, both.is_sum) == ("maximize", "captions", True)
    assert read_objective("validation_loss").combine({"validation_loss": 4.0}) == 4.0


def test_an_objective_is_part_of_a_config() -> None:
    config = TrialConfig.model_validate({"objective": SUM})
    assert config.objective == read_objective(SUM)
    assert TrialConfig.model_validate(config.model_dump(mode="json")) == config
    assert len({config, config.model_copy()}) == 1
