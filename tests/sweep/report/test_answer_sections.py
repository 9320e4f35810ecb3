"""Diagnosis and questions in the report and the model card."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medcap_core.data import prepare
from sweep.report.model_card import format_model_card
from sweep.report.pictures import build_answer_samples
from sweep.report.style import NothingToShow
from sweep.report.writing import write_report
from sweep.study.paths import RunPaths
from sweep.study.results import load_results
from sweep.study.test_results import TestResults
from sweep.tables.answer_tables import build_question_rows
from sweep.tables.blocks import Gallery, Text
from tests.support.answered_runs import ROWS, build_answer_metrics, build_answer_table
from tests.support.drawn_scans import build_dataset
from tests.support.reported_runs import Page, finish, report_on
from tests.support.small_runs import Create, fixed_length, run_one


@pytest.fixture
def answered(create: Create, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    study = create(fixed_length(1, objective="balanced_accuracy", scheduler="none", trials=1))
    run_one(study, 0.5)
    directory = finish(study, noun="scan", **build_answer_metrics())
    build_answer_table().to_csv(directory / "test_answers.csv", index=False)
    monkeypatch.setattr(prepare, "load_data", lambda *_, **__: build_dataset("any"))
    prepare.read_dataset.cache_clear()
    yield directory
    prepare.read_dataset.cache_clear()


def change_metrics(directory: Path, **changes: Any) -> None:
    path = RunPaths(directory).test_metrics
    TestResults.model_validate(TestResults.load(path).model_dump() | changes).save(path)


def test_a_report_tells_of_diagnosis_and_questions(answered: Path) -> None:
    page = Page(write_report(answered))
    for said in (
        "On 4 scans of unseen cohorts the diagnosis has balanced accuracy 0.833 (95% interval ",
        "Of 9 questions on them 44.4% are answered in the words of the truth; without a look at the scan 22.2% are.",
        "On 3 test scans: CIDEr 2.500, against 0.250 zero-shot, 0.750 for the caption prior, 0.500 with shuffled scans",
        "Unseen cohorts, without any scan in training: green.",
        "Heat map of the confusion matrix, unseen cohorts: of 2 not demented 50% were named so; of 1 mild cognitive",
        "Ranges are 95% bootstrap intervals over subjects, 1,000 resamples.",
        "Sample scans",
    ):
        assert said in page.text
    assert "plot-confusion" in page.plots()
    headings = [found["id"] for tag, found in page.elements if tag == "section"]
    assert headings[1:3] == ["diagnosis", "questions"]


def test_tables_go_to_files_of_their_own(answered: Path) -> None:
    report_on(answered)
    names = ("classification", "cohorts", "confusion")
    tables = {name: pd.read_csv(answered / "tables" / f"{name}.csv") for name in names}
    classified = tables["classification"]
    assert classified["row"].tolist() == ["best"] * 2 + ["zero_shot"] * 2 + ["shuffled_images"] * 2 + ["answer_prior"]
    assert classified["balanced_accuracy_unseen"][0] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert classified["balanced_accuracy_all"][0] == pytest.approx(1 / 2)
    of_cohorts = tables["cohorts"][["cohort", "training", "num_scans"]].to_numpy().tolist()
    assert of_cohorts == [["green", "no", 4], ["red", "yes", 1]]
    assert tables["confusion"].iloc[:, :5].to_numpy().tolist() == [
        ["not demented", 1, 0, 1, 0],
        ["mild cognitive impairment", 0, 1, 0, 0],
        ["dementia", 0, 0, 1, 0],
    ]
    questions = pd.read_csv(answered / "tables" / "questions.csv", keep_default_na=False)
    assert questions[["scans", "kind", "num_questions"]].to_numpy().tolist()[:4] == [
        ["unseen cohorts", "all", 9], ["unseen cohorts", "diagnosis", 4], ["unseen cohorts", "side", 4],
        ["unseen cohorts", "finding", 1],
    ]  # fmt: skip
    assert float(questions["exact_match"][2]) == pytest.approx(3 / 4)
    markdown = (answered / "report.md").read_text("utf-8")
    assert "| **unseen cohorts** | **all** | **9** |" in markdown


def test_examples_have_slices_and_what_was_right(answered: Path) -> None:
    said, right, wrong = build_answer_samples(load_results(answered), with_images=True)
    assert isinstance(said, Text) and isinstance(right, Gallery) and isinstance(wrong, Gallery)
    assert said.text.startswith("Scans of unseen cohorts by the share of their questions")
    # Shares of right answers: test-0 2/2, test-2 1/2, test-6 1/2, test-1 0/3; test-0 and test-1 are of one subject.
    assert [picture.title for picture in right.pictures] == ["test-0", "test-2"]
    assert [picture.title for picture in wrong.pictures] == ["test-6"]
    assert right.pictures[1].texts == (
        ("Cohort", "green"),
        ("What will this subject be diagnosed with?", "✗ It is MCI; true: mild cognitive impairment"),
        ("left or right?", "✓ right"),
    )
    assert all(picture.data_uri.startswith("data:image/jpeg;base64,") for picture in (*right.pictures, *wrong.pictures))
    _, *galleries = build_answer_samples(load_results(answered), with_images=False)
    assert not any(picture.data_uri for shown in galleries if isinstance(shown, Gallery) for picture in shown.pictures)


def test_a_run_that_has_no_answers_table_says_so(answered: Path) -> None:
    (answered / "test_answers.csv").unlink()
    with pytest.raises(NothingToShow, match="no answers on the test split"):
        build_answer_samples(load_results(answered), with_images=True)
    assert "There are no answers on the test split yet." in report_on(answered).text


def test_without_cohorts_and_diagnosis(answered: Path) -> None:
    metrics = build_answer_metrics(unseen=())
    change_metrics(answered, **metrics)
    page = report_on(answered)
    assert "On 6 test scans the diagnosis has balanced accuracy 0.500" in page.text
    assert "unseen cohorts" not in page.text
    change_metrics(answered, classification={})
    page = report_on(answered)
    assert "Of 13 questions 38.5% are answered" in page.text
    assert "Macro F1" not in page.text


def test_trials_of_a_comparison_have_rows(answered: Path) -> None:
    assert build_question_rows(load_results(answered)) is None
    rows = ("trial_0000", "trial_0001", *ROWS)
    change_metrics(answered, **build_answer_metrics(rows=rows))
    table = build_question_rows(load_results(answered))
    assert table is not None
    assert [row["row"] for row in table.rows] == [row for row in rows if row != "best"]
    assert list(table.emphasised) == [0]
    page = report_on(answered)
    assert "All questions, by trial" in page.text


def test_a_model_card_names_the_figures(answered: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["MedBlip3dNetwork"]}')
    results = load_results(answered)
    assert results.best is not None
    text = format_model_card(results, results.best, tmp_path)
    for said in (
        "trained to caption medical scans",
        "Balanced accuracy: mean recall over the classes, of the generated answers, 0 to 1.",
        "dataset:\n      name: phantoms, unseen cohorts of the test split",
        "- type: balanced_accuracy\n      value: 0.8333",
        "| green | no | 4 | 0.833",
        "**Questions on the test split, by kind**\n",
        "answer(captioner, [",
    ):
        assert said in text
    assert "library_name" not in text
