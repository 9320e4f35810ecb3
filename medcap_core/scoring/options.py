"""Options of scoring: preprocessing and optional scores."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CaptionPreprocessing = Literal["none", "imageclef2025"]

_DIGITS = re.compile(r"\d+")

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def preprocess_captions(captions: Sequence[str], kind: CaptionPreprocessing) -> list[str]:
    """Preprocess captions for scoring.

    `imageclef2025` is the preprocessing of ImageCLEFmedical Caption 2025: lower case, then "number" for each run of
    digits, then ASCII punctuation removed. As in the task's evaluation script, though not on its page, digits are
    replaced before the decimal point is removed, and removal leaves no space: "3.5 cm, T2-weighted" becomes
    "numbernumber cm tnumberweighted".
    """
    if kind == "none":
        return list(captions)
    return [_DIGITS.sub("number", caption.lower()).translate(_NO_PUNCTUATION) for caption in captions]


DEFAULT_BERTSCORE_MODEL = "FacebookAI/roberta-large"


@dataclass(frozen=True)
class ScoringOptions:
    """Optional scores by key, the encoder of BERTScore, preprocessing, BERTScore's weights, and models of scores."""

    extra_scores: tuple[str, ...] = ()
    bertscore_model: str = DEFAULT_BERTSCORE_MODEL
    preprocessing: CaptionPreprocessing = "none"
    bertscore_idf: bool = False
    score_models: tuple[tuple[str, str], ...] = ()

    def find_model(self, name: str) -> str | None:
        """Find the Hub name or folder that the space file gives for a model of a score; None where it gives none."""
        return dict(self.score_models).get(name)


DEFAULT_SCORING = ScoringOptions()
"""The scores of every run, without preprocessing."""
