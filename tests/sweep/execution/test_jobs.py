"""Predictions for the images of a split, shared out over Ray's processes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medcap_core.config import TrialConfig
from medcap_core.errors import RunFault
from medcap_core.inference.generation import Request
from medcap_core.training.checkpoint import save_weights
from sweep.execution.cluster import TrialResources
from sweep.execution.jobs import PredictionJob, predict_here, predict_split, share_out
from sweep.study.study import Study
from tests.support.real_runs import NUM_IMAGES
from tests.sweep.conftest import FinishedRun

CAPTIONS = Request(captions=True)
TWO_AT_ONCE = TrialResources(num_workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent=2)


@pytest.fixture
def trained(finished_run: FinishedRun) -> tuple[TrialConfig, Path]:
    """Config and weights of the best trial."""
    with Study.open(finished_run.directory) as study:
        best = study.best()[0]
        return best.config, study.paths.trial(best.name).root / "checkpoints" / "best" / "weights.safetensors"


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("share", [predict_split, share_out])
def test_shares_come_together_in_order(trained: tuple[TrialConfig, Path], share: Callable[..., Any]) -> None:
    config, weights = trained
    untrained = config.model_copy(update={"freeze": "zero_shot"})
    jobs = [
        PredictionJob("trained", config, weights, "test", range(NUM_IMAGES["test"]), CAPTIONS),
        PredictionJob("base", untrained, None, "validation", range(5), CAPTIONS),
    ]
    told: list[tuple[str, int, int]] = []
    found = share(jobs, TWO_AT_ONCE, lambda *step: told.append(step), "captioning")
    assert found == {job.name: predict_here(job) for job in jobs}
    assert [len(found[job.name]) for job in jobs] == [7, 5]
    assert len({prediction.text for prediction in found["trained"]}) > 1
    assert told[-1] == ("captioning", 12, 12)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


@pytest.mark.usefixtures("local_ray")
def test_a_fault_over_there_is_the_same_fault_here(trained: tuple[TrialConfig, Path], tmp_path: Path) -> None:
    config, _ = trained
    foreign = tmp_path / "weights.safetensors"
    save_weights(foreign, {"another.layer": torch.zeros(2)})
    jobs = [PredictionJob("bad", config, foreign, "test", range(2), CAPTIONS)]
    with pytest.raises(RunFault, match=r"such as another\.layer") as raised:
        share_out(jobs, TWO_AT_ONCE, lambda *_: None, "captioning")
    assert len(raised.value.faults) == 1


def test_a_capped_job_takes_the_images_that_trials_see(trained: tuple[TrialConfig, Path]) -> None:
    config, weights = trained
    whole = PredictionJob("whole", config, weights, "validation", range(NUM_IMAGES["validation"]), CAPTIONS)
    every = predict_here(whole)
    capped = predict_here(replace(whole, positions=range(6), whole_validation=False))
    assert (len(every), len(capped)) == (9, 6)
    iterator = iter(every)
    assert all(prediction in iterator for prediction in capped)  # some of the same, in the same order
    assert predict_here(replace(whole, positions=[7, 2])) == [every[7], every[2]]
