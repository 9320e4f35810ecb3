"""Which facts captions name: every wording of the phantoms, wrong and doubled facts, and concepts by name."""

from pathlib import Path

import numpy as np
import pytest

from medcap_core.data.phantoms import load_phantoms
from medcap_core.data.records import ImageFile, Record
from medcap_core.scoring.facts import (
    FACTS,
    check_concepts,
    check_facts,
    collect_concept_names,
    compute_precision_recall,
    has_facts,
)

CHEST = {"view": "chest_ap", "finding": "nodule", "side": "right", "level": "upper"}


@pytest.fixture(scope="module")
def chest_record():
    """A right upper nodule in a portable chest film."""
    for record in load_phantoms("target").splits["train"]:
        if all(record.truth[fact] == value for fact, value in CHEST.items()):
            return record
    raise AssertionError("the training split has no such phantom")


@pytest.fixture(scope="module")
def normal_record():
    return next(record for record in load_phantoms("target").splits["train"] if record.truth["normal"])


def judge(record, caption):
    """Each fact that applies, and whether the caption names it rightly."""
    checks = check_facts([record], [caption])
    return {fact: bool(checks[fact].is_right[0]) for fact in FACTS if checks[fact].applies[0]}


@pytest.mark.parametrize("domain", ["target", "general"])
def test_every_reference_caption_names_its_own_facts(domain):
    """900 true captions, asides that deny other findings among them."""
    records = [record for part in load_phantoms(domain, {"train": 900}).splits.values() for record in part]
    checks = check_facts(records, [record.caption for record in records])
    assert all(checks[fact].is_right[checks[fact].applies].all() for fact in FACTS)
    num_abnormal = sum(not record.truth["normal"] for record in records)
    assert checks["finding"].applies.all()
    assert checks["side"].applies.sum() == checks["level"].applies.sum() == num_abnormal < len(records)


@pytest.mark.parametrize(
    ("caption", "finding", "side", "level"),
    [
        ("A solitary rounded density of limited extent in the right apical hemithorax.", True, True, True),
        ("SOLITARY  ROUNDED-DENSITY, right, upper!", True, True, True),
        ("A pneumothorax involving the left basal hemithorax.", False, False, False),
        ("A solitary rounded density and a pneumothorax of the right and left lung.", False, False, False),
        ("A solitary rounded density, right, apical and basal.", True, True, False),
        ("A solitary density at the upright leftover.", False, False, False),  # words, not parts of words
        ("", False, False, False),
    ],
)
def test_captions_of_a_right_upper_nodule(chest_record, caption, finding, side, level):
    assert judge(chest_record, caption) == {"finding": finding, "side": side, "level": level}


def test_a_normal_image_has_a_finding_to_get_wrong_and_no_side(normal_record):
    assert judge(normal_record, "Bedside film depicting preserved anatomy.") == {"finding": True}
    assert judge(normal_record, "A pneumothorax.") == {"finding": False}


def test_a_longer_name_is_not_the_shorter_one_in_it():
    """A colloid cyst may be called anechoic; the anechoic cyst of another domain is no phrase of this one."""
    record = next(r for r in load_phantoms("target").splits["train"] if r.truth["finding"] == "thyroid_cyst")
    assert judge(record, "An anechoic colloid cyst")["finding"]
    assert not judge(record, "An anechoic cyst")["finding"]


def build(number, concepts, names):
    truth = {"concepts": concepts, "concept_names": {c: names[c] for c in concepts if c in names}}
    return Record(id=str(number), image=ImageFile(Path(f"{number}.png")), caption="", truth=truth)


NAMES = {
    "C1": "Hematoma",
    "C2": "Magnetic Resonance Imaging",
    "C3": "Aneurysm, Ascending Aorta",
    "C4": "Resonance",
    "C5": "HEMATOMA",
}


def test_concepts_by_hand():
    records = [build(1, ["C1", "C2"], NAMES), build(2, ["C3", "C9"], NAMES), build(3, ["C4", "C5"], NAMES)]
    assert collect_concept_names(records) == NAMES
    captions = [
        "magnetic resonance IMAGING shows no hematomas",  # C2 right; C4 named, wrong; hematomas is another word
        "aneurysm ascending aorta, hematoma, hematoma",  # C3 right; C1 or C5 named once, wrong; C9 has no name
        "a hematoma",  # C5 right; C4 missed
    ]
    counts = check_concepts(records, captions, NAMES)
    assert counts.tolist() == [[1, 2, 2], [1, 2, 1], [1, 1, 2]]
    scores = compute_precision_recall(counts.sum(axis=0))
    assert scores == {"precision": 3 / 5, "recall": 3 / 5, "f1": 6 / 10}


def test_nothing_named_scores_nothing():
    counts = check_concepts([build(1, ["C1"], NAMES)], [""], NAMES)
    assert compute_precision_recall(counts.sum(axis=0)) == {"precision": 0, "recall": 0, "f1": 0}
    assert compute_precision_recall(np.zeros((2, 3)))["f1"].tolist() == [0, 0]


def test_sources_without_truth_have_no_facts(chest_record):
    plain = Record(id="1", image=ImageFile(Path("1.png")), caption="")
    assert has_facts([chest_record])
    assert not has_facts([chest_record, plain])
    assert check_concepts([plain], ["hematoma"], NAMES) is None
