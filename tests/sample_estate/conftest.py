"""The program that creates the sample databases, and an estate that it has created."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE_ESTATE = Path(__file__).resolve().parents[2] / "molecule" / "sample_estate"


def create_databases(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run create_databases.py for a directory that stands for /."""
    command = [sys.executable, str(SAMPLE_ESTATE / "create_databases.py"), "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of an estate that tests only read."""
    root = tmp_path_factory.mktemp("estate")
    result = create_databases(root)
    assert result.returncode == 0, result.stderr
    return root
