"""The synthetic 3D heads: the same numbers draw the same voxels, and what is said of a scan is what is drawn."""

import pickle
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from medcap_core.data.brain_phantoms import MASK_NAMES, BrainPhantom, load_brain_phantoms
from medcap_core.data.brain_phantoms.anatomy import Head, MaskName
from medcap_core.data.brain_phantoms.cohorts import COHORTS, TRAINING_COHORTS, UNSEEN_COHORTS
from medcap_core.data.brain_phantoms.source import place_scan
from medcap_core.data.brain_phantoms.subjects import Subject, build_subject
from medcap_core.data.brain_phantoms.wording import DECADES, WORDINGS, list_wordings, write_report
from medcap_core.data.records import Dataset
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION, Diagnosis, ScanRecord, read_diagnosis
from medcap_core.data.scans.volumes import VolumeGeometry
from medcap_core.data.sources import load_data

# A healthy subject of 70 with a head of scale 1, so that every size is the nominal one.
HEALTHY = Subject(Diagnosis.NOT_DEMENTED, 70, "female", 1.0, 1.0, 1.0, 1.0, 1.0, brow=0.0, neck=0.0)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_brain_phantoms({"train": 301, "validation": 23, "test": 96})


def scans(dataset: Dataset) -> list[ScanRecord]:
    return [record for part in dataset.splits.values() for record in part]


def measure_ml(head: Head, structure: MaskName) -> float:
    return float(head.mask(structure).sum() * np.prod(head.cohort.voxel_mm) / 1000)


def test_same_numbers_draw_the_same_voxels_and_others_do_not() -> None:
    phantom = BrainPhantom("phantom-birch", 3, "train", 17)
    first = phantom.open()
    assert (first.dtype, first.shape) == (np.dtype(np.float32), (68, 80, 60))
    assert phantom.read().voxel_size_mm == (2.8, 2.8, 3.5)
    assert np.array_equal(pickle.loads(pickle.dumps(phantom)).open(), first)
    for change in ({"number": 18}, {"seed": 4}, {"split": "test"}, {"cohort": "phantom-alder"}):
        other = replace(phantom, **change)
        assert other.fingerprint() != phantom.fingerprint()
        assert not np.array_equal(other.open(), first)


def test_loading_twice_gives_the_same_records_and_seeds_differ(dataset: Dataset) -> None:
    again = load_brain_phantoms({"train": 301, "validation": 23, "test": 96})
    assert again == dataset
    assert again.splits["train"][7].truth == dataset.splits["train"][7].truth
    assert load_brain_phantoms({"train": 301, "validation": 23, "test": 96}, seed=1).splits != dataset.splits


def test_the_name_and_the_default_sizes() -> None:
    by_name = load_data("brain_phantoms")
    assert by_name == load_brain_phantoms()
    assert [len(records) for records in by_name.splits.values()] == [480, 90, 240]
    assert "synthetic" in by_name.kind


def test_one_splits_size_leaves_the_others_as_they_are(dataset: Dataset) -> None:
    small = load_brain_phantoms({"train": 5, "validation": 23, "test": 7})
    assert small.splits["train"] == dataset.splits["train"][:5]
    assert small.splits["validation"] == dataset.splits["validation"]
    assert small.splits["test"] == dataset.splits["test"][:7]


def test_unseen_cohorts_are_in_the_test_split_only() -> None:
    counts = {
        split: Counter(place_scan(split, index)[0] for index in range(size))
        for split, size in (("train", 480), ("validation", 90), ("test", 240))
    }
    assert counts["train"] == dict.fromkeys(TRAINING_COHORTS, 160)
    assert counts["validation"] == dict.fromkeys(TRAINING_COHORTS, 30)
    assert counts["test"] == dict.fromkeys(UNSEEN_COHORTS, 90) | dict.fromkeys(TRAINING_COHORTS, 20)
    assert len({place_scan("test", index) for index in range(240)}) == 240


def test_nobody_is_in_two_splits_and_some_have_two_scans(dataset: Dataset) -> None:
    cases = {split: [record.case for record in records] for split, records in dataset.splits.items()}
    assert sum(len(set(own)) for own in cases.values()) == len(set().union(*cases.values()))
    # 301 scans are 101 + 100 + 100 of three cohorts; of every five in a cohort the last two show one subject.
    assert Counter(Counter(cases["train"]).values()) == {1: 181, 2: 60}
    ids = [record.id for record in scans(dataset)]
    assert len(ids) == len(set(ids))


def test_two_scans_of_a_subject_share_the_facts_but_no_voxels(dataset: Dataset) -> None:
    first, second = (dataset.splits["train"][index] for index in (9, 12))
    assert first.case == second.case
    assert first.truth == second.truth
    assert not np.array_equal(first.image.open(), second.image.open())


