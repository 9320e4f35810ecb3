"""The console script `medcap`: the commands of the modules under one name, imported when called."""

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sweep.cli import COMMANDS, app
from sweep.space.yaml_text import list_ready_spaces
from tests.support import REPOSITORY

LIST_IMPORTS = """
import sys
from sweep.cli import app
try:
    app(["--help"])
finally:
    print(*sorted({"torch", "ray", "pandas", "numpy", "transformers"} & set(sys.modules)))
"""


def test_help_lists_the_commands_and_imports_none_of_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIST_IMPORTS], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120
    )
    *lines, imported = done.stdout.split("\n")[:-1]
    assert imported == ""
    assert all(any(f" {name} " in line for line in lines) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_that_of_its_module(name: str) -> None:
    command = typer.main.get_command(import_module(COMMANDS[name][0]).app)
    assert command.name == name
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert f"{name} [OPTIONS]" in result.output
    assert (command.help or "").split()[0] in result.output


def test_faults_and_exit_codes_are_those_of_the_module(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not a run directory" in result.stderr
    unknown = CliRunner().invoke(app, ["rnu"])
    assert unknown.exit_code == 2
    assert "run" in unknown.stderr


def test_a_ready_space_runs_by_name_in_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sweep.cli", "run", "lora", "--set", "num_epochs=many"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: command line: --set num_epochs=many: 'many' is not a whole number")


def test_pyproject_names_the_script_and_ships_the_ready_spaces() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, attribute = project["project"]["scripts"]["medcap"].partition(":")
    assert getattr(import_module(module), attribute) is app
    setuptools = project["tool"]["setuptools"]
    (folder,) = {path.parent for path in list_ready_spaces().values()}
    assert folder.name in setuptools["packages"]["find"]["include"]
    assert setuptools["package-data"][folder.name] == ["*.yaml"]
