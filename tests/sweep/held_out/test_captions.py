"""The rows of the test table on a tiny model: what is captioned, what is scored, what stays."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pandas as pd
import pytest

from medcap_core.scoring.captions import CaptionScorer
from medcap_core.scoring.java import ScoringFailure
from medcap_core.scoring.registry import STANDARD
from sweep.held_out import captions
from sweep.held_out.evaluation import score_on_test
from sweep.space import build_space
from sweep.study.record import TrialState
from sweep.study.study import Study
from tests.support.real_runs import NUM_IMAGES, Materials
from tests.support.small_runs import next_trial, report_of
from tests.sweep.execution.test_jobs import TWO_AT_ONCE

NUM_TEST = NUM_IMAGES["test"]
BLIND = ("caption_prior", "nearest_image", "shuffled_images")
ROWS = ("best", "zero_shot", *BLIND, "trial_0000", "trial_0001", "trial_0002")


class Steps:
    """What a run shows while it works."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        self.seen.append((what, done, total))

    def last(self, what: str) -> tuple[int, int]:
        return [(done, total) for name, done, total in self.seen if name == what][-1]


@pytest.fixture(scope="module")
def scored(
    empty_runs: Callable[..., Study],
    materials: Materials,
    local_ray: None,
    meteor: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Steps]:
    """A comparison of zero-shot rows alone, two seeds and a longer caption, so that nothing need be trained."""
    values = {
        "name": "compare",
        "data": str(materials.images),
        "model": str(materials.model),
        "fixed": {"freeze": "zero_shot", "num_beams": 2, "eval_batch_size": 4, "max_caption_tokens": 16},
        "search": {"max_new_tokens": {"grid": [10, 14]}},
        "sampler": "grid",
        "seeds": [0, 1],
        "test": "all",
        "extra_scores": ["rouge1"],
        "caption_preprocessing": "imageclef2025",
    }
    directory = tmp_path_factory.mktemp("compared") / "run"
    study = empty_runs(directory, build_space(values, "test"))
    with study:
        for number in range(4):
            record = next_trial(study)
            study.start(record.name)
            study.report(record.name, report_of(record, 1, 0.5 - number / 10))
            study.finish(record.name, TrialState.FAILED if number == 3 else TrialState.SUCCEEDED)
        steps = Steps()
        score_on_test(study, study.best()[0], TWO_AT_ONCE, steps)
    return directory, steps


@pytest.fixture
def copied(scored: tuple[Path, Steps], tmp_path: Path) -> Path:
    shutil.copytree(scored[0], tmp_path / "run")
    return tmp_path / "run"


def read(directory: Path) -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = json.loads((directory / "test_metrics.json").read_text())
    return content


def test_equal_untrained_models_are_captioned_once(scored: tuple[Path, Steps]) -> None:
    directory, steps = scored
    assert steps.last("captioning the test split") == (2 * NUM_TEST, 2 * NUM_TEST)  # one captioning for each length
    tables = [pd.read_csv(directory / "trials" / f"trial_000{n}" / "test_predictions.csv") for n in range(3)]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])
    whole = pd.read_csv(directory / "test_predictions.csv")
    assert whole["prediction"].tolist() == whole["zero_shot"].tolist() == tables[0]["prediction"].tolist()


def test_every_row_has_every_figure(scored: tuple[Path, Steps]) -> None:
    directory, steps = scored
    metrics = read(directory)
    assert set(metrics["intervals"]) == set(metrics["variety"]) == set(ROWS)
    for row in ROWS:
        varied: dict[str, float] = metrics["variety"][row]  # type: ignore[assignment]
        assert 1 <= varied["num_distinct"] <= NUM_TEST
        assert ("cut_share" in varied) == (row not in ("caption_prior", "nearest_image", "shuffled_images"))
    assert set(metrics["blind_comparisons"]) == {"caption_prior", "nearest_image", "shuffled_images"}
    names = [*STANDARD, "ROUGE-1"]
    for row in ROWS:
        scores = metrics["trials"].get(row) or metrics[row]
        assert list(scores) == names  # type: ignore[call-overload]
        assert list(metrics["intervals"][row]) == names  # type: ignore[call-overload]
    assert metrics["best"] == metrics["trials"]["trial_0000"] == metrics["zero_shot"]
    assert metrics["resampling"] == {"unit": "image", "num_units": NUM_TEST, "num_resamples": 1000}
    assert metrics["caption_preprocessing"] == "imageclef2025"
    assert "facts" not in metrics
    assert set(metrics["comparisons"]["rows"]) == set(ROWS) - {"zero_shot"}  # type: ignore[call-overload]
    assert [(group["label"], group["trials"]) for group in metrics["groups"]] == [  # type: ignore[index]
        ("max_new_tokens=10", ["trial_0000", "trial_0001"]),
        ("max_new_tokens=14", ["trial_0002"]),
    ]
    table = pd.read_csv(directory / "tables" / "per_image_scores.csv")
    assert set(table["row"]) == set(ROWS)
    assert list(table) == ["row", "id", "METEOR", "ROUGE-L", "CIDEr", "ROUGE-1"]
    best = table[table["row"] == "best"]
    assert best["CIDEr"].mean() == pytest.approx(metrics["best"]["CIDEr"])
    assert best["id"].tolist() == pd.read_csv(directory / "test_predictions.csv")["id"].tolist()
    done, total = steps.last("scoring the test split")
    assert done == total


