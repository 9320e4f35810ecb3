"""Records of brain scans: report, diagnosis, cohort, and questions with answers."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from medcap_core.data.records import Record, VolumeReference


class Diagnosis(StrEnum):
    """The three classes, in this order; the values are the texts that models generate."""

    NOT_DEMENTED = "not demented"
    MCI = "mild cognitive impairment"
    DEMENTIA = "dementia"


DIAGNOSIS_QUESTION = "What will this subject be diagnosed with?"
"""As published with MedBLIP (arXiv 2305.10799)."""

DIAGNOSIS_WORDS: dict[Diagnosis, tuple[str, ...]] = {
    Diagnosis.NOT_DEMENTED: (
        "not demented", "nondemented", "control", "controls", "nc", "cn", "hc", "cognitively normal",
        "cognitively unimpaired", "normal cognition",
    ),
    Diagnosis.MCI: ("mild cognitive impairment", "mci", "lmci", "emci"),
    Diagnosis.DEMENTIA: (
        "dementia", "demented", "ad", "alzheimer disease", "alzheimers disease", "alzheimer s disease", "alzheimers",
    ),
}  # fmt: skip
"""Labels of the cohorts' tables and of answers by class, in lower case and without punctuation.

AD, Demented and Dementia, NC, CN, Nondemented and control, and MCI are mapped as published; the others are their longer
forms (LMCI and EMCI, ADNI's late and early MCI; HC, MIRIAD's healthy control).
"""

_NEGATIONS = {"not", "no", "non", "without", "never", "neither", "nor", "cannot", "isnt", "doesnt"}
_NEGATION_REACH = 4
"""Most words from a negation to the class, as in "does not appear to have dementia"."""

_CLASSES = {words: diagnosis for diagnosis, known in DIAGNOSIS_WORDS.items() for words in known}
_LABEL = re.compile(rf"\b({'|'.join(sorted(_CLASSES, key=len, reverse=True))})\b")  # the longest first
_APOSTROPHES = re.compile(r"(?<=n)['’](?=t\b)")
_TOKEN = re.compile(r"[a-z0-9]+|[.,;:!?]")
_CLAUSE_END = re.compile(r"[.,;:!?]")


@dataclass(frozen=True)
class Question:
    """A question on one scan with its answer; `kind` is the question's type ("diagnosis", "sex", "structure" ...)."""

    kind: str
    text: str
    answer: str


def ask_diagnosis(diagnosis: Diagnosis) -> Question:
    """Build the published question on the diagnosis, with its answer."""
    return Question("diagnosis", DIAGNOSIS_QUESTION, diagnosis.value)


@dataclass(frozen=True)
class ScanRecord(Record):
    """One scan with its report.

    `caption` is the report without the sentence of the diagnosis; `case` is the subject. With a known diagnosis the
    first of `questions` is `ask_diagnosis(diagnosis)`. `cohort` is None where the source names none.
    """

    noun: ClassVar[str] = "scan"

    image: VolumeReference
    cohort: str | None = None
    diagnosis: Diagnosis | None = None
    questions: tuple[Question, ...] = ()


def read_diagnosis(words: str) -> Diagnosis | None:
    """Parse the class named by a cohort's label or a model's answer; None where it names none or several.

    Whole words are compared, without case and punctuation. A negation up to four words before a word for dementia in
    the same clause ("not demented", "no signs of dementia") gives not demented; with a negated control or MCI the whole
    text gives None.
    """
    text = " ".join(_TOKEN.findall(_APOSTROPHES.sub("", words.casefold())))
    named: set[Diagnosis | None] = set()
    start = 0
    for match in _LABEL.finditer(text):
        diagnosis = _CLASSES[match[0]]
        clause = _CLAUSE_END.split(text[start : match.start()])[-1].split()
        if _NEGATIONS.isdisjoint(clause[-_NEGATION_REACH:]):
            named.add(diagnosis)
        else:
            named.add(Diagnosis.NOT_DEMENTED if diagnosis is Diagnosis.DEMENTIA else None)
        start = match.end()
    return named.pop() if len(named) == 1 else None
