"""A finished run whose texts are explained, and what a task decides of them: which, and what their pictures show."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from medcap_core.attention.explained import ExplainedText
from medcap_core.attention.maps import MapSettings
from medcap_core.captioning import read_settings
from medcap_core.config import TrialConfig
from medcap_core.data.brain_phantoms import BrainPhantom
from medcap_core.data.decoding import UnreadableImage
from medcap_core.data.phantoms import PhantomImage
from medcap_core.data.prepare import PreparedSplit, prepare_data
from medcap_core.data.records import Record, SplitName
from medcap_core.errors import DataFault, RunFault
from medcap_core.models import Captioner, load_trial_captioner
from medcap_core.runtime.device import current_device
from medcap_core.runtime.progress import Progress
from medcap_core.scoring.captions import CaptionScorer
from medcap_core.training.export import TRIAL_CONFIG_FILE
from sweep.explain.sheet import Sheet
from sweep.study.attention import Kind, PictureEntry
from sweep.study.directory import check_no_pipes
from sweep.study.paths import RunPaths
from sweep.study.results import read_table


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

    def load_split(self, split: SplitName, progress: Progress) -> PreparedSplit:
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


@dataclass(frozen=True)
class Task(ABC):
    """Texts of a model to explain; `questions` are asked instead of the records' own."""

    noun: ClassVar[str]
    """What its texts are called."""

    run: ExplainedRun
    settings: MapSettings
    questions: Sequence[str] = ()

    def choose(self, num: int, progress: Progress) -> list[Item]:
        """Choose up to `num` texts of the test split, best, worst and random ones: by CIDEr of the run's own captions.

        Raises RunFault where the run has not written any yet.
        """
        path = self.run.paths.predictions
        if not path.is_file():
            raise RunFault(
                f"{path} is missing: the run has not scored its test split yet; let it end, or give --image."
            )
        table = read_table(path, ("id", "reference", "prediction"))
        split = self.run.load_split("test", progress)
        known = np.flatnonzero(table["id"].isin(split.ids))
        if not len(known):
            noun, data = self.run.noun, self.run.config.data
            raise RunFault(f"{path} names no {noun} of {data}: the data set has changed since the run.")
        references = [text.split("\n") for text in table["reference"]]
        scores = CaptionScorer(references).cider_per_image(table["prediction"].tolist())[known]
        chosen = [(split.ids.index(table["id"][known[row]]), row, kind) for row, kind in choose_rows(scores, num)]
        return [replace(take(split, place, kind), cider=float(scores[row])) for place, row, kind in chosen]

    def read(self, names: list[str], progress: Progress) -> list[Item]:
        """Read records given by path, or by their id in the test split, with what is asked of each.

        Raises DataFault naming every bad one.
        """
        items: list[Item] = []
        faults: list[str] = []
        split: PreparedSplit | None = None
        noun, geometry = self.run.noun, self.run.captioner.geometry
        for name in names:
            path = Path(name)
            if path.is_file() or (noun == "scan" and path.is_dir()):
                try:
                    reference = geometry.refer_to(path)
                    items.append(Item(Record(path.name, reference, ""), "given", geometry.decode(reference), None))
                except (UnreadableImage, ValueError) as unusable:
                    reason = unusable.reason if isinstance(unusable, UnreadableImage) else unusable
                    faults.append(f"--image {name}: {reason}; give {'an image file' if noun == 'image' else 'a scan'}.")
            elif name in (split := split or self.run.load_split("test", progress)).ids:
                items.append(take(split, split.ids.index(name), "given"))
            else:
                faults.append(
                    f"--image {name}: no such file, and no {noun} of the run's test split has this id; give either."
                )
        if faults:
            raise DataFault(faults)
        return items

    @abstractmethod
    def describe(self, item: Item, explained: ExplainedText, file: str, maps: str) -> PictureEntry:
        """Describe a picture; `file` and `maps` are its names in `attention/` and in `attention.npz`."""

    @abstractmethod
    def lay_out(self, item: Item, explained: ExplainedText) -> Sheet:
        """Lay out what is drawn."""

    def describe_maps(self, explained: ExplainedText) -> str:
        """Say whose maps these are and how they were made."""
        layer = f"layer {self.settings.layer} of" if self.settings.layer else "mean of"
        grid = "×".join(map(str, explained.grid))
        return (
            f"Model {self.run.model_name}; method {self.settings.method.value}, {layer} {explained.num_layers} layers, "
            f"{grid} patches. Each map has its own scale. Bar: the share of attention on its strongest patch "
            f"({explained.even_share:.1%} if spread evenly), relative to the highest bar."
        )


def is_synthetic(item: Item) -> bool:
    """Decide whether a record was drawn by this project."""
    return isinstance(item.record.image, PhantomImage | BrainPhantom)


def build_title(item: Item) -> str:
    """Name a record, and say so where it is of no patient."""
    return item.record.id + " · synthetic data, no patient" * is_synthetic(item)
