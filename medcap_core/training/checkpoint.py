"""The checkpoints of a trial.

    checkpoints/last/checkpoint.safetensors   weights, optimizer state and history after the last complete epoch
    checkpoints/best/weights.safetensors      trained weights of the epoch that counts, see `TrialConfig.evaluate`
    checkpoints/epochs/epoch_0001.safetensors the checkpoint of each epoch, with `checkpoint_every_epoch`
    checkpoints/history.json                  the reports of all complete epochs

A checkpoint is one file, replaced in one step, and written before `best/`: if a process is killed between the two,
`last/` has the weights that `best/` and `epochs/` lack. Each carries a checksum: where one is damaged, the trial begins
anew, and so ends as it would have, since its reported epochs stand. Every epoch starts from a seed derived from its
number, so neither random state nor position in the data is stored.
"""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medcap_core.config import TrialConfig
from medcap_core.errors import RunFault, first_line
from medcap_core.runtime.files import replace_durably, write_text_atomically
from medcap_core.training.epoch_report import EpochReport, find_best
from medcap_core.training.parallel import gather_tensors, shard_like

log = logging.getLogger(__name__)


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters by name; all others are the base model's."""
    return {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}


class DamagedCheckpoint(RunFault):
    """A checkpoint is not as it was written."""


def save_weights(path: Path, weights: dict[str, Tensor], notes: dict[str, Any] | None = None) -> None:
    """Write tensors and what JSON holds of `notes` to one safetensors file with a checksum.

    The file is replaced in one step that survives a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    text = json.dumps(notes or {})
    # One key, since safetensors keeps several in no order.
    metadata = {"checked": json.dumps({"checksum": compute_checksum(tensors, text), "notes": text})}
    save_file(tensors, temporary, metadata)
    replace_durably(temporary, path)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and notes of `save_weights`. Raises DamagedCheckpoint where the checksum is another."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "checked" not in metadata:
                raise DamagedCheckpoint(f"{path} has no checksum, so it is no checkpoint of a trial; restore that.")
            checked = json.loads(metadata["checked"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        is_whole = compute_checksum(tensors, checked["notes"]) == checked["checksum"]
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise DamagedCheckpoint(f"{path} is damaged ({first_line(error)}); restore it from a copy.") from error
    if not is_whole:
        raise DamagedCheckpoint(f"{path} is damaged (its checksum is another); restore it from a copy.")
    notes: dict[str, Any] = json.loads(checked["notes"])
    return tensors, notes


def compute_checksum(tensors: dict[str, Tensor], notes: str) -> int:
    """Compute the CRC-32 of contiguous tensors on the CPU, their names and shapes, and a text.

    4.8 GB/s on a busy core, where `save_weights` writes 0.2 GB/s.
    """
    checksum = zlib.crc32(notes.encode())
    for name, tensor in sorted(tensors.items()):
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def load_weights(module: nn.Module, path: Path) -> None:
    """Load the tensors of `path` into the trained parameters by name.

    Raises RunFault where names differ, and DamagedCheckpoint.
    """
    tensors, _ = read_weights(path)
    targets = trained_weights(module)
    unmatched = targets.keys() ^ tensors.keys()
    if unmatched:
        raise RunFault(
            f"{path}: {len(unmatched)} tensors (such as {min(unmatched)}) are in this file or among the trained "
            "parameters of the model, but not in both; it was written by another model or another freeze mode."
        )
    with torch.no_grad():
        for name, parameter in targets.items():
            parameter.copy_(tensors[name])


class CheckpointFolder:
    """Reads and writes the checkpoints of one trial under `directory`.

    `config` says which epoch's weights are in `best/`, and whether each checkpoint is kept. Of several workers the one
    that `leads` writes. What they write does not depend on their number, nor on how they share the model, so any number
    of workers may go on from it.
    """

    def __init__(self, directory: Path, config: TrialConfig, *, leads: bool = True) -> None:
        self.config = config
        self.leads = leads
        self.epochs_path = directory / "epochs" if config.checkpoint_every_epoch else None
        self.last_path = directory / "last" / "checkpoint.safetensors"
        self.best_path = directory / "best" / "weights.safetensors"
        self.history_path = directory / "history.json"

    def save(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: dict[str, Any], history: list[EpochReport]
    ) -> None:
        """Write the state after an epoch, and the weights also to `best/` if it is the best epoch; on every worker."""
        tensors = {f"weights/{name}": tensor for name, tensor in trained_weights(module).items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": tensor for key, tensor in state.items()}
        tensors = gather_tensors(tensors, keep=self.leads)
        if self.leads:
            save_weights(self.last_path, tensors, {"history": _dump(history), "scaler": scaler})
            self._follow(history, tensors)

    def restore(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: "torch.amp.GradScaler"
    ) -> list[EpochReport]:
        """Load the last complete epoch, if any, on every worker, and complete files after a kill between two writes.

        Where it or the weights of the best epoch are damaged, as by a failing disk, that is logged, and the trial
        begins anew.
        """
        try:
            if not self.last_path.is_file():
                return []
            tensors, notes = read_weights(self.last_path)
        except DamagedCheckpoint as damage:
            log.warning("%s The trial begins anew.", damage)
            return []
        history = [EpochReport(**report) for report in notes["history"]]
        best = find_best(history, self.config)
        if best and best is not history[-1] and self._best_epoch_on_disk() != best.epoch:
            log.warning("%s: the weights of epoch %d are lost; the trial begins anew", self.best_path, best.epoch)
            return []
        parameters = dict(module.named_parameters())
        optimized = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        optimizer_state: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for name, tensor in tensors.items():
                kind, _, rest = name.partition("/")
                if kind == "weights":
                    parameters[rest].copy_(shard_like(tensor, parameters[rest]))
                else:
                    index, _, key = rest.partition("/")
                    optimizer_state.setdefault(int(index), {})[key] = shard_like(tensor, optimized[int(index)])
        optimizer.load_state_dict(optimizer.state_dict() | {"state": optimizer_state})
        scaler.load_state_dict(notes["scaler"])
        if self.leads:
            self._follow(history)
        return history

    def _follow(self, history: list[EpochReport], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write what follows the last checkpoint, whose `tensors` are known as it is written: the other files."""
        epoch = len(history)
        self._keep_epoch(epoch)
        is_best = find_best(history, self.config) is history[-1]
        if is_best and (tensors is not None or self._best_epoch_on_disk() != epoch):
            given = read_weights(self.last_path)[0] if tensors is None else tensors
            prefix = "weights/"
            weights = {name.removeprefix(prefix): given[name] for name in given if name.startswith(prefix)}
            save_weights(self.best_path, weights, {"epoch": epoch})
        write_text_atomically(self.history_path, json.dumps(_dump(history), indent=1))

    def _keep_epoch(self, epoch: int) -> None:
        """Give the last checkpoint a second name, which stays when `last/` is replaced, where every epoch is kept."""
        if self.epochs_path is None:
            return
        path = self.epochs_path / f"epoch_{epoch:04d}.safetensors"
        if path.is_file() and path.samefile(self.last_path):
            return
        self.epochs_path.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            os.link(self.last_path, temporary)
        except OSError:  # this file system has no second names
            shutil.copyfile(self.last_path, temporary)
        replace_durably(temporary, path)

    def _best_epoch_on_disk(self) -> int:
        try:
            return int(read_weights(self.best_path)[1]["epoch"])
        except DamagedCheckpoint:
            return 0


def _dump(history: list[EpochReport]) -> list[dict[str, Any]]:
    return [report.model_dump() for report in history]
