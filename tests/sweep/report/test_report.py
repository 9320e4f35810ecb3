"""What a report says of runs of every kind, and its tables."""

import json
import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from sweep.report.__main__ import app
from sweep.report.writing import write_report
from sweep.study.record import TrialState
from sweep.study.results import load_results
from tests.support.reported_runs import (
    HOSTILE,
    Page,
    figure_of,
    fill,
    finish,
    make_finished,
    report_on,
    scores,
    write_json,
)
from tests.support.small_runs import Create, fixed_length, next_trial, run_one, space
from tests.sweep.study.test_results import grid


def test_a_finished_search_has_every_part(reported: tuple[Path, Page]) -> None:
    directory, page = reported
    wanted = {"test-scores", "curves", "knob-learning_rate", "knob-lora_rank", "knob-num_epochs", "parallel"}
    wanted |= {"importances", "pareto-time", "pareto-parameters"}
    assert {f"plot-{name}" for name in wanted} <= set(page.plots())
    assert not figure_of(directory, "importances")["layout"]["yaxis"]["title"].get("text")
    for said in (
        "Finished: 12 of 12 trials are done",
        "Importance of the knobs, from the 11 of 12 trials that ran to their end",
        "On 3 test images: CIDEr 2.500 (95% interval 2.250 to 2.750), against 0.250 zero-shot",
        "nearest training image",
        "+2.250 +2.000 to +2.500",
        "0.031",
        "Side, accuracy",
        "± 0.125",
        "<0.001",
        "python -m sweep.run 'my space.yaml'",
        "SHA-256 of its weights " + "0" * 64,
    ):
        assert said in page.text
    test = pd.read_csv(directory / "tables" / "test.csv").set_index("row")
    assert test.loc["best", ["CIDEr", "CIDEr_low", "CIDEr_high", "p_adjusted"]].tolist() == [2.5, 2.25, 2.75, 0.0312]
    assert list(test.index) == ["best", "zero_shot", "caption_prior", "nearest_image", "shuffled_images"]
    leaderboard = pd.read_csv(directory / "tables" / "leaderboard.csv")
    records = load_results(directory).records
    assert leaderboard["trial"].tolist()[0] == load_results(directory).ranked[0].name
    assert leaderboard["state"].tolist()[-1] == "failed"
    curves = pd.read_csv(directory / "tables" / "learning_curves.csv")
    assert len(curves) == sum(len(record.epochs) for record in records)


@pytest.mark.parametrize("states", [[], ["FAILED"], ["FAILED", "FAILED"]])
def test_a_run_without_a_score_is_told_in_sentences(create: Create, states: list[str]) -> None:
    study = create(space(trials=3, sampler="random"))
    for state in states:
        record = next_trial(study)
        study.finish(record.name, TrialState(state), "No memory left.")
    page = report_on(study.directory)
    assert page.plots() == []
    assert "No trial has given a model" in page.text
    assert ("No trial has begun yet." in page.text) == (not states)
    assert ("No memory left." in page.text) == bool(states)


def test_a_single_trial_gives_no_plot_that_compares(create: Create) -> None:
    study = create(space(search={}, first_points=[], fixed={"num_epochs": 2}))
    run_one(study, float("nan"), 1.0)
    page = report_on(study.directory)
    assert page.plots() == ["plot-curves", "plot-losses"]
    assert "Nothing was searched" in page.text
    assert "there is no ablation" in page.text
    assert "Fewer than two whole trials have" in page.text


