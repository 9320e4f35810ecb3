"""Texts about subjects that nobody has scanned: what the embedded language model learns to speak from.

A bag holds what there is to say of a subject, one word for each fact, in any order, between words that say nothing: the
place that image tokens take later. The reports and answers are those that belong to the bag.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from medcap_core.data.brain_phantoms import subjects
from medcap_core.data.brain_phantoms.cohorts import TRAINING_COHORTS, CohortName
from medcap_core.data.brain_phantoms.subjects import DEGREES, Facts, Sex, SubjectKey
from medcap_core.data.brain_phantoms.wording import DECADES, ask, list_wordings, name_decade, write_report
from medcap_core.data.scans.records import Diagnosis

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

_DIAGNOSIS_WORDS = dict(zip(Diagnosis, ("notdemented", "mildimpairment", "demented"), strict=True))
_SEXES: tuple[Sex, ...] = ("female", "male")


@dataclass(frozen=True)
class TextExample:
    """`question` is None where a report is asked for; `bag` holds words, one for each fact, and repeats."""

    question: str | None
    kind: str
    bag: tuple[str, ...]
    answer: str
    facts: Facts
    cohort: CohortName


def list_words() -> list[str]:
    """All texts whose words the model's vocabulary must have whole, those of unseen cohorts not among them."""
    texts = [*FILLERS, "report: question: answer: ( ) , ."]
    for degree in DEGREES:
        facts = Facts(Diagnosis.MCI, 70, "male", "none", "neither", degree, degree, degree)
        texts += [text for question in ask(facts) for text in (question.text, question.answer)]
        texts += list_fact_words(facts, TRAINING_COHORTS[0])
    texts += [*_SEXES, *subjects.SIDES, *subjects.STRUCTURES, *map(str, Diagnosis), *_DIAGNOSIS_WORDS.values()]
    texts += [f"{side}smaller" for side in subjects.SIDES] + [f"{structure}shrunk" for structure in subjects.STRUCTURES]
    texts += [f"{sex}sex" for sex in _SEXES] + [f"age{decade}" for decade in DECADES.values()]
    return [*texts, *(text for cohort in TRAINING_COHORTS for text in (*list_wordings(cohort), name_style(cohort)))]


def name_style(cohort: CohortName) -> str:
    """Name a cohort's style of reports in one word."""
    return cohort.removeprefix("phantom-")


def draw_facts(rng: np.random.Generator) -> Facts:
    """Facts of a subject of no data set."""
    if rng.uniform() < _REAL_SHARE:
        return subjects.build_subject(SubjectKey((_SEED_OF_TEXTS,), int(rng.integers(2**40)))).facts

    def choose(options: tuple[T, ...]) -> T:
        return options[int(rng.integers(len(options)))]

    return Facts(
        diagnosis=choose(tuple(Diagnosis)),
        age=int(rng.integers(subjects.YOUNGEST, subjects.OLDEST + 1)),
        sex=choose(_SEXES),
        ventricles=choose(DEGREES),
        hippocampi=choose(DEGREES),
        cortex=choose(DEGREES),
        side=choose(subjects.SIDES),
        structure=choose(subjects.STRUCTURES),
    )


def list_fact_words(facts: Facts, cohort: CohortName) -> list[str]:
    """One word for each fact; structure and degree are written together, so that a word needs no neighbour.

    None is a word of answers or reports: one at the end of a bag would read as said already.
    """
    words = [_DIAGNOSIS_WORDS[facts.diagnosis], f"{facts.sex}sex", f"age{name_decade(facts.age)}"]
    words += [f"{facts.ventricles}ventricles", f"{facts.hippocampi}hippocampi", f"{facts.cortex}cortex"]
    return [*words, f"{facts.side}smaller", f"{facts.structure}shrunk", name_style(cohort)]


def draw_example(rng: np.random.Generator, *, whole: bool = False) -> TextExample:
    """Draw a bag and its answer or report; where not `whole`, some words are missing and some come twice."""
    facts = draw_facts(rng)
    cohort = TRAINING_COHORTS[int(rng.integers(len(TRAINING_COHORTS)))]
    bag = list_fact_words(facts, cohort)
    if not whole:
        bag = [word for word in bag if rng.uniform() < _KEEP_SHARE]
        bag += [word for word in bag if rng.uniform() < _REPEAT_SHARE]
    bag = [bag[place] for place in rng.permutation(len(bag))]
    share = rng.uniform()
    if share < _REPORT_SHARE:
        return TextExample(None, "report", tuple(bag), write_report(cohort, facts, rng), facts, cohort)
    questions = ask(facts)
    is_diagnosis = share < _REPORT_SHARE + _DIAGNOSIS_SHARE
    question = questions[0 if is_diagnosis else int(rng.integers(1, len(questions)))]
    return TextExample(question.text, question.kind, tuple(bag), question.answer, facts, cohort)
