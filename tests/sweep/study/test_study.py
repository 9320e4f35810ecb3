import json
import math

import pandas as pd
import pytest
from optuna.trial import TrialState as OptunaState

from medcap_core.config import TrialConfig
from medcap_core.errors import RunFault
from sweep.space import build_space, load_space
from sweep.study.database import build_history
from sweep.study.record import TrialRecord, TrialState
from sweep.study.study import Study
from sweep.study.test_results import TestResults
from sweep.terminal.row import build_row
from tests.support.small_runs import (
    CONDITIONAL,
    Create,
    Trainer,
    essence,
    fixed_length,
    next_trial,
    optuna_essence,
    read_optuna,
    report_of,
    run_one,
    score,
    space,
)

# States, objective, table


def test_what_optuna_and_the_table_know_of_each_state(create: Create) -> None:
    study = create(fixed_length(4))
    for _ in range(3):
        run_one(study, 2.0, 3.0, 2.5, 2.75)
    run_one(study, 1.0)
    failed, stopped, running, _ = (next_trial(study) for _ in range(4))
    study.report(failed.name, report_of(failed, 1, 9.0))
    study.finish(failed.name, TrialState.FAILED, "step 3: the loss is not finite; lower learning_rate")
    study.report(stopped.name, report_of(stopped, 1, 9.0))
    study.finish(stopped.name, TrialState.STOPPED, "interrupted")
    study.start(running.name)
    trials = read_optuna(study.directory)
    states = [trial.state.name for trial in trials]
    assert states == [*["COMPLETE"] * 3, "PRUNED", "FAIL", *["RUNNING"] * 3]
    assert trials[0].value == 3.0
    assert trials[0].intermediate_values == {25: 2.0, 50: 3.0, 75: 3.0, 100: 3.0}
    assert trials[3].intermediate_values == {25: 1.0}
    table = pd.read_csv(study.directory / "trials.csv", converters={"config.learning_rate": float})
    assert list(table["trial"]) == [f"trial_{number:04d}" for number in range(8)]
    assert list(table["state"]) == [*["SUCCEEDED"] * 3, "PRUNED", "FAILED", "STOPPED", "RUNNING", "PENDING"]
    assert list(table["best_cider"][2:6]) == [3.0, 1.0, 9.0, 9.0]
    assert list(table["epochs_done"]) == [4, 4, 4, 1, 1, 1, 0, 0]
    assert list(table["config.learning_rate"]) == [record.config.learning_rate for record in study.records]
    assert list(table.filter(regex=r"^config\.")) == [f"config.{name}" for name in TrialConfig.model_fields]
    assert [study.num_finished, study.num_remaining, study.is_complete] == [5, 1, False]


def test_the_first_final_state_stands(create: Create) -> None:
    study = create(fixed_length(1))
    record, _ = run_one(study, 1.5)
    study.finish(record.name, TrialState.FAILED, "late")
    assert (record.state, record.reason) == (TrialState.SUCCEEDED, "")
    assert study.report(record.name, report_of(record, 2, 9.0)) is False
    assert record.best_score == 1.5
    with pytest.raises(ValueError, match="RUNNING is no end"):
        study.finish(record.name, TrialState.RUNNING)


def test_a_trial_without_a_finite_cider_failed(create: Create) -> None:
    study = create(fixed_length(2))
    record, _ = run_one(study, math.nan, math.inf)
    assert record.state is TrialState.FAILED
    assert "finite CIDEr" in record.reason
    one_finite, _ = run_one(study, math.nan, 0.5)
    assert (one_finite.state, one_finite.best_score, one_finite.best_epoch) == (TrialState.SUCCEEDED, 0.5, 2)
    assert [trial.state for trial in read_optuna(study.directory)] == [OptunaState.FAIL, OptunaState.COMPLETE]
    assert study.best() == [one_finite]


