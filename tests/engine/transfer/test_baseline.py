"""What decides whether the sums of an earlier run may be trusted: all code that reads, converts or compares a value."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import baseline
from tests.conftest import PROJECT

ENGINE = PROJECT / "plugins" / "module_utils" / "migration"


@pytest.mark.parametrize(
    "module",
    [
        "sqlite/tables.py",
        "engine/plan/epoch_units.py",
        "engine/convert/times.py",
        "engine/convert/refusals.py",
        "engine/prepare/table.py",
        "engine/proof/checksums.py",
        "engine/proof/canonical.py",
    ],
)
def test_a_changed_file_of_any_deciding_package_changes_the_digest(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = baseline.digest([])
    name = module.removesuffix(".py").replace("/", ".")
    real = pkgutil.get_data

    def changed(package: str, file: str) -> bytes | None:
        content: bytes | None = real(package, file)
        return (content or b"") + b"\n# changed" if f"{package}.{file}".endswith(f"migration.{name}.py") else content

    assert baseline.digest([]) == before
    monkeypatch.setattr(pkgutil, "get_data", changed)
    assert baseline.digest([]) != before


def test_every_file_of_these_packages_is_hashed() -> None:
    names = {name for name, content in baseline.deciding_files() if content}
    packages = ("sqlite", "engine/plan", "engine/convert", "engine/prepare", "engine/proof")
    assert names == {
        f"{package.replace('/', '.')}.{path.stem}"
        for package in packages
        for path in (ENGINE / package).glob("*.py")
        if path.stem != "__init__"
    }


def test_whatever_runs_the_engine_ships_all_of_them() -> None:
    """Ansible ships to a host what a module imports, so a digest made there must not depend on the module."""
    code = "import sys, migration.engine.transfer.migrate; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ENGINE.parent, capture_output=True, text=True, check=True)
    shipped = set(loaded.stdout.split())
    missing = [name for name, _ in baseline.deciding_files() if f"migration.{name}" not in shipped]
    assert missing == []
