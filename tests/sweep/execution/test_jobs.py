"""Captions of a split, shared out over Ray's processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from medcap_core.config import TrialConfig
from medcap_core.errors import RunFault
from sweep.execution.cluster import TrialResources
from sweep.execution.jobs import CaptionJob, predict_here, predict_split, share_out
from sweep.study.study import Study
from tests.support.real_runs import NUM_IMAGES
from tests.sweep.conftest import FinishedRun

TWO_AT_ONCE = TrialResources(num_workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent=2)


@pytest.fixture
def trained(finished_run: FinishedRun) -> tuple[TrialConfig, Path]:
    """Config and weights of the best trial."""
    with Study.open(finished_run.directory) as study:
        best = study.best()[0]
        return best.config, study.trial_directory(best.name) / "checkpoints" / "best" / "weights.safetensors"


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("caption", [predict_split, share_out])
def test_shares_come_together_in_order(trained: tuple[TrialConfig, Path], caption: Callable[..., Any]) -> None:
    config, weights = trained
    jobs = [
        CaptionJob("trained", config, weights, "test", NUM_IMAGES["test"]),
        CaptionJob("base", config.model_copy(update={"freeze": "zero_shot"}), None, "validation", 5),
    ]
    told: list[tuple[str, int, int]] = []
    captions = caption(jobs, TWO_AT_ONCE, lambda *step: told.append(step), "captioning")
    assert captions == {job.name: predict_here(job) for job in jobs}
    assert [len(captions[job.name]) for job in jobs] == [7, 5]
    assert len(set(captions["trained"])) > 1
    assert told[-1] == ("captioning", 12, 12)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


@pytest.mark.usefixtures("local_ray")
def test_a_fault_over_there_is_the_same_fault_here(trained: tuple[TrialConfig, Path], tmp_path: Path) -> None:
    config, _ = trained
    foreign = tmp_path / "weights.safetensors"
    save_file({"another.layer": torch.zeros(2)}, foreign)
    with pytest.raises(RunFault, match=r"such as another\.layer") as raised:
        share_out([CaptionJob("bad", config, foreign, "test", 2)], TWO_AT_ONCE, lambda *_: None, "captioning")
    assert len(raised.value.faults) == 1


def test_a_capped_job_takes_the_images_that_trials_see(trained: tuple[TrialConfig, Path]) -> None:
    config, weights = trained
    whole = predict_here(CaptionJob("whole", config, weights, "validation", NUM_IMAGES["validation"]))
    capped = predict_here(CaptionJob("capped", config, weights, "validation", 6, whole_validation=False))
    assert (len(whole), len(capped)) == (9, 6)
    iterator = iter(whole)
    assert all(caption in iterator for caption in capped)  # some of the same, in the same order