def test_diagnoses_are_balanced_and_sizes_follow_them() -> None:
    records = load_brain_phantoms({"train": 480}).splits["train"]
    groups: dict[Diagnosis, list[Subject]] = {diagnosis: [] for diagnosis in Diagnosis}
    for record in records:
        groups[Diagnosis(record.truth["diagnosis"])].append(build_subject(record.image.subject_key))
    assert all(len(group) >= 150 for group in groups.values())

    def means(size: str) -> list[float]:
        return [float(np.mean([getattr(subject, size) for subject in group])) for group in groups.values()]

    for size in ("ventricle_ratio", "age"):
        assert means(size) == sorted(means(size))
    for size in ("left_hippocampus_ratio", "right_hippocampus_ratio", "cortex_ratio"):
        assert means(size) == sorted(means(size), reverse=True)
    assert means("ventricle_ratio")[2] > 1.8 * means("ventricle_ratio")[0]


@pytest.mark.parametrize("cohort", COHORTS)
def test_masks_have_the_volumes_of_the_subject(cohort: str) -> None:
    phantom = BrainPhantom(cohort, 0, "test", 2)  # type: ignore[arg-type]
    head, subject = phantom.build_head(), build_subject(phantom.subject_key)
    cubed = subject.head_scale**3
    assert measure_ml(head, "ventricles") == pytest.approx(18 * subject.ventricle_ratio * cubed, rel=0.06)
    assert measure_ml(head, "left_hippocampus") == pytest.approx(7 * subject.left_hippocampus_ratio * cubed, rel=0.1)
    assert measure_ml(head, "right_hippocampus") == pytest.approx(7 * subject.right_hippocampus_ratio * cubed, rel=0.1)
    # Between its two surfaces, the folds taken as even and the midline as closed.
    outer, inner = (4 / 3 * np.pi / 1000 * np.prod(axes) * cubed for axes in head.cerebrum_axes)
    assert measure_ml(head, "cortex") == pytest.approx(outer - inner, rel=0.04)


def test_the_truth_of_a_record_is_the_subjects(dataset: Dataset) -> None:
    record = dataset.splits["train"][4]
    subject = build_subject(record.image.subject_key)
    assert (record.truth["age"], record.truth["sex"]) == (subject.age, subject.sex)
    for name in ("structure", "side", "ventricles", "hippocampi", "cortex"):
        assert record.truth[name] == getattr(subject.facts, name)


def test_left_is_where_x_is_low_and_the_hippocampi_lie_below_the_ventricles() -> None:
    head = Head(HEALTHY, COHORTS["phantom-alder"])
    left, right, ventricles = (
        np.argwhere(head.mask(name)).mean(axis=0) for name in ("left_hippocampus", "right_hippocampus", "ventricles")
    )
    middle = (np.array(head.cohort.matrix) - 1) / 2
    assert left[0] - middle[0] == pytest.approx(-27 / 3, abs=0.4)
    assert right[0] - middle[0] == pytest.approx(27 / 3, abs=0.4)
    assert ventricles[0] == pytest.approx(middle[0], abs=0.1)
    assert left[2] < ventricles[2] - 5


def test_a_turned_and_shifted_head_keeps_its_volumes() -> None:
    straight = Head(HEALTHY, COHORTS["phantom-elm"])
    turned = Head(HEALTHY, COHORTS["phantom-elm"], (4.0, -3.0, 4.0), (4.0, -2.0, 3.0))
    for name in MASK_NAMES:
        assert measure_ml(turned, name) == pytest.approx(measure_ml(straight, name), rel=0.05), name
    shift = np.argwhere(turned.mask("cortex")).mean(axis=0) - np.argwhere(straight.mask("cortex")).mean(axis=0)
    # The cortex lies about (0, -2, 18) mm off the axis of rotation, so turning moves it by less than 2 mm.
    assert shift * COHORTS["phantom-elm"].voxel_mm == pytest.approx([4.0, -2.0, 3.0], abs=2.2)


def test_only_what_shrinks_changes() -> None:
    healthy = Head(HEALTHY, COHORTS["phantom-alder"])
    ill = Head(replace(HEALTHY, right_hippocampus_ratio=0.5), COHORTS["phantom-alder"])
    contrast = COHORTS["phantom-alder"].contrast
    changed = np.abs(ill.paint(contrast) - healthy.paint(contrast)) > 1e-6
    assert changed.any()
    x, y, z = np.nonzero(changed)
    around = np.nonzero(healthy.mask("right_hippocampus"))
    for axis, edge in zip((x, y, z), around, strict=True):
        assert edge.min() - 2 <= axis.min()
        assert axis.max() <= edge.max() + 2
    assert measure_ml(ill, "right_hippocampus") == pytest.approx(3.5, rel=0.1)
    assert measure_ml(ill, "left_hippocampus") == measure_ml(healthy, "left_hippocampus")


