import errno
import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from medcap_core.config import TrialConfig
from medcap_core.errors import RunFault
from medcap_core.objective import read_objective
from medcap_core.training.checkpoint import CheckpointFolder, load_weights, read_weights, save_weights
from medcap_core.training.epoch_report import EpochReport, find_best


def report(epoch: int, score: float) -> EpochReport:
    return EpochReport(
        epoch=epoch,
        num_epochs=9,
        score=score,
        validation_loss=1 / 3,
        training_loss=2 / 7,
        learning_rate=1e-5,
        seconds=0.1,
        training_seconds=0.05,
        encoding_seconds=0.02,
        images_per_second=123.4,
        peak_memory_bytes=2**40,
        trainable_parameters=6,
        total_parameters=11,
    )


BY_LOSS = TrialConfig(objective=read_objective("validation_loss"))


class Rig:
    """Two layers of which one is trained, an optimizer, and the folder they are saved to."""

    def __init__(
        self, directory: Path, *, evaluate: Literal["best", "last"] = "best", every_epoch: bool = False
    ) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = nn.ModuleDict({"frozen": nn.Linear(1, 5, bias=False), "trained": nn.Linear(3, 2, bias=False)})
        self.module["frozen"].requires_grad_(requires_grad=False)
        self.optimizer = torch.optim.AdamW(self.module["trained"].parameters(), lr=0.1, fused=True)
        self.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=8.0)
        self.config = TrialConfig(evaluate=evaluate, checkpoint_every_epoch=every_epoch)
        self.folder = CheckpointFolder(directory, self.config)
        self.history: list[EpochReport] = []

    def step(self) -> torch.Tensor:
        (self.module["trained"](torch.arange(6.0).view(2, 3)) ** 2).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.weight.clone()

    @property
    def weight(self) -> torch.Tensor:
        return self.module["trained"].weight.detach()

    def end_epoch(self, score: float) -> torch.Tensor:
        weight = self.step()
        self.history.append(report(len(self.history) + 1, score))
        self.folder.save(self.module, self.optimizer, self.scaler.state_dict(), self.history)
        return weight

    def restore(self) -> None:
        self.history = self.folder.restore(self.module, self.optimizer, self.scaler)


