"""How a model is scored on validation, by the metric of its config: what a sweep maximises."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medcap_core.config import TrialConfig
from medcap_core.data.prepare import PreparedSplit
from medcap_core.errors import ModelFault
from medcap_core.evaluation import OnProgress, generate_captions
from medcap_core.metrics import load_caption_scorer
from medcap_core.models import Captioner
from medcap_core.objective import OBJECTIVES, Metric

if TYPE_CHECKING:
    from medcap_core.training import Trial


def check_metric(config: TrialConfig, captioner: Captioner) -> None:
    """Raise ModelFault where the model cannot give what the metric of its config is computed of."""
    if OBJECTIVES[config.metric].predictions == "answers" and not captioner.answers_questions:
        raise ModelFault(
            f"metric {config.metric} needs a model that answers questions, such as medblip3d, but {config.model} is "
            f"of the family '{captioner.family}'; choose such a model, or metric: cider."
        )


def score_validation(trial: "Trial", what: str, progress: OnProgress) -> float:
    """The score of the trial's model on its validation split, the same on every worker; `what` names the step."""
    predictions = generate_captions(
        trial.captioner, trial.validation.images, trial.config, trial.workers, progress, what
    )
    own = score_predictions(trial.validation_split, predictions, trial.config.metric) if trial.workers.leads else None
    score: float = trial.workers.broadcast(own)
    return score


def score_predictions(split: PreparedSplit, predictions: Sequence[str], metric: Metric) -> float:
    """The metric of a whole split of these texts, one an image in the split's order."""
    return load_caption_scorer(split.captions).cider(predictions)