def test_an_untrained_trial_has_one_report_and_no_epochs(create: Create) -> None:
    study = create(space(search={"freeze": {"grid": ["zero_shot", "lora"]}}, sampler="grid", first_points=[]))
    record = next_trial(study)
    assert study.report(record.name, report_of(record, 0, 0.25, num_epochs=0))
    study.finish(record.name, TrialState.SUCCEEDED)
    assert (record.best_score, record.best_epoch, record.epochs_done) == (0.25, 0, 0)
    assert read_optuna(study.directory)[0].intermediate_values == {100: 0.25}


# Proposals


def test_first_points_come_first_then_the_sampler_until_the_number_is_reached(create: Create) -> None:
    study, trainer = create(space()), Trainer()
    trainer.run(study)
    assert study.records[0].point == CONDITIONAL["first_points"][0]
    assert trainer.proposed == [f"trial_{number:04d}" for number in range(5)]
    assert study.propose() is None
    assert study.is_complete
    assert len({record.config for record in study.records}) == 5


def test_a_grid_is_walked_row_by_row_and_each_seed(create: Create) -> None:
    study = create(space(search={"freeze": {"grid": ["full", "lora"]}}, seeds=[3, 5], sampler="grid", first_points=[]))
    Trainer().run(study)
    rows = [(record.config.freeze.value, record.config.seed) for record in study.records]
    assert rows == [("full", 3), ("full", 5), ("lora", 3), ("lora", 5)]
    assert [trial.params for trial in read_optuna(study.directory)] == [record.point for record in study.records]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_an_interrupted_search_proposes_what_an_uninterrupted_one_does(create: Create, sampler: str) -> None:
    wanted = space(sampler=sampler, trials=9)
    whole, parts = create(wanted, "whole"), create(wanted, "parts")
    Trainer().run(whole)
    trainer = Trainer()
    for number in range(9):
        trainer.run(parts, most_trials=number + 1)
        parts.close()
        parts = Study.open(parts.directory)
    assert essence(parts) == essence(whole)
    assert optuna_essence(parts.directory) == optuna_essence(whole.directory)
    assert len({record.config for record in whole.records}) == 9
    parts.close()


def test_two_trials_at_once_are_two_trials(create: Create) -> None:
    study = create(space(trials=8))
    running: list[TrialRecord] = []
    while not study.is_complete:
        while len(running) < 2 and (proposed := study.propose()) is not None:
            running.append(proposed)
        for record in list(running):
            epoch = record.epochs_done + 1
            go_on = study.report(record.name, report_of(record, epoch, score(record, epoch)))
            if not go_on or epoch == record.config.num_epochs:
                study.finish(record.name, TrialState.SUCCEEDED if go_on else TrialState.PRUNED)
                running.remove(record)
    assert len({record.config for record in study.records}) == 8
    assert [trial.params for trial in read_optuna(study.directory)] == [record.parameters for record in study.records]
    assert study.propose() is None


def test_fields_that_do_not_go_together_are_drawn_again(create: Create) -> None:
    search = {"batch_size": {"choice": [8, 9]}, "accumulation_steps": {"choice": [4, 9]}, "num_epochs": {"int": [1, 9]}}
    study = create(space(search=search, sampler="random", first_points=[], trials=6))
    configs = [next_trial(study).config for _ in range(6)]
    assert {(config.batch_size, config.accumulation_steps) for config in configs} <= {(8, 4), (9, 9)}


def test_a_config_is_repeated_only_when_the_space_is_exhausted(create: Create) -> None:
    search = {"lora_rank": {"choice": [2, 3, 5]}}
    study = create(space(search=search, sampler="random", first_points=[], trials=4))
    ranks = [next_trial(study).config.lora_rank for _ in range(4)]
    assert sorted(ranks[:3]) == [2, 3, 5]
    assert ranks[3] in (2, 3, 5)


