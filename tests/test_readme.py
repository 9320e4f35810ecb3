"""README.md and docs/: commands parse, and the files, modules, names and space files they give exist."""

import ast
import importlib
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import typer
import yaml

from medcap_core.config import TrialConfig
from sweep.cli import COMMANDS
from sweep.space import load_space
from sweep.space.overrides import apply_overrides
from sweep.space.schema import SETTINGS, Resources
from sweep.space.yaml_text import find_space
from tests.support import REPOSITORY
from tests.support.real_runs import wait_until

README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]

PACKAGES = ("medcap_core", "sweep", "benchmarks")
FOLDERS = (*PACKAGES, "search_spaces", "tests", "docs", ".ci")
OTHER_COMMANDS = {"pip", "pytest", "ruff", "mypy"}
RUN_FILES = {"space.yaml", "best.yaml", "SPACE.yaml"}
REASONS = ("needs a download", "needs a GPU", "needs data on request", "takes minutes")
OTHER_FLAGS = {"--index-url", "--help", "--check"}

FENCE = re.compile(
    r"^(?:<!-- test: (?P<mark>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Fence:
    """One fenced block of a page."""

    page: str
    language: str
    mark: str | None
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a console block."""
        lines = self.text.replace("\\\n", " ").splitlines()
        parts = [part for line in lines if line.startswith("$ ") for part in line.removeprefix("$ ").split(" && ")]
        return [find_module(shlex.split(part, comments=True)) for part in parts]


def find_module(words: list[str]) -> list[str]:
    """The words of a command, `medcap NAME` written as `python -m MODULE`."""
    if words[0] != "medcap":
        return words
    module, _ = COMMANDS[words[1]]
    return ["python", "-m", module.removesuffix(".__main__"), *words[2:]]


def read_fences(page: Path) -> list[Fence]:
    text = page.read_text(encoding="utf-8")
    return [Fence(page.name, found["language"], found["mark"], found["text"]) for found in FENCE.finditer(text)]


def read_inline(page: Path) -> list[str]:
    """What stands between backticks outside of fenced blocks."""
    return INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


FENCES = [fence for page in PAGES for fence in read_fences(page)]
CONSOLES = [fence for fence in FENCES if fence.language == "console"]


@cache
def load_command(module_name: str) -> click.Command:
    """The click command behind `python -m MODULE`."""
    try:
        module = importlib.import_module(f"{module_name}.__main__")
    except ModuleNotFoundError:
        module = importlib.import_module(module_name)
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(module.main)
    return typer.main.get_command(app)


def parse(words: list[str]) -> dict[str, Any]:
    """The parameters of `python -m MODULE ...`, nothing run; click raises UsageError for what it does not know."""
    module_name, *arguments = words[2:]
    return load_command(module_name).make_context(module_name, arguments).params


def describe(fence: Fence) -> str:
    return f"{fence.page}: {fence.text.splitlines()[0]}"


@pytest.mark.parametrize("fence", CONSOLES, ids=describe)
def test_a_console_block_is_run_by_a_test_or_says_why_not(fence: Fence) -> None:
    assert fence.mark is not None, "mark it: <!-- test: run by tests/... --> or <!-- test: needs a download -->"
    if fence.mark in REASONS:
        return
    path = REPOSITORY / fence.mark.removeprefix("run by ")
    assert path.is_file(), fence.mark
    text = path.read_text(encoding="utf-8")
    for words in fence.commands:
        if words[:2] == ["python", "-m"]:
            assert words[2] in text or (words[2] == "sweep.run" and "start_run(" in text), words[2]


@pytest.mark.parametrize("fence", CONSOLES, ids=describe)
def test_the_commands_of_a_console_block_parse(fence: Fence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert fence.commands
    for words in fence.commands:
        if words[:2] != ["python", "-m"]:
            assert words[0] in OTHER_COMMANDS
            assert set(re.findall(r"\[(\w+)\]", " ".join(words))) <= set(extras)
            continue
        given = parse(words)
        if words[2] == "sweep.run" and given["space"] is not None:
            space = load_space(find_space(str(given["space"])))
            trials = given["trials"] and int(given["trials"])
            names = ("data", "model", "seed", "max_concurrent")
            apply_overrides(
                space, trials=trials, set_values=given["set_"] or [], **{name: given[name] for name in names}
            )


def list_inline_commands() -> list[str]:
    commands = [text for page in PAGES for text in read_inline(page) if re.match(r"python -m |medcap \w+ ", text)]
    return [text for text in dict.fromkeys(commands) if len(text.split()) > 2]


@pytest.mark.parametrize("text", list_inline_commands())
def test_a_command_in_a_sentence_parses(text: str) -> None:
    words = find_module(shlex.split(text))
    if len(words) > 3:
        parse(words)
    else:
        assert importlib.util.find_spec(words[2]), words[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
class TestPage:
    def test_linked_files_exist(self, page: Path) -> None:
        targets = [target for target in LINK.findall(page.read_text("utf-8")) if "://" not in target]
        assert [target for target in targets if not (page.parent / target).exists()] == []

    def test_named_paths_exist(self, page: Path) -> None:
        texts = [text for text in read_inline(page) if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./*-]*", text)]
        assert [text for text in texts if not list(REPOSITORY.glob(text))] == []
        spaces = [text for text in read_inline(page) if re.fullmatch(r"\w+\.yaml", text) and text not in RUN_FILES]
        assert [text for text in spaces if not (REPOSITORY / "search_spaces" / text).is_file()] == []

    def test_named_modules_exist(self, page: Path) -> None:
        for text in read_inline(page):
            if re.match(rf"({'|'.join(PACKAGES)})\.\w", text):
                assert is_importable(text.split()[0]), text

    def test_named_flags_exist(self, page: Path) -> None:
        commands = ("sweep.run", "sweep.report", "sweep.best", "sweep.explain", "medcap_core.caption",
                    "medcap_core.data.cohorts")  # fmt: skip
        known = {flag for name in commands for parameter in load_command(name).params for flag in parameter.opts}
        named = {flag for text in read_inline(page) for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
        named -= {
            flag for text in read_inline(page) if "benchmarks." in text for flag in re.findall(r"--[a-z-]+", text)
        }
        assert named - known - OTHER_FLAGS == set()

    def test_named_settings_exist(self, page: Path) -> None:
        known = {*SETTINGS, *TrialConfig.model_fields, *(f"resources.{name}" for name in Resources.model_fields)}
        named = {key for text in read_inline(page) for key in re.findall(r"--set ([\w.]+)=", text)}
        assert {key for key in named - known if not key.startswith(("models.", "resources."))} <= {"key", "KEY"}

    def test_named_identifiers_stand_in_the_code(self, page: Path) -> None:
        named = {word for text in read_inline(page) for word in re.findall(r"\b\w+\b", text)}
        named = {
            word for word in named if "_" in word.rstrip("_") or re.fullmatch(r"[A-Z][a-z]+([A-Z][a-z0-9]*)+", word)
        }
        assert named - read_identifiers() == set()


def is_importable(name: str) -> bool:
    """Whether it is a module, or a module's attribute."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        parent, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(parent), attribute)
    return True


@cache
def read_identifiers() -> set[str]:
    """All words of the project's code, tests and space files, and the names of their files."""
    paths = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*") if path.suffix in (".py", ".yaml")]
    texts = (path.read_text(encoding="utf-8") for path in paths if path != Path(__file__))
    return {word for text in texts for word in re.findall(r"\w+", text)} | {
        part for path in paths for part in path.relative_to(REPOSITORY).with_suffix("").parts
    }


@pytest.mark.parametrize("fence", [fence for fence in FENCES if fence.language == "yaml"], ids=describe)
def test_a_space_file_resolves(fence: Fence, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    has_name = re.search(r"^name:", fence.text, re.MULTILINE)
    path.write_text(fence.text if has_name else f"name: excerpt\n{fence.text}", encoding="utf-8")
    load_space(path)


@pytest.mark.parametrize("fence", [fence for fence in FENCES if fence.language == "python"], ids=describe)
def test_python_compiles(fence: Fence) -> None:
    ast.parse(fence.text)


def test_the_readme_is_short() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert max(len(fence.text.splitlines()) for fence in read_fences(README)) <= 15
    assert all(path.stat().st_size < 150_000 for path in (REPOSITORY / "docs" / "images").iterdir())


def test_the_readme_names_every_ready_space_and_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    names = [path.name for path in (REPOSITORY / "search_spaces").glob("*.yaml")]
    assert [name for name in names if f"`{name}`" not in text] == []
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text] == []


def test_the_ready_files_of_clusters_are_whole() -> None:
    """As far as can be told without the services: they parse, and their commands and settings are this project's."""
    examples = REPOSITORY / "docs" / "examples"
    texts = {path.name: path.read_text("utf-8") for path in examples.iterdir()}
    manifest = yaml.safe_load(texts["rayjob.yaml"])
    assert manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert "\n" not in manifest["spec"]["entrypoint"]
    machines = yaml.safe_load(texts["ray_up.yaml"])
    assert machines["available_node_types"][machines["head_node_type"]]["resources"] == {"CPU": 0}
    (ray,) = importlib.util.find_spec("ray").submodule_search_locations
    jsonschema.validate(machines, json.loads((Path(ray) / "autoscaler" / "ray-schema.json").read_text()))
    subprocess.run(["bash", "-n", examples / "slurm.sh"], check=True)
    for text in texts.values():
        for command in re.findall(r"medcap run .*?(?=\|\||&$|'\n|\n\S|\Z)", text.replace("\\\n#", " "), re.S | re.M):
            words = [word for word in shlex.split(command) if word not in ("||", "&")]
            parse(find_module(words))
        for name in re.findall(r"--set resources\.(\w+)=", text):
            assert name in Resources.model_fields


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_the_slurm_script_requeues_a_job_that_was_not_cancelled(state: str, tmp_path: Path) -> None:
    """`scancel` sends SIGTERM too, but leaves the job COMPLETING; stand-ins for what the script calls."""
    stand_ins = {
        "scontrol": '[ "$1" = show ] && echo node1 || touch requeued',
        "squeue": f"echo {state}",
        "python": "echo 1",
        "ray": "",
        "srun": "",
        "medcap": '[ "$1" = run ] || exit 2; sleep 60 & trap "kill $!; exit 130" TERM; touch started; wait',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o700)
    slurm = {"SLURM_JOB_NODELIST": "node1", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_NUM_NODES": "1"}
    environment = slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    script = REPOSITORY / "docs" / "examples" / "slurm.sh"
    with subprocess.Popen(["bash", script], cwd=tmp_path, env=environment, text=True) as job:
        wait_until((tmp_path / "started").exists, "the sweep started", job)
        job.terminate()
    assert job.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "requeued").exists() == (state == "RUNNING")
