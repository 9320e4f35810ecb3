"""Texts about subjects that nobody has scanned: what the embedded language model learns to speak from.

A bag holds what there is to say of a subject as loose phrases in any order, between words that say nothing: the place
that image tokens take later. The reports and answers are those that belong to the bag.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from medcap_core.data.brain_phantoms.cohorts import TRAINING_COHORTS, CohortName
from medcap_core.data.brain_phantoms.subjects import (
    DEGREES,
    OLDEST,
    SIDES,
    STRUCTURES,
    YOUNGEST,
    Facts,
    Sex,
    SubjectKey,
    build_subject,
)
from medcap_core.data.brain_phantoms.wording import ask, list_wordings, write_report
from medcap_core.data.scans import DIAGNOSIS_QUESTION, Diagnosis

# Words that stand between the phrases of a bag and decide nothing.
_FILLER_TEXT = """
the and of in on at with to from by this that there here seen shown image slice plane axial coronal sagittal view
signal bright dark tissue white grey matter fluid skull bone scalp neck head brain lobe frontal temporal parietal
occipital cerebellum stem midline surface field noise contrast scanner volume voxel data unknown other
"""
FILLERS = tuple(_FILLER_TEXT.split())

_REAL_SHARE = 0.5  # of the examples; in the others each fact is drawn by itself, so that no fact tells another
_REPORT_SHARE, _DIAGNOSIS_SHARE = 0.4, 0.2
_KEEP_SHARE, _REPEAT_SHARE = 0.85, 0.3
_SEED_OF_TEXTS = 4  # the data set's subjects have a 3 in this place

T = TypeVar("T")

_SEXES: dict[Sex, tuple[str, ...]] = {"female": ("female", "woman"), "male": ("male", "man")}


@dataclass(frozen=True)
class TextExample:
    """`question` is None where a report is asked for; `bag` holds phrases, each of one to three words."""

    question: str | None
    kind: str
    bag: tuple[str, ...]
    answer: str
    facts: Facts
    cohort: CohortName


def list_words() -> list[str]:
    """All texts whose words the model's vocabulary must have whole, those of unseen cohorts not among them."""
    facts = draw_facts(np.random.default_rng(0))
    texts = [*FILLERS, DIAGNOSIS_QUESTION, *(diagnosis.value for diagnosis in Diagnosis), "report: question: answer:"]
    texts += [question.text for question in ask(facts)]
    texts += [text for cohort in TRAINING_COHORTS for text in (*list_wordings(cohort), name_style(cohort))]
    texts += [*DEGREES, *SIDES, *STRUCTURES, "mildly moderately severely enlarged female male woman man"]
    texts += ["diagnosis age sex ventricles hippocampi cortex smaller shrunk style", "( ) , ."]
    return [*texts, *(str(age) for age in range(YOUNGEST - 15, OLDEST + 11))]


def name_style(cohort: CohortName) -> str:
    """The word that stands for a cohort's way of writing."""
    return cohort.removeprefix("phantom-")


def draw_facts(rng: np.random.Generator) -> Facts:
    """Facts of a subject of no data set."""
    if rng.uniform() < _REAL_SHARE:
        return build_subject(SubjectKey((_SEED_OF_TEXTS,), int(rng.integers(2**40)))).facts

    def choose(options: tuple[T, ...]) -> T:
        return options[int(rng.integers(len(options)))]

    return Facts(
        diagnosis=choose(tuple(Diagnosis)),
        age=int(rng.integers(YOUNGEST, OLDEST + 1)),
        sex=choose(tuple(_SEXES)),
        ventricles=choose(DEGREES),
        hippocampi=choose(DEGREES),
        cortex=choose(DEGREES),
        smaller_side=choose(SIDES),
        shrunk_structure=choose(STRUCTURES),
    )


def list_phrases(facts: Facts, cohort: CohortName, rng: np.random.Generator) -> list[str]:
    """One phrase for each fact, the noun first."""
    sexes = _SEXES[facts.sex]
    return [
        facts.diagnosis.value,
        sexes[int(rng.integers(len(sexes)))],
        f"age {facts.age}",
        f"ventricles {facts.ventricles}",
        f"hippocampi {facts.hippocampi}",
        f"cortex {facts.cortex}",
        f"smaller {facts.smaller_side}",
        f"shrunk {facts.shrunk_structure}",
        f"style {name_style(cohort)}",
    ]


def draw_example(rng: np.random.Generator, *, whole: bool = False) -> TextExample:
    """A bag and what is to be said from it; where not `whole`, some phrases are missing and some come twice."""
    facts = draw_facts(rng)
    cohort = TRAINING_COHORTS[int(rng.integers(len(TRAINING_COHORTS)))]
    bag = list_phrases(facts, cohort, rng)
    if not whole:
        bag = [phrase for phrase in bag if rng.uniform() < _KEEP_SHARE]
        bag += [phrase for phrase in bag if rng.uniform() < _REPEAT_SHARE]
    bag = [bag[place] for place in rng.permutation(len(bag))]
    share = rng.uniform()
    if share < _REPORT_SHARE:
        return TextExample(None, "report", tuple(bag), write_report(cohort, facts, rng), facts, cohort)
    questions = ask(facts)
    is_diagnosis = share < _REPORT_SHARE + _DIAGNOSIS_SHARE
    question = questions[0 if is_diagnosis else int(rng.integers(1, len(questions)))]
    return TextExample(question.text, question.kind, tuple(bag), question.answer, facts, cohort)
