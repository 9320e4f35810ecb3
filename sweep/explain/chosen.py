"""What of a finished run is explained: its best model or another, and which images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medcap_core.caption import read_settings
from medcap_core.config import TrialConfig
from medcap_core.data.decoding import UnreadableImage
from medcap_core.data.geometry import Geometry
from medcap_core.data.prepare import PreparedSplit, prepare_data
from medcap_core.data.records import Record, SplitName
from medcap_core.errors import DataFault, RunFault
from medcap_core.models import Captioner, load_trial_captioner
from medcap_core.runtime.device import current_device
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.scoring.captions import load_caption_scorer
from medcap_core.training.export import TRIAL_CONFIG_FILE

FOLDER_NAME = "attention"

Kind = Literal["best", "worst", "random", "given"]


@dataclass(frozen=True)
class ExplainedRun:
    """A run and the model that is looked into, on this process's device; `config` is how it captions."""

    directory: Path
    model_name: str
    captioner: Captioner
    config: TrialConfig

    def load_split(self, split: SplitName, progress: Progress = ignore_progress) -> PreparedSplit:
        """The run's own images of a split, all that it scores."""
        geometry = self.captioner.geometry
        return prepare_data(self.config, geometry, splits=(split,), whole_validation=True, progress=progress).splits[
            split
        ]


@dataclass(frozen=True)
class ChosenImage:
    """One image to explain, uint8 (3, S, S) as the model sees it, or scan, (1, S, S, S).

    `reference` is None for a loose file.
    """

    record: Record
    kind: Kind
    pixels: NDArray[np.uint8]
    reference: str | None
    cider: float | None = None


def make_output_folder(run_directory: Path, out: Path | None) -> Path:
    """Where pictures and figures go: `out`, by default `attention` in the run directory. Raises RunFault."""
    folder = out or run_directory / FOLDER_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFault(f"--out {folder}: cannot be made ({error.strerror}); choose another folder.") from None
    return folder


def load_explained_run(run_directory: Path, model: str | None = None) -> ExplainedRun:
    """The run's best model, or `model` (a name or folder) on the run's data. Raises RunFault, ModelFault."""
    if not run_directory.is_dir():
        raise RunFault(f"{run_directory}: no such folder; give a run directory, such as runs/lora-001.")
    best = run_directory / "best"
    if not (best / TRIAL_CONFIG_FILE).is_file():
        raise RunFault(
            f"{run_directory} has no best model yet ({best / TRIAL_CONFIG_FILE} is missing); give the directory of a "
            "finished run, or finish this one by `python -m sweep.run --resume`."
        )
    config = read_settings(str(best))
    if model is not None:
        config = config.model_copy(update={"model": str(Path(model).resolve()) if Path(model).is_dir() else model})
    device = current_device()
    captioner = load_trial_captioner(config, device).to(device)
    name = f"{run_directory.name}/best" if model is None else model
    return ExplainedRun(run_directory, name, captioner, config)


def choose_images(run: ExplainedRun, num: int, progress: Progress = ignore_progress) -> list[ChosenImage]:
    """Test images by the run's own test predictions: best and worst by CIDEr, three eighths each, and random ones.

    Raises RunFault where the run has not scored the test split yet.
    """
    path = run.directory / "test_predictions.csv"
    if not path.is_file():
        raise RunFault(f"{path} is missing: the run has not scored its test split yet; let it end, or give --image.")
    table = pd.read_csv(path, keep_default_na=False, dtype=str)
    split = run.load_split("test", progress)
    places = {record_id: position for position, record_id in enumerate(split.ids)}
    known = [row for row, record_id in enumerate(table["id"]) if record_id in places]
    if not known:
        noun = run.captioner.geometry.noun
        raise RunFault(f"{path} names no {noun} of {run.config.data}: the data set has changed since the run.")
    scores = load_caption_scorer(table["reference"].tolist()).cider_per_image(table["prediction"].tolist())
    chosen = choose_rows(scores[known], num)
    return [
        ChosenImage(
            record=split.records[places[table["id"][known[row]]]],
            kind=kind,
            pixels=split.pixels([places[table["id"][known[row]]]])[0],
            reference=str(table["reference"][known[row]]),
            cider=float(scores[known[row]]),
        )
        for row, kind in chosen
    ]


def choose_rows(scores: NDArray[np.float64], num: int, seed: int = 0) -> list[tuple[int, Kind]]:
    """Up to `num` different rows: the highest scores, the lowest, and random ones from between."""
    num = min(num, len(scores))
    num_best, num_worst = -(-3 * num // 8), 3 * num // 8
    order = np.argsort(-scores, kind="stable").tolist()
    worst = order[len(order) - num_worst :][::-1]
    between = order[num_best : len(order) - num_worst]
    drawn = np.random.default_rng(seed).permutation(len(between))[: num - num_best - num_worst]
    kinds: list[tuple[int, Kind]] = [(row, "best") for row in order[:num_best]]
    kinds += [(row, "worst") for row in worst]
    return kinds + [(between[index], "random") for index in sorted(drawn.tolist())]


def read_given_images(run: ExplainedRun, names: list[str], progress: Progress = ignore_progress) -> list[ChosenImage]:
    """Images given by path, or by the id they have in the run's test split. Raises DataFault naming every bad one."""
    chosen: list[ChosenImage] = []
    faults: list[str] = []
    split: PreparedSplit | None = None
    geometry: Geometry = run.captioner.geometry
    noun = geometry.noun
    for name in names:
        path = Path(name)
        if path.is_file() or (noun == "scan" and path.is_dir()):
            try:
                reference = geometry.refer_to(path)
                pixels = geometry.decode(reference)
            except (UnreadableImage, ValueError) as unusable:
                reason = unusable.reason if isinstance(unusable, UnreadableImage) else unusable
                faults.append(f"--image {name}: {reason}; give {'an image file' if noun == 'image' else 'a scan'}.")
            else:
                chosen.append(ChosenImage(Record(path.name, reference, ""), "given", pixels, None))
            continue
        split = split or run.load_split("test", progress)
        if name in split.ids:
            place = split.ids.index(name)
            record = split.records[place]
            chosen.append(ChosenImage(record, "given", split.pixels([place])[0], record.caption))
        else:
            faults.append(
                f"--image {name}: no such file, and no {noun} of the run's test split has this id; give either."
            )
    if faults:
        raise DataFault(faults)
    return chosen