def test_more_trials_are_wanted_for_good_but_not_of_a_grid(create: Create) -> None:
    study = create(space(trials=2))
    Trainer().run(study)
    study.extend(3)
    assert (study.num_wanted, study.num_remaining, study.is_complete) == (5, 3, False)
    study.close()
    with Study.open(study.directory) as again:
        assert again.num_wanted == 5
        Trainer().run(again)
        assert len(again.records) == 5
        with pytest.raises(RunFault, match="add at least one trial"):
            again.extend(0)
    grid = create(space(search={"freeze": {"grid": ["full", "lora"]}}, sampler="grid", first_points=[]), "grid")
    with pytest.raises(RunFault, match="a grid has its rows and no more"):
        grid.extend(1)
    single = create(build_space({"name": "single"}, "test"), "single")
    with pytest.raises(RunFault, match="nothing is searched"):
        single.extend(1)
    assert (study.can_be_extended, grid.can_be_extended, single.can_be_extended) == (True, False, False)


def count_diverging(study: Study, *, fault: bool) -> int:
    """Run all trials where rates above 1e-3 diverge; count those."""
    while (record := study.propose()) is not None:
        if record.config.learning_rate > 1e-3:
            study.finish(record.name, TrialState.FAILED, "diverged", is_config_at_fault=fault)
        else:
            study.report(record.name, report_of(record, 1, -math.log10(1e-3 + 1e-3 - record.config.learning_rate)))
            study.finish(record.name, TrialState.SUCCEEDED)
    return sum(record.state is TrialState.FAILED for record in study.records)


@pytest.mark.slow
def test_the_search_learns_from_trials_whose_config_failed(create: Create) -> None:
    wanted = fixed_length(1, sampler="tpe", trials=24)
    learnt = create(wanted, "learnt")
    num_learnt, num_not = count_diverging(learnt, fault=True), count_diverging(create(wanted, "not"), fault=False)
    assert num_learnt < num_not
    failed = next(record for record in learnt.records if record.state is TrialState.FAILED)
    assert read_optuna(learnt.directory)[failed.number].state is OptunaState.FAIL
    assert pd.read_csv(learnt.directory / "trials.csv")["best_cider"].isna()[failed.number]
    learnt.close()
    with Study.open(learnt.directory) as again:
        assert again.record(failed.name).is_config_at_fault
    with Study.open(learnt.directory, retry_failed=True) as again:
        assert not again.record(failed.name).is_config_at_fault


# Reports and pruning


def test_a_known_epoch_changes_nothing_and_gets_its_answer_again(create: Create) -> None:
    study = create(fixed_length(4))
    for _ in range(3):
        run_one(study, 2.0, 3.0, 3.0, 3.0)
    record = next_trial(study)
    for epoch, cider in ((1, 2.5), (1, 9.9), (2, 2.6), (1, 9.9), (2, 9.9), (3, 9.9)):
        assert study.report(record.name, report_of(record, epoch, cider)) == (epoch == 1)
    assert [epoch.score for epoch in record.epochs] == [2.5, 2.6]


# The best


def test_ranking_by_best_epoch_then_fewer_trained_parameters_then_number(create: Create) -> None:
    study = create(fixed_length(2, scheduler="none"))
    run_one(study, 1.0, 2.0, trainable_parameters=50)
    run_one(study, 3.0, 0.5, trainable_parameters=50)
    run_one(study, 2.0, 1.0, trainable_parameters=20)
    run_one(study, 1.0, 2.0, trainable_parameters=50)
    run_one(study, 9.0, end=TrialState.FAILED, reason="died")
    assert [record.number for record in study.best(9)] == [1, 2, 0, 3]
    assert [record.number for record in study.candidates] == [1, 2, 0]
    assert [record.number for record in study.best()] == [1]


def test_scores_on_the_whole_split_decide_once_every_candidate_has_one(create: Create) -> None:
    study = create(fixed_length(1))
    for cider in (2.0, 2.2, 2.1, 1.0):
        run_one(study, cider)
    study.rescore("trial_0000", 9.0)
    study.rescore("trial_0001", 1.5)
    assert [record.number for record in study.best(4)] == [1, 2, 0, 3]
    study.rescore("trial_0002", 1.7)
    assert [record.number for record in study.best(4)] == [0, 2, 1, 3]
    assert [record.number for record in study.candidates] == [1, 2, 0]
    assert list(pd.read_csv(study.directory / "trials.csv")["best_cider"]) == [2.0, 2.2, 2.1, 1.0]
    with pytest.raises(ValueError, match="nan"):
        study.rescore("trial_0003", math.nan)
    study.close()
    with Study.open(study.directory) as again:
        assert again.best()[0].whole_validation_score == 9.0


