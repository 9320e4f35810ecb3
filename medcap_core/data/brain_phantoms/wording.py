"""What is said about a subject: reports in each cohort's own words, and questions with their answers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medcap_core.data.brain_phantoms.cohorts import CohortName
from medcap_core.data.brain_phantoms.subjects import DEGREES, Degree, Facts
from medcap_core.data.scans.records import Question, ask_diagnosis

SEX_QUESTION = "What is the sex of this subject?"
STRUCTURE_QUESTION = "Which structure has shrunk most?"
SIDE_QUESTION = "Which hippocampus is the smaller one?"
VENTRICLE_QUESTION = "How large are the ventricles?"


@dataclass(frozen=True)
class Wording:
    """One cohort's way of writing: three sentences, of which the first has two templates.

    `subject` takes {age}, {person} and {their}; `ventricles`, `hippocampi` and `cortex` give a clause for each degree;
    in `one_side` {side} is the smaller hippocampus and {other} the larger one.
    """

    persons: Mapping[str, str]
    subject: tuple[str, str]
    ventricles: Mapping[Degree, str]
    hippocampi: Mapping[Degree, str]
    cortex: Mapping[Degree, str]
    one_side: str
    both_sides: str


_PERSONS = {"female": "woman", "male": "man"}
_SEXES = {"female": "female subject", "male": "male subject"}


_MILDLY = ("mildly", "moderately", "severely")
_SLIGHTLY = ("slightly", "moderately", "markedly")
_MILD = ("mild", "moderate", "severe")
_MINOR = ("minor", "distinct", "gross")
_FAINTLY = ("faintly", "visibly", "extremely")


def _fill(adverbs: Sequence[str], normal: str, changed: str) -> dict[Degree, str]:
    """Build the clauses by degree: `normal`, and `changed` with each degree's {adverb}."""
    return dict(zip(DEGREES, (normal, *(changed.format(adverb=adverb) for adverb in adverbs)), strict=True))


VENTRICLE_ANSWERS: Mapping[Degree, str] = _fill(_MILDLY, "normal", "{adverb} enlarged")

WORDINGS: Mapping[CohortName, Wording] = {
    "phantom-alder": Wording(
        _PERSONS,
        ("A {person} in {their} {age}.", "Head of a {person} in {their} {age}."),
        _fill(_MILDLY, "the ventricles are of normal size", "the ventricles are {adverb} enlarged"),
        _fill(_MILDLY, "The hippocampi are of normal size", "The hippocampi are {adverb} shrunken"),
        _fill(_MILDLY, "the cortex is of normal thickness", "the cortex is {adverb} thinned"),
        "the {side} hippocampus is smaller than the {other}",
        "both hippocampi are alike",
    ),
    "phantom-birch": Wording(
        _SEXES,
        ("{person} in {their} {age}.", "This {person} is in {their} {age}."),
        _fill(_MILD, "no enlargement of the ventricles", "{adverb} enlargement of the ventricles"),
        _fill(_MILD, "No atrophy of the hippocampi", "There is {adverb} atrophy of the hippocampi"),
        _fill(_MILD, "no atrophy of the cortex", "{adverb} atrophy of the cortex"),
        "more loss in the {side} hippocampus",
        "equal on either side",
    ),
    "phantom-cedar": Wording(
        _PERSONS,
        ("MRI of a {person} in {their} {age}.", "MRI, {person}, {age}."),
        _fill(_SLIGHTLY, "normal ventricles", "{adverb} wide ventricles"),
        _fill(_SLIGHTLY, "Normal hippocampi", "{adverb} small hippocampi"),
        _fill(_SLIGHTLY, "normal cortex", "{adverb} thin cortex"),
        "the {side} hippocampus smaller",
        "symmetric",
    ),
    "phantom-dogwood": Wording(
        _SEXES,
        ("The scan shows a {person} in {their} {age}.", "Scan of a {person} in {their} {age}."),
        _fill(_MINOR, "ventricles without widening", "{adverb} widening of the ventricles"),
        _fill(_MINOR, "Hippocampi of full volume", "{adverb} volume loss of the hippocampi"),
        _fill(_MINOR, "full cortical thickness", "{adverb} cortical thinning"),
        "the {side} side being worse",
        "no difference between the sides",
    ),
    "phantom-elm": Wording(
        _PERSONS,
        ("Scanned {person} in {their} {age}.", "This {person} was scanned in {their} {age}."),
        _fill(_FAINTLY, "ventricles within normal limits", "ventricles {adverb} dilated"),
        _fill(_FAINTLY, "Hippocampal size is preserved", "Hippocampal size is {adverb} reduced"),
        _fill(_FAINTLY, "cortical ribbon preserved", "cortical ribbon {adverb} reduced"),
        "the {side} one is smaller",
        "left and right match",
    ),
}

_THEIR: Mapping[str, str] = {"female": "her", "male": "his"}
DECADES: Mapping[int, str] = {5: "fifties", 6: "sixties", 7: "seventies", 8: "eighties", 9: "nineties"}

_SLOT = re.compile(r"\{\w+\}")


def name_decade(age: int) -> str:
    """Name the decade of an age in years: no scan shows more."""
    return DECADES[age // 10]


def list_wordings(cohort: CohortName) -> list[str]:
    """Every template and phrase of a cohort, slots left empty: all words of its reports."""
    wording = WORDINGS[cohort]
    phrases = ["left", "right", *_THEIR.values(), *DECADES.values()]
    phrases += [*wording.subject, wording.one_side, wording.both_sides]
    for choices in (wording.persons, wording.ventricles, wording.hippocampi, wording.cortex):
        phrases += choices.values()
    return [_SLOT.sub(" ", phrase) for phrase in phrases]


def write_report(cohort: CohortName, facts: Facts, rng: np.random.Generator) -> str:
    """Three sentences on a subject; the diagnosis is not among them."""
    wording, side = WORDINGS[cohort], facts.side
    who = wording.subject[int(rng.integers(len(wording.subject)))].format(
        age=name_decade(facts.age), person=wording.persons[facts.sex], their=_THEIR[facts.sex]
    )
    sides = wording.both_sides
    if side != "neither":
        sides = wording.one_side.format(side=side, other="right" if side == "left" else "left")
    hippocampi = f"{wording.hippocampi[facts.hippocampi]}, {sides}."
    rest = f"{wording.ventricles[facts.ventricles]} and {wording.cortex[facts.cortex]}."
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in (who, hippocampi, rest))


def ask(facts: Facts) -> tuple[Question, ...]:
    """All questions about one subject; the first is the published one."""
    return (
        ask_diagnosis(facts.diagnosis),
        Question("sex", SEX_QUESTION, facts.sex),
        Question("structure", STRUCTURE_QUESTION, facts.structure),
        Question("side", SIDE_QUESTION, facts.side),
        Question("ventricles", VENTRICLE_QUESTION, VENTRICLE_ANSWERS[facts.ventricles]),
    )
