"""Diagnoses read from labels and from generated answers; records of scans."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from medcap_core.data.records import Record
from medcap_core.data.scans.files import NpyFile
from medcap_core.data.scans.records import (
    DIAGNOSIS_QUESTION,
    DIAGNOSIS_WORDS,
    Diagnosis,
    Question,
    ScanRecord,
    ask_diagnosis,
    read_diagnosis,
)

NOT_DEMENTED, MCI, DEMENTIA = Diagnosis


@pytest.mark.parametrize(
    ("expected", "labels"),
    [
        (DEMENTIA, ["AD", "Demented", "Dementia", "dementia.", "Alzheimer's disease", "Alzheimer\u2019s Disease"]),
        (NOT_DEMENTED, ["NC", "CN", "Nondemented", "control", "HC", "Cognitively normal", " nc ", "Non-demented"]),
        (MCI, ["MCI", "mci", "LMCI", "EMCI", "Mild  Cognitive\nImpairment"]),
    ],
)
def test_labels_of_the_cohorts(expected: Diagnosis, labels: list[str]) -> None:
    assert {label: read_diagnosis(label) for label in labels} == dict.fromkeys(labels, expected)


@pytest.mark.parametrize("diagnosis", Diagnosis)
def test_every_class_reads_its_own_words(diagnosis: Diagnosis) -> None:
    assert read_diagnosis(diagnosis.value) is diagnosis
    assert [read_diagnosis(words) for words in DIAGNOSIS_WORDS[diagnosis]] == [diagnosis] * len(
        DIAGNOSIS_WORDS[diagnosis]
    )
    assert read_diagnosis(f"The subject will be diagnosed with {diagnosis.value.upper()}, it seems.") is diagnosis


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Not demented", NOT_DEMENTED),
        ("the diagnosis is not demented .", NOT_DEMENTED),
        ("There are no signs of dementia.", NOT_DEMENTED),
        ("this subject doesn't have dementia", NOT_DEMENTED),
        ("The subject is not demented, but a healthy control.", NOT_DEMENTED),
        ("No. Dementia.", DEMENTIA),
        ("dementia dementia dementia", DEMENTIA),
        ("dementia (AD)", DEMENTIA),
        ("mild cognitive impairment", MCI),
        ("not mild cognitive impairment", None),
        ("dementia or mild cognitive impairment", None),
        ("demented or not demented", None),
        ("not a control", None),
        ("a bad scan of an adult; undemented, controlled", None),
        ("", None),
        (DIAGNOSIS_QUESTION, None),
    ],
)
def test_generated_answers(answer: str, expected: Diagnosis | None) -> None:
    assert read_diagnosis(answer) is expected


def test_order_and_published_question() -> None:
    assert [diagnosis.value for diagnosis in Diagnosis] == ["not demented", "mild cognitive impairment", "dementia"]
    assert ask_diagnosis(MCI) == Question(
        "diagnosis", "What will this subject be diagnosed with?", "mild cognitive impairment"
    )


def test_a_scan_is_a_record() -> None:
    plain = ScanRecord("s1", NpyFile(Path("s1.npy")), "A report.")
    assert isinstance(plain, Record)
    assert (plain.case, plain.cohort, plain.diagnosis, plain.questions, plain.truth) == (None, None, None, (), {})
    full = replace(plain, case="subject 1", diagnosis=MCI, questions=(ask_diagnosis(MCI),), truth={"age": 71})
    assert pickle.loads(pickle.dumps(full)) == full
    assert (Record.noun, full.noun) == ("image", "scan")