def test_a_trial_that_patience_ended_is_whole(create: Create) -> None:
    study = create(fixed_length(4, fixed={"num_epochs": 4, "patience": 2}, trials=9))
    for _ in range(3):
        run_one(study, 2.0, 3.0, 3.5, 3.75)
    record, answers = run_one(study, 0.5, 0.25, 0.5, num_distinct=3, top_share=0.75)
    assert (answers, record.state) == ([False], TrialState.PRUNED)  # the scheduler was there first
    patient, answers = run_one(study, 4.0, 3.0, 3.0, num_distinct=3, top_share=0.75)
    assert (answers, patient.state) == ([True, True, True], TrialState.SUCCEEDED)
    assert patient.reason == "ended by patience: 2 epochs without a better CIDEr"
    assert (patient.best_epoch, patient.epochs_done, patient.is_whole) == (1, 3, True)
    assert patient.build_curve() == {25: 4.0, 50: 4.0, 75: 4.0, 100: 4.0}
    shown = build_row(patient)
    assert (shown.trial, shown.state, shown.epochs_done, shown.num_epochs) == ("trial_0004", "SUCCEEDED", 3, 4)
    assert (shown.last_score, shown.best_score, shown.seconds) == (3.0, 4.0, 3.0)
    whole, _ = run_one(study, 4.0, 5.0, 4.0, 4.0)
    assert whole.reason == ""
    row = pd.read_csv(study.directory / "trials.csv").iloc[patient.number]
    assert (row["num_distinct"], row["top_share"], row["reason"]) == (3, 0.75, patient.reason)
    study.close()
    with Study.open(study.directory) as again:
        assert again.record(patient.name) == patient


def test_a_run_by_a_loss_is_led_by_the_lowest(create: Create) -> None:
    study = create(fixed_length(4, objective="validation_loss", scheduler="asha", trials=9))
    for losses in ((2.0, 1.0, 1.25, 1.5), (2.0, 1.5, 1.5, 0.5), (2.0, 1.5, 1.5, 1.5)):
        run_one(study, *losses)
    weak, answers = run_one(study, 3.0)
    assert (answers, weak.state) == ([False], TrialState.PRUNED)
    best, _ = run_one(study, math.nan, 0.25, math.inf, 0.5)
    assert (best.best_score, best.best_epoch, best.last_score) == (0.25, 2, 0.5)
    assert [record.number for record in study.best(5)] == [4, 1, 0, 2, 3]
    assert max(map(build_row, study.records), key=lambda row: row.ranked_score).trial == best.name
    study.rescore("trial_0001", 0.75), study.rescore(best.name, 0.5), study.rescore("trial_0000", 0.25)
    assert [record.number for record in study.best(3)] == [0, 4, 1]
    assert [trial.value for trial in read_optuna(study.directory)] == [1.0, 0.5, 1.5, 3.0, 0.25]
    assert read_optuna(study.directory)[0].intermediate_values == {25: 2.0, 50: 1.0, 75: 1.0, 100: 1.0}
    assert [trial.value for trial in build_history(study.records)] == [-1.0, -0.5, -1.5, -3.0, -0.25]
    study.write_best(best)
    assert study.paths.best_config.read_text().startswith("# trial_0004 of run: validation loss 0.250 on validation ")


