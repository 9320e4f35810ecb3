"""The checkpoints of a trial.

    checkpoints/last/checkpoint.safetensors   weights, optimizer state and history after the last complete epoch
    checkpoints/best/weights.safetensors      trained weights of the best epoch
    checkpoints/history.json                  the reports of all complete epochs

A checkpoint is one file, replaced in one step, and written before `best/`: if a process is killed between the two,
`last/` has the weights that `best/` lacks. Every epoch starts from a seed derived from its number, so neither random
state nor position in the data is stored.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medcap_core.errors import RunFault
from medcap_core.runtime.files import replace_durably, write_text_atomically
from medcap_core.training.epoch_report import EpochReport

log = logging.getLogger(__name__)


@dataclass
class History:
    """The complete epochs of a trial so far."""

    history: list[EpochReport] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Number of the epoch with the highest score, the earliest of ties; 0 without any epoch."""
        return max(self.history, key=lambda report: (report.score, -report.epoch)).epoch if self.history else 0


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters by name; all others are the base model's."""
    return {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}


def save_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors to one safetensors file, replaced in one step that survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, temporary, metadata)
    replace_durably(temporary, path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load the tensors of `path` into the trained parameters by name. Raises RunFault where names differ."""
    targets = trained_weights(module)
    with safe_open(path, framework="pt") as file:
        unmatched = targets.keys() ^ set(file.keys())
        if unmatched:
            raise RunFault(
                f"{path}: {len(unmatched)} tensors (such as {min(unmatched)}) are in this file or among the trained "
                "parameters of the model, but not in both; it was written by another model or another freeze mode."
            )
        with torch.no_grad():
            for name, parameter in targets.items():
                parameter.copy_(file.get_tensor(name))


class CheckpointFolder:
    """Reads and writes the checkpoints of one trial under `directory`."""

    def __init__(self, directory: Path) -> None:
        self.last_path = directory / "last" / "checkpoint.safetensors"
        self.best_path = directory / "best" / "weights.safetensors"
        self.history_path = directory / "history.json"

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: dict[str, Any], done: History) -> None:
        """Write the state after an epoch, and the weights also to `best/` if it is the best epoch."""
        weights = trained_weights(module)
        tensors = {f"weights/{name}": tensor for name, tensor in weights.items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": tensor for key, tensor in state.items()}
        history = json.dumps([asdict(report) for report in done.history])
        save_weights(self.last_path, tensors, {"history": history, "scaler": json.dumps(scaler)})
        if done.best_epoch == len(done.history):
            self._save_best(weights, done)
        self._save_history(done)

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: "torch.amp.GradScaler") -> History:
        """Load the last complete epoch, if any; safe on every worker of a trial, since nothing is written.

        A damaged file, as of a failing disk, is logged and the trial starts over.
        """
        if not self.last_path.is_file():
            return History()
        try:
            with safe_open(self.last_path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            log.warning("%s is damaged (%s); the trial begins anew", self.last_path, error)
            return History()
        parameters = dict(module.named_parameters())
        optimizer_state: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for name, tensor in tensors.items():
                kind, _, rest = name.partition("/")
                if kind == "weights":
                    parameters[rest].copy_(tensor)
                else:
                    index, _, key = rest.partition("/")
                    optimizer_state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict(optimizer.state_dict() | {"state": optimizer_state})
        scaler.load_state_dict(json.loads(metadata["scaler"]))
        return History([EpochReport(**report) for report in json.loads(metadata["history"])])

    def mend(self, module: nn.Module, done: History) -> None:
        """Complete the files after a kill between two writes, with the result of `restore`; on one worker only."""
        if not done.history:
            return
        if done.best_epoch == len(done.history) and self._best_epoch_on_disk() != done.best_epoch:
            self._save_best(trained_weights(module), done)
        self._save_history(done)

    def _save_best(self, weights: dict[str, Tensor], done: History) -> None:
        save_weights(self.best_path, weights, {"epoch": str(done.best_epoch)})

    def _best_epoch_on_disk(self) -> int:
        if not self.best_path.is_file():
            return 0
        with safe_open(self.best_path, framework="pt") as file:
            return int(file.metadata()["epoch"])

    def _save_history(self, done: History) -> None:
        history = json.dumps([asdict(report) for report in done.history], indent=1)
        write_text_atomically(self.history_path, history)
