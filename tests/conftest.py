"""Fixtures shared by all tests."""

import importlib.util
import os
from pathlib import Path

import pytest

SLOW_FIXTURES = {
    "local_ray": "ray",
    "finished_run": "runs",
    "two_nodes": "runs",
    "materials": "runs",
    "answered": "answers",
}
"""Fixtures that start Ray, run a sweep or score a test split, and the group of tests that share them on one worker."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts Ray or a whole run as slow, and keep it together on one worker."""
    for item in items:
        groups = [group for name, group in SLOW_FIXTURES.items() if name in getattr(item, "fixturenames", ())]
        if groups:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.xdist_group(groups[0]))


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder with real radiology samples (`formats/`, `data/`); tests that need it skip where it is absent."""
    root = Path(os.environ.get("MEDCAP_SAMPLE_DATA", Path(__file__).parents[2] / "shared"))
    if not (root / "formats").is_dir():
        pytest.skip(f"no real sample data at {root}; set MEDCAP_SAMPLE_DATA to the folder that holds it")
    return root


@pytest.fixture(scope="session")
def tiny_blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a very small BLIP of random weights, which says something else about every image."""
    from tests.support.tiny_blip import save_tiny_blip

    return save_tiny_blip(tmp_path_factory.mktemp("tiny-blip"), seed=2, initializer_range=0.5)


@pytest.fixture(scope="session")
def head_template() -> Path:
    """MNI152, symmetric, T1-weighted at 1 mm, as nilearn carries it."""
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        pytest.skip("nilearn, which carries the MNI152 template, is not installed")
    data = Path(found.origin).parent / "datasets" / "data"
    path = next(data.glob("mni_icbm152_t1*.nii.gz"), None)
    if path is None:
        pytest.skip(f"this version of nilearn has no T1 template in {data}")
    return path
