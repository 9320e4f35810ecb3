"""The best config, and the export of a model with its card."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from sweep.best import app
from sweep.space import SearchSpace, load_space
from sweep.study.study import Study
from tests.support.reported_runs import HOSTILE, fill, finish, scores
from tests.support.small_runs import space

MODEL = {
    "config.json": {"architectures": ["BlipForConditionalGeneration"]},
    "trial_config.json": {"data": "/home/someone/patients", "model": "owner/base", "num_beams": 3},
}


@pytest.fixture(scope="module")
def finished(empty_runs: Callable[[Path, SearchSpace], Study], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose exported model is a config without weights; no test changes it."""
    wanted = space(trials=4, sampler="random", scheduler="none")
    study = empty_runs(tmp_path_factory.mktemp("finished") / "run", wanted)
    fill(study)
    directory = finish(study, intervals={"best": {"CIDEr": [2.25, 2.75]}})
    (directory / "best").mkdir()
    for name, content in MODEL.items():
        (directory / "best" / name).write_text(json.dumps(content))
    (directory / "best" / "trial.txt").write_text(f"{study.best()[0].name}\n")
    study.close()
    return directory


def call(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_best_config_is_a_space_file_with_nothing_to_search(finished: Path, tmp_path: Path) -> None:
    code, text, _ = call(finished)
    assert (code, text) == (0, (finished / "best.yaml").read_text())
    (tmp_path / "again.yaml").write_text(text)
    assert load_space(tmp_path / "again.yaml").search == {}


def test_another_trials_config_can_be_had(finished: Path, tmp_path: Path) -> None:
    code, text, _ = call(finished, "--trial", "trial_0003")
    assert code == 0
    (tmp_path / "again.yaml").write_text(text)
    known = json.loads((finished / "trials" / "trial_0003" / "trial.json").read_text())["config"]
    fixed = load_space(tmp_path / "again.yaml").fixed
    assert all(fixed[name] == known[name] for name in ("freeze", "learning_rate"))


def test_the_best_trial_is_printed_for_programs(finished: Path, tmp_path: Path) -> None:
    code, text, _ = call(finished, "--json")
    found = json.loads(text)
    best = (finished / "best" / "trial.txt").read_text().strip()
    assert (code, found["trial"], found["model"]) == (0, best, str(finished.resolve() / "best"))
    assert found["test"]["CIDEr"] == 2.5
    assert found["config"] == json.loads((finished / "trials" / best / "trial.json").read_text())["config"]
    other = json.loads(call(finished, "--json", "--trial", "trial_0003")[1])
    assert (other["trial"], other["state"]) == ("trial_0003", "SUCCEEDED")
    assert call(finished, "--json", "--export", tmp_path / "model")[0] == 2


def test_an_exported_model_has_a_card_that_the_hub_reads(finished: Path, tmp_path: Path) -> None:
    target = tmp_path / "exports" / "model"
    code, said, _ = call(finished, "--export", target)
    assert (code, said) == (0, f"Model  {target} (README.md is its model card)\n")
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "config.json", "trial_config.json"]
    assert [path.name for path in target.parent.iterdir()] == ["model"]  # nothing half made is left
    values = json.loads((target / "trial_config.json").read_text())
    assert values == {"data": "patients", "model": "owner/base", "num_beams": 3}

    card = ModelCard.load(target / "README.md")
    assert card.data.pipeline_tag == "image-to-text"
    assert card.data.library_name == "transformers"
    assert card.data.datasets is None  # phantoms is no data set of the Hub
    assert {result.metric_name: result.metric_value for result in card.data.eval_results or []} == scores(2.5)
    text = (target / "README.md").read_text()
    stated = ("**2.500 (2.250 to 2.750)**", "Not for clinical use", "caption prior", "images: 11 train")
    code = "from transformers import AutoProcessor, BlipForConditionalGeneration"
    assert all(said in text for said in (*stated, code, "95% bootstrap intervals"))
    assert HOSTILE not in text
    front = yaml.safe_load(text.split("---\n")[1])
    assert "license" not in front  # that of base model and data, which is not known here


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{run}/trials",), "is not a run directory"),
        (("{run}", "--trial", "trial_0009"), "has no trial trial_0009; it has trial_0000 to trial_0003"),
        (("{run}", "--export", "{run}"), "is there already and not an empty folder"),
        (("{run}", "--export", "{tmp}/file"), "is there already and not an empty folder"),
        (("{run}", "--export", "{tmp}/x", "--trial", "trial_0001"), "trial_0001 keeps no weights"),
        (("{run}", "--export", "{tmp}/file/x"), "cannot be written"),
    ],
)
def test_faults_are_told_in_one_sentence(finished: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    (tmp_path / "file").write_text("")
    code, out, told = call(*(argument.format(run=finished, tmp=tmp_path) for argument in arguments))
    assert (code, out) == (2, "")
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert said in told


DAMAGED = {
    "trial.txt": b"\xff", "trial_config.json": b"[" * 10**5, "config.json": b"[" * 10**5, "../best.yaml": b"\xff\xfe{}",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("is_link", [True, False], ids=["dangling", "damaged"])
def test_a_damaged_export_is_named(finished: Path, tmp_path: Path, name: str, is_link: bool) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    path = run / "best" / name
    path.unlink()
    if is_link:
        path.symlink_to("nowhere")
    else:
        path.write_bytes(DAMAGED[name])
    arguments = [] if name.endswith(".yaml") else ["--export", tmp_path / "model"]
    code, _, said = call(run, *arguments)
    assert code == 2
    assert said.count("\n") <= 2
    assert not (tmp_path / "model").exists()


def test_a_run_without_a_best_yet_says_so(create: Callable[..., Study], tmp_path: Path) -> None:
    study = create(space(trials=4, sampler="random"))
    for arguments in ((study.directory,), (study.directory, "--export", tmp_path / "x")):
        code, _, told = call(*arguments)
        assert code == 2
        assert "has no best model yet" in told
    assert not (tmp_path / "x").exists()
