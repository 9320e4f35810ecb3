"""The command line: what a whole run leaves and prints, exit codes, and faults told in one sentence."""

import csv
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from click.testing import Result
from PIL import Image
from transformers import AutoProcessor, BlipForConditionalGeneration
from typer.testing import CliRunner

from medcap_core.config import TrialConfig
from medcap_core.objective import Objective
from medcap_core.scoring.registry import STANDARD
from sweep.run import app
from sweep.space import build_space, load_space
from sweep.study.record import result_columns
from sweep.study.study import Study
from tests.support.real_runs import LOOPBACK, NUM_IMAGES, Materials
from tests.support.small_runs import read_optuna
from tests.sweep.conftest import FinishedRun
from tests.sweep.test_preparation import forget_data

RUN_FILES = {
    "best", "best.yaml", "duplicate_images.csv", "log.txt", "provenance.json", "report.html", "report.md", "run.lock",
    "run_seconds.txt", "skipped_records.csv", "space.yaml", "study.db", "tables", "test_metrics.json",
    "test_predictions.csv", "trials", "trials.csv", "validation_predictions.csv",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """The command line in this process, which spares the imports; from an empty folder."""
    on_termination = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    yield lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
    signal.signal(signal.SIGTERM, on_termination)


class TestAWholeRun:
    def test_ends_well_and_says_where_things_are(self, finished_run: FinishedRun) -> None:
        assert (finished_run.exit_code, finished_run.stderr) == (0, "")
        lines = finished_run.stdout.splitlines()
        assert lines[0] == "Run directory  runs/tiny-001"
        assert any(re.fullmatch(r"Dashboard      http://127\.0\.0\.1:\d+ \(.*\)", line) for line in lines)
        assert lines[-1] == "Search further   python -m sweep.run --resume runs/tiny-001 --trials +4"
        assert "Model            runs/tiny-001/best (loads with transformers' from_pretrained)" in lines

    def test_keeps_the_noise_of_libraries_out_of_the_terminal(self, finished_run: FinishedRun) -> None:
        for noise in ("INFO", "WARNING", "Traceback", "it/s", "\x1b", "(raylet)", "Warning"):
            assert noise not in finished_run.stdout

    def test_listens_on_loopback_alone(self, finished_run: FinishedRun) -> None:
        names = {name for name, _ in finished_run.listening}
        assert {"gcs_server", "raylet"} <= names
        assert {address for _, address in finished_run.listening} <= LOOPBACK

    def test_leaves_the_files_it_promises(self, finished_run: FinishedRun) -> None:
        assert {path.name for path in finished_run.directory.iterdir()} == RUN_FILES
        trials = finished_run.directory / "trials"
        assert sorted(path.name for path in trials.iterdir()) == [f"trial_{number:04d}" for number in range(4)]
        for trial in trials.iterdir():
            assert {"trial.json", "log.txt", "checkpoints"} <= {path.name for path in trial.iterdir()}
            assert not (trial / "checkpoints" / "last").exists()
        assert len(list(trials.glob("*/checkpoints/best/weights.safetensors"))) == 3
        assert (finished_run.directory / "skipped_records.csv").read_text() == "split,id,reason\n"

    def test_lists_trials_with_results_and_configs(self, finished_run: FinishedRun, materials: Materials) -> None:
        with (finished_run.directory / "trials.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == [*result_columns(Objective()), *(f"config.{name}" for name in TrialConfig.model_fields)]
        assert [row["config.freeze"] for row in rows[:2]] == ["lora", "full"]
        assert {row["config.data"] for row in rows} == {str(materials.images)}
        assert {row["config.model"] for row in rows} == {str(materials.model)}
        for row in rows:
            assert row["state"] in ("SUCCEEDED", "PRUNED")
            assert (row["epochs_done"] == row["config.num_epochs"]) == (row["state"] == "SUCCEEDED")
            assert float(row["best_cider"]) >= float(row["last_cider"])

    def test_tells_optuna_the_same(self, finished_run: FinishedRun) -> None:
        states = {"COMPLETE": "SUCCEEDED", "PRUNED": "PRUNED", "FAIL": "FAILED"}
        table = pd.read_csv(finished_run.directory / "trials.csv")
        trials = read_optuna(finished_run.directory)
        assert [states[trial.state.name] for trial in trials] == table["state"].tolist()
        finished = [trial for trial in trials if trial.state is optuna.trial.TrialState.COMPLETE]
        assert [trial.value for trial in finished] == table[table["state"] == "SUCCEEDED"]["best_cider"].tolist()

    def test_scores_the_best_and_three_baselines_on_the_test_split(self, finished_run: FinishedRun) -> None:
        metrics = json.loads((finished_run.directory / "test_metrics.json").read_text())
        for name in ("best", "zero_shot", "caption_prior", "shuffled_images"):
            assert list(metrics[name]) == list(STANDARD)
        assert metrics["num_images"] == NUM_IMAGES["test"]
        assert metrics["trials"] == {metrics["best_trial"]: metrics["best"]}

    def test_chooses_among_the_leaders_on_the_whole_validation_split(self, finished_run: FinishedRun) -> None:
        records = [json.loads(path.read_text()) for path in finished_run.directory.glob("trials/*/trial.json")]
        whole = {record["trial"]: record["whole_validation_score"] for record in records}
        leaders = {name: cider for name, cider in whole.items() if cider is not None}
        assert len(leaders) == 3
        chosen = json.loads((finished_run.directory / "test_metrics.json").read_text())["best_trial"]
        assert leaders[chosen] == max(leaders.values())
        assert (finished_run.directory / "best" / "trial.txt").read_text() == f"{chosen}\n"
        captions = pd.read_csv(finished_run.directory / "validation_predictions.csv", keep_default_na=False)
        assert set(captions["row"]) == {*leaders, "zero_shot"}
        means = captions.groupby("row")["CIDEr"].mean()
        assert {name: means[name] for name in leaders} == pytest.approx(leaders)

    def test_writes_a_best_config_that_is_a_space(
        self, finished_run: FinishedRun, run: Callable[..., Result], tmp_path: Path
    ) -> None:
        path = finished_run.directory / "best.yaml"
        assert not load_space(path).search
        result = run(path, "--dry-run")
        assert result.exit_code == 0, result.output
        assert "1 (nothing is searched)" in result.output
        assert re.search(r"time +about \d+ s in all", result.output)
        assert not list(tmp_path.iterdir())

    def test_exports_a_model_that_captions_as_it_did(self, finished_run: FinishedRun, materials: Materials) -> None:
        table = pd.read_csv(finished_run.directory / "test_predictions.csv", keep_default_na=False, dtype=str)
        assert list(table) == ["id", "reference", "prediction", "zero_shot"]
        assert len(table) == NUM_IMAGES["test"]
        model = BlipForConditionalGeneration.from_pretrained(finished_run.directory / "best")
        processor = AutoProcessor.from_pretrained(finished_run.directory / "best")
        for row in table.itertuples():
            image = Image.open(materials.images / "test" / row.id).convert("RGB")
            pixels = processor(images=image, return_tensors="pt").pixel_values
            with torch.inference_mode():
                ids = model.generate(pixel_values=pixels)
            text = processor.decode(ids[0], skip_special_tokens=True).removeprefix("[DEC]")  # special to true BLIPs
            assert text.strip() == row.prediction


def says_one_thing(result: Result, *words: str) -> None:
    """One sentence on standard error, exit code 2, and no run directory begun."""
    assert result.exit_code == 2, result.output
    own = [line for line in result.stdout.splitlines() if "(raylet)" not in line]  # of a Ray that other tests left here
    assert not own
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr)
    for word in words:
        assert word in result.stderr
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


IN_PLACE = ("{space}", "--data", "{images}", "--model", "{model}")
FAULTS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((), ("No space given; name a ready one, such as lora",)),
    (("spaces/none.yaml",), ("spaces/none.yaml", "no such file")),
    (("lorra",), ("lorra: no ready space has this name", "rocov2_recipe", "did you mean 'lora'?")),
    (("{space}", "--model", "{model}", "--data", "/no/such"), ("/no/such",)),
    (("{space}", "--data", "{images}", "--model", "{home}"), ("config.json",)),
    (("{space}", "--out", "{home}"), ("--out {home} is not empty",)),
    (("{space}", "--out", "{home}", "--dry-run"), ("--out {home} is not empty",)),
    *((("{space}", "--trials", number), (f"--trials {number}",)) for number in ("0", "-3", "+3", "many", "²")),
    *((("--resume", "{run}", "--trials", wrong), ("such as --trials +20",)) for wrong in ("3", "+0", "+-1", "+")),
    (("{space}", "--retry-failed"), ("name one by --resume DIR",)),
    (("--resume", "{run}", "--data", "phantoms", "--warm-start", "runs/x"), ("--data, --warm-start cannot be given",)),
    (("--resume", "{images}"), ("is not a run directory", "no space.yaml")),
    (("--resume", "{home}"), ("is not a run directory", "no trials.csv")),
    *(
        ((*IN_PLACE, "--address", address), (f"--address {address}: no Ray cluster answers there",))
        for address in ("http://localhost:8265", "localhost", "localhost:ray", "127.0.0.1:1")
    ),
    (
        ("{space}", "--address", "ray://head:10001"),
        ("--address ray://head:10001: ", "ray job submit --address http://head:8265 -- medcap run "),
    ),
]


