"""Scores of captions as plug-ins: what a score is, and the scores that are there, by their key in a space file.

An installed package adds scores by entry points of the group `medcap.scores`; each names a `Score`, or a tuple of them
that go by one key. This project's own are found in the same way: those of every run (`STANDARD`), and extra ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medcap_core.errors import ConfigFault, MedcapError, ModelFault, first_line
from medcap_core.scoring.options import DEFAULT_SCORING, ScoringOptions

if TYPE_CHECKING:
    from PIL import Image

GROUP = "medcap.scores"

STANDARD = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
"""Keys of the scores of every run, which are also their names."""

RANKED = {name: name for name in ("CIDEr", "BLEU-4", "ROUGE-L", "METEOR")} | {"BERTScore": "bertscore"}
"""Names by which trials may be ranked by scores of this project -> the keys of these, known without importing them."""

_RADIOLOGY = ("radgraph", "chexbert", "ratescore", "radcliq", "radbert_ct", "radeval_bertscore")
_OWN = (
    *(EntryPoint(k, f"medcap_core.scoring.standard:{k.upper().replace('-', '_')}", GROUP) for k in STANDARD),
    EntryPoint("rouge1", "medcap_core.scoring.extra.rouge:ROUGE_1", GROUP),
    EntryPoint("bertscore", "medcap_core.scoring.extra.bertscore:BERTSCORE", GROUP),
    EntryPoint("imageclef2026", "medcap_core.scoring.extra.imageclef:IMAGECLEF_2026", GROUP),
    *(EntryPoint(k, f"medcap_core.scoring.extra.radiology:{k.upper()}", GROUP) for k in _RADIOLOGY),
)


@dataclass(frozen=True, eq=False)
class ScoreInput:
    """What a score sees of N images: a prediction, one or several references, and the pixels of each.

    Captions are preprocessed by `options.preprocessing`, the raw ones are not. `images` has one image for each
    prediction, opened as it is asked for; it is empty where there are none, as for scans. Equal to itself alone, so
    that what several scores share can be cached by it.
    """

    predictions: Sequence[str]
    references: Sequence[Sequence[str]]
    raw_predictions: Sequence[str]
    raw_references: Sequence[Sequence[str]]
    images: "Sequence[Image.Image]" = ()
    options: ScoringOptions = DEFAULT_SCORING


@dataclass(frozen=True)
class ScoreValues:
    """A score of each image, (N,), and of the corpus: their mean, or `corpus` where it is another figure.

    A corpus figure of its own has an interval where it follows from sums over images: `pool` computes it (...) from
    the sums (..., K) of `counts` (N, K) over any selection of images. `each` is shown where `is_for_images`.
    """

    each: NDArray[np.float64]
    corpus: float | None = None
    counts: NDArray[np.float64] | None = None
    pool: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
    is_for_images: bool = True

    @property
    def value(self) -> float:
        """The figure of the corpus."""
        return float(np.mean(self.each)) if self.corpus is None else self.corpus


@dataclass(frozen=True)
class Score:
    """One score of captions.

    `name` heads its column. `compute` raises ModelFault where what the score needs (`needs`, in words) is missing.
    `models` lists the keys of `score_models` that it reads, by `ScoringOptions.find_model`. `modalities` says on which
    images or reports the score was made, `may_be_objective` whether a search could rank trials by it: only where it is
    cheap and needs no images. `scale` names its range.
    """

    name: str
    compute: Callable[[ScoreInput], ScoreValues]
    needs: str = ""
    models: tuple[str, ...] = ()
    higher_is_better: bool = True
    may_be_objective: bool = False
    modalities: str = "any"
    scale: str = "0 to 1"

    def describe(self) -> str:
        """Say what a reader of the figure must know, as a sentence; empty where there is nothing to say."""
        said = [] if self.higher_is_better else ["lower is better"]
        said += [] if self.modalities == "any" else [f"made on {self.modalities}"]
        return f"{self.name}: {', '.join(said)}." if said else ""


def list_scores() -> dict[str, EntryPoint]:
    """List the scores that are installed by key, this project's own first, and import none."""
    found: dict[str, EntryPoint] = {}
    for point in (*_OWN, *entry_points(group=GROUP)):
        if point.name in found and found[point.name].value != point.value:
            raise ConfigFault(
                f"score '{point.name}' is provided twice, by {found[point.name].value} and {point.value}; uninstall "
                "one of the two packages."
            )
        found[point.name] = point
    return found


