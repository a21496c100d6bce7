"""Who gets the library: a service that depends on it, and nobody else."""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.node_package.copies import check_host
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.node_package.source import Source
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.node_package.synchronise import (
    Programs,
    synchronise,
)

SOURCE = Source(
    {
        "package.json": json.dumps(
            {"name": "shared", "version": "1.0.0", "engines": {"node": ">=18"}, "peerDependencies": {"pg": "8"}}
        ).encode()
    }
)


@pytest.fixture
def node(tmp_path: Path) -> str:
    """A program that says the version of Node.js: nothing else of it is asked for."""
    program = tmp_path / "node"
    program.write_text("#!/bin/sh\necho v18.0.0\n")
    program.chmod(0o755)
    return str(program)


def make_service(place: Path, name: str, package: str | None, **more: Any) -> dict[str, Any]:
    """Return a service with a package.json and the module that the library needs."""
    directory = place / name
    (directory / "node_modules" / "pg").mkdir(parents=True)
    (directory / "node_modules" / "pg" / "package.json").write_text('{"version": "8.1.0"}')
    if package is not None:
        (directory / "package.json").write_text(package)
    return {"name": name, "user": getpass.getuser(), "directory": str(directory), **more}


def test_a_service_that_depends_on_it_gets_it(tmp_path: Path, node: str) -> None:
    naming = json.dumps({"dependencies": {"shared": "1"}})
    services = [
        make_service(tmp_path, "named", naming),
        make_service(tmp_path, "optional", json.dumps({"optionalDependencies": {"shared": "1"}})),
        make_service(tmp_path, "said", "{}", depends=True),
        make_service(tmp_path, "denied", naming, depends=False),
        make_service(tmp_path, "other", json.dumps({"dependencies": {"pg": "8"}, "devDependencies": {"shared": "1"}})),
        make_service(tmp_path, "bare", None),
        make_service(tmp_path, "broken", "{"),
        make_service(tmp_path, "strange", json.dumps({"dependencies": ["shared"]})),
        make_service(tmp_path, "list", '["shared"]'),
    ]
    assert [service.name for service in check_host(SOURCE, services, node)] == ["named", "optional", "said"]


def test_a_directory_that_is_not_there_is_told(tmp_path: Path, node: str) -> None:
    service = {"name": "gone", "user": getpass.getuser(), "directory": str(tmp_path / "gone")}
    with pytest.raises(MigrationError, match="gone is no directory"):
        check_host(SOURCE, [service], node)


def test_what_stands_in_the_place_of_package_json_keeps_nobody_waiting(tmp_path: Path, node: str) -> None:
    pipe, huge = (make_service(tmp_path, name, None) for name in ("pipe", "huge"))
    os.mkfifo(Path(pipe["directory"]) / "package.json")
    with open(Path(huge["directory"]) / "package.json", "wb") as file:
        file.write(b'{"dependencies": {"shared": "1"}}')
        file.truncate(1 << 40)
    assert check_host(SOURCE, [pipe, huge], node) == []


def test_nothing_is_built_or_needed_if_no_service_depends_on_it(tmp_path: Path) -> None:
    service = make_service(tmp_path, "other", "{}")
    result = synchronise(SOURCE, tmp_path / "built", [service], Programs(None, None), False)
    assert (result["changed"], result["built"], result["installed"]) == (False, False, [])
    assert not (tmp_path / "built").exists()
    assert not (tmp_path / "other" / "node_modules" / "shared").exists()
    with pytest.raises(MigrationError, match=r"has no Node\.js"):
        synchronise(SOURCE, tmp_path / "built", [{**service, "depends": True}], Programs(None, None), False)
