"""Scores of answers, worked out by hand on a few scans that lack one thing or another."""

import pytest

from medcap_core.data.records import ImageFile, Record
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION
from sweep.held_out.answer_scores import (
    compare_with_text_only,
    describe_answers,
    describe_classification,
    find_scopes,
    name_by_answer,
    name_by_similarity,
)
from sweep.held_out.questions import find_unseen_cohorts, list_questions
from sweep.study.test_results import AnswerComparisonScopes, ClassificationScores
from tests.support.answered_runs import ANSWERS, ask
from tests.support.drawn_scans import DEMENTIA, HEALTHY, MCI, NODULE, SIDE, TEST, TRAIN, Row, build_dataset


def test_items_are_questions_on_scans() -> None:
    asked = ask()
    assert asked.table["scan"].tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6]
    assert asked.table.iloc[4].to_dict() == {
        "scan": 1, "id": "test-1", "cohort": "green", "subject": "s0", "kind": "finding", "question": NODULE,
        "answer": "a small nodule",
    }  # fmt: skip
    assert asked.table.iloc[10][["cohort", "subject"]].tolist() == ["", ""]
    assert list_questions(Record("a", ImageFile("a.png"), "a lung")) == ()  # type: ignore[arg-type]


def test_each_volume_is_asked_what_its_two_scans_are_asked() -> None:
    """The volume of scan i stands in for that of scan i + 1."""
    wanted = ask().list_wanted()
    assert wanted[0] == wanted[1] == (DIAGNOSIS_QUESTION, SIDE, NODULE)
    assert wanted[6] == wanted[7] == (DIAGNOSIS_QUESTION, SIDE)
    assert wanted[4] == (SIDE, DIAGNOSIS_QUESTION)


def test_subjects_are_units_and_scans_without_one_are_their_own() -> None:
    assert ask().number_units(range(8)).tolist() == [0, 0, 1, 2, 3, 4, 5, 6]
    assert ask().number_units([6, 1, 6, 0]).tolist() == [0, 1, 0, 1]


def test_unseen_cohorts_are_those_that_training_lacks() -> None:
    splits = build_dataset("any").splits
    assert find_unseen_cohorts(splits["train"], splits["test"]) == ["green"]
    nameless = build_dataset("any", train=tuple((subject, None, *rest) for subject, _, *rest in TRAIN)).splits  # type: ignore[misc]
    assert find_unseen_cohorts(nameless["train"], splits["test"]) == []
    assert find_unseen_cohorts(splits["train"], nameless["train"]) == []


def test_scopes() -> None:
    scopes = {scope: places.tolist() for scope, places in find_scopes(ask(), ["green"]).items()}
    assert scopes == {"unseen": [0, 1, 2, 6], "all": list(range(8))}
    assert list(find_scopes(ask(), [])) == ["all"]


def test_classes_are_read_from_answers_and_similarities() -> None:
    named = name_by_answer(ask(), ANSWERS)
    assert named == [HEALTHY, DEMENTIA, MCI, None, None, DEMENTIA, DEMENTIA, None]
    assert name_by_similarity([[0.1, 0.3, 0.2], [-1.0, -2.0, -3.0]]) == [MCI, HEALTHY]


def test_classification_in_each_scope_and_cohort() -> None:
    """True: healthy, healthy, MCI, dementia, unknown, MCI, dementia, unknown."""
    asked = ask()
    scores = describe_classification(asked, name_by_answer(asked, ANSWERS), find_scopes(asked, ["green"]), seed=3)
    assert scores.unseen is not None
    assert scores.all is not None
    assert scores.all.confusion == [[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert scores.all.balanced_accuracy == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)
    # F1 of each: 2 / (2 + 1), 2 / (2 + 1), 2 / (2 + 2 + 1)
    assert scores.all.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 2 / 5) / 3)
    assert scores.unseen.recalls == {HEALTHY: 0.5, MCI: 1.0, DEMENTIA: 1.0}
    assert scores.unseen.num_scans == 4
    low, high = scores.unseen.intervals["balanced_accuracy"]
    assert 0 <= low <= scores.unseen.balanced_accuracy <= high <= 1
    assert scores.unseen.recall_intervals[HEALTHY] == (0.5, 0.5)  # both its scans are of one subject
    assert set(scores.cohorts) == {"green", "red"}  # the one scan of blue has no diagnosis
    assert scores.cohorts["red"].recalls == {DEMENTIA: 0.0}
    assert scores.cohorts["red"].intervals == {}


