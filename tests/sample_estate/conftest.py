"""The program that creates the sample databases, and estates that it has created, with services that run on them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
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
from tests.conftest import fresh_database, migrator_of
from tests.library_container import Library

from .services import Service

if TYPE_CHECKING:
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login
    from tests.conftest import Server

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


@dataclass
class Estate:
    """An estate, and the services started on it.

    :param environment: what is in the services' environment beside their ``.env``.
    """

    container: str
    root: Path
    environment: dict[str, str]
    started: dict[str, Service] = field(default_factory=dict)

    def run(self, *command: str) -> None:
        """Run a command in the container."""
        subprocess.run(["docker", "exec", self.container, *command], check=True)

    def running(self, name: str) -> Service:
        """Return a service that listens: the one that was started before, if there is one."""
        return self.started[name] if name in self.started else self.start(name)

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
        self.started[name] = service
        return service


@contextmanager
def new_estate(library: Library) -> Iterator[Estate]:
    """Make an estate in a directory that its services see too, and stop those that were started."""
    estate = Estate(library.container, library.shared / uuid.uuid4().hex, {})
    result = create_databases(estate.root)
    assert result.returncode == 0, result.stderr
    yield estate
    for service in estate.started.values():
        service.stop()


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


@pytest.fixture(scope="session")
def sqlite_estate(library: Library) -> Iterator[Estate]:
    """An estate whose services use SQLite, for all tests: each service is started once."""
    with new_estate(library) as estate:
        yield estate


@pytest.fixture(scope="session")
def postgresql_estate(library: Library, server: Server, schema_template: str) -> Iterator[Estate]:
    """An estate whose rows have been moved to PostgreSQL, and whose services use it, for all tests."""
    with fresh_database(server, schema_template) as name, new_estate(library) as estate:
        login = migrator_of(server, name)
        migrate(login, estate.root)
        estate.environment |= connection_variables(login)
        yield estate


@pytest.fixture(params=["sqlite", "postgresql"])
def either_estate(request: pytest.FixtureRequest) -> Estate:
    """The estate on each store in turn."""
    estate: Estate = request.getfixturevalue(f"{request.param}_estate")
    return estate


@pytest.fixture
def own_estate(library: Library) -> Iterator[Estate]:
    """An estate on SQLite of one test alone, which stops services, or starts them in its own way."""
    with new_estate(library) as estate:
        yield estate
