"""An interruption that others' code swallows is not lost."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.real_runs import REPOSITORY

SWALLOWED = """
import os, signal, sys
from sweep.process.interrupts import install_interrupt_handlers, raise_if_interrupted
from sweep.terminal.view import SweepView
from tests.support.real_runs import quiet_view

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):  # Python raises what the signal brings here, and drops it
            pass

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
install_interrupt_handlers()
view = quiet_view()
raise_if_interrupted()
view.step("anything", 0, 2)
swallows = Swallows()
del swallows
print("swallowed", flush=True)
try:
    view.step("anything", 1, 2)
except KeyboardInterrupt:
    print("raised", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_swallowed_interruption_is_raised_at_the_next_step(number: signal.Signals) -> None:
    command = [sys.executable, "-c", SWALLOWED, str(int(number))]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["swallowed", "raised"]
    assert "Exception ignored" in run.stderr


TERMINATED = """
import os, signal, sys, time
from sweep.process.environment import set_environment
from sweep.process.interrupts import install_interrupt_handlers, take_back_termination

set_environment(None)
install_interrupt_handlers()
from sweep.execution.cluster import connect

try:
    with connect(None) as starting:
        starting.result()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            time.sleep(4)  # a slow end, on a busy machine
        take_back_termination()
        print("taken back", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
def test_a_slow_end_after_termination_is_not_aborted() -> None:
    """Ray's handler of SIGTERM, which Ray puts before ours, has the process aborted after 3 s."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "MEDCAP_DASHBOARD": "0"}
    command = [sys.executable, "-c", TERMINATED]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 130
    before, _, after = run.stderr.partition("taken back")
    assert "SIGTERM received" in before
    assert "SIGTERM received" not in after


def test_a_command_in_the_background_of_a_shell_goes_on_ignoring_the_key() -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "from sweep.process.interrupts import install_interrupt_handlers; "
        "install_interrupt_handlers(); assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=True)
