"""Real workers on this machine, joined by gloo, against one that does all by itself."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, multiprocessing

from medcap_core.errors import ModelFault, NonFiniteLoss
from medcap_core.models import load_trial_captioner
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.runtime.progress import ignore_progress
from medcap_core.runtime.workers import Workers, current_workers
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.loop import fit, train_epoch
from medcap_core.training.parallel import share_model
from medcap_core.training.trial import Trial
from tests.support.tiny_blip import save_tiny_blip, tiny_config, tiny_data
from tests.support.tiny_models import save_tiny_blip2
from tests.support.tiny_vlms import MAKERS

NUM_TRAIN, NUM_VALIDATION = 17, 9
"""Steps of 8, 8 and 1 image: in the last all workers but one have none. The first one validates one batch more."""
TOLERANCE = 1e-5
"""Of losses, scores and weights after six steps in float32; sums of gradients are rounded in another order."""

FULL = {"freeze": "full"}
LORA = {"freeze": "lora"}
CHECKPOINTED = {"freeze": "decoder_only", "gradient_checkpointing": True}
"""Of an OPT, whose head is its token embedding, below a frozen vision tower and a frozen bridge."""


VLMS = {
    "qwen3_vl": FULL | {"image_size": 48},
    "smolvlm": LORA | {"image_size": 96},  # split into parts
    "gemma4": FULL | {"image_size": 48},
    "git": {"freeze": "decoder_only", "image_size": 48},
}


class Interrupted(Exception):
    """Ends a trial from its report callback."""


def scores(reports: list[EpochReport]) -> list[float]:
    return [
        value
        for report in reports
        for value in (report.epoch, report.score, report.validation_loss, report.training_loss, report.learning_rate)
    ]


def run(model: Path, folder: Path, last_epoch: int, **changes: object) -> list[float]:
    """Train to the end of an epoch; returns the scores of all epochs, those done before included."""
    reports: list[EpochReport] = []

    def report(done: EpochReport) -> None:
        reports.append(done)
        if done.epoch == last_epoch:
            raise Interrupted

    config = tiny_config(
        model, batch_size=8, accumulation_steps=2, augment=True, learning_rate=1e-3, eval_batch_size=2, **changes
    )
    with pytest.raises(Interrupted):
        fit(config, tiny_data(NUM_TRAIN, NUM_VALIDATION), folder, report)
    return scores(reports)


def join(work: Callable[[Path], object], size: int, folder: Path) -> list[object]:
    """Call `work` in each worker of a group; returns what each does."""
    # A server that has imported all forks the workers, which start at once.
    multiprocessing.set_forkserver_preload([__name__])
    multiprocessing.start_processes(_join, (work, size, folder), nprocs=size, start_method="forkserver")
    return [torch.load(folder / f"found-{size}-{rank}.pt") for rank in range(size)]


def _join(rank: int, work: Callable[[Path], object], size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    set_up_libraries()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{size}", rank=rank, world_size=size)
    workers = current_workers()
    assert (workers.rank, workers.size, workers.leads) == (rank, size, rank == 0)
    assert workers.gather({"rank": rank}) == [{"rank": other} for other in range(size)]
    assert workers.broadcast(f"from {rank}") == "from 0"
    torch.save(work(folder), folder / f"found-{size}-{rank}.pt")
    dist.destroy_process_group()


def train_as_two(folder: Path) -> object:
    """An epoch, a stop that leaves `best/` behind, and the rest; then a shorter trial; by DDP and by FSDP2."""
    found = {}
    for parallel in ("ddp", "fsdp"):
        full, shared = folder / parallel / "full", {"parallel": parallel}
        first = run(folder / "blip", full, 1, **FULL, **shared)
        dist.barrier()
        if current_workers().leads:
            (full / "best" / "weights.safetensors").unlink()
            shutil.copytree(full, folder / parallel / "half")
        dist.barrier()
        found[f"{parallel}/full"] = run(folder / "blip", full, 2, **FULL, **shared)
        assert found[f"{parallel}/full"][: len(first)] == first
        found[f"{parallel}/lora"] = run(folder / "blip", folder / parallel / "lora", 1, **LORA, **shared)
        with pytest.raises(NonFiniteLoss, match="not finite at step 1 "):
            train_with_one_bad_loss(folder / "blip", parallel)
    return found


def train_with_one_bad_loss(model: Path, parallel: str) -> None:
    config = tiny_config(model, parallel=parallel)
    trial = Trial(config, tiny_data(), current_workers(), torch.device("cpu"))

    def spoil(module: object, inputs: object, loss: Tensor) -> Tensor:
        return loss * math.nan if trial.workers.rank == 1 else loss

    trial.module.register_forward_hook(spoil)
    train_epoch(trial, 1, ignore_progress)


def train_vlms(folder: Path) -> object:
    """Train vision-language models for an epoch, two of them with images that are each several tiles."""
    return {
        f"{parallel}/{name}": run(folder / name, folder / parallel / name, 1, parallel=parallel, **changes)
        for parallel in ("ddp", "fsdp")
        for name, changes in VLMS.items()
    }


def train_as_four(folder: Path) -> object:
    """Go on with a trial that two workers began, each way with the other's checkpoint, and train a larger model."""
    shared = {"parallel": "fsdp"}
    found = {
        f"{begun}/half": run(folder / "blip", folder / begun / "half", 2, **FULL, **shared) for begun in ("ddp", "fsdp")
    }
    return found | {"fsdp/opt": run(folder / "opt", folder / "fsdp" / "opt", 1, **CHECKPOINTED, **shared)}


