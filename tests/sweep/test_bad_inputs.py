"""Inputs of every bad kind: each ends a command with exit code 0 or 2 and a sentence, never a traceback."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from medcap_core.config import TrialConfig
from medcap_core.errors import RunFault
from sweep.run import app
from sweep.study.record import TrialRecord, dump_record, load_record

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
RECORD = dump_record(TrialRecord(name="trial_0000", number=0, point={}, config=TrialConfig(data="phantoms")))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def ends_in_a_sentence(result: Result) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output


@QUICK
@given(flag=st.sampled_from(["--resume", "--data", "--model", "--warm-start"]), path=PATHS)
def test_a_path_of_any_kind(flag: str, path: str) -> None:
    others = [] if flag == "--resume" else ["lora", "--data=no/such/data", "--dry-run"]
    ends_in_a_sentence(run(*others, f"{flag}={path}"))


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
            record = load_record(path)
        except RunFault as fault:
            assert "\n" not in str(fault)
        else:
            json.dumps(dump_record(record))


@pytest.mark.parametrize(
    "name", ["trials.csv", ".trials.csv.tmp", "space.yaml", "run.lock", "trials/trial_0000/trial.json"]
)
def test_a_folder_where_a_file_belongs(tmp_path: Path, name: str) -> None:
    (tmp_path / "space.yaml").write_text("name: any\ndata: no/such/data\n")
    (tmp_path / "trials.csv").write_text("")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir(parents=True)
    ends_in_a_sentence(run("--resume", str(tmp_path)))
