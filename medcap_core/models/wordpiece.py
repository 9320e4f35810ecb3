"""Spaces around punctuation in text decoded from WordPiece tokens.

BERT's tokenizer makes each punctuation mark a token and forgets the spaces beside it, so "x-ray" decodes to "x - ray"
and "3.5 cm" to "3. 5 cm". References are scored as written, so these spaces cost n-grams.
"""

import re
from typing import Any

from torch import Tensor

from medcap_core.config import TrialConfig
from medcap_core.data.records import fold_white_space

_PROSE = "the|a|an|this|that|there|so|just|note|notice|due|consistent|compared"
"""Words that begin a clause after a dash."""

_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"\b(of|to|is|was|at|about|than|measuring|hu) - (?=\d)", r"\1 -"),  # HU of -50
        (r"(?<=\w) - (?=(and|or)\b)", "- "),  # intra- and extra-axial
        (rf"(?<=\w) - (?=\w)(?!({_PROSE})\b(?! -))", "-"),  # x-ray, L4-L5, state-of-the-art, but "kidney - the mass"
        (r"\bw / (?!o\b)", "w/ "),  # w/ contrast
        (r"(?<=\w) / (?=\w)", "/"),  # a/b
        (r"(?:\b|(?<=\dx))(\d+)\. (?=\d)", r"\1."),  # 3.5, 4.0x3.7
        (r"(?<=\d), (?=\d{3}\b)", ","),  # 1,000
        (r"(?<=\d) ([:–]) (?=\d)", r"\1"),  # 12:30, 3–5
        (r"\b([a-z])\. ([a-z])\.(?!\w)", r"\1.\2."),  # e.g.
        (r'" ([^"]*?) "', r'"\1"'),
        (r"([(\[{“„‘]) ", r"\1"),
        (r" ([)\]}”:;])", r"\1"),
        (r"(?<=\d) %", "%"),
        (r"([#~<>]) (?=\d)", r"\1"),  # #6, ~2 cm, >5
        (r"(?<=\w) ?(['’]) ?(?=(s|t|ll|d|m|re|ve|clock)\b)", r"\1"),  # patient's, o'clock
        (r"(?<=s)'(?=[a-z]{3})", "' "),  # patients' right, whose space the decoder takes away
    )
)


def rejoin_wordpieces(text: str) -> str:
    """Take out the spaces that WordPiece decoding puts beside punctuation.

    Where a mark is written both ways, the more frequent one in radiology captions is taken: a hyphen or slash between
    words joins them, and a point between two numbers is decimal.
    """
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def decode_texts(tokenizer: Any, ids: Tensor, config: TrialConfig) -> list[str]:
    """Decode generated ids (B, T), without special tokens and with white space folded, rejoined if `config` says so."""
    texts = map(fold_white_space, tokenizer.batch_decode(ids.tolist(), skip_special_tokens=True))
    backend = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if config.rejoin_wordpieces and type(backend).__name__ == "WordPiece":
        return list(map(rejoin_wordpieces, texts))
    return list(texts)