def read_files(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def best_weight(directory: Path) -> torch.Tensor:
    return load_file(directory / "best" / "weights.safetensors")["trained.weight"]


@pytest.mark.parametrize(
    ("scores", "best"),
    [([], 0), ([0.0, 0.0], 1), ([0.1, 0.5, 0.2], 2), ([0.2, 0.5, 0.5, 0.4], 2), ([0.1, 0.2, 0.3], 3)],
)
def test_the_best_epoch_is_the_first_of_the_highest(scores: list[float], best: int) -> None:
    reports = [report(index + 1, score) for index, score in enumerate(scores)]
    losses = [report(index + 1, -score) for index, score in enumerate(scores)]
    for history, config in ((reports, TrialConfig()), (losses, BY_LOSS)):
        found = find_best(history, config)
        assert (found.epoch if found else 0) == best


def test_an_epoch_without_a_finite_score_is_not_the_best() -> None:
    reports = [report(1, float("nan")), report(2, 0.5), report(3, float("inf"))]
    assert find_best(reports, TrialConfig()) == find_best(reports, BY_LOSS) == reports[1]


def test_a_trial_leaves_what_the_layout_says(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    weights = [rig.end_epoch(score) for score in (0.5, 0.75, 0.25)]
    assert set(read_files(tmp_path)) == {"last/checkpoint.safetensors", "best/weights.safetensors", "history.json"}
    last = load_file(tmp_path / "last" / "checkpoint.safetensors")
    optimizer = {f"optimizer/0/{key}" for key in ("step", "exp_avg", "exp_avg_sq")}
    assert last.keys() == {"weights/trained.weight"} | optimizer
    assert torch.equal(last["weights/trained.weight"], weights[2])
    assert load_file(tmp_path / "best" / "weights.safetensors").keys() == {"trained.weight"}
    assert torch.equal(best_weight(tmp_path), weights[1])
    history = json.loads((tmp_path / "history.json").read_text())
    assert history == [item.model_dump() for item in rig.history]


def test_a_restored_trial_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    rig, again = Rig(tmp_path), Rig(tmp_path)
    rig.end_epoch(0.5)
    rig.scaler.load_state_dict(rig.scaler.state_dict() | {"scale": 4.0, "_growth_tracker": 17})
    rig.end_epoch(0.25)
    again.restore()
    assert again.history == rig.history
    assert again.scaler.state_dict() == rig.scaler.state_dict()
    assert torch.equal(again.weight, rig.weight)
    assert [torch.equal(rig.step(), again.step()) for _ in range(3)] == [True] * 3


def test_a_worker_that_does_not_lead_writes_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.restore()
    assert rig.history == []
    assert read_files(tmp_path) == {}
    rig.end_epoch(0.5)
    (tmp_path / "history.json").unlink()
    (tmp_path / "best" / "weights.safetensors").unlink()
    before = read_files(tmp_path)
    rig.folder.leads = False
    rig.restore()
    assert len(rig.history) == 1
    rig.end_epoch(0.75)
    assert read_files(tmp_path) == before


@pytest.mark.parametrize("is_first", [True, False])
def test_a_kill_between_the_writes_of_an_epoch_is_mended(tmp_path: Path, is_first: bool) -> None:
    rig = Rig(tmp_path)
    if not is_first:
        rig.end_epoch(0.25)
    older = read_files(tmp_path)
    weight = rig.end_epoch(0.5)
    whole = read_files(tmp_path)
    for name in ("best/weights.safetensors", "history.json"):  # as they were before the epoch
        (tmp_path / name).unlink()
        if not is_first:
            (tmp_path / name).write_bytes(older[name])
    again = Rig(tmp_path)
    again.restore()
    assert torch.equal(best_weight(tmp_path), weight)
    assert read_files(tmp_path) == whole


def test_a_file_cut_off_while_it_was_written_is_not_read(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    weight = rig.end_epoch(0.5)
    for path in (tmp_path / "last" / ".checkpoint.safetensors.tmp", tmp_path / "best" / ".weights.safetensors.tmp"):
        path.write_bytes(b"cut off")
    again = Rig(tmp_path)
    again.restore()
    assert torch.equal(again.weight, weight)
    again.end_epoch(0.75)
    assert not list(tmp_path.rglob("*.tmp"))


def test_best_is_left_alone_when_a_later_epoch_is_no_better(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    weight = rig.end_epoch(0.5)
    rig.end_epoch(0.5)
    again = Rig(tmp_path)
    again.restore()
    assert torch.equal(best_weight(tmp_path), weight)
    assert not torch.equal(best_weight(tmp_path), again.weight)


def test_the_last_epoch_counts_where_it_is_asked_for(tmp_path: Path) -> None:
    rig = Rig(tmp_path, evaluate="last")
    weights = [rig.end_epoch(score) for score in (0.5, 0.75, 0.25)]
    assert torch.equal(best_weight(tmp_path), weights[2])
    (tmp_path / "best" / "weights.safetensors").unlink()  # a kill between the writes of an epoch
    again = Rig(tmp_path, evaluate="last")
    again.restore()
    assert find_best(again.history, again.config) == again.history[2]
    assert torch.equal(best_weight(tmp_path), weights[2])


@pytest.mark.parametrize("has_links", [True, False])
def test_every_epoch_is_kept_whole_over_restarts(
    tmp_path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    rig = Rig(tmp_path, every_epoch=True)
    lasts = []
    for score in (0.5, 0.75):
        rig.end_epoch(score)
        lasts.append(rig.folder.last_path.read_bytes())
    second = tmp_path / "epochs" / "epoch_0002.safetensors"
    second.unlink()  # a kill between the writes of an epoch
    again = Rig(tmp_path, every_epoch=True)
    again.restore()
    again.end_epoch(0.25)
    lasts.append(again.folder.last_path.read_bytes())
    kept = {path.name: path.read_bytes() for path in (tmp_path / "epochs").iterdir()}
    assert kept == {f"epoch_{number:04d}.safetensors": content for number, content in enumerate(lasts, start=1)}
    assert read_weights(second)[0].keys() >= {"weights/trained.weight", "optimizer/0/exp_avg_sq"}
    damage(second, "flipped")
    with pytest.raises(RunFault, match="damaged"):
        read_weights(second)


def test_weights_are_loaded_by_name(tmp_path: Path) -> None:
    rig, path = Rig(tmp_path), tmp_path / "some" / "weights.safetensors"
    frozen = rig.module["frozen"].weight.detach().clone()
    save_weights(path, {"trained.weight": torch.arange(6.0).view(2, 3)})
    load_weights(rig.module, path)
    assert rig.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(rig.module["frozen"].weight, frozen)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["trained.weight", "b.weight", "a.weight"], r"2 tensors \(such as a.weight\)"),
        (["frozen.weight"], r"2 tensors \(such as frozen.weight\)"),
        ([], r"1 tensors \(such as trained.weight\)"),
    ],
)
def test_weights_of_another_model_are_refused_and_named(tmp_path: Path, names: list[str], expected: str) -> None:
    path, rig = tmp_path / "weights.safetensors", Rig(tmp_path)
    save_weights(path, {name: torch.zeros(2, 3) for name in names})
    before = rig.weight.clone()
    with pytest.raises(RunFault, match=expected) as caught:
        load_weights(rig.module, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert torch.equal(rig.weight, before)


def damage(path: Path, kind: str) -> None:
    whole = path.read_bytes()
    if kind == "flipped":
        path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 4]) + whole[-1:])
    elif kind == "flipped in the header":
        path.write_bytes(whole.replace(b"checksum", b"checksun", 1))
    else:
        path.write_bytes(
            {"truncated": whole[:-7], "empty": b"", "partial": whole[:20], "zeros": bytes(len(whole))}[kind]
        )


KINDS = ["flipped", "flipped in the header", "truncated", "empty", "partial", "zeros"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["last_path", "best_path"])
def test_a_trial_with_a_damaged_checkpoint_begins_anew(
    tmp_path: Path, kind: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path)
    rig.end_epoch(0.5)
    rig.end_epoch(0.25)
    damage(getattr(rig.folder, name), kind)
    again = Rig(tmp_path)
    before = again.weight.clone()
    again.restore()
    assert again.history == []
    assert torch.equal(again.weight, before)
    assert "begins anew" in caplog.text
    with pytest.raises(RunFault, match="damaged") if name == "best_path" else nullcontext():
        load_weights(again.module, rig.folder.best_path)
    weight = again.end_epoch(0.5)
    assert torch.equal(best_weight(tmp_path), weight)
