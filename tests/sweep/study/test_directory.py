from pathlib import Path

import pytest

from medcap_core.errors import RunFault
from sweep.space import load_space
from sweep.study.directory import next_run_directory
from sweep.study.study import Study
from tests.support.small_runs import space


def test_a_new_run_holds_space_database_and_table(tmp_path: Path) -> None:
    with Study.create(tmp_path / "a b?{c}%20#" / "run", space()) as study:
        assert study.propose() is not None
        names = sorted(path.name for path in study.directory.iterdir())
        assert names == ["run.lock", "space.yaml", "study.db", "trials", "trials.csv"]
        assert load_space(study.directory / "space.yaml") == space()
    with Study.open(study.directory) as again:
        assert again.space == space()
        assert [record.name for record in again.records] == ["trial_0000"]


def test_a_relative_directory_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Study.create(Path("run"), space()) as study:
        assert study.paths.trial("trial_0000").root == tmp_path / "run" / "trials" / "trial_0000"


def test_run_directories_count_up_and_are_never_shared(tmp_path: Path) -> None:
    names = [next_run_directory(tmp_path / "runs", "lora").name for _ in range(2)]
    (tmp_path / "runs" / "lora-007").mkdir()
    (tmp_path / "runs" / "lora-large-050").mkdir()
    (tmp_path / "runs" / "lora-notes").touch()
    names.append(next_run_directory(tmp_path / "runs", "lora").name)
    assert names == ["lora-001", "lora-002", "lora-008"]


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(RunFault, match=r"runs: cannot make a run directory here .*--out"):
        next_run_directory(tmp_path / "runs", "lora")


def test_an_out_directory_that_is_not_empty_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunFault, match=r"--out .* is not empty; choose another, or go on .* --resume"):
        Study.create(tmp_path, space())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunFault, match=r"thesis\.tex is a file; choose a folder"):
        Study.create(tmp_path / "thesis.tex", space())


def test_an_empty_directory_is_taken_even_after_a_kill_just_before_the_first_file(tmp_path: Path) -> None:
    (tmp_path / "run.lock").touch()
    Study.create(tmp_path, space()).close()
    assert (tmp_path / "study.db").is_file()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFault, match="is not a run directory"):
        Study.open(tmp_path)
    with pytest.raises(RunFault, match="is not a run directory"):
        Study.open(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []
