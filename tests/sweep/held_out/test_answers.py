"""The answers of every row on a tiny MedBLIP with random weights: who is asked what about which volume."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from medcap_core.config import TrialConfig
from medcap_core.data import prepare
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION
from medcap_core.models import load_trial_captioner
from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner
from medcap_core.models.tuning import apply_tuning
from medcap_core.training.checkpoint import save_weights, trained_weights
from medcap_core.training.export import build_trained_captioner
from sweep.execution import jobs
from sweep.execution.jobs import PredictionJob, load_split
from sweep.held_out.answers import AnswerTask
from sweep.held_out.evaluation import score_on_test
from sweep.space import SearchSpace, build_space
from sweep.study.record import TrialRecord, TrialState
from sweep.study.study import Study
from sweep.study.test_results import TestResults
from tests.support.drawn_scans import NODULE, SIDE, TEST, TRAIN, Row, build_dataset
from tests.support.small_runs import next_trial, report_of
from tests.support.tiny_models import save_tiny_gpt2
from tests.sweep.held_out.test_captions import Steps
from tests.sweep.test_runner import ONE

ROWS = ["best", "trial_0000", "trial_0001", "zero_shot", "shuffled_images", "answer_prior"]


@dataclass(frozen=True)
class Answered:
    """A run whose test split was captioned and answered; `patch` is in force as long as it is used.

    `jobs` are the models that were asked.
    """

    directory: Path
    results: TestResults
    steps: Steps
    jobs: list[PredictionJob]
    patch: pytest.MonkeyPatch


def give_data(patch: pytest.MonkeyPatch, name: str, test: tuple[Row, ...], train: tuple[Row, ...] = TRAIN) -> None:
    """Let any data set be this one."""
    patch.setattr(prepare, "load_data", lambda *_, **__: build_dataset(name, test, train))
    prepare.read_dataset.cache_clear()


def build_run(home: Path) -> SearchSpace:
    """Of trials that a little run of a small MedBLIP has."""
    fixed = {
        "language_model": str(save_tiny_gpt2(home / "gpt2", num_positions=200, spread=0.3)), "image_size": 18,
        "patch_size": 9, "num_queries": 3, "qformer_layers": 1, "freeze": "bridge_only", "max_caption_tokens": 12,
        "max_new_tokens": 5, "num_beams": 2, "eval_batch_size": 3, "num_epochs": 1,
    }  # fmt: skip
    search = {"learning_rate": {"loguniform": [1e-4, 1e-2]}}
    values = {"name": "any", "data": str(home), "model": "medblip3d", "fixed": fixed, "search": search}
    return build_space(values | {"sampler": "random", "trials": 4, "seed": 5, "test": "all"}, "test")


def add_trial(study: Study, score: float) -> TrialRecord:
    """A trial with made-up weights."""
    record = next_trial(study)
    study.start(record.name)
    study.report(record.name, report_of(record, 1, score))
    study.finish(record.name, TrialState.SUCCEEDED)
    captioner = load_trial_captioner(record.config)
    apply_tuning(captioner, record.config)
    generator = torch.Generator().manual_seed(record.number)
    with torch.no_grad():
        for parameter in captioner.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    path = study.paths.trial(record.name).best_weights
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, trained_weights(captioner))
    return record


def note_jobs(patch: pytest.MonkeyPatch) -> list[PredictionJob]:
    """A list that gathers the jobs of models that are asked in this process."""
    asked: list[PredictionJob] = []
    predict = jobs.predict_here

    def note(job: PredictionJob, *rest: Any, **others: Any) -> Any:
        asked.append(job)
        return predict(job, *rest, **others)

    patch.setattr(jobs, "predict_here", note)
    return asked


@pytest.fixture(scope="module")
def answered(
    empty_runs: Callable[..., Study], meteor: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Answered]:
    home = tmp_path_factory.mktemp("answered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCAP_CACHE", str(home / "cache"))
        patch.setattr(jobs, "is_one_machine", lambda: True)  # without Ray
        asked = note_jobs(patch)
        give_data(patch, "whole", TEST)
        steps = Steps()
        with empty_runs(home / "run", build_run(home)) as study:
            best, _ = add_trial(study, 0.5), add_trial(study, 0.25)
            results = score_on_test(study, best, ONE, steps)
        yield Answered(home / "run", results, steps, asked, patch)
    prepare.read_dataset.cache_clear()


@pytest.fixture
def copied(answered: Answered, tmp_path: Path) -> Iterator[Study]:
    shutil.copytree(answered.directory, tmp_path / "run")
    with Study.open(tmp_path / "run") as study:
        yield study


def read(directory: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    metrics = json.loads((directory / "test_metrics.json").read_text())
    return metrics, pd.read_csv(directory / "test_answers.csv", keep_default_na=False, dtype=str)


def load_model(answered: Answered, *, trained: bool) -> tuple[TrialConfig, MedBlip3dCaptioner]:
    folder = answered.directory / "trials" / "trial_0000"
    config = TrialRecord.load(folder / "trial.json").config
    captioner = build_trained_captioner(config, folder / "checkpoints/best/weights.safetensors" if trained else None)
    assert isinstance(captioner, MedBlip3dCaptioner)
    return config, captioner


def test_every_row_answers_about_its_own_volume(answered: Answered) -> None:
    _, table = read(answered.directory)
    assert list(table) == ["id", "cohort", "subject", "kind", "question", "answer", *ROWS]
    assert table[["id", "kind"]].to_numpy().tolist() == [
        ["test-0", "diagnosis"], ["test-0", "side"], ["test-1", "diagnosis"], ["test-1", "side"],
        ["test-1", "finding"], ["test-2", "diagnosis"], ["test-2", "side"], ["test-3", "diagnosis"],
        ["test-3", "side"], ["test-4", "side"], ["test-5", "diagnosis"], ["test-6", "diagnosis"], ["test-6", "side"],
    ]  # fmt: skip
    assert table["best"].tolist() == table["trial_0000"].tolist() != table["trial_0001"].tolist()
    assert table["best"].nunique() > 3
    prior = {DIAGNOSIS_QUESTION: "dementia", SIDE: "right", NODULE: "a large nodule"}
    assert table["answer_prior"].tolist() == [prior[question] for question in table["question"]]
    for trained, row in ((True, "best"), (False, "zero_shot")):
        config, captioner = load_model(answered, trained=trained)
        pixels = torch.from_numpy(load_split(config, "test").pixels(np.arange(len(TEST))))
        with torch.inference_mode():
            hidden_states = captioner.encode_images(pixels)
            for item in (4, 7):  # the question that only one scan is asked, and another
                scan, question = int(table["id"][item][-1]), table["question"][item]
                answers = captioner.answer(hidden_states, [question] * len(TEST), config)
                assert table[row][item] == answers[scan]
                others = [answers[place] for place, other in enumerate(TEST) if other[0] != TEST[scan][0]]
                assert not trained or table["shuffled_images"][item] in others
    what = "captioning and answering questions on the test split"
    assert answered.steps.last(what) == (3 * len(TEST), 3 * len(TEST))
    assert answered.steps.last("scoring the test split") == (10, 10)  # 2 x 4 rows, and two ends
    assert len(answered.jobs) == 3
    assert all(job.request.captions and job.request.questions and job.request.classes for job in answered.jobs)


def test_every_row_has_every_figure(answered: Answered) -> None:
    metrics, _ = read(answered.directory)
    assert metrics == answered.results.model_dump(mode="json")
    assert set(metrics["intervals"]) == {*ROWS, "caption_prior", "nearest_image"} - {"answer_prior"}
    answering, classified = metrics["question_answering"], metrics["classification"]
    assert list(answering["rows"]) == list(classified["rows"]) == ROWS
    assert answering["unseen_cohorts"] == classified["unseen_cohorts"] == ["green"]
    assert answering["resampling"] == {"unit": "subject", "num_units": 7, "num_resamples": 1000}
    for row, figures in answering["rows"].items():
        assert {scope: told["overall"]["num_questions"] for scope, told in figures.items()} == {"unseen": 9, "all": 13}
        assert list(figures["unseen"]["kinds"]) == ["diagnosis", "side", "finding"]
        ways = ["by_answer"] if row == "answer_prior" else ["by_answer", "by_similarity"]
        assert list(classified["rows"][row]) == ways
        for told in classified["rows"][row].values():
            assert (told["unseen"]["num_scans"], told["all"]["num_scans"]) == (4, 6)
            assert {cohort: part["num_scans"] for cohort, part in told["cohorts"].items()} == {"green": 4, "red": 1}
    assert answering["rows"]["answer_prior"]["all"]["kinds"]["side"]["exact_match"] == 3 / 6
    by_answer = classified["rows"]["answer_prior"]["by_answer"]["all"]
    assert by_answer["confusion"] == [[0, 0, 2, 0], [0, 0, 2, 0], [0, 0, 2, 0]]
    config, captioner = load_model(answered, trained=True)
    with torch.inference_mode():
        hidden_states = captioner.encode_images(torch.from_numpy(load_split(config, "test").pixels(np.arange(8))))
        scores = captioner.compute_class_scores(hidden_states, DIAGNOSIS_QUESTION, classified["classes"])
    confusion = np.zeros((3, 4), dtype=int)
    for scan, true in ((0, 0), (1, 0), (2, 1), (3, 2), (5, 1), (6, 2)):
        confusion[true, int(scores[scan].argmax())] += 1
    assert classified["rows"]["best"]["by_similarity"]["all"]["confusion"] == confusion.tolist()


def test_what_is_there_is_not_answered_again(
    copied: Study, answered: Answered, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, table = read(copied.directory)
    asked = note_jobs(monkeypatch)
    path = copied.paths.test_metrics
    written = path.stat().st_mtime_ns
    assert score_on_test(copied, copied.best()[0], ONE, Steps()).model_dump(mode="json") == before
    assert path.stat().st_mtime_ns == written
    copied.paths.answers.unlink()
    score_on_test(copied, copied.best()[0], ONE, Steps())
    again, restored = read(copied.directory)
    assert again == before
    assert restored.equals(table)
    assert asked == []
    copied.paths.trial("trial_0001").answers.write_text('{"scans": []}')  # damaged
    copied.paths.answers.unlink()
    score_on_test(copied, copied.best()[0], ONE, Steps())
    assert [(job.name, job.request.captions) for job in asked] == [("trial_0001", False)]
    assert read(copied.directory)[1].equals(table)
    better = add_trial(copied, 0.75)
    results = score_on_test(copied, better, ONE, Steps())
    metrics, longer = read(copied.directory)
    assert [(job.name, job.request.captions, bool(job.request.questions)) for job in asked[1:]] == [
        (better.name, True, True)
    ]
    assert metrics == results.model_dump(mode="json")
    assert longer["best"].tolist() == longer[better.name].tolist() != table["best"].tolist()
    assert longer["shuffled_images"].tolist() != table["shuffled_images"].tolist()
    assert metrics["question_answering"]["best_trial"] == better.name
    assert list(metrics["question_answering"]["rows"]) == [*ROWS[:3], better.name, *ROWS[3:]]
    for kept in ("trial_0000", "trial_0001", "zero_shot", "answer_prior"):
        assert longer[kept].tolist() == table[kept].tolist()
        for section in ("question_answering", "classification"):
            assert metrics[section]["rows"][kept] == before[section]["rows"][kept]


def test_a_killed_scoring_goes_on_with_the_rows_left(copied: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = read(copied.directory)
    kept = copied.read_test_metrics()
    assert kept.question_answering is not None
    assert kept.classification is not None
    kept.question_answering.comparisons = None
    for row in ("shuffled_images", "best"):
        del kept.question_answering.rows[row]
        del kept.classification.rows[row]
    copied.write_test_metrics(kept)
    asked, steps = note_jobs(monkeypatch), Steps()
    assert score_on_test(copied, copied.best()[0], ONE, steps).model_dump(mode="json") == before
    assert asked == []
    assert [step[1:] for step in steps.seen if step[0] == "scoring the test split"] == [(0, 2), (2, 2)]


def test_a_test_split_without_questions(copied: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    give_data(monkeypatch, "mute", tuple((subject, cohort, None, None, None) for subject, cohort, *_ in TEST))
    assert AnswerTask(copied, copied.best()[0], TestResults()).is_complete
    prepare.read_dataset.cache_clear()


def test_a_model_that_answers_nothing_is_left_alone(create: Callable[..., Study]) -> None:
    study = create(build_space({"name": "any", "model": "phantom-blip"}, "test"))
    record = next_trial(study)
    assert AnswerTask(study, record, TestResults()).is_complete
