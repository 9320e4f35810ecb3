import json
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

from medcap_core.errors import RunFault
from sweep.study.provenance import (
    PACKAGES,
    Checkout,
    DataOrigin,
    ModelOrigin,
    begin_provenance,
    check_same_origin,
    describe_checkout,
    describe_other_versions,
    end_provenance,
    find_versions,
    read_provenance,
)
from tests.support import REPOSITORY

DATA = DataOrigin(name="phantoms", kind="drawn", sizes={"train": 7})
MODEL = ModelOrigin(name="phantom-blip", sha256="ab12")


def begin(directory: Path, command: list[str]) -> None:
    begin_provenance(directory, command=command, gpus=["NVIDIA H100"], data=DATA, model=MODEL)


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("one = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "-m", "One")
    return tmp_path


def test_each_start_adds_an_entry_and_only_an_orderly_end_is_noted(tmp_path: Path) -> None:
    begin(tmp_path, ["space.yaml", "--seed", "3"])
    begin(tmp_path, ["--resume", "runs/a-001"])
    end_provenance(tmp_path)
    first, second = read_provenance(tmp_path)
    assert (first.command, first.ended_at) == (["space.yaml", "--seed", "3"], None)
    assert second.command == ["--resume", "runs/a-001"]
    assert second.started_at <= (second.ended_at or "")
    assert (second.data, second.model, second.gpus) == (DATA, MODEL, ["NVIDIA H100"])
    assert second.num_cpus


def unchanged(data: DataOrigin) -> Callable[[str, Sequence[str]], str]:
    """The hashes of data in which no record is bad."""
    return lambda split, _: data.sha256[split]


def test_other_data_or_weights_than_the_run_began_with_are_named(tmp_path: Path) -> None:
    data = DataOrigin(name="d", kind="k", sha256={"train": "1", "test": "2"})
    weights = {"a": {"name": "/a", "sha256": "x"}, "b": {"name": "/b", "sha256": None}}
    towers = ModelOrigin.model_validate({"name": "a = /a, b = /b", "models": weights})
    check_same_origin(tmp_path, data, towers, unchanged(data))
    begin_provenance(tmp_path, command=[], gpus=[], data=data, model=towers)
    check_same_origin(tmp_path, data, towers, unchanged(data))
    changed = data.model_copy(update={"sha256": {"train": "1", "test": "3"}})
    with pytest.raises(RunFault, match=r"^data d: the test split has other records, captions or another order than"):
        check_same_origin(tmp_path, changed, towers, unchanged(changed))
    others = ModelOrigin(name="/a", sha256="y", vision_models={"/b": "z"})
    with pytest.raises(RunFault, match=r"^model /a: its weights are not those this run began with; undo that"):
        check_same_origin(tmp_path, data, others, unchanged(data))


def test_other_versions_than_the_run_began_with_are_told_in_one_line(tmp_path: Path) -> None:
    assert describe_other_versions(tmp_path) == []
    begin(tmp_path, [])
    assert describe_other_versions(tmp_path) == []
    path = tmp_path / "provenance.json"
    content = json.loads(path.read_text())
    content["starts"][0]["packages"] |= {"torch": "1.0", "peft": None, "numpy": "1.0", "ray": "2.0"}
    path.write_text(json.dumps(content))
    assert describe_other_versions(tmp_path) == [
        f"This run began with other versions: torch {version('torch')} (before 1.0), ray {version('ray')} "
        "(before 2.0); results may differ"
    ]


def test_no_home_folder_host_or_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "jane.doe")
    monkeypatch.setenv("HOME", "/home/jane.doe")
    monkeypatch.setattr("platform.node", lambda: "hospital-pc")
    begin(tmp_path, ["space.yaml"])
    text = (tmp_path / "provenance.json").read_text()
    assert "jane.doe" not in text
    assert "hospital-pc" not in text
    assert str(REPOSITORY) not in text


def test_versions_are_the_installed_ones_and_none_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_versions()["optuna"] == version("optuna")
    assert find_versions().keys() == set(PACKAGES)
    monkeypatch.setattr("sweep.study.provenance.PACKAGES", ("no-such-package-here",))
    assert find_versions() == {"no-such-package-here": None}


def test_a_checkout_tells_its_commit_and_whether_it_changed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "new.txt").write_text("not under version control")
    assert describe_checkout(checkout) == Checkout(commit=commit, dirty=False)
    (checkout / "code.py").write_text("one = 2\n")
    assert describe_checkout(checkout) == Checkout(commit=commit, dirty=True)
    inside, empty = checkout / "venv" / "site-packages", checkout / "empty"
    inside.mkdir(parents=True)
    empty.mkdir()
    git(empty, "init", "--quiet")
    assert describe_checkout(inside) is None
    assert describe_checkout(empty) is None  # it has no commit
    monkeypatch.setenv("PATH", "")
    assert describe_checkout(checkout) is None  # git is not found


@pytest.mark.parametrize("content", ["{", "[]", '{"other": 1}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(RunFault, match=r"provenance\.json is damaged \(.*\); move it away"):
        begin(tmp_path, [])


def test_what_is_not_known_of_a_model_is_left_out_of_the_file(tmp_path: Path) -> None:
    begin(tmp_path, ["first"])
    end_provenance(tmp_path)
    (entry,) = json.loads((tmp_path / "provenance.json").read_text())["starts"]
    assert entry["data"] == {"name": "phantoms", "kind": "drawn", "sizes": {"train": 7}}
    assert entry["model"] == {"name": "phantom-blip", "sha256": "ab12"}


def test_figures_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="finite number"):
        DataOrigin.model_validate({"name": "d", "kind": "k", "sizes": {"train": float("nan")}})
