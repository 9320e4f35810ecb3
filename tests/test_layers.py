"""The core stands on its own: `sweep` imports `medcap_core`, never the other way round, and Ray stays outside."""

import ast
import subprocess
import sys
from pathlib import Path

import medcap_core

ROOT = Path(medcap_core.__file__).parent
FORBIDDEN = {"ray", "optuna", "sweep"}

IMPORT_ALL = """
import pkgutil, sys
import medcap_core
names = [module.name for module in pkgutil.walk_packages(medcap_core.__path__, "medcap_core.")]
for name in names:
    __import__(name)
print(len(names), *sorted({name.partition(".")[0] for name in sys.modules} & {"ray", "optuna", "sweep"}))
"""


def find_imports(path: Path) -> set[str]:
    """Top-level packages that a file names in any import statement, wherever in the file it stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("medcap_core" if node.level else str(node.module).partition(".")[0])
    return found


def test_no_file_of_the_core_imports_what_lies_above_it() -> None:
    imports = {path.relative_to(ROOT).as_posix(): find_imports(path) for path in sorted(ROOT.rglob("*.py"))}
    assert "torch" in imports["training.py"]
    assert {"transformers", "medcap_core"} <= imports["models/blip.py"]
    assert {name: found & FORBIDDEN for name, found in imports.items() if found & FORBIDDEN} == {}


def test_importing_the_whole_core_loads_nothing_above_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT.parent, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    num_modules, *loaded = done.stdout.split()
    assert int(num_modules) > 30
    assert loaded == []
