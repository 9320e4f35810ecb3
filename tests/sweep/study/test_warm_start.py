from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState as OptunaState

from medcap_core.errors import ConfigFault, RunFault
from sweep.study.database import build_history
from sweep.study.proposal import read_score
from sweep.study.record import TrialState
from sweep.study.study import Study
from sweep.study.warm_start import WarmStart, add_earlier, collect_earlier
from tests.support.small_runs import CONDITIONAL, Trainer, next_trial, read_optuna, run_one, space

EARLIER = [
    {"freeze": "lora", "learning_rate": 1e-3, "lora_rank": 8, "num_epochs": 4},
    {"freeze": "full", "learning_rate": 1e-4, "num_epochs": 2},
    {"freeze": "lora", "learning_rate": 5e-3, "lora_rank": 16, "num_epochs": 2},
    {"freeze": "full", "learning_rate": 2e-4, "num_epochs": 5},
    {"freeze": "lora", "learning_rate": 1e-2, "lora_rank": 4, "num_epochs": 2},
]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five trials: 2.0, 1.0, 3.0, one cut off, and one that failed by its config."""
    directory = tmp_path_factory.mktemp("earlier") / "run"
    with Study.create(directory, space(first_points=EARLIER, scheduler="none")) as study:
        run_one(study, 1.0, 1.5, 2.0, 1.75)
        run_one(study, 0.5, 1.0)
        run_one(study, 3.0, 2.5)
        for state in (TrialState.STOPPED, TrialState.FAILED):
            record = next_trial(study)
            study.finish(record.name, state, is_config_at_fault=True)
    return directory


def changed(**search: Any) -> dict[str, Any]:
    return {"search": CONDITIONAL["search"] | search, "first_points": [], "trials": 9}


def test_trials_that_fit_are_history_and_no_trials_of_the_run(earlier: Path, tmp_path: Path) -> None:
    wanted = space(first_points=[], trials=9)
    warm = collect_earlier(wanted, [earlier, earlier])
    assert [(trial.trial, trial.is_comparable) for trial in warm.trials] == [
        (f"trial_{number:04d}", True) for number in (0, 1, 2, 4)
    ]
    assert warm.notes == (f"Warm start     4 of the 5 trials of {earlier}; not taken: 1 not ended",)
    history = add_earlier(wanted, warm, [])
    assert [trial.params for trial in history] == [
        {"freeze": "lora", "learning_rate[freeze=lora]": 1e-3, "lora_rank": 8, "num_epochs": 4},
        {"freeze": "full", "learning_rate[freeze=full]": 1e-4, "num_epochs": 2},
        {"freeze": "lora", "learning_rate[freeze=lora]": 5e-3, "lora_rank": 16, "num_epochs": 2},
        {"freeze": "lora", "learning_rate[freeze=lora]": 1e-2, "lora_rank": 4, "num_epochs": 2},
    ]
    assert [read_score(trial) for trial in history] == [2.0, 1.0, 3.0, 0.5]  # a failure has the lowest of its run
    with Study.create(tmp_path / "run", wanted, warm) as study:
        Trainer().run(study, 2)
        assert [len(study.records), study.num_remaining, len(read_optuna(study.directory))] == [2, 7, 2]
        assert {record.name for record in study.records} == {"trial_0000", "trial_0001"}


def test_a_resumed_run_proposes_what_an_uninterrupted_one_does(earlier: Path, tmp_path: Path) -> None:
    wanted = space(first_points=[], trials=2)
    warm = collect_earlier(wanted, [earlier])
    with Study.create(tmp_path / "whole", wanted, warm) as study:
        Trainer().run(study)
        whole = [record.point for record in study.records]
    with Study.create(tmp_path / "cut", wanted, warm) as study:
        Trainer().run(study, 1)
    with Study.open(tmp_path / "cut") as study:
        assert study.warm_start == warm
        Trainer().run(study)
        assert [record.point for record in study.records] == whole


@pytest.mark.parametrize(
    ("changes", "taken", "note"),
    [
        (
            changed(num_epochs={"int": [3, 5]}, lora_rank={"choice": [8], "when": {"freeze": "lora"}}),
            [{"freeze": "lora", "learning_rate": 1e-3, "lora_rank": 8, "num_epochs": 4}],
            "not taken: 2 with a lora_rank outside its range, 1 with a num_epochs outside its range, 1 not ended",
        ),
        (
            {
                "fixed": {"freeze": "lora", "lora_rank": 8},
                "search": {"learning_rate": {"loguniform": [1e-4, 1e-2]}, "num_epochs": {"int": [2, 5]}},
                "first_points": [],
            },
            [{"learning_rate": 1e-3, "num_epochs": 4}],
            "not taken: 2 with another lora_rank than 8, 1 with another freeze than lora, 1 not ended",
        ),
        (
            changed(batch_size={"choice": [8, 16]}, num_epochs={"int": [5, 6]}),
            RunFault,
            r"none of its 5 trials fits this space \(4 with a num_epochs outside its range, 1 not ended\); leave it",
        ),
        ({"sampler": "random"}, ConfigFault, "--warm-start: sampler: random learns from no trial; leave it out"),
        ({"objective": "balanced_accuracy"}, RunFault, "it searched for CIDEr, this run searches for balanced accur"),
    ],
)
def test_what_does_not_fit_is_not_taken_and_said(
    earlier: Path, changes: dict[str, Any], taken: list[dict[str, Any]] | type[Exception], note: str
) -> None:
    wanted = space(**changes)
    if isinstance(taken, type):
        with pytest.raises(taken, match=note):
            collect_earlier(wanted, [earlier])
        return
    warm = collect_earlier(wanted, [earlier])
    assert [trial.point for trial in warm.trials] == taken
    assert warm.notes[0].endswith(note)


def test_runs_on_another_scale_are_ranked_among_themselves(earlier: Path, tmp_path: Path) -> None:
    wanted = space(fixed={"max_train_images": 50}, first_points=[], trials=9)
    warm = collect_earlier(wanted, [earlier])
    assert "; other max_train_images, so they are ranked among themselves;" in warm.notes[0]
    with Study.create(tmp_path / "run", wanted, warm) as study:
        run_one(study, 0.02)
        run_one(study, 0.01)
        assert study.propose()
        history = add_earlier(wanted, warm, build_history(study.records))
    # of the earlier ones 2.0, 1.0, 3.0 and a failure; of the own ones 0.02, 0.01 and one that runs
    assert [read_score(trial) for trial in history] == [0.625, 0.375, 0.875, 0.125, 0.75, 0.25, None]
    assert history[-1].state is OptunaState.RUNNING


def test_folders_that_are_no_runs_are_named_at_once(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(RunFault, match="no run is there") as caught:
        collect_earlier(space(), folders)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [f"--warm-start {path}" for path in folders]


def test_a_file_that_does_not_fit_the_space_is_refused(earlier: Path, tmp_path: Path) -> None:
    wanted = space(first_points=[])
    Study.create(tmp_path / "run", wanted, collect_earlier(wanted, [earlier])).close()
    with pytest.raises(RunFault, match=r"warm_start\.json is damaged or does not fit"):
        WarmStart.load(tmp_path / "run", space(**changed(num_epochs={"int": [3, 5]})))