@pytest.mark.parametrize(
    ("changes", "structure", "side", "ventricles"),
    [
        ({}, "none", "neither", "normal"),
        ({"left_hippocampus_ratio": 0.6}, "hippocampus", "left", "normal"),
        ({"right_hippocampus_ratio": 0.84}, "none", "right", "normal"),
        ({"cortex_ratio": 0.8, "right_hippocampus_ratio": 0.86}, "cortex", "neither", "normal"),
        ({"ventricle_ratio": 1.35}, "none", "neither", "mild"),
        ({"ventricle_ratio": 2.6, "cortex_ratio": 0.86}, "none", "neither", "severe"),
    ],
)
def test_answers_worked_out_by_hand(changes: dict[str, float], structure: str, side: str, ventricles: str) -> None:
    facts = replace(HEALTHY, **changes).facts  # type: ignore[arg-type]
    assert (facts.structure, facts.side, facts.ventricles) == (structure, side, ventricles)


def test_questions_ask_for_the_truth_and_the_diagnosis_comes_first(dataset: Dataset) -> None:
    degrees = {"normal": "normal", "mild": "mildly enlarged"}
    degrees |= {"moderate": "moderately enlarged", "severe": "severely enlarged"}
    for record in scans(dataset):
        kinds = [question.kind for question in record.questions]
        assert kinds == ["diagnosis", "sex", "structure", "side", "ventricles"]
        answers = {question.kind: question.answer for question in record.questions}
        assert record.questions[0].text == DIAGNOSIS_QUESTION
        assert read_diagnosis(answers["diagnosis"]) is record.diagnosis
        assert answers["diagnosis"] == record.truth["diagnosis"]
        for kind in ("sex", "structure", "side"):
            assert answers[kind] == record.truth[kind]
        assert answers["ventricles"] == degrees[record.truth["ventricles"]]
    counts = Counter(question.answer for record in scans(dataset) for question in record.questions)
    assert min(counts.values()) > 30  # no answer is so rare that it could not be learnt


def test_reports_tell_age_sex_and_side_but_no_diagnosis(dataset: Dataset) -> None:
    for record in scans(dataset):
        words = re.findall(r"\w+", record.caption.lower())
        assert 10 <= len(words) <= 36, record.caption
        assert "{" not in record.caption
        assert DECADES[record.truth["age"] // 10] in words
        assert ("female" in words) + ("woman" in words) == (record.truth["sex"] == "female"), record.caption
        assert ("male" in words) + ("man" in words) == (record.truth["sex"] == "male"), record.caption
        assert read_diagnosis(record.caption) is None
        assert not {"dementia", "demented", "impairment", "diagnosis"} & set(words)


def test_every_cohort_words_every_degree_apart() -> None:
    for cohort, wording in WORDINGS.items():
        for choices in (wording.ventricles, wording.hippocampi, wording.cortex):
            assert len(choices) == len(set(choices.values())), cohort
        ill = replace(HEALTHY, left_hippocampus_ratio=0.5, ventricle_ratio=3.0, cortex_ratio=0.6)
        reports = {write_report(cohort, subject.facts, np.random.default_rng(0)) for subject in (HEALTHY, ill)}
        assert len(reports) == 2


def test_unseen_cohorts_use_words_that_the_others_do_not() -> None:
    def words(cohorts: tuple[str, ...]) -> set[str]:
        return set(re.findall(r"[a-z]+", " ".join(" ".join(list_wordings(c)) for c in cohorts).lower()))  # type: ignore[arg-type]

    assert len(words(UNSEEN_COHORTS) - words(TRAINING_COHORTS)) > 15
    assert len(words(tuple(COHORTS))) < 200


def test_cubes_and_their_masks_lie_on_the_same_grid(dataset: Dataset) -> None:
    cubes = {}
    for cohort in COHORTS:
        phantom = BrainPhantom(cohort, 0, "test", 0)
        cube = VolumeGeometry(48).decode(phantom)
        assert (cube.shape, cube.dtype) == ((1, 48, 48, 48), np.dtype(np.uint8))
        ventricles, cortex = (phantom.cube_mask(name, 48) for name in ("ventricles", "cortex"))
        assert ventricles.shape == (48, 48, 48)
        # Fluid is dark and cortex bright at every cohort's contrast: only where the masks lie right.
        assert np.median(cube[0][ventricles]) < 0.6 * np.median(cube[0][cortex]), cohort
        cubes[cohort] = cube
    assert len({cube.tobytes() for cube in cubes.values()}) == len(COHORTS)


def test_cohorts_differ_in_voxels_field_contrast_and_scale() -> None:
    for fact in ("voxel_mm", "matrix", "contrast", "full_scale", "noise"):
        values = [getattr(cohort, fact) for cohort in COHORTS.values()]
        assert len(set(values)) >= 4, fact
    assert sum(len(set(cohort.voxel_mm)) > 1 for cohort in COHORTS.values()) == 3
    assert all(56 <= length <= 80 for cohort in COHORTS.values() for length in cohort.matrix)


def test_heads_stay_inside_the_field_of_view(dataset: Dataset) -> None:
    for record in scans(dataset)[::20]:
        bright = record.image.build_head().paint(COHORTS[record.image.cohort].contrast) > 0.5
        # All sides but the lowest, where the neck goes on.
        for side in (bright[0], bright[-1], bright[:, 0], bright[:, -1], bright[:, :, -1]):
            assert not side.any(), record.id
