"""Command that converts pickled weights to safetensors, for checkpoints published without them.

python -m medcap_core.convert owner/name FOLDER

Only this command reads pickled weights, by PyTorch's restricted unpickler, which loads nothing but tensors.
"""

import pickle
import shutil
import struct
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from huggingface_hub import snapshot_download
from safetensors.torch import save_file

from medcap_core.errors import ModelFault, first_line
from medcap_core.runtime.command_line import exit_on_fault

_DAMAGED = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
    ArithmeticError, struct.error,
)  # fmt: skip
"""What PyTorch's unpickler raises on damaged content."""
_KEPT_FILES = ("*.json", "*.txt", "*.model", "*.jinja")


def convert_weights(source: str, folder: Path) -> None:
    """Write the checkpoint `source` (a folder or a Hub name) to a new `folder` with its weights as safetensors.

    Raises ModelFault where there is nothing to convert, the folder is taken, or a file holds more than tensors.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelFault(f"{folder} is a file or a folder that is not empty; name a new folder.")
    if Path(source).is_dir():
        origin = Path(source)
    else:
        try:
            origin = Path(snapshot_download(source, allow_patterns=[*_KEPT_FILES, "pytorch_model*.bin"]))
        except (OSError, ValueError) as error:
            raise ModelFault(f"model {source}: the Hub could not give it ({error}); check name and network.") from error
    parts = sorted(origin.glob("pytorch_model*.bin"))
    if not parts:
        raise ModelFault(f"model {source}: it has no pytorch_model.bin, so there is nothing to convert.")
    weights: dict[str, torch.Tensor] = {}
    for part in parts:
        weights |= _read_tensors(part)
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in _KEPT_FILES:
        for path in origin.glob(pattern):
            if not path.name.endswith(".index.json"):
                shutil.copy(path, folder / path.name)
    # Tensors with shared memory, such as tied embeddings, are cloned, as safetensors requires.
    tensors = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        reason = "it is empty" if isinstance(error, EOFError) else first_line(error)
        raise ModelFault(f"{path}: it is damaged, or not made of tensors alone ({reason}); get another copy.") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()
    ):
        raise ModelFault(f"{path}: it holds more than a model's tensors by name; save the model's state_dict alone.")
    return tensors


def main(
    source: Annotated[str, typer.Argument(help="Hub name or folder of the checkpoint.")],
    folder: Annotated[Path, typer.Argument(help="New folder for the converted one.")],
) -> None:
    """Convert the pickled weights of a checkpoint to safetensors."""
    with exit_on_fault():
        convert_weights(source, folder)
    sys.stdout.write(f"Written to {folder}; give it as the model.\n")


if __name__ == "__main__":
    typer.run(main)
