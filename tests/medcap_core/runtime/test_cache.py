"""Where caches live, and what is said when they cannot be written."""

import errno
from pathlib import Path

import pytest

from medcap_core.errors import ConfigFault, DataFault
from medcap_core.runtime.cache import cache_root, check_free_space, format_size, guard_cache_writes, write_atomically


def test_the_variable_wins_over_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "here"))
    assert cache_root() == tmp_path / "here"
    monkeypatch.delenv("MEDCAP_CACHE")
    assert cache_root().name == "medcap-sweep"
    assert cache_root().is_absolute()


def test_a_relative_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("caches/here", "~nobody-here/caches"):
        monkeypatch.setenv("MEDCAP_CACHE", given)
        with pytest.raises(ConfigFault, match=f"MEDCAP_CACHE must be an absolute path, but it is '{given}'"):
            cache_root()


def test_a_full_disk_and_a_closed_folder_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataFault, match=r"is full.*set MEDCAP_CACHE"), guard_cache_writes(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DataFault, match=r"cannot be written.*set MEDCAP_CACHE"), guard_cache_writes(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "x"))


def test_other_faults_pass(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError), guard_cache_writes(tmp_path):
        raise TimeoutError(errno.ETIMEDOUT, "timed out")
    with pytest.raises(PermissionError), guard_cache_writes(tmp_path / "cache"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "source" / "train.parquet"))


def test_a_file_in_the_way_of_the_cache_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataFault, match="cannot be written"), guard_cache_writes(tmp_path / "file" / "cache"):
        (tmp_path / "file" / "cache").mkdir(parents=True)


def test_free_space_is_checked(tmp_path: Path) -> None:
    check_free_space(tmp_path, 0, "Decoding")
    with pytest.raises(DataFault, match=r"Decoding needs 1000000\.0 TB in .* 67 MB are left .* only .*B are free"):
        check_free_space(tmp_path, 10**18, "Decoding")


def test_atomic_writing_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_atomically(path, "one")
    write_atomically(path, "zwei ü")
    assert path.read_text("utf-8") == "zwei ü"
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.json"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (512, "512 B"),
        (3_400_000, "3.4 MB"),
        (9_960_000, "10 MB"),
        (999_600, "1.0 MB"),
        (1.8e11, "180 GB"),
        (2e12, "2.0 TB"),
    ],
)
def test_size(size: float, text: str) -> None:
    assert format_size(size) == text
