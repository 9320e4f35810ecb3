"""Inputs of every bad kind: each ends a command with exit code 0 or 2 and a sentence, never a traceback."""

import json
import os
import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from medcap_core.config import TrialConfig
from medcap_core.data.images import ImageGeometry
from medcap_core.data.prepare import TooManyBadRecords, judge_records
from medcap_core.errors import ModelFault, RunFault
from medcap_core.models import load_captioner
from sweep.best import app as best
from sweep.explain.__main__ import app as explain
from sweep.report.__main__ import app as report
from sweep.run import app
from sweep.space.schema import SearchSpace
from sweep.status import app as status
from sweep.study.paths import RunPaths
from sweep.study.record import TrialRecord

QUICK = settings(deadline=None, max_examples=15, derandomize=True, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ODD = st.text(st.characters(), min_size=1, max_size=12)  # NUL, lone surrogates and all
PATHS = st.one_of(
    ODD,
    ODD.map(lambda text: text * 400),
    ODD.map(lambda text: f"{text}/" * 2000),
    st.sampled_from(["\0", "/proc/1/root/x", "/dev/null/x", "\udc80", "/", "."]),
)
RECORD = TrialRecord(name="trial_0000", number=0, point={}, config=TrialConfig(data="phantoms")).model_dump(mode="json")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def ends_in_a_sentence(result: Result) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output


@pytest.mark.slow
@settings(QUICK, max_examples=8)
@given(flag=st.sampled_from(["--resume", "--data", "--model", "--warm-start"]), path=PATHS)
def test_a_path_of_any_kind(flag: str, path: str) -> None:
    others = [] if flag == "--resume" else ["lora", "--data=no/such/data", "--dry-run"]
    ends_in_a_sentence(run(*others, f"{flag}={path}"))


@pytest.mark.parametrize("command", [status, best, report])
def test_a_run_that_cannot_be(tmp_path: Path, command: Typer) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for name in ("a\0b", str(tmp_path / "circle"), "x" * 300):
        ends_in_a_sentence(CliRunner().invoke(command, [name]))


@QUICK
@given(key=st.sampled_from([*TrialConfig.model_fields, "trials", "resources.max_concurrent"]), value=ODD)
def test_a_value_of_any_kind(key: str, value: str) -> None:
    ends_in_a_sentence(run("lora", f"--set={key}={value}", "--data=no/such/data", "--dry-run"))


@QUICK
@given(key=st.sampled_from([*RECORD, None]), value=JSON)
def test_a_record_of_any_kind(key: str | None, value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.json"
        path.write_text(json.dumps(value if key is None else RECORD | {key: value}))
        try:
            record = TrialRecord.load(path)
        except RunFault as fault:
            assert "\n" not in str(fault)
        else:
            json.dumps(record.model_dump(mode="json"))


RUN_FILES = [path.name for path in RunPaths(Path("run")).files]


@pytest.mark.parametrize("name", [*RUN_FILES, ".trials.csv.tmp", ".space.yaml.tmp", "trials/trial_0000/trial.json"])
def test_a_folder_where_a_file_belongs(tmp_path: Path, name: str) -> None:
    (tmp_path / "space.yaml").write_text("name: any\ndata: no/such/data\n")
    (tmp_path / "trials.csv").write_text("")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir(parents=True)
    ends_in_a_sentence(run("--resume", str(tmp_path)))


@pytest.mark.parametrize("name", ["best.yaml", "study.db", "best/config.json", "trials/trial_0000/trial.json"])
@pytest.mark.parametrize("command", [status, best, report, explain, None])
def test_a_pipe_where_a_file_belongs(tmp_path: Path, name: str, command: Typer | None) -> None:
    for path in (tmp_path / "space.yaml", tmp_path / "trials.csv", tmp_path / name):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    result = CliRunner().invoke(command or app, [str(tmp_path)] if command else ["--resume", str(tmp_path)])
    ends_in_a_sentence(result)
    assert "is a pipe or device, but a file belongs there: remove it" in result.output


def test_the_files_of_a_run_are_known() -> None:
    assert {"log.txt", "skipped_records.csv", "trials.csv", "provenance.json", "best.yaml"} <= set(RUN_FILES)
    assert {path.name for path in RunPaths(Path("run")).folders} == {"trials", "best", "tables", "attention"}


NO_DIRECTORY = {
    "file": "file", "under a file": "file/run", "circle": "circle", "pipe": "pipe", "lock is a folder": "locked",
    "list is a folder": "listed", "long": "x" * 300, "long path": "x/" * 3000, "not UTF-8": "\udc80", "NUL": "a\0b",
}  # fmt: skip


@pytest.mark.parametrize("name", NO_DIRECTORY.values(), ids=NO_DIRECTORY)
def test_a_run_directory_that_cannot_be(tmp_path: Path, name: str) -> None:
    """Refused before anything starts; nothing is made."""
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "locked" / "run.lock").mkdir(parents=True)
    (tmp_path / "listed" / "skipped_records.csv").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    ends_in_a_sentence(run("lora", "--data=no/such/data", f"--out={tmp_path}/{name}"))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", ["/proc", "/sys/kernel"])
def test_a_place_that_takes_no_files_though_permissions_say_so(place: str) -> None:
    result = run("lora", "--data=no/such/data", f"--out={place}/run")
    ends_in_a_sentence(result)
    assert f"{place} cannot be written (" in result.output


def test_a_folder_of_runs_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").touch()
    ends_in_a_sentence(run("lora", "--data=no/such/data"))


NO_SCALARS = [
    "9" * 5000, "0x" + "f" * 5000, "1e99999", ".nan", "*a", "&a [*a]", "[" * 500, '"\\ud800"', '"\\0"', "!!int x",
    "{? [1] : 2}",
]  # fmt: skip
SCALARS = st.sampled_from(NO_SCALARS) | ODD


@QUICK
@given(key=st.sampled_from([*SearchSpace.model_fields, "odd"]), text=SCALARS)
def test_a_space_file_of_any_kind(key: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        content = f"name: any\ndata: no/such/data\n{key}: {text}\n"
        path.write_text(content, encoding="utf-8", errors="surrogatepass")
        ends_in_a_sentence(run(str(path), "--dry-run"))


def test_a_grid_without_end(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "name: any\nsampler: grid\nsearch:\n"
        + "".join(f"  {knob}: {{grid: {list(range(1, 500))}}}\n" for knob in ("num_epochs", "batch_size", "lora_rank"))
    )
    ends_in_a_sentence(run(str(tmp_path / "space.yaml"), "--dry-run"))


@pytest.mark.parametrize("trials", ["9" * 5000, "+" + "9" * 5000], ids=["number", "extension"])
def test_a_number_of_thousands_of_digits(trials: str) -> None:
    ends_in_a_sentence(run("lora", f"--trials={trials}", "--data=no/such/data", "--dry-run"))
    ends_in_a_sentence(run(f"--trials={trials}", "--resume=no/such/run"))


CELLS = JSON | st.sampled_from([10**500, "\ud800", "\0", "x" * 5000, "x/" * 5000, [["a"]], float("nan")])


@settings(QUICK, max_examples=8)
@given(rows=st.lists(st.fixed_dictionaries({"image": CELLS, "text": CELLS}, optional={"id": CELLS, "split": CELLS})))
def test_a_table_of_any_kind(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        ends_in_a_sentence(run("lora", f"--data={path}", "--dry-run"))


NO_TABLES = {
    "digits": b'{"image": %s}' % (b"9" * 5000), "deep": b"[" * 10**5, "cr": b"image,text\ra.png,b\r",
    "half UTF-16": b"\xff\xfe\0\xd8", "NUL": bytes(300), "quote": b'a,"\n',
}  # fmt: skip


@pytest.mark.parametrize("content", NO_TABLES.values(), ids=NO_TABLES)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
def test_text_that_is_no_table(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"table.{suffix}").write_bytes(content)
    ends_in_a_sentence(run("lora", f"--data={tmp_path}/table.{suffix}", "--dry-run"))


PIPES = [f"{folder}.{suffix}" for folder in ("t", "data/train") for suffix in ("csv", "json", "tar", "parquet")]


@pytest.mark.parametrize("name", [*PIPES, "data/metadata.csv", "space.yaml"])
def test_a_pipe(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    if name == "space.yaml":
        ends_in_a_sentence(run(str(path), "--dry-run"))
    else:
        source = path if path.parent == tmp_path else path.parent
        ends_in_a_sentence(run("lora", f"--data={source}", "--dry-run"))


def test_odd_files_among_images_are_left_out(tmp_path: Path) -> None:
    for number in range(20):
        Image.new("L", (8, 8), 12 * number).save(tmp_path / f"{number}.png")
    names = ["circle.png", "nowhere.png", "pipe.png", "other.png", "zero.png", "folder.png"]
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "nowhere.png").symlink_to("nothing")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "other.png"):
        os.mkfifo(tmp_path / name)
    rows = [f"{name},caption {name}" for name in [*(f"{number}.png" for number in range(20)), *names]]
    (tmp_path / "table.csv").write_text("\n".join(["image,text", *rows]))
    config = TrialConfig(data=str(tmp_path / "table.csv"), max_bad_record_share=1.0)
    assert {record.id for record in judge_records(config, ImageGeometry(32))} == set(names)
    with pytest.raises(TooManyBadRecords):
        judge_records(config.model_copy(update={"max_bad_record_share": 0.05}), ImageGeometry(32))


SIZES = st.sampled_from([0, -1, 10**12, 2.5, True, None, "x", [], {}])


@settings(QUICK, max_examples=8)
@given(data=st.data(), value=SIZES | JSON)
def test_a_config_of_a_model_of_any_kind(tiny_blip: Path, data: st.DataObject, value: Any) -> None:
    known = json.loads((tiny_blip / "config.json").read_text())
    section = data.draw(st.sampled_from(["text_config", "vision_config"]))
    key = data.draw(st.sampled_from([*known[section], None]))
    changed = value if key is None else known[section] | {key: value}
    with tempfile.TemporaryDirectory() as folder:
        for path in tiny_blip.iterdir():
            (Path(folder) / path.name).symlink_to(path)
        (Path(folder) / "config.json").unlink()
        (Path(folder) / "config.json").write_text(json.dumps(known | {section: changed}))
        try:
            load_captioner(folder)
        except ModelFault as fault:
            assert "\n" not in str(fault)


@pytest.fixture
def model(tiny_blip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_blip, tmp_path / "model"))


def test_a_pipe_in_the_folder_of_a_model(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    os.mkfifo(model / "tokenizer.json")
    with pytest.raises(ModelFault, match=r"tokenizer.json is a pipe or device, not a file; remove it"):
        load_captioner(str(model))


@pytest.mark.parametrize("name", ["generation_config.json", "model.safetensors", "config.json", "tokenizer.json"])
def test_links_to_nothing_in_the_folder_of_a_model(model: Path, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to("nothing")
    with nullcontext() if name == "generation_config.json" else pytest.raises(ModelFault):
        load_captioner(str(model))


NO_CONFIGS = {"number": "3", "null": "null", "list": "[]", "type": '{"model_type": []}', "deep": "[" * 10**5}


@pytest.mark.parametrize("content", NO_CONFIGS.values(), ids=NO_CONFIGS)
def test_a_config_that_is_none(model: Path, content: str) -> None:
    (model / "config.json").write_text(content)
    with pytest.raises(ModelFault):
        load_captioner(str(model))


@pytest.mark.parametrize("index", [{}, {"a": "model-00001-of-00002.safetensors"}], ids=["empty", "of shards"])
def test_an_index_without_shards(model: Path, index: dict[str, str]) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    with pytest.raises(ModelFault, match="model"):
        load_captioner(str(model))
