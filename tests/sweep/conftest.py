"""Fixtures for tests of the sweep."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from sweep.process.environment import set_environment
from sweep.space import SearchSpace, dump_space
from sweep.study.mirror import find_place
from sweep.study.study import Study
from tests.support.real_runs import SPACE, Materials, ended_afterwards, start_run, watching_listening, write_images
from tests.support.small_runs import space
from tests.support.tiny_blip import save_tiny_blip

if TYPE_CHECKING:
    from sweep.execution.cluster import ClusterInfo

set_environment(None)  # before a test module imports Ray, which reads it then


@pytest.fixture(scope="session")
def empty_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Study]:
    """Creates a study; all share one empty database, whose tables take long to make."""
    template = tmp_path_factory.mktemp("template") / "run"
    Study.create(template, space(name="any")).close()

    def create(place: Path | str, wanted: SearchSpace) -> Study:
        renamed = wanted.model_copy(update={"name": "any"})
        directory, _ = find_place(place)
        shutil.copytree(template, directory)
        (directory / "space.yaml").write_text(dump_space(renamed))
        return Study.open(place)

    return create


@pytest.fixture
def create(empty_runs: Callable[..., Study], tmp_path: Path) -> Iterator[Callable[..., Study]]:
    opened: list[Study] = []

    def create_in(wanted: SearchSpace, name: str = "run") -> Study:
        opened.append(empty_runs(tmp_path / name, wanted))
        return opened[-1]

    yield create_in
    for study in opened:
        study.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that the workers of pytest-xdist share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def materials(shared: Path) -> Iterator[Materials]:
    """A tiny model and images for real runs, made by the first worker; the caches of the session lie beside them."""
    made = Materials(shared / "materials")
    with FileLock(shared / "materials.lock"):
        if not made.home.exists():
            write_images(made.images)
            save_tiny_blip(made.model, initializer_range=0.3)
            made.space.write_text(SPACE)
            made.working_directory.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCAP_CACHE", made.environment["MEDCAP_CACHE"])
        yield made


@dataclass(frozen=True)
class FinishedRun:
    """One whole run by the command line, one trial at a time, and what was seen of it."""

    directory: Path
    exit_code: int
    stdout: str
    stderr: str
    listening: set[tuple[str, str]]


@pytest.fixture(scope="session")
def finished_run(materials: Materials, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run made by the first worker that asks for it, of which each has a copy."""
    seen = shared / "finished_run.json"
    with FileLock(shared / "finished_run.lock"):
        if not seen.exists():
            flags = ("--data", "../images", "--model", "../model", "--max-concurrent", 1)
            environment = materials.environment | {"MEDCAP_DASHBOARD": "1"}
            process = start_run(materials, materials.space, *flags, env=environment)
            with ended_afterwards(process), watching_listening(process.pid) as listening:
                stdout, stderr = process.communicate()
            seen.write_text(json.dumps([process.returncode, stdout, stderr, sorted(listening)]))
    directory = tmp_path_factory.mktemp("runs") / "tiny-001"
    shutil.copytree(materials.working_directory / "runs" / "tiny-001", directory)
    exit_code, stdout, stderr, found = json.loads(seen.read_text())
    return FinishedRun(directory, exit_code, stdout, stderr, {(name, address) for name, address in found})


@pytest.fixture(scope="session")
def local_ray(materials: Materials) -> Iterator["ClusterInfo"]:
    """Ray in this process, on loopback."""
    from sweep.execution.cluster import connect

    with connect(None) as starting:
        yield starting.result()
