"""Where the output of libraries goes."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.support.real_runs import REPOSITORY

DIVERTS = """
import os, subprocess, sys
from pathlib import Path
from rich.console import Console
from sweep.process.output import redirect_output
with redirect_output(Path(sys.argv[1]), Console()) as terminal:
    terminal.out("shown", *terminal.size, terminal.is_interactive, highlight=False)
    print("python's noise", flush=True)
    os.write(2, b"a library's noise" + os.linesep.encode())
    subprocess.run(["echo", "a child's noise"])
print("shown after")
"""


def test_noise_goes_to_the_log_and_the_console_to_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    command = [sys.executable, "-c", DIVERTS, log]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    shown, shown_after = ended.stdout.splitlines()
    assert (shown.split()[0], shown.split()[-1], shown_after, ended.stderr) == ("shown", "False", "shown after", "")
    assert sorted(log.read_text().splitlines()) == ["a child's noise", "a library's noise", "python's noise"]


@pytest.mark.parametrize(("columns", "rows", "expected"), [(93, 17, "93 17"), (0, 0, "80 25")])
def test_the_console_knows_the_terminal_it_kept(tmp_path: Path, columns: int, rows: int, expected: str) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    command = [sys.executable, "-c", DIVERTS, tmp_path / "log.txt"]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, check=True, cwd=REPOSITORY,
        env=environment | {"NO_COLOR": "1", "TERM": "xterm"},
    )  # fmt: skip
    assert os.read(ours, 4096).decode().splitlines()[0] == f"shown {expected} True"
    os.close(ours)
    os.close(theirs)
