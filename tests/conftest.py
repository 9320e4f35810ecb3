"""Fixtures shared by all tests."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

SLOW_FIXTURES = {"local_ray": "ray", "meteor": "ray", "finished_run": None, "two_nodes": None, "materials": None}
"""Fixtures that start Ray or METEOR or run a sweep, and the group of tests that share one on one worker."""


def pytest_configure(config: pytest.Config) -> None:
    """Collect each folder in one go; else pytest 9.1 (not 9.0 nor 9.2) loses the fixtures of its conftest.py."""
    config.args.sort(key=os.path.abspath)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what is long or starts Ray or a run, keep what shares a Ray on one worker, begin with the slow."""
    for item in items:
        used = [name for name in SLOW_FIXTURES if name in getattr(item, "fixturenames", ())]
        if used or item.get_closest_marker("long"):  # `-m "not slow"` takes the place of `-m "not long"`
            item.add_marker(pytest.mark.slow)
        groups = [group for name in used if (group := SLOW_FIXTURES[name])]
        if groups:
            item.add_marker(pytest.mark.xdist_group(groups[0]))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


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
def meteor() -> Iterator[None]:
    """One METEOR for all tests that score captions: starting it takes seconds, so it outlives who closes it."""
    from medcap_core.scoring.meteor import load_meteor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load_meteor(), "close", lambda: None)
        yield
    load_meteor().close()


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
