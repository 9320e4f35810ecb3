"""Keys on a real terminal, and the mode in which it is left."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import REPOSITORY
from tests.support.real_runs import wait_until
from tests.support.terminals import Terminal

LEAVES = """
import os, signal, sys, time
from sweep.process.interrupts import install_interrupt_handlers
from sweep.terminal.keys import reading_keys

install_interrupt_handlers()
for way in sys.argv[1:]:
    try:
        with reading_keys() as read_pressed:
            print(way, flush=True)
            pressed = ""
            while "x" not in pressed:
                pressed += read_pressed()
            print("read", way, pressed, flush=True)
            if way == "by an exception":
                raise ValueError
            if way == "by SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            while way.startswith("by"):
                time.sleep(0.01)
    except (ValueError, KeyboardInterrupt):
        pass
    print("left", way, flush=True)
    sys.stdin.readline()
"""

SHOWS = """
import signal
from rich.console import Console
from medcap_core.objective import Objective
from sweep.process.interrupts import install_interrupt_handlers
from sweep.terminal.progress import SweepProgress
from sweep.terminal.row import TrialRow
from sweep.terminal.view import SweepView

install_interrupt_handlers()
row = TrialRow("t01", "lora", "RUNNING", 1, 4, 0.5, 0.5, 0.0, sample=("a caption", "its reference"))
view = SweepView(Console(), SweepProgress(1, Objective()), name="lora")
with view:
    view.update([row])
    signal.pause()
"""

READS_NOTHING = """
from sweep.terminal.keys import reading_keys
with reading_keys() as read_pressed:
    print(read_pressed)
"""


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    yield opened
    opened.close()


def start(terminal: Terminal, script: str, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=REPOSITORY, **terminal.options)


def test_the_terminal_is_put_back_on_every_way_out(terminal: Terminal) -> None:
    ways = ("at its end", "by an exception", "by Ctrl-C", "by SIGTERM")
    process = start(terminal, LEAVES, *ways)

    def wait_for(line: str) -> None:
        wait_until(lambda: f"{line}\r\n" in terminal.written, line, process)

    for way in ways:
        wait_for(way)
        assert not terminal.takes_lines
        terminal.press("ax")
        wait_for(f"read {way} ax")
        if way == "by Ctrl-C":
            terminal.press("\x03")
        wait_for(f"left {way}")
        assert terminal.takes_lines
        terminal.press("\n")
    assert process.wait(timeout=30) == 0


@pytest.mark.slow
def test_a_key_hides_and_shows_the_captions(terminal: Terminal) -> None:
    process = start(terminal, SHOWS)

    def shows_reference(expected: bool) -> bool:
        frames = terminal.written[seen:].split("c: captions")
        return len(frames) > 2 and ("its reference" in frames[-2]) is expected

    for expected in (True, False, True):
        seen = len(terminal.written)
        wait_until(lambda expected=expected: shows_reference(expected), "a frame was drawn")
        terminal.press("c")
    assert not terminal.takes_lines
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    assert terminal.takes_lines
    assert "KeyboardInterrupt" in terminal.written


@pytest.mark.parametrize("is_terminal", [False, True])
def test_no_key_is_taken_from_others(terminal: Terminal, is_terminal: bool) -> None:
    """Where standard input is a file, or the terminal of another job."""
    stdin = terminal.options["stdin"] if is_terminal else subprocess.DEVNULL
    command = [sys.executable, "-c", READS_NOTHING]
    ended = subprocess.run(command, stdin=stdin, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert ended.stdout == "None\n"
    assert terminal.takes_lines