class TestFaults:
    @pytest.mark.parametrize(("arguments", "words"), FAULTS, ids=" ".join)
    def test_of_flags(
        self,
        run: Callable[..., Result],
        materials: Materials,
        request: pytest.FixtureRequest,
        arguments: tuple[str, ...],
        words: tuple[str, ...],
    ) -> None:
        names = {name: getattr(materials, name) for name in ("space", "images", "model", "home")}
        if "{run}" in arguments:
            names["run"] = request.getfixturevalue("finished_run").directory
        result = run(*(argument.format(**names) for argument in arguments))
        says_one_thing(result, *(word.format(**names) for word in words))

    def test_every_fault_of_a_space_at_once(self, run: Callable[..., Result], tmp_path: Path) -> None:
        space = tmp_path / "bad.yaml"
        space.write_text("name: bad\ntrails: 3\nfixed: {batch_size: many}\n")
        result = run(space)
        assert result.exit_code == 2
        assert [("trails" in line, "batch_size" in line) for line in result.stderr.splitlines()] in (
            [(True, False), (False, True)],
            [(False, True), (True, False)],
        )

    def test_a_metric_that_is_not_for_this_model(self, run: Callable[..., Result], materials: Materials) -> None:
        flags = ("--data", materials.images, "--model", materials.model, "--set", "objective=balanced_accuracy")
        result = run(materials.space, *flags)
        assert (result.exit_code, result.stdout) == (2, "")
        asks, lacks = result.stderr.splitlines()
        assert asks.startswith(
            "error: objective balanced_accuracy needs a model that answers questions, such as medblip3d"
        )
        assert lacks.endswith("give their diagnoses, raise max_validation_images, or use objective: CIDEr.")

    def test_more_trials_than_there_are(self, run: Callable[..., Result], tmp_path: Path) -> None:
        with Study.create(tmp_path / "single", build_space({"name": "single", "data": "/no/such"}, "test")) as study:
            pass
        result = run("--resume", study.directory, "--trials", "+2")
        says_one_thing(result, "nothing is searched; leave --trials out")  # told before the data are looked for

    def test_a_working_directory_that_cannot_be_written(
        self, run: Callable[..., Result], materials: Materials, tmp_path: Path
    ) -> None:
        (tmp_path / "runs").write_text("a file where the folder would be")
        result = run(materials.space, "--data", materials.images, "--model", materials.model)
        assert result.exit_code == 2
        assert re.fullmatch(r"error: \S+runs is a file; choose another folder with --out\.\n", result.stderr)


def test_a_dry_run_starts_nothing(run: Callable[..., Result], materials: Materials, tmp_path: Path) -> None:
    import ray

    was_running = ray.is_initialized()
    result = run(materials.space, "--data", materials.images, "--model", materials.model, "--dry-run")
    assert result.exit_code == 0, result.output
    for part in ("Searched", "First points", "Sample configs", "at once", "time         about", "disk         about"):
        assert part in result.output
    assert not list(tmp_path.iterdir())
    assert ray.is_initialized() == was_running
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_dry_run_judges_the_data_as_a_run_does(
    run: Callable[..., Result], materials: Materials, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(materials.images, images)
    (images / "train" / "3.png").write_bytes(b"no image")
    flags = ("--data", images, "--model", materials.model, "--dry-run")
    result = run(materials.space, *flags)
    assert result.exit_code == 0, result.output
    for line in (
        "Data           image folder with metadata files; 22 train, 9 validation, 7 test",
        "Left out       1 records, such as:",
        "               train 3.png: unreadable image: not an image, or damaged from its first bytes on",
        "Duplicates     ",
        "Captions       0 of 22 training captions are cut to max_caption_tokens 16; the longest has ",
    ):
        assert line in result.stdout
    (images / "test" / "0.png").unlink()
    forget_data()
    refused = run(materials.space, *flags)
    assert refused.exit_code == 2
    assert "5.3% of the records of all splits cannot be used (train 1 of 22, validation 0 of 9, test 1 of 7)" in (
        refused.stderr
    )