def test_a_run_by_another_score_names_it_everywhere(create: Create) -> None:
    study = create(fixed_length(2, objective="balanced_accuracy", scheduler="none", trials=4))
    best, _ = run_one(study, 0.25, 0.75)
    failed, _ = run_one(study, math.nan, math.nan)
    assert failed.reason == "no epoch gave a finite balanced accuracy; look at its log"
    table = pd.read_csv(study.directory / "trials.csv")
    assert table["best_balanced_accuracy"].tolist()[0] == 0.75
    assert "best_cider" not in table
    assert table["config.objective"].tolist() == ["balanced_accuracy"] * 2
    with pytest.raises(ValueError, match="Balanced accuracy of trial_0000 on the whole validation split is inf"):
        study.rescore(best.name, math.inf)
    study.rescore(best.name, 0.625)
    study.write_best(best)
    said = "# trial_0000 of run: balanced accuracy 0.750 on validation after epoch 2 as the search saw it, 0.625 on "
    assert study.paths.best_config.read_text().startswith(f"{said}the whole split.\n")
    again = load_space(study.paths.best_config)
    assert (again.objective.names, "objective" in again.fixed) == (("balanced_accuracy",), False)
    study.close()
    with Study.open(study.directory) as reopened:
        assert reopened.record(best.name) == best


def test_best_yaml_is_a_space_with_this_one_config(create: Create) -> None:
    study = create(space())
    Trainer().run(study, most_trials=2)
    best = study.best()[0]
    study.write_best(best)
    path = study.paths.best_config
    assert path.read_text().startswith(f"# {best.name} of run: CIDEr {best.best_score:.3f} on validation")
    with Study.create(study.directory.parent / "copy", load_space(path)) as again:
        assert next_trial(again).config == best.config
        assert again.propose() is None


def write_checkpoints(study: Study, trial: str) -> None:
    for name in ("last/state.safetensors", "best/weights.safetensors", "history.json"):
        path = study.paths.trial(trial).checkpoints / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def checkpoints(study: Study) -> list[list[str]]:
    folders = [study.paths.trial(record.name).checkpoints for record in study.records]
    return [sorted(path.name for path in folder.iterdir()) for folder in folders]


@pytest.mark.parametrize("test", ["best", "all"])
def test_ended_trials_keep_weights_only_if_among_the_best_three_or_still_to_be_tested(
    create: Create, test: str
) -> None:
    study = create(fixed_length(1, test=test))
    for cider in (1.0, 4.0, 2.0, 3.0):
        write_checkpoints(study, run_one(study, cider)[0].name)
    write_checkpoints(study, next_trial(study).name)
    study.tidy_checkpoints()
    kept = ["best", "history.json"]
    weakest = kept if test == "all" else ["history.json"]
    assert checkpoints(study) == [weakest, kept, kept, kept, ["best", "history.json", "last"]]
    study.write_test_metrics(TestResults(trials={"trial_0000": {"CIDEr": 0.5}}))
    study.tidy_checkpoints()
    assert checkpoints(study)[0] == ["history.json"]


def test_the_scores_of_the_test_split_are_kept(create: Create) -> None:
    study = create(fixed_length(1))
    assert study.read_test_metrics() == TestResults()
    given = {"zero_shot": {"CIDEr": 0.25}, "num_images": 7, "trials": {"trial_0001": {"CIDEr": 1.5}}}
    results = TestResults.model_validate(given)
    study.write_test_metrics(results)
    assert study.read_test_metrics() == results
    content = json.loads(study.paths.test_metrics.read_text())
    assert content == given | {"groups": [], "caption_preprocessing": "none"}
    study.paths.test_metrics.write_text("[1")
    with pytest.raises(RunFault, match=r"test_metrics\.json is damaged"):
        study.read_test_metrics()


def test_a_trial_that_lost_its_checkpoint_is_told_of_once(create: Create) -> None:
    study, lines = create(fixed_length(4)), list[str]()
    study.tell(lines.append)
    record = next_trial(study)
    for epoch, seconds in ((1, 5.0), (2, 5.0), (1, 5.0), (2, 5.0), (1, 7.0), (2, 7.0)):
        assert study.report(record.name, report_of(record, epoch, 0.5, seconds=seconds))
    assert lines == ["trial_0000: begins anew, as a checkpoint was damaged (see its log.txt)"]
    assert study.record(record.name).seconds == 10.0
