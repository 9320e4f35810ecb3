"""Rows of the test table kept and compared: what is written when, families of tests, repeats over seeds."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from sweep.held_out.board import ScoreBoard
from sweep.held_out.caption_scores import RowDetails, compare_rows
from sweep.space import build_space
from sweep.study.record import TrialState
from sweep.study.study import Study
from tests.support.small_runs import report_of

IDS = [f"image,{number}" for number in range(60)]  # a comma, as ids may have one
CASES: dict[str, str | None] = {image: f"case {number // 2}" for number, image in enumerate(IDS)}
GRID = {
    "name": "grid",
    "search": {"freeze": {"grid": ["zero_shot", "lora"]}},
    "sampler": "grid",
    "seeds": [3, 5],
    "scheduler": "none",
    "test": "all",
}


def build_table(shift: float, seed: int = 0, ids: list[str] = IDS) -> pd.DataFrame:
    values = np.random.default_rng(seed).uniform(0, 0.5, len(ids)) + shift
    return pd.DataFrame({"id": ids, "METEOR": values / 10, "CIDEr": values})


def build_details(shift: float, seed: int = 0, facts: dict[str, float] | None = None) -> RowDetails:
    table = build_table(shift, seed)
    scores = {"METEOR": float(table["METEOR"].mean()), "CIDEr": float(table["CIDEr"].mean())}
    return RowDetails(scores, {"CIDEr": [shift, shift + 0.5]}, facts, None, table)


@pytest.fixture
def study(create: Callable[..., Study]) -> Study:
    """A grid of two rows with two seeds each, all done."""
    made = create(build_space(GRID, "test"))
    while (record := made.propose()) is not None:
        made.start(record.name)
        made.report(record.name, report_of(record, 1, 1.0 + record.number))
        made.finish(record.name, TrialState.SUCCEEDED)
    return made


def fill(study: Study) -> ScoreBoard:
    board = ScoreBoard(study)
    for row, shift in {"zero_shot": 0.0, "caption_prior": 0.01, "nearest_image": 1.0, "shuffled_images": 0.0}.items():
        board.put(row, build_details(shift, seed=row == "shuffled_images"), is_trial=False)
    for number, shift in enumerate((0.0, 0.0, 2.0, 2.5)):
        board.put(f"trial_{number:04d}", build_details(shift), is_trial=True)
    board.name_best("trial_0003")
    board.finish(CASES, num_images=60)
    return board


def test_every_row_is_written_as_it_comes(study: Study) -> None:
    board = ScoreBoard(study)
    assert board.lacks("zero_shot")
    board.put("zero_shot", build_details(0.0, facts={"side": 0.5}), is_trial=False)
    board.put("trial_0002", build_details(2.0), is_trial=True)
    kept = ScoreBoard(study)
    assert not kept.lacks("zero_shot")
    assert not kept.lacks("trial_0002")
    assert kept.lacks("trial_0003")
    assert kept.metrics["facts"] == {"zero_shot": {"side": 0.5}}
    assert list(kept.metrics["trials"]) == ["trial_0002"]
    table = pd.read_csv(study.directory / "tables" / "per_image_scores.csv")
    assert list(table) == ["row", "id", "METEOR", "CIDEr"]
    assert table["row"].value_counts().to_dict() == {"zero_shot": 60, "trial_0002": 60}
    assert table["id"].tolist() == IDS * 2


def test_scores_that_are_there_are_never_changed(study: Study) -> None:
    """A run of an older version has scores alone; what it lacks joins them."""
    old = {"zero_shot": {"CIDEr": 0.125}, "trials": {"trial_0001": {"CIDEr": 0.25}}}
    study.write_test_metrics(old)
    board = ScoreBoard(study)
    assert board.lacks("zero_shot")
    assert board.lacks("trial_0001")
    board.put("zero_shot", build_details(0.7), is_trial=False)
    board.put("trial_0001", build_details(0.7), is_trial=True)
    assert board.metrics["zero_shot"] == {"CIDEr": 0.125}
    assert board.metrics["trials"] == {"trial_0001": {"CIDEr": 0.25}}
    assert set(board.metrics["intervals"]) == {"zero_shot", "trial_0001"}
    assert not board.lacks("zero_shot")
    board.forget(["zero_shot"])
    assert board.lacks("zero_shot")


def test_deleted_tables_are_made_anew(study: Study) -> None:
    fill(study)
    (study.directory / "tables" / "per_image_scores.csv").unlink()
    assert ScoreBoard(study).lacks("zero_shot")


def test_what_is_read_equals_what_was_written(study: Study) -> None:
    fill(study)
    before = (study.directory / "tables" / "per_image_scores.csv").read_bytes()
    ScoreBoard(study).finish(CASES)
    assert (study.directory / "tables" / "per_image_scores.csv").read_bytes() == before


def test_rows_are_compared_and_best_counts_once(study: Study) -> None:
    metrics = fill(study).metrics
    comparisons = metrics["comparisons"]
    assert (comparisons["baseline"], comparisons["metric"]) == ("zero_shot", "CIDEr")
    rows = comparisons["rows"]
    assert set(rows) == {
        "best", "caption_prior", "nearest_image", "shuffled_images", *(f"trial_{number:04d}" for number in range(4))
    }  # fmt: skip
    assert rows["best"] == rows["trial_0003"]
    assert rows["best"]["difference"] == pytest.approx(2.5)
    assert rows["best"]["interval"] == [2.5, 2.5]
    # 30 cases all of one sign: no flip of 10,000 reaches it. Five rows differ: trial 2, trial 3 and three blind ones.
    assert rows["best"]["p_value"] == 1 / 10_001
    assert rows["best"]["p_adjusted"] == pytest.approx(5 / 10_001)
    assert rows["shuffled_images"]["p_adjusted"] == rows["shuffled_images"]["p_value"] > 0.05
    assert rows["trial_0000"] == {"difference": 0, "interval": [0, 0], "p_value": 1, "p_adjusted": 1}
    assert metrics["best"] == metrics["trials"]["trial_0003"]
    assert json.loads((study.directory / "test_metrics.json").read_text()) == metrics


def test_repeats_over_seeds_are_grouped(study: Study) -> None:
    groups = fill(study).metrics["groups"]
    assert [(group["label"], group["trials"]) for group in groups] == [
        ("zero_shot", ["trial_0000", "trial_0001"]),
        ("lora", ["trial_0002", "trial_0003"]),
    ]
    mean = float(build_table(2.25)["CIDEr"].mean())
    cider = groups[1]["scores"]["CIDEr"]
    assert cider == {"mean": pytest.approx(mean), "std": pytest.approx(0.125**0.5), "num_seeds": 2}
    low, high = groups[1]["intervals"]["CIDEr"]
    assert mean - 0.1 < low < mean < high < mean + 0.1  # of the images; the seeds' spread is not in it
    assert groups[1]["comparison"]["difference"] == pytest.approx(2.25)
    assert groups[1]["comparison"]["p_adjusted"] == 1 / 10_001  # zero-shot against itself is no test
    assert groups[0]["comparison"]["p_value"] == 1


def test_a_group_can_be_the_baseline(create: Callable[..., Study], study: Study) -> None:
    study.space = study.space.model_copy(update={"baseline": "lora"})
    comparisons = fill(study).metrics["comparisons"]
    assert comparisons["baseline"] == "lora"
    assert comparisons["rows"]["zero_shot"]["difference"] == pytest.approx(-2.25)
    assert comparisons["rows"]["trial_0003"]["difference"] == pytest.approx(0.25)


def test_a_baseline_without_scores_gives_way_to_zero_shot(study: Study) -> None:
    study.space = study.space.model_copy(update={"baseline": "trial_0009"})
    comparisons = fill(study).metrics["comparisons"]
    assert (comparisons["baseline"], comparisons["missing_baseline"]) == ("zero_shot", "trial_0009")


def test_configs_that_look_alike_are_no_repeats(create: Callable[..., Study]) -> None:
    rates = {"learning_rate": {"grid": [1.0e-3, 1.02e-3]}}
    study = create(build_space(GRID | {"search": rates, "baseline": "learning_rate=0.00102"}, "test"))
    while (record := study.propose()) is not None:
        study.report(record.name, report_of(record, 1, 1.0))
        study.finish(record.name, TrialState.SUCCEEDED)
    metrics = fill(study).metrics
    assert [(group["label"], group["trials"]) for group in metrics["groups"]] == [
        ("learning_rate=0.001", ["trial_0000", "trial_0001"]),
        ("learning_rate=0.00102", ["trial_0002", "trial_0003"]),
    ]
    assert metrics["comparisons"]["baseline"] == "learning_rate=0.00102"


def test_rows_of_other_images_are_not_compared() -> None:
    tables = {
        "zero_shot": build_table(0.0),
        "trial_0000": build_table(1.0),
        "trial_0001": build_table(1.0, 0, IDS[:30]),
    }
    rows, _ = compare_rows(tables, {}, CASES, baseline="zero_shot", aliases={}, seed=0)
    assert list(rows) == ["trial_0000"]


def test_one_case_allows_no_statement() -> None:
    tables = {"zero_shot": build_table(0.0), "trial_0000": build_table(1.0)}
    one_case: dict[str, str | None] = dict.fromkeys(IDS, "the only one")
    assert compare_rows(tables, {}, one_case, baseline="zero_shot", aliases={}, seed=0) == ({}, {})
