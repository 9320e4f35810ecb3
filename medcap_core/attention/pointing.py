"""The pointing game on phantoms: does the map of a finding's word peak where the finding was drawn?

After Zhang et al., "Top-down Neural Attention by Excitation Backprop" (arXiv 1608.00507): a hit is a peak inside the
true box. Departs from it in counting words instead of classes, and in allowing no margin around the box.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, computed_field

from medcap_core.attention.explained import ExplainedText, find_peak
from medcap_core.data.phantoms.wording import list_finding_wordings
from medcap_core.data.records import Record
from medcap_core.scoring.statistics import compute_interval, number_units, resample_sums

Box = tuple[float, float, float, float]

_FUNCTION_WORDS = frozenset({"a", "an", "of", "with"})
_MARKS = ".,:;()"


class PointingGame(BaseModel):
    """The outcome over some images; shares are of finding words, intervals are 95% bootstrap intervals over cases.

    `area_chance` is the mean share of the image that the true boxes cover: what a peak thrown anywhere would hit.
    `shuffled_chance` is what the same peaks hit in the other images' boxes: it also knows where findings usually lie.
    `gain` is `share` less `shuffled_chance`.
    """

    model_config = ConfigDict(frozen=True)

    num_images: int
    num_words: int
    share: float
    interval: tuple[float, float]
    area_chance: float
    shuffled_chance: float
    gain: float
    gain_interval: tuple[float, float]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def is_above_chance(self) -> bool:
        """Whether the whole interval lies above both kinds of chance."""
        return self.interval[0] > self.area_chance and self.gain_interval[0] > 0


def find_finding_words(words: Sequence[str]) -> list[int]:
    """Find the positions of words that name a finding, right or wrong; `of`, `with` and articles are left out."""
    plain = [word.lower().strip(_MARKS) for word in words]
    found: set[int] = set()
    taken: set[int] = set()
    for phrase in sorted(list_finding_wordings(), key=lambda wording: (-len(wording), wording)):
        parts = phrase.lower().split()
        for start in range(len(plain) - len(parts) + 1):
            here = range(start, start + len(parts))
            if plain[start : start + len(parts)] == parts and not taken & set(here):
                taken |= set(here)
                found |= {position for position in here if plain[position] not in _FUNCTION_WORDS}
    return sorted(found)


def is_inside(point: Sequence[float], box: Box) -> bool:
    """Decide whether (x, y) lies in (x0, y0, x1, y1)."""
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]


def play_pointing_game(explained: Sequence[ExplainedText], records: Sequence[Record]) -> PointingGame | None:
    """Score the maps of captions of phantoms; None where no caption of an abnormal image names a finding."""
    peaks: list[list[tuple[float, ...]]] = []
    boxes: list[Box] = []
    cases: list[str | None] = []
    for caption, record in zip(explained, records, strict=True):
        positions = find_finding_words([word.text for word in caption.words])
        box = record.truth["box"]
        if box is not None and positions:
            peaks.append([find_peak(caption.words[position].map) for position in positions])
            boxes.append(box)
            cases.append(record.case)
    if not peaks:
        return None
    hits = np.array([sum(is_inside(peak, box) for peak in own) for own, box in zip(peaks, boxes, strict=True)], float)
    num_words = np.array([len(own) for own in peaks], float)
    shuffled = _count_shuffled_hits(peaks, boxes)
    areas = np.array([(box[2] - box[0]) * (box[3] - box[1]) for box in boxes])
    resampled = resample_sums(np.column_stack([hits, shuffled, num_words]), number_units(cases), seed=0)[0].T
    share, chance = hits.sum() / num_words.sum(), shuffled.sum() / num_words.sum()
    return PointingGame(
        num_images=len(boxes),
        num_words=int(num_words.sum()),
        share=float(share),
        interval=compute_interval(resampled[0] / resampled[2]),
        area_chance=float((areas * num_words).sum() / num_words.sum()),
        shuffled_chance=float(chance),
        gain=float(share - chance),
        gain_interval=compute_interval((resampled[0] - resampled[1]) / resampled[2]),
    )


def _count_shuffled_hits(peaks: Sequence[Sequence[tuple[float, ...]]], boxes: Sequence[Box]) -> NDArray[np.float64]:
    """Count for each image the hits its peaks would have on average if its box were any other image's."""
    if len(boxes) < 2:
        return np.zeros(len(boxes))
    x0, y0, x1, y1 = np.array(boxes).T
    counts = np.zeros(len(boxes))
    for index, own in enumerate(peaks):
        for x, y in own:
            inside = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
            counts[index] += (inside.sum() - inside[index]) / (len(boxes) - 1)
    return counts
