"""What the tests share: the order in which they are collected."""

import pytest

pytest_plugins = ["pytester"]


def test_files_of_a_folder_named_apart_keep_its_fixtures(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take seconds to start again
    pytester.makeconftest("from tests.conftest import pytest_configure")
    pytester.makepyfile(
        **{
            "folder/conftest": "import pytest\n\n@pytest.fixture\ndef given(): pass",
            "folder/test_first": "def test_first(given): pass",
            "test_between": "def test_between(): pass",
            "folder/test_last": "def test_last(given): pass",
        }
    )
    run = pytester.inline_run("folder/test_first.py", "test_between.py", "folder/test_last.py")
    run.assertoutcome(passed=3)
