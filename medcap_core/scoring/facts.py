"""Whether captions name what is in the image: facts of the phantoms, whose truth is known, and concepts of ROCOv2.

Scores that compare words reward a caption for its sentence; these ask for its content alone.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.phantoms.scenes import SCENES, Domain
from medcap_core.data.phantoms.source import PhantomImage
from medcap_core.data.phantoms.wording import REGISTERS, cut_article
from medcap_core.data.records import Record

FACTS = ("finding", "side", "level")
_WORD = re.compile(r"[a-z0-9]+")

Words = tuple[str, ...]


@dataclass(frozen=True)
class FactChecks:
    """For one fact, each (N,) of bool: whether the image has it, and whether its caption names it rightly."""

    applies: NDArray[np.bool_]
    is_right: NDArray[np.bool_]


def has_facts(records: Sequence[Record]) -> bool:
    """Whether these are phantoms, so that `check_facts` can be asked."""
    return all(isinstance(record.image, PhantomImage) for record in records)


def check_facts(records: Sequence[Record], captions: Sequence[str]) -> dict[str, FactChecks]:
    """Compare each caption with the truth of its phantom, fact by fact of FACTS.

    A fact is named by any phrase that captions of the domain have for it, word for word, in whatever case. It is right
    if the caption names it and names no other finding, side or level (of the image's view): two sides are wrong. In a
    normal image the finding is right if none is named; side and level do not apply there. A clause that denies another
    register's finding ("nothing depicting ...") names nothing, its words being no phrase of the domain.
    """
    applies = {fact: np.zeros(len(records), bool) for fact in FACTS}
    is_right = {fact: np.zeros(len(records), bool) for fact in FACTS}
    for place, (record, caption) in enumerate(zip(records, captions, strict=True)):
        assert isinstance(record.image, PhantomImage)
        words = _split_words(caption)
        for fact in FACTS:
            value = record.truth[fact]
            if value is None and fact != "finding":
                continue
            applies[fact][place] = True
            known = _list_phrases(record.image.domain, record.truth["view"], fact)
            named = [known[phrase] for phrase in _find_phrases(words, known)]
            is_right[fact][place] = not named if value is None else bool(named) and all(value in item for item in named)
    return {fact: FactChecks(applies[fact], is_right[fact]) for fact in FACTS}


def check_concepts(
    records: Sequence[Record], captions: Sequence[str], names: Mapping[str, str]
) -> NDArray[np.float64] | None:
    """Counts for precision and recall of the concepts named in captions: (N, 3) of right, named and true ones.

    `names` gives the canonical name of each concept (CUI) that can be named, see `collect_concept_names`. A concept is
    named where its name stands in the caption word for word, in whatever case; no synonyms, so that even the reference
    captions stay below 1. Only concepts with a name count as true. None where no record has such a concept.
    """
    phrases: dict[Words, frozenset[str]] = {}
    for concept, name in names.items():
        phrase = _split_words(name)
        if phrase:
            phrases[phrase] = phrases.get(phrase, frozenset()) | {concept}
    counts = np.zeros((len(records), 3))
    for place, (record, caption) in enumerate(zip(records, captions, strict=True)):
        true = {concept for concept in record.truth.get("concepts", ()) if concept in names}
        found = [phrases[phrase] for phrase in set(_find_phrases(_split_words(caption), phrases, overlapping=True))]
        # Concepts of one name cannot be told apart: naming them is right if one is true, and names one.
        num_right = len({concept for group in found for concept in group & true})
        counts[place] = num_right, num_right + sum(not group & true for group in found), len(true)
    return counts if counts[:, 2].any() else None


def compute_precision_recall(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Precision, recall and F1 (...) from summed counts (..., 3) of right, named and true concepts; 0 where none is."""
    right, named, true = counts[..., 0], counts[..., 1], counts[..., 2]
    return {
        "precision": right / np.maximum(named, 1),
        "recall": right / np.maximum(true, 1),
        "f1": 2 * right / np.maximum(named + true, 1),
    }


def collect_concept_names(records: Iterable[Record]) -> dict[str, str]:
    """The names of all concepts of these records, by CUI; empty where the source tells no names."""
    names: dict[str, str] = {}
    for record in records:
        names |= record.truth.get("concept_names", {})
    return names


def _split_words(text: str) -> Words:
    return tuple(_WORD.findall(text.lower()))


@lru_cache(maxsize=256)
def _list_phrases(domain: Domain, view: str, fact: str) -> dict[Words, frozenset[str]]:
    """Every phrase for the fact in the domain, and the values it can stand for; levels are those of the view."""
    phrases: dict[Words, set[str]] = {}

    def add(value: str, texts: Iterable[str]) -> None:
        for text in texts:
            phrases.setdefault(_split_words(text), set()).add(value)

    if fact == "side":
        add("right", ["right"])
        add("left", ["left"])
    for register in REGISTERS[domain]:
        if fact == "finding":
            for scene in SCENES[domain]:
                for finding in scene.findings:
                    add(finding, map(cut_article, register.findings[finding]))
        elif fact == "level":
            for level, texts in register.styles[view].levels.items():
                add(level, texts)
    return {phrase: frozenset(values) for phrase, values in phrases.items()}


def _find_phrases(words: Words, known: Mapping[Words, object], overlapping: bool = False) -> list[Words]:
    """The known phrases in `words`, longest first; a word belongs to one phrase only, unless `overlapping`."""
    lengths = sorted(_count_lengths(known), reverse=True)
    is_free = [True] * len(words)
    found = []
    for length in lengths:
        for start in range(len(words) - length + 1):
            phrase = words[start : start + length]
            if phrase in known and (overlapping or all(is_free[start : start + length])):
                found.append(phrase)
                is_free[start : start + length] = [False] * length
    return found


def _count_lengths(known: Mapping[Words, object]) -> Counter[int]:
    return Counter(map(len, known))