def _remedy(point: EntryPoint) -> str:
    mend = f"mend package {point.dist.name}, or " if point.dist else ""
    return f"{mend}leave '{point.name}' out."


@lru_cache(maxsize=64)
def load_scores(key: str) -> tuple[Score, ...]:
    """Import the score of a key, or the several that go by it. Raises ConfigFault where that fails."""
    point = list_scores().get(key)
    if point is None:
        raise ConfigFault(f"score '{key}' is not installed here; install the package that has it, or leave it out.")
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001  # another package's code, which may fail in any way
        raise ConfigFault(
            f"score '{key}' cannot be imported from {point.value} ({first_line(error)}); {_remedy(point)}"
        ) from None
    scores = tuple(loaded) if isinstance(loaded, tuple | list) else (loaded,)
    if not scores or not all(isinstance(score, Score) for score in scores):
        raise ConfigFault(f"score '{key}' ({point.value}) is no Score; {_remedy(point)}")
    taken = [score.name for score in scores if score.name in STANDARD and key not in STANDARD]
    if taken:
        raise ConfigFault(
            f"score '{key}' ({point.value}) has the name of a score of every run, {taken[0]}; {_remedy(point)}"
        )
    return scores


def compute_score(key: str, score: Score, captions: ScoreInput) -> ScoreValues:
    """Compute a score of a key. Raises ModelFault where that fails, or gives no finite figure for each image."""
    try:
        found = score.compute(captions)
        each = np.asarray(found.each, dtype=np.float64)
        fault = _find_fault(each, found, len(captions.predictions))
    except (Exception, SystemExit) as error:
        if key in STANDARD or isinstance(error, MedcapError):
            raise
        fault = f": {type(error).__name__}, {first_line(error)}"
    if fault:
        raise ModelFault(f"score {score.name}{fault}; {_remedy(list_scores()[key])}")
    return replace(found, each=each)


def _find_fault(each: NDArray[np.float64], found: ScoreValues, num_images: int) -> str:
    """Say what is wrong with the figures of a score; empty where nothing is."""
    if each.shape != (num_images,):
        return f" gave figures of shape {each.shape} instead of {(num_images,)}"
    odd = np.flatnonzero(~np.isfinite(each))
    if odd.size:
        return f" gave no finite figure for image {odd[0] + 1} of {num_images}"
    return "" if np.isfinite(found.value) else " gave no finite figure for the corpus"


def compute_scores(keys: Sequence[str], captions: ScoreInput) -> tuple[dict[str, ScoreValues], dict[str, list[str]]]:
    """Compute the scores of some keys by name, and the sentences on those that could not be computed, by key."""
    values: dict[str, ScoreValues] = {}
    missing: dict[str, list[str]] = {}
    for key in keys:
        for score in load_scores(key):
            try:
                values[score.name] = compute_score(key, score, captions)
            except ModelFault as fault:
                missing.setdefault(key, []).extend(fault.faults)
    return values, missing


def check_scores(options: ScoringOptions, objectives: Sequence[str] = ()) -> list[str]:
    """Compute every extra score of two captions, so that what is missing is known before a run begins.

    So is each of `objectives` that is a score of captions; on validation these get no images.

    Returns a sentence on each score of a set that cannot be computed. Raises ModelFault where no score of a key can.
    """
    from PIL import Image

    texts, references = ["a small nodule", "no effusion"], [["a small nodule"], ["an effusion"]]
    images = [Image.new("RGB", (64, 64), "gray")] * 2
    read = {model for key in options.extra_scores for score in load_scores(key) for model in score.models}
    if unread := [name for name, _ in options.score_models if name not in read]:
        known = f"these are: {', '.join(sorted(read))}" if read else "none of them reads a model"
        raise ConfigFault(f"score_models: {', '.join(unread)} is read by none of the extra_scores; {known}.")
    captions = ScoreInput(texts, references, texts, references, images, options)
    values, missing = compute_scores(options.extra_scores, captions)
    ranked = [name for name in objectives if name in list_scores()]
    _, unranked = compute_scores(ranked, replace(captions, images=()))
    needless = {key: missing[key] for key in missing if all(score.name not in values for score in load_scores(key))}
    if faults := [fault for some in (needless | unranked).values() for fault in some]:
        raise ModelFault(faults)
    return [fault for faults in missing.values() for fault in faults]
