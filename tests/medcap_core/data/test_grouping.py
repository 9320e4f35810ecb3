"""Subgroups that the data name."""

from pathlib import Path

from medcap_core.data.grouping import MAX_VALUES, list_subgroups
from medcap_core.data.phantoms import load_phantoms
from medcap_core.data.records import ImageFile, Record


def test_text_columns_of_few_values_and_concepts_are_subgroups() -> None:
    labels = [
        {
            "modality": "CT" if number % 2 else "MR",
            "patient_name": f"name {number}",
            "hospital": "one",
            "age": number,
            "plane": None if number else " axial ",
            "concepts": ["C1", "C2"][: number % 3],
            "concept_names": {"C1": "Nodule"},
        }
        for number in range(MAX_VALUES + 1)
    ]
    records = [Record(str(n), ImageFile(Path("x")), "caption", truth=truth) for n, truth in enumerate(labels)]
    found = list_subgroups(records)
    assert list(found) == ["modality", "concept"]
    assert found["modality"][:2] == [("MR",), ("CT",)]
    assert found["concept"][:3] == [(), ("Nodule",), ("Nodule", "C2")]
    assert list_subgroups([]) == {}


def test_phantoms_name_their_modality() -> None:
    records = load_phantoms("general", {"test": 40}).splits["test"]
    assert {"modality", "view", "side"} <= set(list_subgroups(records))
