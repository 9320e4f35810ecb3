"""Rows of the test table kept and compared: what is written when, families of tests, repeats over seeds."""

import json

import numpy as np
import pandas as pd
import pytest

from medcap_core.scoring.corpus_statistics import CaptionStatistics
from medcap_core.scoring.registry import ScoreValues
from sweep.held_out.caption_rows import CaptionRows
from sweep.held_out.caption_scores import CaptionScore, compare_rows, compare_with_blind, take_metric
from sweep.space import build_space
from sweep.study.record import TrialState
from sweep.study.study import Study
from sweep.study.test_results import CaptionVariety, Comparison, FactScore, TestResults
from tests.support.small_runs import Create, report_of

IDS = [f"image,{number}" for number in range(60)]  # a comma, as ids may have one
CASES: dict[str, str | None] = {image: f"case {number // 2}" for number, image in enumerate(IDS)}
VARIETY = CaptionVariety(num_distinct=3, top_share=0.5, empty_share=0.25)
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


def build_score(shift: float, seed: int = 0, facts: dict[str, FactScore] | None = None) -> CaptionScore:
    table = build_table(shift, seed)
    scores = {"METEOR": float(table["METEOR"].mean()), "CIDEr": float(table["CIDEr"].mean())}
    statistics = CaptionStatistics({"CIDEr": ScoreValues(table["CIDEr"].to_numpy())})
    return CaptionScore(scores, {"CIDEr": (shift, shift + 0.5)}, facts, None, table, VARIETY, statistics)


@pytest.fixture
def study(create: Create) -> Study:
    """A grid of two rows with two seeds each, all done."""
    made = create(build_space(GRID, "test"))
    while (record := made.propose()) is not None:
        made.start(record.name)
        made.report(record.name, report_of(record, 1, 1.0 + record.number))
        made.finish(record.name, TrialState.SUCCEEDED)
    return made


def open_rows(study: Study) -> CaptionRows:
    return CaptionRows(study, study.read_test_metrics())


def fill(study: Study) -> TestResults:
    rows = open_rows(study)
    for row, shift in {"zero_shot": 0.0, "caption_prior": 0.01, "nearest_image": 1.0, "shuffled_images": 0.0}.items():
        rows.keep(row, build_score(shift, seed=row == "shuffled_images"))
    for number, shift in enumerate((0.0, 0.0, 2.0, 2.5)):
        rows.keep(f"trial_{number:04d}", build_score(shift))
    rows.finish("trial_0003", CASES)
    return rows.results


def test_every_row_is_written_as_it_comes(study: Study) -> None:
    rows = open_rows(study)
    facts = {"side": FactScore(accuracy=0.5, interval=(0.25, 0.75), num_images=60)}
    rows.keep("zero_shot", build_score(0.0, facts=facts))
    rows.keep("trial_0002", build_score(2.0))
    kept = open_rows(study)
    assert [kept.lacks(row) for row in ("zero_shot", "trial_0002", "trial_0003")] == [False, False, True]
    assert kept.results.facts == {"zero_shot": facts}
    assert kept.results.variety == {"zero_shot": VARIETY, "trial_0002": VARIETY}
    assert list(kept.results.trials) == ["trial_0002"]
    table = pd.read_csv(study.paths.image_scores)
    assert list(table) == ["row", "id", "METEOR", "CIDEr"]
    assert table["row"].value_counts().to_dict() == {"zero_shot": 60, "trial_0002": 60}
    assert table["id"].tolist() == IDS * 2


def test_scores_that_are_there_are_never_changed(study: Study) -> None:
    """Where the table of images was deleted it is made anew beside the scores, which stay."""
    study.write_test_metrics(TestResults(zero_shot={"CIDEr": 0.125}, trials={"trial_0001": {"CIDEr": 0.25}}))
    rows = open_rows(study)
    for row in ("zero_shot", "trial_0001"):
        assert rows.lacks(row)
        rows.keep(row, build_score(0.7))
    kept = study.read_test_metrics()
    assert (kept.zero_shot, kept.trials) == ({"CIDEr": 0.125}, {"trial_0001": {"CIDEr": 0.25}})
    assert set(kept.intervals) == {"zero_shot", "trial_0001"}
    assert not rows.lacks("zero_shot")
    rows.forget(["zero_shot"])
    assert rows.lacks("zero_shot")


def test_what_is_read_equals_what_was_written(study: Study) -> None:
    results = fill(study)
    before = study.paths.image_scores.read_bytes()
    rows = open_rows(study)
    assert rows.results == results
    rows.finish("trial_0003", CASES)
    assert rows.results == results == study.read_test_metrics()
    assert study.paths.image_scores.read_bytes() == before
    study.paths.image_scores.unlink()
    assert open_rows(study).lacks("zero_shot")  # the table is to be made anew


