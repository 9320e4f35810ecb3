"""What a trial leaves on disk so that it can go on, and what remains of it.

    checkpoints/last/checkpoint.safetensors   weights, optimizer state and history after the last whole epoch
    checkpoints/best/weights.safetensors      trained weights of the best epoch
    checkpoints/history.json                  the reports of all whole epochs

A checkpoint is one file, replaced in one step, and written before `best/`: a process killed between the two finds in
`last/` the weights that `best/` lacks. Every epoch starts from a seed derived from its number, so the random state and
the position in the data need no bytes of their own.
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
from medcap_core.training.epoch_report import EpochReport, rename_former

log = logging.getLogger(__name__)


@dataclass
class History:
    """The whole epochs of a trial so far."""

    history: list[EpochReport] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Number of the epoch with the highest score, the earliest of equals; 0 if there is none."""
        return max(self.history, key=lambda report: (report.score, -report.epoch)).epoch if self.history else 0


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """The parameters a trial changes, by name; all others are the base model's."""
    return {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}


def save_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors to one safetensors file, replacing what was there in one step that survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, temporary, metadata)
    replace_durably(temporary, path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the tensors of `path` into the trained parameters of the same names. Raises RunFault where names differ."""
    targets = trained_weights(module)
    with safe_open(path, framework="pt") as file:
        strangers = targets.keys() ^ set(file.keys())
        if strangers:
            raise RunFault(
                f"{path}: {len(strangers)} tensors (such as {min(strangers)}) are in this file or among the trained "
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
        """Write the state after a whole epoch, and its weights to `best/` too if it is the best."""
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
        """Load the last whole epoch if there is one; every worker of a trial may, since nothing is written.

        A damaged file, such as a failing disk leaves, is logged and the trial begins anew.
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
        return History([EpochReport(**rename_former(report)) for report in json.loads(metadata["history"])])

    def mend(self, module: nn.Module, done: History) -> None:
        """Write what a kill between two writes left out, given what `restore` gave; for one worker alone."""
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
