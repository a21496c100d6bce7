"""The archive that timers run: the same bytes from the same sources, and a starter that knows what it can start."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.action.engine_program import build
from tests.conftest import PROJECT


def run(archive: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", str(archive), *arguments], text=True, capture_output=True, check=False)


@pytest.mark.promise("program-same-bytes")
def test_the_archive_runs_the_programs_of_the_package_and_nothing_else(tmp_path: Path) -> None:
    archive = tmp_path / "engine.pyz"
    archive.write_bytes(build(PROJECT / "plugins/module_utils/migration"))
    assert "COMMAND" in run(archive, "backup.cli", "--help").stdout
    assert run(archive, "backup.cli").returncode == 2
    for name in ("", "core.errors", "no_such", "backup.no_such", "os", "../backup", "backup."):
        result = run(archive, name)
        assert result.returncode == 2
        assert f"There is no program {name!r}" in result.stderr


@pytest.mark.promise("program-same-bytes")
def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    copy = tmp_path / "migration"
    shutil.copytree(PROJECT / "plugins/module_utils/migration", copy, copy_function=shutil.copyfile)
    assert build(copy) == build(PROJECT / "plugins/module_utils/migration")
    (copy / "core/errors.py").write_text("changed")
    assert build(copy) != build(PROJECT / "plugins/module_utils/migration")
