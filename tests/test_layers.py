"""The import order: what each folder may import, and where Ray and Optuna may be named.

`docs/architecture.md` draws it. A file may import its own folder and what stands in an earlier row.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.support import REPOSITORY

ORDER: dict[str, list[set[str]]] = {
    "medcap_core": [
        {"errors", "scoring.options"},
        {"scoring.registry"},
        {"objective"},
        {"config"},
        {"runtime"},
        {"data"},
        {"scoring", "models"},
        {"inference", "attention"},
        {"training"},
        {"captioning", "convert", "pretraining"},
        {"caption"},
    ],
    "sweep": [
        {"process", "space"},
        {"study"},
        {"tables"},
        {"terminal", "report"},
        {"execution"},
        {"preparation", "choice"},
        {"held_out", "dry_run"},
        {"explain"},
        {"runner"},
        {"run", "best", "status"},
        {"cli"},
    ],
}
"""Rows of folders and files; names in one row do not import each other. `scoring.options` has types alone, and
`scoring.registry` imports a score as it is asked for."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "ray": ("sweep.execution",),
    "optuna": ("sweep.study", "sweep.report.optuna_plots"),
}

IMPORT_ALL = """
import pkgutil, sys
import medcap_core
names = [module.name for module in pkgutil.walk_packages(medcap_core.__path__, "medcap_core.")]
for name in names:
    __import__(name)
print(len(names), *sorted({name.partition(".")[0] for name in sys.modules} & {"ray", "optuna", "sweep"}))
"""


@cache
def read_modules() -> dict[str, ast.Module]:
    """The modules of both packages by name; a package goes by the name of its folder."""
    paths = [path for package in ORDER for path in sorted((REPOSITORY / package).rglob("*.py"))]
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in zip(names, paths, strict=True)}


@cache
def list_imports() -> dict[str, list[str]]:
    """What each module imports."""
    return {module: list(find_imports(tree)) for module, tree in read_modules().items()}


def find_imports(tree: ast.AST) -> Iterator[str]:
    """Modules that a file names in any import statement, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and not node.level, "imports are written in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in read_modules() else node.module


def find_row(module: str) -> tuple[int, str]:
    """The row of a module and its name there; light modules come before their folder."""
    package, _, rest = module.partition(".")
    named = [(row, name) for row, names in enumerate(ORDER[package]) for name in names]
    for row, name in sorted(named, key=lambda item: -len(item[1])):
        if rest == name or rest.startswith(f"{name}."):
            return row, name
    raise AssertionError(f"{module} has no place in the import order")


def find_violations(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """Every import that goes against the order, as `importer -> imported`."""
    found = []
    for module, names in imports.items():
        if "." not in module:
            continue
        row, name = find_row(module)
        for imported in names:
            package = imported.partition(".")[0]
            places = ONLY_IN.get(package)
            if places and not module.startswith(places):
                found.append(f"{module} -> {imported}")
            if package not in ORDER or "." not in imported:
                continue
            other_row, other_name = find_row(imported)
            is_own = module.partition(".")[0] == package
            if (module.startswith("medcap_core.") and not is_own) or (
                is_own and name != other_name and other_row >= row
            ):
                found.append(f"{module} -> {imported}")
    return found


def test_no_file_imports_what_stands_after_it() -> None:
    assert find_violations(list_imports()) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("medcap_core.data.splits", "from medcap_core.models import Captioner"),
        ("medcap_core.config", "import sweep.space"),
        ("sweep.study.study", "import ray.tune"),
        ("sweep.tables.formats", "import optuna"),
        ("sweep.space.points", "from sweep.study import study"),
    ],
)
def test_one_wrong_import_is_found(module: str, line: str) -> None:
    wrong = find_imports(ast.parse(f"def wrong() -> None:\n    {line}\n"))
    assert len(find_violations({module: [*list_imports()[module], *wrong]})) == 1


def test_a_space_is_reached_through_its_door() -> None:
    inner = [
        f"{module} -> {name}"
        for module, names in list_imports().items()
        for name in names
        if name.startswith("sweep.space.") and not module.startswith("sweep.space")
    ]
    assert inner == []


def test_no_two_files_import_each_other() -> None:
    graph = {module: set(find_top_imports(tree)) - {module} for module, tree in read_modules().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"files import each other: {' -> '.join(error.args[1])}")


def find_top_imports(tree: ast.Module) -> Iterator[str]:
    """Modules of both packages that a file imports as it is loaded."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (name for name in find_imports(node) if name in read_modules())


@pytest.mark.slow
def test_importing_the_whole_core_loads_nothing_above_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    num_modules, *loaded = done.stdout.split()
    assert int(num_modules) > 30
    assert loaded == []
