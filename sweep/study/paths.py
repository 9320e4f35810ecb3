"""The files of a run directory, each named once."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrialPaths:
    """The files of one trial, in `trials/<trial>/`."""

    root: Path

    @property
    def record(self) -> Path:
        """What is known of the trial; the truth that `trials.csv` and `study.db` follow."""
        return self.root / "trial.json"

    @property
    def checkpoints(self) -> Path:
        """The last epoch under `last/`, the best one's weights under `best/`."""
        return self.root / "checkpoints"

    @property
    def best_weights(self) -> Path:
        """Weights of the best epoch."""
        return self.checkpoints / "best" / "weights.safetensors"

    @property
    def predictions(self) -> Path:
        """Captions of the test split."""
        return self.root / "test_predictions.csv"

    @property
    def answers(self) -> Path:
        """Answers on the test split."""
        return self.root / "test_answers.json"


@dataclass(frozen=True)
class RunPaths:
    """The files of a run, in its directory `root`."""

    root: Path

    @property
    def space(self) -> Path:
        """The search space, every key written out."""
        return self.root / "space.yaml"

    @property
    def trials_table(self) -> Path:
        """One row a trial."""
        return self.root / "trials.csv"

    @property
    def trials(self) -> Path:
        """One folder a trial."""
        return self.root / "trials"

    def trial(self, name: str) -> TrialPaths:
        """The files of the trial of that name."""
        return TrialPaths(self.trials / name)

    @property
    def trial_records(self) -> list[Path]:
        """The records that are there, by name."""
        return sorted(self.trials.glob("trial_*/trial.json"))

    @property
    def database(self) -> Path:
        """Optuna's storage, a mirror of the records."""
        return self.root / "study.db"

    @property
    def best_config(self) -> Path:
        """A space file whose one trial is the best one."""
        return self.root / "best.yaml"

    @property
    def best_model(self) -> Path:
        """The best trial's model in Hub format."""
        return self.root / "best"

    @property
    def best_model_trial(self) -> Path:
        """Name of the trial whose model lies in `best_model`."""
        return self.best_model / "trial.txt"

    @property
    def test_metrics(self) -> Path:
        """Scores of the test split; see `sweep.study.test_results`."""
        return self.root / "test_metrics.json"

    @property
    def predictions(self) -> Path:
        """Captions of the test split: id, reference, prediction, zero_shot."""
        return self.root / "test_predictions.csv"

    @property
    def answers(self) -> Path:
        """Answers on the test split, one column a row of the table of answers."""
        return self.root / "test_answers.csv"

    @property
    def zero_shot_answers(self) -> Path:
        """Answers of the untrained model on the test split."""
        return self.root / "zero_shot_answers.json"

    @property
    def tables(self) -> Path:
        """Tables of the report as CSV, and `image_scores`."""
        return self.root / "tables"

    @property
    def image_scores(self) -> Path:
        """Scores of each test image by row."""
        return self.tables / "per_image_scores.csv"

    @property
    def skipped_records(self) -> Path:
        """Records left out, and why."""
        return self.root / "skipped_records.csv"

    @property
    def provenance(self) -> Path:
        """What the run ran with, one entry a start."""
        return self.root / "provenance.json"

    @property
    def log(self) -> Path:
        """What Ray and other libraries said."""
        return self.root / "log.txt"

    @property
    def page(self) -> Path:
        """The report."""
        return self.root / "report.html"

    @property
    def attention(self) -> Path:
        """Attention pictures."""
        return self.root / "attention"
