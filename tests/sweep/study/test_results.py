"""Reading a run directory: while it goes on, when it is over, and with files that are missing or damaged."""

from pathlib import Path

import pandas as pd
import pytest

from medcap_core.errors import RunFault
from sweep.space import SearchSpace
from sweep.study.directory import find_holder
from sweep.study.record import TrialState
from sweep.study.results import RunStatus, find_searched, group_over_seeds, load_results, read_image_scores, read_sample
from sweep.study.study import Study
from sweep.study.test_results import TestResults
from tests.support.reported_runs import fill, finish, make_finished, scores, write_json
from tests.support.small_runs import Create, fixed_length, run_one, space


def test_a_run_is_read_while_it_is_held_and_afterwards(create: Create) -> None:
    study = create(space(trials=3, sampler="random"))
    study.propose()
    if not Path("/proc/locks").exists():
        pytest.skip("this system does not tell of locks")
    assert find_holder(study.directory)
    results = load_results(study.directory)
    assert (results.status, results.num_finished, results.best) == (RunStatus.RUNNING, 0, None)
    study.close()
    assert not find_holder(study.directory)
    assert load_results(study.directory).status is RunStatus.NOT_ENDED
    with Study.open(study.directory):  # reading left no lock behind
        assert load_results(study.directory).status is RunStatus.RUNNING


def test_a_finished_run_is_read_whole_and_several_scored_trials_take_the_place_of_best(create: Create) -> None:
    study = create(space(trials=5, sampler="random"))
    fill(study)
    results = load_results(finish(study))
    assert (results.status, results.faults, results.num_finished) == (RunStatus.FINISHED, [], 5)
    assert results.best == study.best()[0]
    assert list(results.test_rows) == ["best", "zero_shot", "caption_prior", "shuffled_images"]
    assert results.score_names == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    assert results.captions is not None
    assert results.captions["zero_shot"].tolist()[:2] == ["", "NA"]  # captions, not missing values
    trials = {"trial_0003": scores(0.5), "trial_0000": scores(2.5) | {"BERTScore": 0.25}}
    results = load_results(finish(study, trials=trials))
    assert list(results.test_rows)[:3] == ["trial_0000", "trial_0003", "zero_shot"]
    assert results.score_names[-2:] == ["CIDEr", "BERTScore"]


def test_what_is_damaged_is_told_and_left_out(create: Create) -> None:
    directory = make_finished(create, 3)
    (directory / "trials" / "trial_0000" / "trial.json").write_text("{")
    (directory / "test_metrics.json").write_text("[1]")
    write_json(directory / "provenance.json", {"wrong": []})
    (directory / "test_predictions.csv").write_bytes(b"")
    results = load_results(directory)
    assert [record.name for record in results.records] == ["trial_0001", "trial_0002"]
    assert (results.metrics, results.provenance, results.captions) == (TestResults(), [], None)
    for name in ("trial.json", "test_metrics.json", "provenance.json", "test_predictions.csv"):
        assert sum(name in fault for fault in results.faults) == 1


def test_only_what_differs_between_trials_counts_as_searched(create: Create) -> None:
    study = create(fixed_length(2, trials=3))
    run_one(study, 1.0, 2.0)
    assert find_searched(load_results(study.directory)) == []
    run_one(study, 1.0, 2.0)
    assert find_searched(load_results(study.directory)) == ["learning_rate"]


def test_trials_that_differ_in_their_seed_alone_are_one_group(create: Create) -> None:
    study = create(grid(seeds=[3, 5]))
    fill(study)
    results = load_results(study.directory)
    names = [[record.name for record in group] for group in group_over_seeds(results.records)]
    assert names == [["trial_0000", "trial_0001"], ["trial_0002", "trial_0003"]]
    assert results.records[1].state is TrialState.FAILED


@pytest.mark.parametrize(
    "content",
    [b"", b"a,b\n1,2\n", bytes(300), b"\xff\xfe\xd8", b'row,id,CIDEr\nbest,a,"1', b"row,id,CIDEr\nbest,a,x\n"],
    ids=["empty", "other columns", "NUL", "not UTF-8", "open quote", "no number"],
)
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scores.csv").write_bytes(content)
    with pytest.raises(
        RunFault, match=r"scores\.csv (cannot be read|has no column).*: restore it .*or delete it\."
    ) as caught:
        read_image_scores(tmp_path / "scores.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["3", '"xy"', "[1, 2]", '{"a": 1, "b": 2}', '["a"]', "[" * 100_000, "null", ""])
def test_a_damaged_sample_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "sample.json").write_text(content)
    assert read_sample(tmp_path / "sample.json") is None


def test_scores_of_images_are_read_where_they_are(create: Create) -> None:
    directory = make_finished(create)
    assert load_results(directory).image_scores is None
    (directory / "tables").mkdir()
    scores = pd.DataFrame({"row": "best", "id": ["NA", "007"], "CIDEr": [0.5, None]})
    scores.to_csv(directory / "tables" / "per_image_scores.csv", index=False)
    table = load_results(directory).image_scores
    assert table is not None
    assert table["id"].tolist() == ["NA", "007"]
    assert table["CIDEr"].fillna(-1).tolist() == [0.5, -1]


def grid(**changes: object) -> SearchSpace:
    search = {"freeze": {"grid": ["full", "lora"]}}
    values = {"search": search, "first_points": [], "sampler": "grid", "fixed": {"num_epochs": 2}, "trials": 1}
    return space(**values | changes)
