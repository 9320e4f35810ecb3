"""When predictions of an untrained model still hold."""

import pytest

from medcap_core.config import FreezeMode, TrialConfig
from sweep.held_out.task import describe_evaluation

CONFIG = TrialConfig(model="phantom-blip", data="phantoms")


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "another"}, {"language_model": "brain-gpt2"}, {"vision_model": "another"}, {"data": "brain_phantoms"},
        {"max_test_images": 7}, {"num_queries": 4}, {"qformer_layers": 2}, {"patch_size": 6}, {"image_size": 160},
        {"num_beams": 5}, {"early_stopping": True}, {"prompt": "a picture of"}, {"precision": "bf16"},
    ],
)  # fmt: skip
def test_another_model_search_or_split_has_predictions_of_its_own(changes: dict[str, object]) -> None:
    assert describe_evaluation(CONFIG.model_copy(update=changes)) != describe_evaluation(CONFIG)


def test_how_a_model_is_trained_does_not_matter() -> None:
    trained = CONFIG.model_copy(update={"learning_rate": 0.5, "freeze": FreezeMode.FULL, "eval_batch_size": 1})
    assert describe_evaluation(trained) == describe_evaluation(CONFIG)
