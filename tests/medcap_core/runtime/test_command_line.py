"""How commands end: what is told on standard error, and with which exit code."""

import pytest
import typer

from medcap_core.errors import ConfigFault, OutOfMemory
from medcap_core.runtime.command_line import exit_on_fault


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
