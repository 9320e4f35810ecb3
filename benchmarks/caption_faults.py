"""What each score notices of a caption's faults, on phantoms, whose truth is known.

python -m benchmarks.caption_faults --scores rouge1

The reference is a phantom's caption, the prediction the same facts in other words. One fault is then put into each
prediction: its finding is denied by "no", its side swapped, or another finding of the same view named. Columns give the
score of the faultless predictions, and how much of it is lost by each fault, and by another image's caption.
"""

import re
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import typer

from benchmarks.machine import print_table
from medcap_core.data.phantoms import PhantomImage, load_phantoms
from medcap_core.data.phantoms.scenes import SCENES, build_plan
from medcap_core.data.phantoms.wording import REGISTERS, cut_article, write_caption
from medcap_core.data.records import Record
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.scoring.captions import CaptionScorer
from medcap_core.scoring.facts import FACTS, check_facts
from medcap_core.scoring.options import DEFAULT_BERTSCORE_MODEL, ScoringOptions

_SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
_REWORDING_SEED = 1


def load_findings(num_images: int) -> list[Record]:
    """Load test phantoms of the target domain, those with a finding."""
    records = load_phantoms("target", {"test": num_images}).splits["test"]
    return [record for record in records if record.truth["finding"] is not None]


def reword(records: Sequence[Record]) -> list[str]:
    """Write the facts of each record anew, with other draws of sentence and phrases."""
    rng = np.random.default_rng(_REWORDING_SEED)
    captions = []
    for record in records:
        image = record.image
        assert isinstance(image, PhantomImage)
        plan = build_plan(image)
        captions.append(write_caption(image.domain, plan, rng))
    return captions


def deny_finding(record: Record, caption: str) -> str:
    """Put "no" before the finding, in place of its article."""
    return _replace_finding(record, caption, lambda finding: f"no {finding}")


def swap_side(_record: Record, caption: str) -> str:
    """Name the other side."""
    return re.sub(r"\b(left|right)\b", lambda match: _SIDES[match.group()], caption, flags=re.IGNORECASE)


def change_finding(record: Record, caption: str) -> str:
    """Name the next finding of the same view."""
    scene = next(scene for scene in SCENES["target"] if scene.view == record.truth["view"])
    names = list(scene.findings)
    other = names[(names.index(record.truth["finding"]) + 1) % len(names)]
    return _replace_finding(record, caption, lambda _: REGISTERS["target"][0].findings[other][0])


def _replace_finding(record: Record, caption: str, write: Callable[[str], str]) -> str:
    nouns = [cut_article(phrase) for phrase in REGISTERS["target"][0].findings[record.truth["finding"]]]
    pattern = rf"(\ban? )?\b({'|'.join(map(re.escape, sorted(nouns, key=len, reverse=True)))})\b"
    changed, count = re.subn(pattern, lambda match: write(match.group(2)), caption, flags=re.IGNORECASE)
    assert count == 1, (caption, nouns)
    return changed[0].upper() + changed[1:]


FAULTS = {'"no" before the finding': deny_finding, "side swapped": swap_side, "another finding": change_finding}


def score_all(records: Sequence[Record], captions: Sequence[str], scorer: CaptionScorer) -> dict[str, float]:
    """Score captions by every score of the test table, and by the facts they name."""
    checks = check_facts(records, captions)
    facts = {f"{fact}, accuracy": float(checks[fact].is_right.mean()) for fact in FACTS}
    return scorer.score(captions).scores | facts


def build_table(records: Sequence[Record], options: ScoringOptions) -> list[list[object]]:
    """Build a row for each score: its faultless value, and its loss by each fault and by another image's caption."""
    scorer = CaptionScorer([record.caption for record in records], options)
    true = reword(records)
    half = len(records) // 2
    pairs = list(zip(records, true, strict=True))
    variants = [true, *([fault(record, text) for record, text in pairs] for fault in FAULTS.values())]
    variants.append(true[half:] + true[:half])
    scored = [score_all(records, captions, scorer) for captions in variants]
    scorer.close()
    first, *others = scored
    return [[name, value, *(f"{other[name] / value - 1:+.0%}" for other in others)] for name, value in first.items()]


def main(
    images: Annotated[int, typer.Option(help="Test phantoms, of which those with a finding are taken.")] = 600,
    scores: Annotated[str, typer.Option(help="Extra scores, with commas between.")] = "rouge1",
    bertscore_model: Annotated[str, typer.Option(help="Encoder of bertscore.")] = DEFAULT_BERTSCORE_MODEL,
) -> None:
    """Print the table."""
    set_up_libraries()
    records = load_findings(images)
    options = ScoringOptions(tuple(scores.split(",")), bertscore_model)
    print(f"{len(records)} captions\n")
    print_table(["score", "faultless", *FAULTS, "another image's"], build_table(records, options))


if __name__ == "__main__":
    typer.run(main)
