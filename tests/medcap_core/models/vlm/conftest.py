"""One very small checkpoint of each architecture, made once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from medcap_core.runtime.libraries import set_up_libraries
from tests.support.tiny_vlms import FURTHER, MAKERS
from tests.support.torchvision_vlms import WITH_TORCHVISION

set_up_libraries()


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a checkpoint by its name."""
    makers = MAKERS | FURTHER | WITH_TORCHVISION
    return cache(lambda name: makers[name](tmp_path_factory.mktemp(f"{name}-"), seed=1))


@pytest.fixture
def folder(request: pytest.FixtureRequest, folder_of: Callable[[str], Path]) -> Path:
    """The folder of the checkpoint that a test is parametrized with."""
    return folder_of(request.param)
