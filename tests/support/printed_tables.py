"""Tables of made-up scores as a terminal prints them."""

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from sweep.space import build_space
from sweep.study.results import RunResults, RunStatus
from sweep.study.test_results import TestResults
from sweep.tables.blocks import Table
from sweep.tables.printing import print_table


def build_results(metrics: dict[str, Any], data: str = "phantoms") -> RunResults:
    """A run that has scores of the test split and nothing else."""
    space = build_space({"name": "any", "data": data}, "test")
    return RunResults(Path("run"), space, [], RunStatus.FINISHED, TestResults.model_validate(metrics))


def print_styled(tables: Iterable[Table], width: int = 80, *, is_terminal: bool = True) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=is_terminal, color_system="truecolor")
    for table in tables:
        print_table(console, table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def print_lines(tables: Iterable[Table], width: int = 80, *, is_terminal: bool = True) -> list[str]:
    """Lines without their style and trailing spaces."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", print_styled(tables, width, is_terminal=is_terminal))
    return [line.rstrip() for line in text.splitlines()]
