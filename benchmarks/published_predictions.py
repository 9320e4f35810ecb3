"""Predictions that others have published, scored here: by the tokens that most publish with, and by PTB tokens.

python -m benchmarks.published_predictions FILE...

FILE is a JSON list with a reference and a prediction for each image; a caption without text counts as ".". Tokens are
what stands between white space, in lower case, as many repositories give it to pycocoevalcap; then those of the PTB
tokenizer, as every run here has. METEOR is computed of PTB tokens alone: what is often published under its name is
NLTK's, which has other parameters and no paraphrases. `--caption` scores one sentence for all images instead.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.machine import print_table
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.scoring.captions import CaptionScorer
from medcap_core.scoring.registry import STANDARD

_REFERENCE_KEYS = ("ref", "reference", "True Caption")
_PREDICTION_KEYS = ("pred", "prediction", "Generated Caption")
_OF_WHITE_SPACE = tuple(name for name in STANDARD if name != "METEOR")


def read_predictions(path: Path) -> tuple[list[str], list[str]]:
    """Read the references and predictions of a file. Raises BadParameter where it has none."""
    all_keys = (_REFERENCE_KEYS, _PREDICTION_KEYS)
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        references, predictions = (
            [next(record[key] for key in keys if key in record).strip() or "." for record in records]
            for keys in all_keys
        )
    except (OSError, ValueError, TypeError, AttributeError, StopIteration):
        references = predictions = []
    if not references:
        names = ", and ".join(" or ".join(keys) for keys in all_keys)
        raise typer.BadParameter(f"{path} is no JSON list of records with {names}.")
    return references, predictions


def name_tokens(texts: Sequence[str]) -> list[str]:
    """Write each token between white space as a word that the PTB tokenizer leaves whole: "t" and a number."""
    numbers: dict[str, int] = {}
    return [" ".join(f"t{numbers.setdefault(token, len(numbers))}" for token in text.lower().split()) for text in texts]


def score_by_white_space(references: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Compute the scores that depend on no more than which tokens are equal, of tokens between white space."""
    named = name_tokens([*references, *predictions])
    return CaptionScorer(named[: len(references)]).compute(_OF_WHITE_SPACE, named[len(references) :])


def main(
    files: Annotated[list[Path], typer.Argument(help="Predictions with their references.")],
    caption: Annotated[str, typer.Option(help="One caption for all images, in place of the predictions.")] = "",
) -> None:
    """Print a row of scores for each file and kind of tokens."""
    set_up_libraries()
    rows: list[list[object]] = []
    for path in files:
        references, predictions = read_predictions(path)
        predictions = [caption] * len(references) if caption else predictions
        scorer = CaptionScorer(references)
        of_ptb = scorer.compute(STANDARD, predictions)
        for tokens, scores in (("white space", score_by_white_space(references, predictions)), ("PTB", of_ptb)):
            figures = (f"{scores[name]:.5f}" if name in scores else None for name in STANDARD)
            rows.append([path.name, len(references), tokens, *figures])
        scorer.close()
    print_table(["predictions", "images", "tokens", *STANDARD], rows)


if __name__ == "__main__":
    typer.run(main)