def test_answers_by_kind() -> None:
    """Of the finding, "nodule" for "a small nodule": F1 is 2 * 1 / (1 + 2)."""
    asked = ask()
    scores = describe_answers(asked, ANSWERS, find_scopes(asked, ["green"]), seed=3)
    everything = scores.all
    assert everything is not None
    assert scores.unseen is not None
    assert everything.overall.num_questions == 13
    counts = {kind: score.num_questions for kind, score in everything.kinds.items()}
    assert counts == {"diagnosis": 6, "side": 6, "finding": 1}
    # "It is MCI" and "alzheimer's disease" name the right class in other words: they match no word of the truth.
    assert everything.kinds["diagnosis"].exact_match == pytest.approx(1 / 6)
    assert everything.kinds["side"].exact_match == pytest.approx(4 / 6)
    assert everything.kinds["finding"].exact_match == 0
    assert everything.kinds["finding"].f1 == pytest.approx(2 / 3)
    assert everything.kinds["finding"].intervals == {}
    assert everything.overall.exact_match == pytest.approx(5 / 13)
    assert set(everything.overall.intervals) == {"exact_match", "f1"}
    assert scores.unseen.kinds["side"].exact_match == pytest.approx(3 / 4)


def test_the_best_row_is_compared_with_the_better_text_only_row() -> None:
    """Four subjects of the unseen cohort with a side each; kinds differ in which baseline is the better one."""
    rows: list[Row] = [(f"s{number}", "green", HEALTHY, "left", None) for number in range(8)]
    asked = ask(rows)
    healthy, wrong = "not demented", "dementia"
    answers = {
        "best": [healthy, "left"] * 8,
        "shuffled_images": [healthy, "right"] * 4 + [wrong, "right"] * 4,
        "answer_prior": [wrong, "left"] * 2 + [wrong, "right"] * 6,
    }
    scores = compare_with_text_only(asked, answers, find_scopes(asked, []), seed=0)
    assert scores.unseen is None
    assert scores.all is not None
    diagnosis, side = (scores.all.kinds[kind]["exact_match"] for kind in ("diagnosis", "side"))
    assert (diagnosis.baseline, diagnosis.difference) == ("shuffled_images", 0.5)
    assert (side.baseline, side.difference) == ("answer_prior", 0.75)
    # Of the 16 or 64 ways to give 4 or 6 differences of 1 their signs, 2 are as extreme; the rest of 8 are 0.
    assert diagnosis.p_value == pytest.approx(2 / 16, abs=0.02)
    assert side.p_value == pytest.approx(2 / 64, abs=0.01)
    assert side.p_adjusted == pytest.approx(2 * side.p_value)
    assert diagnosis.p_adjusted == diagnosis.p_value
    overall = scores.all.overall["exact_match"]
    assert (overall.baseline, overall.difference) == ("shuffled_images", 1 - 4 / 16)
    assert overall.p_adjusted == overall.p_value == pytest.approx(2 / 256, abs=0.005)
    low, high = overall.interval
    assert low < 0.75 < high


def test_of_one_subject_nothing_is_compared() -> None:
    asked = ask([("s0", *rest) for _, *rest in TEST])  # type: ignore[list-item]
    answers = dict.fromkeys(("best", "shuffled_images", "answer_prior"), ANSWERS)
    compared = compare_with_text_only(asked, answers, find_scopes(asked, ["green"]), seed=0)
    assert compared == AnswerComparisonScopes()
    scores = describe_answers(asked, ANSWERS, find_scopes(asked, ["green"]), seed=0)
    assert scores.all is not None
    assert scores.all.overall.intervals == {}


def test_scans_without_diagnosis_or_questions() -> None:
    mute = ask([(subject, cohort, None, None, None) for subject, cohort, *_ in TEST])
    assert mute.table.empty
    assert mute.classes == ()
    sides = ask([(subject, cohort, None, side, None) for subject, cohort, _, side, _ in TEST])
    assert sides.classes == ()
    assert describe_classification(sides, [None] * 8, find_scopes(sides, []), seed=0) == ClassificationScores()
    answered = describe_answers(sides, ["left"] * 6, find_scopes(sides, []), seed=0).all
    assert answered is not None
    assert list(answered.kinds) == ["side"]
    unasked = find_scopes(ask([TEST[0], ("s9", "green", None, None, None)]), ["green"])
    assert unasked["unseen"].tolist() == [0, 1]
