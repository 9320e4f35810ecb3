"""Two real workers on this machine, joined by gloo, against one that does all by itself."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import multiprocessing

from medcap_core.config import TrialConfig
from medcap_core.runtime.workers import Workers, current_workers
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.loop import fit
from tests.support.tiny_blip import save_tiny_blip, tiny_config, tiny_data

NUM_TRAIN, NUM_VALIDATION = 13, 7
"""Steps of 6, 6 and 1 image: in the last one the second worker has none."""


class Interrupted(Exception):
    """Ends a trial from its report callback."""


def build_config(model: Path, freeze: str) -> TrialConfig:
    return tiny_config(
        model, freeze=freeze, batch_size=6, accumulation_steps=2, augment=True, learning_rate=1e-3, eval_batch_size=2
    )


def scores(reports: list[EpochReport]) -> list[float]:
    return [
        value
        for report in reports
        for value in (report.epoch, report.score, report.validation_loss, report.training_loss, report.learning_rate)
    ]


def run(model: Path, freeze: str, folder: Path, last_epoch: int) -> list[EpochReport]:
    reports: list[EpochReport] = []

    def report(done: EpochReport) -> None:
        reports.append(done)
        if done.epoch == last_epoch:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(build_config(model, freeze), tiny_data(NUM_TRAIN, NUM_VALIDATION), folder, report)
    return reports


def work(rank: int, folder: Path, model: Path) -> None:
    """One of two workers: an epoch, a stop that leaves `best/` behind, and the rest; then a shorter trial."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    workers = current_workers()
    assert (workers.rank, workers.size, workers.leads) == (rank, 2, rank == 0)
    assert workers.gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    assert workers.broadcast(f"from {rank}") == "from 0"

    first = run(model, "full", folder / "full", 1)
    workers.gather(None)
    if workers.leads:
        (folder / "full" / "best" / "weights.safetensors").unlink()
    workers.gather(None)
    reports = run(model, "full", folder / "full", 2)
    assert scores(reports[:1]) == scores(first)
    lora = run(model, "lora", folder / "lora", 1)
    torch.save({"full": scores(reports), "lora": scores(lora)}, folder / f"scores-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_train_and_score_as_one(tmp_path: Path) -> None:
    model = save_tiny_blip(tmp_path / "model", seed=2, initializer_range=0.1)
    multiprocessing.spawn(work, (tmp_path, model), nprocs=2)
    together = [torch.load(tmp_path / f"scores-{rank}.pt") for rank in (0, 1)]
    assert together[0] == together[1]
    for freeze, num_epochs in (("full", 2), ("lora", 1)):
        alone = run(model, freeze, tmp_path / "alone" / freeze, num_epochs)
        assert together[0][freeze] == pytest.approx(scores(alone), abs=1e-5)
        assert max(report.score for report in alone) > 0
        for place in ("best/weights", "last/checkpoint"):
            one, two = (
                load_file(folder / freeze / f"{place}.safetensors") for folder in (tmp_path / "alone", tmp_path)
            )
            assert one.keys() == two.keys()
            for name in one:
                # A key's bias has no gradient but rounding error, which Adam makes a step of.
                if "key.bias" not in name and "qkv.bias" not in name:
                    torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_process_without_a_group_is_the_only_worker() -> None:
    workers = current_workers()
    assert workers == Workers(rank=0, size=1)
    assert workers.leads
    assert workers.gather("mine") == ["mine"]
    assert workers.broadcast("mine") == "mine"