@pytest.mark.slow
def test_workers_train_and_score_as_one(tmp_path: Path) -> None:
    blip = save_tiny_blip(tmp_path / "blip", seed=2, initializer_range=0.1)
    opt = save_tiny_blip2(tmp_path / "opt", seed=1, spread=0.2)
    settings = json.loads((opt / "config.json").read_text())
    settings["text_config"]["dropout"] = 0.0  # each worker draws its own
    settings["qformer_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (opt / "config.json").write_text(json.dumps(settings))
    together: dict[str, list[float]] = {}
    for size, work in ((2, train_as_two), (4, train_as_four)):
        first, *others = join(work, size, tmp_path)
        assert all(other == first for other in others)
        together |= first
    rows = (("full", blip, 2, FULL), ("lora", blip, 1, LORA), ("opt", opt, 1, CHECKPOINTED))
    alone = {name: run(model, tmp_path / "alone" / name, epochs, **changes) for name, model, epochs, changes in rows}
    assert max(alone["full"][1::5]) > 0
    for trial, found in together.items():
        name = "full" if trial.endswith("half") else trial.partition("/")[2]
        assert found == pytest.approx(alone[name], abs=TOLERANCE), trial
        for place in ("best/weights", "last/checkpoint"):
            one, several = (
                load_file(folder / f"{place}.safetensors") for folder in (tmp_path / "alone" / name, tmp_path / trial)
            )
            assert one.keys() == several.keys()
            for key in one:
                # A key's bias has no gradient but rounding error, which Adam makes a step of.
                if not key.endswith(("key.bias", "qkv.bias", "k_proj.bias")):
                    torch.testing.assert_close(several[key], one[key], atol=TOLERANCE, rtol=1e-4, msg=f"{trial} {key}")


@pytest.mark.long
def test_vision_language_models_train_on_two_workers_as_on_one(tmp_path: Path) -> None:
    for name in VLMS:
        MAKERS[name](tmp_path / name, seed=1)
    settings = json.loads((tmp_path / "git" / "config.json").read_text())
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # each worker draws its own
    (tmp_path / "git" / "config.json").write_text(json.dumps(settings))
    first, second = join(train_vlms, 2, tmp_path)
    assert second == first
    for name, changes in VLMS.items():
        alone = run(tmp_path / name, tmp_path / "alone" / name, 1, **changes)
        for parallel in ("ddp", "fsdp"):
            assert first[f"{parallel}/{name}"] == pytest.approx(alone, abs=10 * TOLERANCE), (parallel, name)


def test_a_scalar_cannot_be_sharded(tiny_blip: Path) -> None:
    config = tiny_config(tiny_blip, parallel="fsdp")
    captioner = load_trial_captioner(config)
    captioner.network.scale = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ModelFault, match=r"no scalar, as parameter scale .* use parallel: ddp"):
        share_model(captioner, config, Workers(0, 2))