def test_rows_are_compared_and_best_counts_once(study: Study) -> None:
    results = fill(study)
    assert results.comparisons is not None
    assert (results.comparisons.baseline, results.comparisons.metric) == ("zero_shot", "CIDEr")
    rows = results.comparisons.rows
    assert set(rows) == {
        "best", "caption_prior", "nearest_image", "shuffled_images", *(f"trial_{number:04d}" for number in range(4))
    }  # fmt: skip
    assert rows["best"] == rows["trial_0003"]
    assert rows["best"].difference == pytest.approx(2.5)
    assert rows["best"].interval == (2.5, 2.5)
    # 30 cases all of one sign: no flip of 10,000 reaches it. Five rows differ: trial 2, trial 3 and three blind ones.
    assert rows["best"].p_value == 1 / 10_001
    assert rows["best"].p_adjusted == pytest.approx(5 / 10_001)
    assert rows["shuffled_images"].p_adjusted == rows["shuffled_images"].p_value > 0.05
    assert rows["trial_0000"] == Comparison(difference=0, interval=(0, 0), p_value=1, p_adjusted=1)
    assert results.best == results.trials["trial_0003"]
    assert json.loads(study.paths.test_metrics.read_text()) == results.model_dump(mode="json")


def test_the_best_row_is_compared_with_all_that_see_no_right_image(study: Study) -> None:
    found = fill(study).blind_comparisons
    assert set(found) == {"caption_prior", "nearest_image", "shuffled_images"}
    assert found["nearest_image"].difference == pytest.approx(1.5)
    assert found["nearest_image"].interval == (1.5, 1.5)
    assert found["shuffled_images"].interval[0] < 2.5 < found["shuffled_images"].interval[1]
    assert found["caption_prior"].p_adjusted == pytest.approx(3 / 10_001)  # a family of three tests


def test_one_case_is_not_compared_with_blind_rows() -> None:
    tables = take_metric({"best": build_table(1.0), "caption_prior": build_table(0.0)})
    assert compare_with_blind(tables, "best", ["caption_prior"], dict.fromkeys(IDS, "one"), seed=0) == {}
    assert set(compare_with_blind(tables, "best", ["caption_prior", "nearest_image"], CASES, seed=0)) == {
        "caption_prior"
    }


def test_repeats_over_seeds_are_grouped(study: Study) -> None:
    groups = fill(study).groups
    assert [(group.label, group.trials) for group in groups] == [
        ("zero_shot", ["trial_0000", "trial_0001"]),
        ("lora", ["trial_0002", "trial_0003"]),
    ]
    mean = float(build_table(2.25)["CIDEr"].mean())
    cider = groups[1].scores["CIDEr"]
    assert (cider.mean, cider.std, cider.num_seeds) == (pytest.approx(mean), pytest.approx(0.125**0.5), 2)
    low, high = groups[1].intervals["CIDEr"]
    assert mean - 0.1 < low < mean < high < mean + 0.1  # of the images; the seeds' spread is not in it
    zero_shot, lora = (group.comparison for group in groups)
    assert zero_shot is not None
    assert lora is not None
    assert lora.difference == pytest.approx(2.25)
    assert lora.p_adjusted == 1 / 10_001  # zero-shot against itself is no test
    assert zero_shot.p_value == 1


def test_a_group_can_be_the_baseline_and_one_without_scores_gives_way_to_zero_shot(study: Study) -> None:
    for wanted, baseline in (("trial_0009", "zero_shot"), ("lora", "lora")):
        study.space = study.space.model_copy(update={"baseline": wanted})
        comparisons = fill(study).comparisons
        assert comparisons is not None
        assert (comparisons.baseline, comparisons.missing_baseline or baseline) == (baseline, wanted)
    assert comparisons.rows["zero_shot"].difference == pytest.approx(-2.25)
    assert comparisons.rows["trial_0003"].difference == pytest.approx(0.25)


def test_configs_that_look_alike_are_no_repeats(create: Create) -> None:
    rates = {"learning_rate": {"grid": [1.0e-3, 1.02e-3]}}
    study = create(build_space(GRID | {"search": rates, "baseline": "learning_rate=0.00102"}, "test"))
    while (record := study.propose()) is not None:
        study.report(record.name, report_of(record, 1, 1.0))
        study.finish(record.name, TrialState.SUCCEEDED)
    results = fill(study)
    assert [(group.label, group.trials) for group in results.groups] == [
        ("learning_rate=0.001", ["trial_0000", "trial_0001"]),
        ("learning_rate=0.00102", ["trial_0002", "trial_0003"]),
    ]
    assert results.comparisons is not None
    assert results.comparisons.baseline == "learning_rate=0.00102"


def test_rows_of_other_images_are_not_compared() -> None:
    tables = {"zero_shot": build_table(0.0), "trial_0000": build_table(1.0)}
    tables["trial_0001"] = build_table(1.0, 0, IDS[:30])
    rows, _ = compare_rows(take_metric(tables), {}, CASES, baseline="zero_shot", aliases={}, seed=0)
    assert list(rows) == ["trial_0000"]


def test_one_case_allows_no_statement() -> None:
    tables = take_metric({"zero_shot": build_table(0.0), "trial_0000": build_table(1.0)})
    one_case: dict[str, str | None] = dict.fromkeys(IDS, "the only one")
    assert compare_rows(tables, {}, one_case, baseline="zero_shot", aliases={}, seed=0) == ({}, {})
