"""What a user can ask of the scores beyond those that every run has."""

from dataclasses import dataclass
from typing import Literal

from medcap_core.caption_preprocessing import CaptionPreprocessing

ExtraScore = Literal["rouge1", "bertscore"]
EXTRA_METRICS: dict[ExtraScore, str] = {"rouge1": "ROUGE-1", "bertscore": "BERTScore"}
"""The optional scores by the key that asks for them."""

DEFAULT_BERTSCORE_MODEL = "FacebookAI/roberta-large"


@dataclass(frozen=True)
class ScoringOptions:
    """Scores to add, the encoder of BERTScore, and what is done to captions and references before scoring."""

    extra_scores: tuple[ExtraScore, ...] = ()
    bertscore_model: str = DEFAULT_BERTSCORE_MODEL
    preprocessing: CaptionPreprocessing = "none"


DEFAULT_SCORING = ScoringOptions()
"""The scores that every run has, of captions as they are."""
