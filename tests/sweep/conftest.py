"""Fixtures for tests of the sweep."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sweep.process.environment import set_environment
from sweep.space import SearchSpace, dump_space
from sweep.study.study import Study
from tests.support.real_runs import SPACE, Materials, ended_afterwards, start_run, watching_listening, write_images
from tests.support.small_runs import space
from tests.support.tiny_blip import save_tiny_blip

set_environment(None)  # before a test module imports Ray, which reads it then


@pytest.fixture(scope="session")
def empty_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, SearchSpace], Study]:
    """Creates a study; all share one empty database, whose tables take long to make."""
    template = tmp_path_factory.mktemp("template") / "run"
    Study.create(template, space(name="any")).close()

    def create(directory: Path, wanted: SearchSpace) -> Study:
        renamed = wanted.model_copy(update={"name": "any"})
        shutil.copytree(template, directory)
        (directory / "space.yaml").write_text(dump_space(renamed))
        return Study.open(directory)

    return create


@pytest.fixture
def create(empty_runs: Callable[[Path, SearchSpace], Study], tmp_path: Path) -> Iterator[Callable[..., Study]]:
    opened: list[Study] = []

    def create_in(wanted: SearchSpace, name: str = "run") -> Study:
        opened.append(empty_runs(tmp_path / name, wanted))
        return opened[-1]

    yield create_in
    for study in opened:
        study.close()


@pytest.fixture(scope="session")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Materials]:
    """A tiny model and images for real runs; the caches of the whole session lie beside them."""
    made = Materials(tmp_path_factory.mktemp("materials"))
    write_images(made.images)
    save_tiny_blip(made.model, initializer_range=0.3)
    made.space.write_text(SPACE)
    made.working_directory.mkdir()
    before = os.environ.get("MEDCAP_CACHE")
    os.environ["MEDCAP_CACHE"] = made.environment["MEDCAP_CACHE"]
    yield made
    del os.environ["MEDCAP_CACHE"]
    if before is not None:
        os.environ["MEDCAP_CACHE"] = before


@dataclass(frozen=True)
class FinishedRun:
    """One whole run by the command line, one trial at a time, and what was seen of it."""

    directory: Path
    exit_code: int
    stdout: str
    stderr: str
    listening: set[tuple[str, str]]


@pytest.fixture(scope="session")
def finished_run(materials: Materials) -> FinishedRun:
    process = start_run(materials, materials.space, "--data", "../images", "--model", "../model", "--max-concurrent", 1)
    with ended_afterwards(process), watching_listening(process.pid) as listening:
        stdout, stderr = process.communicate()
    directory = materials.working_directory / "runs" / "tiny-001"
    return FinishedRun(directory, process.returncode, stdout, stderr, listening)


@pytest.fixture(scope="session")
def local_ray(materials: Materials) -> Iterator[None]:
    """Ray in this process, on loopback."""
    from sweep.execution.cluster import connect

    with connect(None) as starting:
        starting.result()
        yield
