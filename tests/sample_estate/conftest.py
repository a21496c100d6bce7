"""The program that creates the sample databases, an estate that it has created, and a host for the sample services."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group, parse_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import (
    migrate as engine,
)

from .services import NODE_MODULES, Service

if TYPE_CHECKING:
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login

PROJECT = Path(__file__).resolve().parents[2]
SAMPLE_ESTATE = PROJECT / "molecule" / "sample_estate"


def create_databases(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run create_databases.py for a directory that stands for /."""
    command = [sys.executable, str(SAMPLE_ESTATE / "create_databases.py"), "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def cutover_groups(root: Path) -> list[Group]:
    """Return the cutover groups of the default inventory, for an estate below ``root``."""
    inventory = yaml.safe_load((PROJECT / "inventory" / "group_vars" / "all" / "estate.yml").read_text())
    groups = inventory["estate_cutover_groups"]
    for group in groups:
        source = group["source"]
        source["path"] = f"{root}{source['path']}"
        source["aliases"] = [f"{root}{path}" for path in source.get("aliases", [])]
    return [parse_group(group) for group in groups]


@pytest.fixture(scope="session")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of an estate that tests only read."""
    root = tmp_path_factory.mktemp("estate")
    result = create_databases(root)
    assert result.returncode == 0, result.stderr
    return root


@pytest.fixture(scope="session")
def services_host(
    tmp_path_factory: pytest.TempPathFactory, build_library: Callable[[str, str], None]
) -> Iterator[tuple[str, Path]]:
    """A container with Node, the services' dependencies and their library, and a directory that the tests see too.

    It shares the machine's network: the services reach the tests' PostgreSQL, and the tests reach the services.
    """
    image = subprocess.run(
        [sys.executable, str(PROJECT / "molecule" / "test_host" / "build.py")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[-1]
    shared = tmp_path_factory.mktemp("shared")
    name = f"sample-estate-{os.getpid()}"
    options = ["--detach", "--rm", "--init", "--name", name, "--network", "host", "--volume", f"{shared}:{shared}"]
    subprocess.run(["docker", "run", *options, image, "sleep", "infinity"], check=True, capture_output=True)
    build_library(name, "/srv/db")
    package = f"{NODE_MODULES}/swarm-shared-db"
    install = f"mkdir {package} && cp -r package.json dist ledger migrations {package}"
    subprocess.run(["docker", "exec", "--workdir", "/srv/db", name, "sh", "-c", install], check=True)
    yield name, shared
    subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)


@dataclass
class Estate:
    """An estate of its own for one test, and the services started on it.

    :param environment: what is in the services' environment beside their ``.env``.
    """

    container: str
    root: Path
    environment: dict[str, str]
    started: list[Service] = field(default_factory=list)

    def run(self, *command: str) -> None:
        """Run a command in the container."""
        subprocess.run(["docker", "exec", self.container, *command], check=True)

    def start(self, name: str, **environment: str) -> Service:
        """Start a service and wait until it listens."""
        service = self.prepare(name, **environment)
        service.start()
        return service

    def prepare(self, name: str, **environment: str) -> Service:
        """Put a service into its directory without starting it."""
        directory = self.root / "opt" / name
        sources = SAMPLE_ESTATE / "services"
        for path in (*sources.glob("*.js"), *(sources / name).iterdir()):
            shutil.copy(path, directory)
        more = {"DB_PATH": str(self.root / "opt/swarm-deploy/data/deployments.db")} if name == "swarm-deploy" else {}
        service = Service(name, directory, self.container, {**self.environment, **more, **environment})
        self.started.append(service)
        return service


def migrate(login: Login, root: Path) -> dict[str, dict[str, object]]:
    """Move the estate to PostgreSQL; return the report of each table by its name there."""
    tables = {}
    with closing(connect(login)) as connection:
        for group in cutover_groups(root):
            report = engine.migrate(connection, group, engine.REHEARSAL, False, str(root / "work"))["report"]
            tables.update({table["target"]: table for table in report["tables"]})
    return tables


def connection_variables(login: Login) -> dict[str, str]:
    """Return what makes a service use PostgreSQL."""
    return {
        "PGHOST": login.host,
        "PGPORT": str(login.port),
        "PGDATABASE": login.database,
        "PGUSER": login.user,
        "PGPASSWORD": login.password or "",
    }


@pytest.fixture
def sqlite_estate(services_host: tuple[str, Path]) -> Iterator[Estate]:
    """An estate whose services use SQLite."""
    container, shared = services_host
    root = shared / uuid.uuid4().hex
    result = create_databases(root)
    assert result.returncode == 0, result.stderr
    estate = Estate(container, root, {})
    yield estate
    for service in estate.started:
        service.stop()


@pytest.fixture
def postgresql_estate(services_host: tuple[str, Path], schema_database: Login) -> Iterator[Estate]:
    """An estate whose rows have been moved to PostgreSQL, and whose services use it."""
    container, shared = services_host
    root = shared / uuid.uuid4().hex
    result = create_databases(root)
    assert result.returncode == 0, result.stderr
    migrate(schema_database, root)
    estate = Estate(container, root, connection_variables(schema_database))
    yield estate
    for service in estate.started:
        service.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def either_estate(request: pytest.FixtureRequest) -> Estate:
    """An estate on each store in turn."""
    estate: Estate = request.getfixturevalue(f"{request.param}_estate")
    return estate
