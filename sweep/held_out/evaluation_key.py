"""What decides the predictions of an untrained model, and so whether kept ones still hold."""

from typing import Any

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.inference.zero_shot import DECIDING_FIELDS

# What decides the base model's captions; if these agree, so do its test scores.
_EVALUATION_FIELDS = (
    "data",
    "model",
    "vision_model",
    "language_model",
    "max_test_images",
    "precision",
    *DECIDING_FIELDS,
)


def describe_evaluation(config: TrialConfig) -> dict[str, Any]:
    """What decides the captions and answers of the untrained model of a config."""
    values = config.model_dump(mode="json")
    return {name: values[name] for name in _EVALUATION_FIELDS}


def read_evaluation(metrics: dict[str, Any]) -> dict[str, Any]:
    """How the kept rows were captioned; a field that an older run did not know had its default."""
    defaults = {name: TrialConfig.model_fields[name].default for name in _EVALUATION_FIELDS}
    return {**defaults, **metrics["evaluation"]} if "evaluation" in metrics else {}


def name_job(trial: str, config: TrialConfig) -> str:
    """What decides the captions: the trial, or of an untrained model the evaluation."""
    return str(describe_evaluation(config)) if config.freeze is FreezeMode.ZERO_SHOT else trial
