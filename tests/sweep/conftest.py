"""Fixtures for tests of the sweep."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweep.space import SearchSpace, dump_space
from sweep.study import Study
from tests.sweep.small_runs import space


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
