"""Processes that are there, with all imports made, before Tune asks for one."""

import os
import sys

import psutil
import pytest
from ray.tune.execution.class_cache import _ActorClassCache

from sweep.execution.ready_processes import find_trial_environment, start_ready_processes
from tests.support.real_runs import family, wait_until


class Trial:
    """Stands for what Tune makes of a trial: asked for by Tune's own means."""

    def tell(self) -> tuple[int, bool]:
        return os.getpid(), "sweep.execution.trial" in sys.modules


def find_idle_processes() -> set[int]:
    names = {process.pid: process.name() for process in family(os.getpid()) if psutil.pid_exists(process.pid)}
    return {pid for pid, name in names.items() if name.startswith("ray::IDLE")}


@pytest.mark.usefixtures("local_ray")
def test_a_trial_takes_a_process_that_is_ready() -> None:
    import ray

    before = find_idle_processes()
    start_ready_processes(1, find_trial_environment())
    (ready,) = wait_until(lambda: find_idle_processes() - before, "a process was ready")
    trial = _ActorClassCache().get(Trial).remote()
    assert ray.get(trial.tell.remote()) == (ready, True)
