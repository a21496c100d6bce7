"""Every module of a role finds what it imports of the engine, also where it imports it late."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PLUGINS, PROJECT

MODULES = sorted((PROJECT / "plugins" / "modules").glob("*.py"))


def imported_names(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each package of the collection that a module imports from, and the name that it takes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module:
            yield from ((f"{PLUGINS}.{node.module}", alias.name) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.stem))
def test_everything_is_where_a_module_imports_it_from(path: Path) -> None:
    for package, name in imported_names(path):
        if not hasattr(importlib.import_module(package), name):
            importlib.import_module(f"{package}.{name}")
