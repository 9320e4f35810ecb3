"""How commands end: what is told on standard error, and with which exit code."""

import errno
import gc
import getpass
import os
from pathlib import Path

import pytest
import typer

from medcap_core.errors import ConfigFault, OutOfMemory, RunFault
from medcap_core.runtime.command_line import EXIT_USER_FAULT, exit_on_fault, quick_imports
from medcap_core.runtime.files import name_refused_files


@pytest.mark.parametrize(
    ("error", "exit_code", "told"),
    [
        (ConfigFault(["a: no; yes.", "b: no; yes."]), 2, "error: a: no; yes.\nerror: b: no; yes.\n"),
        (OutOfMemory("No memory left."), 1, "error: No memory left.\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_ends_without_a_traceback(
    error: BaseException, exit_code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ending, exit_on_fault():
        raise error
    assert (ending.value.exit_code, capsys.readouterr().err) == (exit_code, told)


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_fault():
        _ = 1 // 0


def test_a_user_without_a_home_is_told_to_set_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")  # so that what is set below is undone
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 987_654)
    with pytest.raises(typer.Exit) as raised, exit_on_fault():
        raise AssertionError("not reached")
    assert raised.value.exit_code == EXIT_USER_FAULT
    error = capsys.readouterr().err
    assert error == (
        "error: user 987654 has no home, and HOME is not set: set HOME to the absolute path of a folder that can be "
        "written.\n"
    )
    assert getpass.getuser() == "user-987654"
    monkeypatch.setenv("HOME", "/tmp")
    with exit_on_fault():
        pass


def test_a_folder_that_may_not_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed)  # root may enter any
    for file in (closed / "below" / "table.csv", closed):
        with pytest.raises(RunFault, match=f"^{closed}: "), name_refused_files():
            raise PermissionError(errno.EACCES, "Permission denied", str(file))


def test_what_is_imported_first_is_frozen_and_nothing_later() -> None:
    before = gc.get_freeze_count()
    gc.unfreeze()
    try:
        with quick_imports():
            assert not gc.isenabled()
        frozen = gc.get_freeze_count()
        with quick_imports():  # of the second trial of a process, whose model must not stay for good
            assert gc.isenabled()
        assert frozen > 0
        assert gc.get_freeze_count() <= frozen
    finally:
        if not before:
            gc.unfreeze()
