import csv
import io
import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from medcap_core.config import TrialConfig
from medcap_core.errors import RunFault
from medcap_core.objective import Objective, read_objective
from medcap_core.training.epoch_report import EpochReport
from sweep.study.record import Distribution, Figures, TrialRecord, TrialState, compute_step, format_csv

INT = Distribution(name="IntDistribution", attributes={"low": 1, "high": 5})


def build_epoch(epoch: int, num_epochs: int, score: float, **figures: float) -> EpochReport:
    report = {"epoch": epoch, "num_epochs": num_epochs, "score": score, "validation_loss": 2.5, "training_loss": 3.5}
    report |= {"seconds": 10.0, "training_seconds": 4.0, "encoding_seconds": 1.5, "images_per_second": 100.0}
    report |= {"peak_memory_bytes": 700, "trainable_parameters": 11, "total_parameters": 13, "learning_rate": 1e-4}
    return EpochReport.model_validate(report | figures)


def build_record(*scores: float, num_epochs: int = 4) -> TrialRecord:
    record = TrialRecord(
        name="trial_0003", number=3, point={"num_epochs": num_epochs}, config=TrialConfig(num_epochs=num_epochs)
    )
    for index, value in enumerate(scores):
        record.add_epoch(build_epoch(index + 1, num_epochs, value))
    return record


def test_the_best_epoch_counts_and_the_earliest_of_equals() -> None:
    record = build_record(1.0, 3.9, 3.5, 3.9)
    assert (record.best_score, record.best_epoch, record.last_score, record.epochs_done) == (3.9, 2, 3.9, 4)
    assert record.build_curve() == {25: 1.0, 50: 3.9, 75: 3.9, 100: 3.9}


def test_the_last_epoch_counts_where_the_config_says_so() -> None:
    record = build_record(1.0, 3.9, 2.0)
    record.config = record.config.model_copy(update={"evaluate": "last"})
    assert (record.best_score, record.best_epoch, record.last_score) == (2.0, 3, 2.0)
    assert record.build_curve() == {25: 1.0, 50: 3.9, 75: 2.0}


def test_before_any_epoch_nothing_is_known() -> None:
    record = build_record()
    assert (record.best_score, record.best_epoch, record.last_score) == (None, None, None)
    assert (record.epochs_done, record.num_epochs, record.seconds) == (0, 4, 0.0)
    assert record.figures == Figures()
    assert record.build_curve() == {}


def test_a_figure_that_is_not_finite_is_unknown() -> None:
    record = build_record(math.nan, 1.5, math.inf)
    assert [epoch.score for epoch in record.epochs] == [None, 1.5, None]
    assert (record.best_score, record.best_epoch, record.last_score) == (1.5, 2, None)
    assert record.build_curve() == {50: 1.5, 75: 1.5}


def test_epochs_are_kept_in_order_and_summed_up() -> None:
    record = build_record()
    record.add_epoch(build_epoch(2, 3, 1.0, images_per_second=50.0, training_seconds=6.0, peak_memory_bytes=500))
    record.add_epoch(build_epoch(1, 3, 2.0, images_per_second=100.0, training_seconds=2.0, peak_memory_bytes=900))
    assert [epoch.epoch for epoch in record.epochs] == [1, 2]
    assert (record.figures.images_per_second, record.figures.peak_memory_bytes) == ((50 * 6 + 100 * 2) / 8, 900)
    assert (record.seconds, record.last_score) == (20.0, 1.0)


def test_a_report_without_a_field_is_refused() -> None:
    figures = build_epoch(1, 2, 1.0).model_dump(exclude={"training_seconds"})
    with pytest.raises(ValidationError, match="training_seconds"):
        EpochReport.model_validate(figures)


@pytest.mark.parametrize(
    ("epoch", "num_epochs", "step"), [(1, 4, 25), (1, 3, 33), (2, 3, 67), (7, 7, 100), (0, 0, 100)]
)
def test_steps_are_per_cent_of_the_trials_own_schedule(epoch: int, num_epochs: int, step: int) -> None:
    assert compute_step(epoch, num_epochs) == step


def test_json_gives_back_an_equal_record(tmp_path: Path) -> None:
    record = build_record(0.1 + 0.2, 1.0)
    record.state, record.reason, record.attempts = TrialState.PRUNED, "söon", 2
    record.pruned_at_epoch, record.whole_validation_score = 2, 1.25
    record.parameters, record.distributions = {"num_epochs": 4}, {"num_epochs": INT}
    path = tmp_path / "trial.json"
    path.write_text(json.dumps(record.model_dump(mode="json")), encoding="utf-8")
    assert TrialRecord.load(path) == record


def test_a_name_stays_a_name_though_a_folder_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = build_record()
    path = tmp_path / "trial.json"
    path.write_text(json.dumps(record.model_dump(mode="json")), encoding="utf-8")
    (tmp_path / "phantoms").mkdir()
    monkeypatch.chdir(tmp_path)
    assert TrialRecord.load(path).config == record.config


def test_the_csv_names_its_scores_by_the_objective() -> None:
    header = format_csv([], read_objective("balanced_accuracy")).split(",")
    assert header[3:6] == ["best_balanced_accuracy", "best_epoch", "last_balanced_accuracy"]


def test_csv_columns_and_cells() -> None:
    done = build_record(1.5, 1.25, num_epochs=2)
    done.state, done.reason = TrialState.FAILED, "step 3:\nloss, not finite"
    header, first, second = csv.reader(io.StringIO(format_csv([done, build_record()], Objective())))
    assert header[:16] == [
        "trial", "state", "reason", "best_cider", "best_epoch", "last_cider", "epochs_done", "seconds",
        "training_seconds", "encoding_seconds", "images_per_second", "peak_memory_bytes", "trainable_parameters",
        "total_parameters", "num_distinct", "top_share",
    ]  # fmt: skip
    assert header[16:] == [f"config.{name}" for name in TrialConfig.model_fields]
    figures = ["1.5", "1", "1.25", "2", "20.0", "8.0", "1.5", "100.0", "700", "11", "13", "", ""]
    assert first[:16] == ["trial_0003", "FAILED", "step 3: loss, not finite", *figures]
    assert second[:14] == ["trial_0003", "PENDING", "", "", "", "", "0", "0.0", "", "", "", "", "", ""]
    cells = dict(zip(header, first, strict=True))
    assert (cells["config.freeze"], cells["config.learning_rate"], cells["config.lora_alpha"]) == ("lora", "0.0001", "")


def test_a_damaged_record_is_a_sentence(tmp_path: Path) -> None:
    content = build_record().model_dump(mode="json")
    changes: list[dict[str, object]] = [
        {"state": "LOST"}, {"config": {"data": "a", "model": "b", "rank": 1}}, {"config": 3}, {"config": []},
        {"epochs": {"1": 2}}, {"epochs": [3]}, {"number": "none"}, {"number": 7}, {"point": None}, {"trial": "../else"},
    ]  # fmt: skip
    path = tmp_path / "trial.json"
    damaged = [json.dumps([content]), json.dumps(content)[:-20], "[" * 100_000]
    said = r"trial\.json: cannot be read as the record of a trial \([^\n]*\); restore it"
    for text in (*damaged, *(json.dumps(content | change) for change in changes)):
        path.write_text(text)
        with pytest.raises(RunFault, match=said):
            TrialRecord.load(path)
