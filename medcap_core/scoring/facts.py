"""Content of captions: the facts of phantoms, whose truth is known, and the concepts of ROCOv2.

N-gram scores also reward a caption's wording; these score its content alone.
"""

import re
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
    """For one fact, bool (N,) each: whether it applies to the image, and whether the caption states it correctly."""

    applies: NDArray[np.bool_]
    is_right: NDArray[np.bool_]


def has_facts(records: Sequence[Record]) -> bool:
    """Check whether all records are phantoms, which `check_facts` needs."""
    return all(isinstance(record.image, PhantomImage) for record in records)


def check_facts(records: Sequence[Record], captions: Sequence[str]) -> dict[str, FactChecks]:
    """Compare each caption with the truth of its phantom, fact by fact of FACTS.

    A fact is named by any phrase of the domain for it, word for word, ignoring case. It is right if the caption names
    it and no other finding, side or level (of the image's view). In a normal image the finding is right if none is
    named; side and level do not apply. A finding right after "no" or "without" is not named. A clause that denies
    another register's finding ("nothing depicting ...") names nothing, as its words are no phrase of the domain.
    """
    checks = {fact: FactChecks(np.zeros(len(records), bool), np.zeros(len(records), bool)) for fact in FACTS}
    for index, (record, caption) in enumerate(zip(records, captions, strict=True)):
        assert isinstance(record.image, PhantomImage)
        words = _split_words(caption)
        for fact, check in checks.items():
            value = record.truth[fact]
            if value is None and fact != "finding":
                continue
            known = _list_phrases(record.image.domain, record.truth["view"], fact)
            found = _find_phrases(words, known)
            named = [known[phrase] for start, phrase in found if fact != "finding" or not _is_denied(words, start)]
            check.applies[index] = True
            check.is_right[index] = not named if value is None else bool(named) and all(value in item for item in named)
    return checks


def check_concepts(
    records: Sequence[Record], captions: Sequence[str], names: Mapping[str, str]
) -> NDArray[np.float64] | None:
    """Count the concepts named in captions: (N, 3) of right, named and true ones, for precision and recall.

    `names` maps concepts (CUI) to canonical names, see `collect_concept_names`. A concept is named if its name is in
    the caption word for word, ignoring case; without synonyms, so even the reference captions stay below 1. Only
    concepts with a name count as true. None where no record has such a concept.
    """
    phrases: dict[Words, set[str]] = {}
    for concept, name in names.items():
        if phrase := _split_words(name):
            phrases.setdefault(phrase, set()).add(concept)
    counts = np.zeros((len(records), 3))
    for index, (record, caption) in enumerate(zip(records, captions, strict=True)):
        true = {concept for concept in record.truth.get("concepts", ()) if concept in names}
        words = _split_words(caption)
        found = [phrases[phrase] for phrase in {own for _, own in _find_phrases(words, phrases, overlapping=True)}]
        # Concepts with the same name count as one, right if any of them is true.
        num_right = len({concept for group in found for concept in group & true})
        counts[index] = num_right, num_right + sum(not group & true for group in found), len(true)
    return counts if counts[:, 2].any() else None


def compute_precision_recall(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute precision, recall and F1 (...) from summed counts (..., 3) of right, named and true concepts."""
    right, named, true = counts[..., 0], counts[..., 1], counts[..., 2]
    return {
        "precision": right / np.maximum(named, 1),
        "recall": right / np.maximum(true, 1),
        "f1": 2 * right / np.maximum(named + true, 1),
    }


def collect_concept_names(records: Iterable[Record]) -> dict[str, str]:
    """Collect the names of all concepts of the records, by CUI; empty where the source has no names."""
    names: dict[str, str] = {}
    for record in records:
        names |= record.truth.get("concept_names", {})
    return names


def _is_denied(words: Words, start: int) -> bool:
    """Check for a "no" or "without" before a finding, with at most its size in between."""
    before = words[max(0, start - 2) : start]
    return not {"no", "without"}.isdisjoint(before) and {"a", "an"}.isdisjoint(before)


def _split_words(text: str) -> Words:
    return tuple(_WORD.findall(text.lower()))


@lru_cache(maxsize=256)
def _list_phrases(domain: Domain, view: str, fact: str) -> dict[Words, set[str]]:
    """List every phrase for the fact in the domain with its possible values; levels are of the view."""
    named: list[tuple[str, str]] = []
    if fact == "side":
        named = [("right", "right"), ("left", "left")]
    for register in REGISTERS[domain]:
        if fact == "finding":
            findings = {finding: register.findings[finding] for scene in SCENES[domain] for finding in scene.findings}
            named += [(finding, cut_article(text)) for finding, texts in findings.items() for text in texts]
        elif fact == "level":
            named += [(level, text) for level, texts in register.styles[view].levels.items() for text in texts]
    phrases: dict[Words, set[str]] = {}
    for value, text in named:
        phrases.setdefault(_split_words(text), set()).add(value)
    return phrases


def _find_phrases(words: Words, known: Mapping[Words, object], overlapping: bool = False) -> list[tuple[int, Words]]:
    """Find the known phrases and where they start, longest first; a word is of one phrase, unless `overlapping`."""
    is_free = [True] * len(words)
    found = []
    for length in sorted(set(map(len, known)), reverse=True):
        for start in range(len(words) - length + 1):
            phrase = words[start : start + length]
            if phrase in known and (overlapping or all(is_free[start : start + length])):
                found.append((start, phrase))
                is_free[start : start + length] = [False] * length
    return found
