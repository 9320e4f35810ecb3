"""What is done to captions and references before they are scored, beyond the tokenizer of each score."""

import re
import string
from collections.abc import Sequence
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
