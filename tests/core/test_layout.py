"""Each package of the engine imports only what stands below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import PROJECT

ENGINE = PROJECT / "plugins" / "module_utils" / "migration"

_PLAN = {"core", "sqlite", "postgres"}
_CONVERT = _PLAN | {"engine.plan"}
_PREPARE = _CONVERT | {"engine.convert"}
_PROOF = _PREPARE | {"engine.prepare"}
_BOTH_WAYS = _PROOF | {"engine.proof"}
_ENGINE = _BOTH_WAYS | {"engine.transfer", "engine.export"}
_WINDOW = {"core", "sqlite", "postgres", "host", "engine.proof"}

# What each package may import, from the ground up.
MAY_IMPORT: Mapping[str, set[str]] = {
    "core": set(),
    "sqlite": {"core"},
    "postgres": {"core"},
    "host": {"core"},
    "engine": set(),
    "engine.plan": _PLAN,
    "engine.convert": _CONVERT,
    "engine.prepare": _PREPARE,
    "engine.proof": _PROOF,
    "engine.transfer": _BOTH_WAYS,
    "engine.export": _BOTH_WAYS,
    "window": _WINDOW,
    "cutover": _ENGINE | {"host", "window"},
    "rollback": _ENGINE | {"host", "window"},
    "recovery": {"core", "host", "window", "cutover", "rollback"},
    "quarantine": {"core", "sqlite", "host"},
    "cleanup": {"core", "sqlite", "host", "quarantine"},
    "backup": {"core", "postgres"},
    "validation": _ENGINE | {"host", "window"},
    "draft": {"core", "sqlite", "postgres", "engine.plan", "engine.convert"},
    "discovery": {"core", "sqlite", "postgres", "host", "window", "draft", "engine.transfer"},
    "report": {"core", "validation"},
}


def package_of(path: Path) -> str:
    """Return the dotted name of the package that a file is in."""
    return ".".join(path.relative_to(ENGINE).parts[:-1])


def imported_packages(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the package of everything that a file imports from the engine."""
    here = package_of(path).split(".")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        above = here[: len(here) - node.level + 1]
        names = [*above, *(node.module.split(".") if node.module else [])]
        for alias in node.names:
            parts = [*names, alias.name]
            while parts and not (ENGINE.joinpath(*parts) / "__init__.py").is_file():
                parts.pop()
            yield node.lineno, ".".join(parts)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    files = sorted(ENGINE.joinpath(*package.split(".")).glob("*.py"))
    assert files
    allowed = MAY_IMPORT[package] | {package}
    wrong = [
        f"{path.relative_to(PROJECT)}:{line} imports {imported}"
        for path in files
        for line, imported in imported_packages(path)
        if imported not in allowed
    ]
    assert wrong == []


def test_every_package_is_in_the_list() -> None:
    found = {package_of(path) for path in ENGINE.rglob("*.py")} - {""}
    assert found == set(MAY_IMPORT)
    assert [path.name for path in ENGINE.glob("*.py")] == ["__init__.py"]


_IMPORT_WITHOUT_PSYCOPG2 = """
import importlib, pkgutil, sys
sys.modules["psycopg2"] = None
import migration
for found in pkgutil.walk_packages(migration.__path__, "migration."):
    importlib.import_module(found.name)
from migration.core.connection import Login, connect
from migration.core.errors import MigrationError
try:
    connect(Login("127.0.0.1", 1, "none", "nobody"))
except MigrationError as error:
    print(error)
"""


def test_a_bare_host_without_psycopg2_is_told_so() -> None:
    """Check mode runs there too: every module can be imported, and only a connection is refused."""
    command = [sys.executable, "-c", _IMPORT_WITHOUT_PSYCOPG2]
    result = subprocess.run(command, cwd=ENGINE.parent, capture_output=True, text=True, check=True)
    assert "psycopg2" in result.stdout
