"""One very small checkpoint of each family, made once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from medcap_core.runtime.libraries import set_up_libraries
from tests.support.tiny_blip import save_tiny_blip
from tests.support.tiny_models import save_tiny_blip2, save_tiny_vit_gpt2

set_up_libraries()

MAKERS: dict[str, Callable[[Path], Path]] = {
    "blip": lambda folder: save_tiny_blip(folder, seed=2, initializer_range=0.5),
    "blip2-opt": lambda folder: save_tiny_blip2(folder, "opt", seed=1),
    "blip2-t5": lambda folder: save_tiny_blip2(folder, "t5", seed=3),
    "instructblip-t5": lambda folder: save_tiny_blip2(folder, "t5", instruct=True, seed=3),
    "instructblip-opt": lambda folder: save_tiny_blip2(folder, "opt", instruct=True, seed=1),
    "vit-gpt2": lambda folder: save_tiny_vit_gpt2(folder, seed=1),
}


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a checkpoint by its name in MAKERS."""
    return cache(lambda name: MAKERS[name](tmp_path_factory.mktemp(name)))


@pytest.fixture
def folder(request: pytest.FixtureRequest, folder_of: Callable[[str], Path]) -> Path:
    """The folder of the checkpoint that a test is parametrized with."""
    return folder_of(request.param)