def test_the_nearest_image_gives_its_caption(scored: tuple[Path, Steps], materials: Materials) -> None:
    """Bright squares of two sizes on two sides: the nearest drawing has the same caption."""
    metrics = read(scored[0])
    assert metrics["nearest_image"]["CIDEr"] > metrics["caption_prior"]["CIDEr"]  # type: ignore[operator]
    assert metrics["nearest_image"]["BLEU-1"] == pytest.approx(1, abs=1e-3)


def test_deleted_tables_are_made_anew_and_scores_stay(copied: Path) -> None:
    """Without Ray, so nothing could be captioned."""
    shutil.rmtree(copied / "tables")
    with Study.open(copied) as study:
        whole = study.read_test_metrics()
        kept = whole.model_copy(update={"zero_shot": (whole.zero_shot or {}) | {"CIDEr": 0.0625}})  # no second scoring
        study.write_test_metrics(kept.model_copy(update={"intervals": {}, "comparisons": None, "groups": []}))
        results = score_on_test(study, study.record("trial_0000"), TWO_AT_ONCE, Steps())
        assert results == kept == study.read_test_metrics()
    assert results.zero_shot is not None
    assert results.zero_shot["CIDEr"] == 0.0625


def test_blind_rows_follow_the_training_images_of_the_best_trial(copied: Path) -> None:
    with Study.open(copied) as study:
        whole = study.read_test_metrics()
        best = study.record("trial_0000")
        fewer = best.model_copy(update={"config": best.config.model_copy(update={"max_train_images": 2})})
        results = score_on_test(study, fewer, TWO_AT_ONCE, Steps())
    assert results.nearest_image is not None
    assert whole.nearest_image is not None
    assert results.nearest_image["CIDEr"] < whole.nearest_image["CIDEr"]  # some captions are not to be had now
    assert results.zero_shot == whole.zero_shot
    assert results.shuffled_images == whole.shuffled_images


def test_a_killed_scoring_goes_on_with_the_rows_that_are_left(copied: Path) -> None:
    with Study.open(copied) as study:
        whole = study.read_test_metrics()
        left = {"shuffled_images": None, "best": None, "comparisons": None}
        study.write_test_metrics(whole.model_copy(update=left))
        steps = Steps()
        assert score_on_test(study, study.record("trial_0000"), TWO_AT_ONCE, steps) == whole
        assert [step[1:] for step in steps.seen if step[0] == "scoring the test split"] == [(0, 2), (2, 2)]
        before = (copied / "test_metrics.json").stat().st_ino
        score_on_test(study, study.record("trial_0000"), TWO_AT_ONCE, steps)
        assert (copied / "test_metrics.json").stat().st_ino == before


def test_damaged_predictions_are_made_anew(copied: Path) -> None:
    path = copied / "trials" / "trial_0002" / "test_predictions.csv"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with Study.open(copied) as study:
        whole = study.read_test_metrics()
        others = {name: scores for name, scores in whole.trials.items() if name != "trial_0002"}
        study.write_test_metrics(whole.model_copy(update={"trials": others}))
        assert score_on_test(study, study.record("trial_0000"), TWO_AT_ONCE, Steps()).trials == whole.trials
    assert path.read_text() == text


def test_an_interrupted_run_does_not_wait_for_blind_rows(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As METEOR's program would, the scoring in the other thread lasts until it is interrupted."""
    begun, interrupted = Event(), Event()

    def wait(*_: object) -> None:
        begun.set()
        assert interrupted.wait(60)
        raise ScoringFailure("interrupted")

    def press(*_: object) -> None:
        assert begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(captions, "score_captions", wait)
    monkeypatch.setattr(CaptionScorer, "interrupt", lambda _: interrupted.set())
    with Study.open(copied) as study:
        kept = study.read_test_metrics().model_copy(update={"caption_prior": None, "nearest_image": None})
        study.write_test_metrics(kept)
        with pytest.raises(KeyboardInterrupt):
            score_on_test(study, study.record("trial_0000"), TWO_AT_ONCE, press)
        assert study.read_test_metrics() == kept
    assert interrupted.is_set()