def test_a_running_sweep_says_so_and_keeps_its_lock_and_a_repeated_report_ends_with_it(
    create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = create(space(trials=5, sampler="random"))
    fill(study, 3)
    page = report_on(study.directory)
    assert ("Still running: 3 of 5" if Path("/proc/locks").exists() else "Not ended: 3 of 5") in page.text
    assert "there are no scores yet" in page.text
    assert 'http-equiv="refresh"' not in (study.directory / "report.html").read_text()
    write_report(study.directory, refresh_seconds=7)
    assert '<meta http-equiv="refresh" content="7">' in (study.directory / "report.html").read_text()
    fill(study)  # the run goes on unharmed
    assert study.is_complete
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        study.close()

    monkeypatch.setattr(time, "sleep", wait)
    result = CliRunner().invoke(app, [str(study.directory), "--every", "7"])
    assert result.exit_code == 0, result.output
    assert waits == ([7] if Path("/proc/locks").exists() else [])
    assert 'http-equiv="refresh"' not in (study.directory / "report.html").read_text()


def test_stopped_trials_of_a_search_are_no_ablation(create: Create) -> None:
    points = [{"freeze": mode, "learning_rate": 1e-3, "num_epochs": 4} for mode in ("full", "lora")]
    points[1]["lora_rank"] = 8
    study = create(space(first_points=points, trials=2, scheduler="none", data="my images"))
    run_one(study, 1.0, 2.0, 3.0, 2.5, training_seconds=7.0)
    run_one(study, 2.0, training_seconds=7.0, end=TrialState.PRUNED)
    page = report_on(study.directory)
    table = pd.read_csv(study.directory / "tables" / "ablation.csv")
    assert table["setting"].str.endswith(", stopped after 1 of 4 epochs").tolist() == [False, True]
    assert table["training_seconds"].isna().tolist() == [False, True]
    assert "A search is no ablation" in page.text
    assert "medcap run ablation --data 'my images' --model phantom-blip" in page.text


def test_few_whole_trials_give_no_importances_and_hollow_markers_are_explained(create: Create) -> None:
    study = create(space(trials=11, scheduler="none", sampler="random"))
    fill(study, 10)  # one of them fails
    page, explanation = report_on(study.directory), "hollow: stopped early"
    assert "plot-importances" not in page.plots()
    said = "at least 10 trials that ran to their end, with different scores and values of two knobs; here are 9"
    assert said in page.text
    assert explanation not in [trace["name"] for trace in figure_of(study.directory, "knob-learning_rate")["data"]]
    run_one(study, 0.5, end=TrialState.PRUNED)
    report_on(study.directory)
    assert explanation in [trace["name"] for trace in figure_of(study.directory, "knob-learning_rate")["data"]]


def test_a_stopped_trial_stands_beside_the_pareto_front(create: Create) -> None:
    study = create(fixed_length(2, trials=4, scheduler="none"))
    for number, reached in enumerate((1.0, 2.0, 3.0)):
        run_one(study, reached, reached, training_seconds=7.0 + number)
    run_one(study, 9.0, end=TrialState.PRUNED)
    report_on(study.directory)
    traces = {trace["name"]: trace for trace in figure_of(study.directory, "pareto-time")["data"]}
    assert list(traces) == ["other trials", "Pareto front", "stopped early, not compared"]
    assert sum(len(traces[name]["x"]) for name in ("other trials", "Pareto front")) == 3
    assert traces["stopped early, not compared"]["y"] == [9.0]


def test_a_blind_model_is_named_first_and_looks_at_the_test_split_are_counted(create: Create) -> None:
    study = create(fixed_length(1, trials=2, scheduler="none"))
    run_one(study, 1.0)
    run_one(study, 2.0)
    same = {"difference": 0.0, "interval": [-0.25, 0.25], "p_value": 1.0, "p_adjusted": 1.0}
    trials = {record.name: scores(0.5) for record in study.records}
    page = report_on(finish(study, trials=trials, blind_comparisons={"shuffled_images": same}))
    assert page.text.index("This model has not learnt to see") < page.text.index("Scores on 3 test images")
    assert "The test split was looked at 2 times" in page.text
    again = report_on(finish(study))
    assert "This model" not in again.text
    assert "looked at" not in again.text


@pytest.mark.slow
def test_five_hundred_trials_are_drawn_in_few_lines(create: Create) -> None:
    study = create(fixed_length(3, trials=500, scheduler="none"))
    record, _ = run_one(study, 1.0, 2.0, 3.0)
    text = (study.paths.trial(record.name).root / "trial.json").read_text()
    for number in range(1, 500):
        content = json.loads(text)
        content |= {"trial": f"trial_{number:04d}", "number": number, "point": {"learning_rate": 1e-5 * 1.015**number}}
        content["config"] |= content["point"]
        for epoch in content["epochs"]:
            epoch["score"] += number / 500
        folder = study.paths.trial(content["trial"]).root
        folder.mkdir()
        (folder / "trial.json").write_text(json.dumps(content))
    page = report_on(study.directory)
    figure = figure_of(study.directory, "curves")
    assert [len(trace["x"]) for trace in figure["data"]] == [494 * 4, 3, 3, 3, 3, 3, 3]
    assert sum(1 for tag, _ in page.elements if tag == "tr") > 500


def test_a_run_by_another_metric_names_it_everywhere(create: Create) -> None:
    study = create(fixed_length(2, objective="balanced_accuracy", scheduler="none", trials=5))
    for low, high in ((0.25, 0.5), (0.5, 0.75), (0.25, 0.25), (0.5, 0.5), (0.25, 1.0)):
        record, _ = run_one(study, low, high, training_seconds=7.0 * len(study.records))
    study.rescore(record.name, 0.875)
    page = report_on(study.directory)
    for said in (
        "Best by validation: trial_0004",
        ", balanced accuracy 1.000, 0.875 on the whole split; the test split is not scored yet.",
        "Balanced accuracy: mean recall over the classes, of the generated answers, 0 to 1.",
        "balanced accuracy on a part of it is another figure.",
        "Balanced accuracy after each epoch",
        "Balanced accuracy against learning rate",
        "Balanced accuracy against training time (s)",
    ):
        assert said in page.text
    assert "CIDEr" not in page.text
    leaders, curves = (pd.read_csv(study.directory / "tables" / f"{n}.csv") for n in ("leaderboard", "learning_curves"))
    assert leaders["balanced_accuracy"].tolist() == [1.0, 0.75, 0.5, 0.5, 0.25]
    assert leaders["balanced_accuracy_whole"][0] == 0.875
    assert curves["balanced_accuracy"].tolist()[:4] == [0.25, 0.5, 0.5, 0.75]
    assert figure_of(study.directory, "curves")["layout"]["yaxis"]["title"]["text"] == "Balanced accuracy, validation"


def test_a_grid_over_seeds_has_one_row_a_setting(create: Create) -> None:
    study = create(grid(seeds=[3, 5, 7], test="all"))
    for ciders in ((1.0, 2.0), (1.0, 3.0), (1.0, 4.0), (0.25, 0.25), (0.5, 0.75), (0.5, 0.5)):
        encoding = 3.0 if len(study.records) >= 3 else 0.0  # of the mode with a frozen encoder
        run_one(study, *ciders, training_seconds=7.0, encoding_seconds=encoding)
    trials = {record.name: scores(1.0 + record.number) for record in study.records}
    directory = finish(study, trials=trials, best_trial="trial_0002")
    page = report_on(directory)
    table = pd.read_csv(directory / "tables" / "ablation.csv")
    assert table["setting"].tolist() == ["full", "lora"]
    assert table["encoding_seconds"].tolist() == [0.0, 3.0]
    assert "every epoch encodes its images, 18.0 s in all of these trials." in page.text  # 3 trials of 2 epochs
    assert table["cider"].tolist() == [3.0, 0.5]
    assert table["cider_std"].tolist() == [1.0, pytest.approx(0.0625**0.5)]
    assert table["test_CIDEr"].tolist() == [2.0, 5.0]
    assert table["training_seconds"].tolist() == [14.0, 14.0]
    assert table["trials"].tolist()[1] == "trial_0003 trial_0004 trial_0005"


def test_best_and_worst_cases_come_from_the_scores_of_images(create: Create) -> None:
    directory = make_finished(create)
    assert "in the order of the data set" in report_on(directory).text
    (directory / "tables").mkdir(exist_ok=True)
    table = pd.DataFrame({"row": "best", "id": ["a", "b", "c"], "CIDEr": [0.5, 9.0, 0.25]})
    table.to_csv(directory / "tables" / "per_image_scores.csv", index=False)
    text = report_on(directory).text
    assert "Chosen by CIDEr of the best model's caption for each of 3 test images." in text
    samples = text[text.index("Chosen by") :]
    assert samples.index(" b Reference") < samples.index(" a Reference") < samples.index(" c Reference")


def test_attention_sheets_come_with_their_texts(create: Create) -> None:
    directory = make_finished(create)
    folder = directory / "attention"
    assert "No attention pictures yet" in report_on(directory).text
    folder.mkdir()
    Image.new("RGB", (1801, 13), "white").save(folder / "01-best-a.png")
    entry = {"image_id": "a", "kind": "best", "caption": HOSTILE, "reference": None, "alt": f"Image a: {HOSTILE}"}
    entry |= {"is_synthetic": False, "words": [], "maps": "maps_000"}
    entries = [entry | {"file": "01-best-a.png"}, entry | {"file": "gone.png"}]
    about = {"model": "best", "method": "cumulative", "layer": "mean"}
    write_json(folder / "attention.json", about | {"data": "phantoms", "num_layers": 3, "images": entries})
    game = {"split": "test", "share": 0.25, "interval": [0.125, 0.5], "num_words": 1234, "num_images": 7}
    game |= {"area_chance": 0.0625, "shuffled_chance": 0.125, "gain": 0.125, "gain_interval": [0.0, 0.25]}
    game["is_above_chance"] = False
    write_json(folder / "pointing_game.json", about | game)
    page = report_on(directory)
    (picture,) = [found for tag, found in page.elements if tag == "img"]
    assert picture["alt"] == f"Image a: {HOSTILE}"
    assert "0.250 (0.125 to 0.500) of 1,234 finding words in 7 test images peak in the true box" in page.text
    (folder / "attention.json").write_text('{"images": [{}]}')
    assert "attention.json is damaged (model: Field required); delete it" in report_on(directory).text


def test_figures_of_others_stand_beside_ours_on_the_same_data(create: Create) -> None:
    directory = make_finished(create, data="rocov2")
    page = report_on(directory)
    assert "none of these models was run here" in page.text
    table = pd.read_csv(directory / "tables" / "published.csv").set_index("system")
    assert table.loc["BLIP with LoRA, 6 epochs on 10% of train", "CIDEr"] == 0.0401
    assert table.loc["zero-shot", "tokens"] == "PTB"


def test_images_of_the_data_are_embedded(create: Create) -> None:
    directory = make_finished(create)
    ids = [f"phantom-target-0-test-{number:05d}" for number in (0, 5)]
    captions = {"id": [*ids, "gone"], "reference": "r", "prediction": "p", "zero_shot": "z"}
    pd.DataFrame(captions).to_csv(directory / "test_predictions.csv", index=False)
    page = Page(write_report(directory))
    pictures = [found for tag, found in page.elements if tag == "img"]
    assert [str(found["src"])[:23] for found in pictures] == ["data:image/jpeg;base64,"] * 2
    assert [str(found["alt"]).partition(";")[0] for found in pictures] == [f"Test image {name}" for name in ids]
    assert "1 of 3 images can no longer be read." in page.text


def test_the_command_writes_elsewhere_and_names_faults(reported: tuple[Path, Page], tmp_path: Path) -> None:
    directory, _ = reported
    before = (directory / "report.html").stat().st_ino
    done = CliRunner().invoke(app, [str(directory), "--out", str(tmp_path / "there"), "--no-images"])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["report.html", "report.md", "tables"]
    assert (directory / "report.html").stat().st_ino == before
    failed = CliRunner().invoke(app, [str(tmp_path / "there")])
    assert (failed.exit_code, failed.stderr.count("error: ")) == (2, 1)
    (tmp_path / "file").write_text("")
    failed = CliRunner().invoke(app, [str(directory), "--out", str(tmp_path / "file")])
    assert (failed.exit_code, "the report cannot be written" in failed.stderr) == (2, True)
