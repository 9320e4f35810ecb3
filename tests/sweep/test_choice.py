"""The choice of the best trial, its export, and the one look at the test split."""

import io
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from sweep.choice import export_best
from sweep.held_out.evaluation import score_on_test
from sweep.study.study import Study
from sweep.study.test_results import TestResults
from tests.sweep.conftest import FinishedRun
from tests.sweep.execution.test_jobs import TWO_AT_ONCE


@pytest.fixture
def copied_run(finished_run: FinishedRun, tmp_path: Path) -> Path:
    shutil.copytree(finished_run.directory, tmp_path / "run")
    return tmp_path / "run"


def ignore(what: str, done: int, total: int) -> None:
    """Show nothing."""


def test_an_unchanged_best_is_neither_scored_nor_written_again(copied_run: Path) -> None:
    """Without Ray, so nothing could be captioned."""
    names = ("test_metrics.json", "test_predictions.csv", "best/model.safetensors")

    def look() -> dict[str, tuple[bytes, int]]:
        return {name: ((copied_run / name).read_bytes(), (copied_run / name).stat().st_ino) for name in names}

    before = look()
    with Study.open(copied_run) as study:
        best = study.best()[0]
        results = score_on_test(study, best, TWO_AT_ONCE, ignore)
        assert results.model_dump(mode="json") == json.loads(before["test_metrics.json"][0])
        export_best(study, best)
    assert look() == before


@pytest.mark.usefixtures("local_ray", "meteor")
def test_what_a_kill_left_out_is_made_up_and_a_new_best_joins_the_old(copied_run: Path) -> None:
    table = (copied_run / "test_predictions.csv").read_text()
    with Study.open(copied_run) as study:
        first, second = study.best(2)
        whole = study.read_test_metrics()
        # As a kill leaves it between the scores of the trial and the rest.
        kept = {name: {first.name: getattr(whole, name)[first.name]} for name in ("intervals", "variety")}
        partial = TestResults(trials=whole.trials, **kept)
        study.write_test_metrics(partial)
        study.paths.predictions.unlink()
        assert score_on_test(study, first, TWO_AT_ONCE, ignore) == whole == study.read_test_metrics()
        assert study.paths.predictions.read_text() == table

        export_best(study, second)
        results = score_on_test(study, second, TWO_AT_ONCE, ignore)
    assert (copied_run / "best" / "trial.txt").read_text() == f"{second.name}\n"
    assert results.best is not None
    assert results.trials == {first.name: whole.best, second.name: results.best}
    assert results.best_trial == second.name
    for baseline in ("zero_shot", "caption_prior", "caption_prior_text"):
        assert getattr(results, baseline) == getattr(whole, baseline)
    assert results.shuffled_images != whole.shuffled_images
    before, after = pd.read_csv(io.StringIO(table)), pd.read_csv(copied_run / "test_predictions.csv")
    columns = ["id", "reference", "zero_shot"]
    assert after[columns].equals(before[columns])
    assert not after["prediction"].equals(before["prediction"])
