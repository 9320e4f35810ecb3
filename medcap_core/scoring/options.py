"""What a user can ask of the scores beyond those that every run has."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CaptionPreprocessing = Literal["none", "imageclef2025"]

_DIGITS = re.compile(r"\d+")

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def preprocess_captions(captions: Sequence[str], kind: CaptionPreprocessing) -> list[str]:
    """The captions as `kind` has them scored.

    `imageclef2025` is the preprocessing of ImageCLEFmedical Caption 2025: lower case, then "number" for each run of
    digits, then ASCII punctuation removed. The task's page speaks of numbers; its evaluation script replaces digits
    before it removes the points between them and puts no space in place of what it removes. The script is followed:
    "3.5 cm, T2-weighted" becomes "numbernumber cm tnumberweighted".
    """
    if kind == "none":
        return list(captions)
    return [_DIGITS.sub("number", caption.lower()).translate(_NO_PUNCTUATION) for caption in captions]


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
