"""The files of a run directory, each named once, and how those of JSON are read and written."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from medcap_core.errors import RunFault
from medcap_core.runtime.files import write_json_atomically


class TrialPaths:
    """The files of one trial, in its folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.record = root / "trial.json"  # what is known of the trial; `trials.csv` and `study.db` follow it
        self.checkpoints = root / "checkpoints"
        self.best_weights = self.checkpoints / "best" / "weights.safetensors"
        self.log = root / "log.txt"
        self.sample = root / "sample.json"  # a caption of the last epoch and its reference
        self.predictions = root / "test_predictions.csv"
        self.answers = root / "test_answers.json"


class RunPaths:
    """The files of a run, in its directory `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / "run.lock"  # held by the process that runs the sweep
        self.space = root / "space.yaml"  # the search space, every key written out
        self.trials_table = root / "trials.csv"  # one row a trial
        self.trials = root / "trials"  # one folder a trial
        self.database = root / "study.db"  # Optuna's storage, a mirror of the records
        self.warm_start = root / "warm_start.json"  # trials of earlier runs, see `sweep.study.warm_start`
        self.run_seconds = root / "run_seconds.txt"  # how long the search has gone on, see `sweep.study.stopping`
        self.mirror = root / ".mirror.json"  # of this machine's copy of a run under a URL, see `sweep.study.mirror`
        self.provenance = root / "provenance.json"  # one entry a start
        self.skipped_records = root / "skipped_records.csv"
        self.duplicate_images = root / "duplicate_images.csv"
        self.log = root / "log.txt"  # output of Ray and other libraries
        self.best_config = root / "best.yaml"
        self.best_model = root / "best"  # in Hub format
        self.best_model_trial = self.best_model / "trial.txt"  # name of the trial whose model that is
        self.test_metrics = root / "test_metrics.json"  # see `sweep.study.test_results`
        self.predictions = root / "test_predictions.csv"  # id, reference, prediction, zero_shot
        self.validation_predictions = root / "validation_predictions.csv"  # row, id, reference, prediction, CIDEr
        self.answers = root / "test_answers.csv"  # one column a row of the table of answers
        self.zero_shot_answers = root / "zero_shot_answers.json"
        self.tables = root / "tables"  # the report's tables as CSV
        self.image_scores = self.tables / "per_image_scores.csv"
        self.image_groups = self.tables / "image_groups.csv"  # subgroups of each test image, such as its modality
        self.page = root / "report.html"
        self.attention = root / "attention"  # attention pictures

    @property
    def files(self) -> list[Path]:
        """The files directly in the directory, but for the database, which may be moved aside."""
        own = (path for path in vars(self).values() if path.parent == self.root and path.suffix)
        return [path for path in own if path != self.database]

    @property
    def folders(self) -> list[Path]:
        """The folders directly in the directory."""
        return [path for path in vars(self).values() if path.parent == self.root and not path.suffix]

    def trial(self, name: str) -> TrialPaths:
        """Name the files of a trial."""
        return TrialPaths(self.trials / name)

    @property
    def trial_records(self) -> list[Path]:
        """The records that are there, by name."""
        return sorted(self.trials.glob("trial_*/trial.json"))


class RunFile(BaseModel):
    """A JSON file of a run, read and replaced as a whole; `remedy` is what to do where it is damaged."""

    model_config = ConfigDict(extra="forbid")
    remedy: ClassVar[str]

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read it; None where it is not there. Raises RunFault if it is damaged."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise RunFault(f"{path} is damaged ({describe_fault(error)}); {cls.remedy}.") from None

    def save(self, path: Path, *, exclude_unset: bool = False) -> None:
        """Replace it, with `exclude_unset` without the fields that were not given."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(path, self.model_dump(mode="json", exclude_unset=exclude_unset))


def describe_fault(error: ValidationError | OSError) -> str:
    """Describe why a file cannot be read: the first fault in it, with its place, or what the system says."""
    if isinstance(error, OSError):
        return str(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
