"""The start of Ray where its folder or the machine makes trouble."""

import os
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest
import ray

from medcap_core.errors import RunFault
from sweep.execution.ray_start import MOST_STARTS, list_temporary_folders, start_ray


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what a start sets, and leave the Ray of other tests alone."""
    monkeypatch.setenv("RAY_TMPDIR", "")
    monkeypatch.setattr(ray, "shutdown", lambda: None)


@pytest.mark.parametrize("kind", ["long", "a file"])
def test_a_folder_that_ray_cannot_use_gives_way_to_a_short_one_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / ("a" * 60 if kind == "long" else "b")
    if kind == "long":
        folder.mkdir()
    else:
        folder.write_text("")
    monkeypatch.setenv("TMPDIR", str(folder))
    (own,) = list_temporary_folders()
    assert own is not None
    assert own.stat().st_uid == os.getuid()
    assert own.stat().st_mode & 0o777 == 0o700
    assert len(str(own)) < 39


def test_a_folder_that_serves_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert list_temporary_folders()[0] is None


@pytest.mark.parametrize(
    ("error", "is_wanted", "num_starts", "remedy"),
    [
        (Exception("The node timed out.\nMore."), True, MOST_STARTS, "when less runs on this machine"),
        (Exception("The node timed out.\nMore."), False, 1, "when less runs on this machine"),
        (PermissionError(13, "Permission denied", "/tmp/ray/x"), True, 2, "set RAY_TMPDIR to a short folder of your"),
    ],
)
def test_what_ray_raises_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, is_wanted: bool, num_starts: int, remedy: str
) -> None:
    """And nothing is started again that nobody waits for."""
    starts, wanted = [], Event()
    if is_wanted:
        wanted.set()

    def init(**_: object) -> None:
        starts.append(os.environ.get("RAY_TMPDIR"))
        raise error

    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(ray, "init", init)
    with ExitStack() as threads, pytest.raises(RunFault, match=r"^Ray could not start \([^\n]+\); ") as raised:
        start_ray(threads, wanted)
    (fault,) = raised.value.faults
    assert remedy in fault
    assert "\n" not in fault
    assert len(starts) == num_starts
