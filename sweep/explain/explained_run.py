"""What of a finished run is explained: its best model or another, and records of its test split or loose files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcap_core.captioning import read_settings
from medcap_core.config import TrialConfig
from medcap_core.data.prepare import PreparedSplit, prepare_data
from medcap_core.data.records import Record, SplitName
from medcap_core.errors import RunFault
from medcap_core.models import Captioner, load_trial_captioner
from medcap_core.runtime.device import current_device
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.training.export import TRIAL_CONFIG_FILE
from sweep.study.attention import Kind
from sweep.study.directory import check_no_pipes
from sweep.study.paths import RunPaths


@dataclass(frozen=True)
class Item:
    """One text to explain: the caption of an image, or the answer to a `question` on a scan.

    `pixels` is uint8 as the model sees the record. `reference` is the true text, None where it is not known.
    """

    record: Record
    kind: Kind
    pixels: NDArray[np.uint8]
    reference: str | None
    question: str | None = None
    question_kind: str | None = None
    cider: float | None = None


@dataclass(frozen=True)
class ExplainedRun:
    """A run and the model that is looked into, on this process's device; `config` is how it captions."""

    paths: RunPaths
    model_name: str
    captioner: Captioner
    config: TrialConfig

    @property
    def noun(self) -> str:
        """What one of its records is called, "image" or "scan"."""
        return self.captioner.geometry.noun

    def load_split(self, split: SplitName, progress: Progress = ignore_progress) -> PreparedSplit:
        """Load the run's own images of a split, all that it scores."""
        geometry = self.captioner.geometry
        data = prepare_data(self.config, geometry, splits=(split,), whole_validation=True, progress=progress)
        return data.splits[split]


def load_explained_run(directory: Path, model: str | None = None) -> ExplainedRun:
    """Load the run's best model, or `model` (a name or folder) on the run's data. Raises RunFault, ModelFault."""
    if not directory.is_dir():
        raise RunFault(f"{directory}: no such folder; give a run directory, such as runs/lora-001.")
    check_no_pipes(directory)
    paths = RunPaths(directory)
    settings = paths.best_model / TRIAL_CONFIG_FILE
    if not settings.is_file():
        raise RunFault(
            f"{directory} has no best model yet ({settings} is missing); give the directory of a finished run, or "
            "finish this one by `python -m sweep.run --resume`."
        )
    config = read_settings(str(paths.best_model))
    if model is not None:
        config = config.model_copy(update={"model": str(Path(model).resolve()) if Path(model).is_dir() else model})
    device = current_device()
    captioner = load_trial_captioner(config, device).to(device)
    return ExplainedRun(paths, f"{directory.name}/best" if model is None else model, captioner, config)


def take(split: PreparedSplit, position: int, kind: Kind) -> Item:
    """Take a record of a split, to explain its caption or report."""
    record = split.records[position]
    return Item(record, kind, split.pixels([position])[0], record.caption)


def choose_rows(scores: NDArray[np.float64], num: int) -> list[tuple[int, Kind]]:
    """Choose up to `num` different rows: the highest scores and the lowest, three eighths each, and random others."""
    num = min(num, len(scores))
    num_best, num_worst = -(-3 * num // 8), 3 * num // 8
    order = np.argsort(-scores, kind="stable").tolist()
    worst = order[len(order) - num_worst :][::-1]
    between = order[num_best : len(order) - num_worst]
    drawn = np.random.default_rng(0).permutation(len(between))[: num - num_best - num_worst]
    rows: dict[Kind, list[int]] = {"best": order[:num_best], "worst": worst}
    rows["random"] = [between[index] for index in sorted(drawn.tolist())]
    return [(row, kind) for kind, own in rows.items() for row in own]
