"""A real PostgreSQL 16 for the tests, and the project's Python where Ansible would put it.

Tests import everything in ``plugins/`` by its full name in the collection, as it runs on a host. The server comes from
:mod:`scripts.throwaway_postgres`, and holds the same kinds of roles as a real estate.
"""

from __future__ import annotations

import itertools
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from psycopg2 import DatabaseError

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import open_files
from scripts.loaded_ansible import LoadedAnsible, loaded_ansible
from scripts.throwaway_postgres import PROGRAMS as PROGRAMS
from scripts.throwaway_postgres import throwaway_postgres
from tests.library_container import Library, built_library
from tests.servers import VERSIONS, NoServerError, programs_of

PROJECT = Path(__file__).resolve().parent.parent
# What plugins/ is called when Python imports it.
PLUGINS = "ansible_collections.swarm.sqlite_to_postgresql.plugins"

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

OWNER = "swarm_owner"
MIGRATOR = "swarm_migrator"
SERVICES = ("swarm_registry", "swarm_deploy", "swarm_tickets", "swarm_platform")
# Another one in each session: some tests look for it in everything that this machine shows.
PASSWORD = f"only-for-tests-{secrets.token_hex(4)}"
# The hosts that printed commands name: the run of tests is limited as a run of ours on dev is.
os.environ["MIGRATION_RUN_LIMIT"] = "dev"
# What tests look for is in Ansible's own output, and their runs of playbooks are nobody's record.
os.environ["ANSIBLE_STDOUT_CALLBACK"] = "default"
os.environ["SQLITE_TO_POSTGRESQL_RUN_RECORD"] = "false"
# With it Python reads a module that Ansible hands to it byte by byte, with a call of the system for each.
os.environ.pop("PYTHONUNBUFFERED", None)
_DATABASE_NUMBERS = itertools.count(1)
# Also for tests that set nothing: the same values on every run, and no example has to be through within a fifth of a
# second.
hypothesis.settings.register_profile("everywhere", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("everywhere")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that selects the tests of one promise."""
    parser.addoption("--promise", metavar="ID", help="only the tests that prove this promise of tests/README.md")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests without the promise of ``--promise``, and long searches unless LONG_SEARCHES is set.

    `make test-all` sets it.
    """
    promise = config.getoption("--promise")
    kept: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        is_asked_for = promise is None or any(promise in marker.args for marker in item.iter_markers("promise"))
        has_time = bool(os.environ.get("LONG_SEARCHES")) or item.get_closest_marker("long_search") is None
        (kept if is_asked_for and has_time else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = kept


@dataclass(frozen=True)
class Server:
    """The running server.

    :param superuser: login of its superuser, for setting up and looking from outside.
    :param data: its data directory.
    :param crash: ends it as a crash would, and starts it again.
    """

    superuser: Login
    data: Path
    crash: Callable[[], None]
    _administration: list[Connection] = field(default_factory=list)

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser, each by itself."""
        if database == "postgres":
            _execute_each(self._administrative_connection(), statements)
            return
        with closing(_autocommitting(replace(self.superuser, database=database))) as connection:
            _execute_each(connection, statements)

    def end_when_asleep(self, pid: int) -> threading.Thread:
        """End a session as soon as it sleeps in ``pg_sleep``, beside the test; return the thread, to be joined."""
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"

        def end() -> None:
            with closing(_autocommitting(self.superuser)) as connection, connection.cursor() as cursor:
                deadline = time.monotonic() + 120
                while time.monotonic() < deadline:
                    cursor.execute(terminate, (pid,))
                    if cursor.fetchall():
                        return
                    time.sleep(0.02)

        thread = threading.Thread(target=end)
        thread.start()
        return thread

    def _administrative_connection(self) -> Connection:
        """Return the connection that makes and drops databases: always the same, but a new one after a crash."""
        if self._administration:
            try:
                _execute_each(self._administration[0], ["SELECT 1"])
            except DatabaseError:
                self._administration.pop()
        if not self._administration:
            self._administration.append(_autocommitting(self.superuser))
        return self._administration[0]


def _autocommitting(login: Login) -> Connection:
    """Return a connection whose statements are committed one by one."""
    connection: Connection = connect(login)
    connection.rollback()
    connection.autocommit = True
    return connection


def _execute_each(connection: Connection, statements: Iterable[str]) -> None:
    """Execute statements, each by itself."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture(scope="session")
def ansible() -> Iterator[LoadedAnsible]:
    """Ansible, loaded with the project's configuration."""
    with loaded_ansible(PROJECT, environment_of_ansible(), collections_are_final=True) as process:
        yield process


def environment_of_ansible() -> dict[str, str]:
    """Return the environment of a run of Ansible's with the project's configuration."""
    return {
        **os.environ,
        "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server with the estate's roles, for the whole test session."""
    with running_server(PROGRAMS) as started:
        yield started


@contextmanager
def running_server(programs: Path) -> Iterator[Server]:
    """Run a PostgreSQL server with the estate's roles.

    :param programs: the directory of its programs, of whatever major version.
    """
    with throwaway_postgres(PASSWORD, programs) as throwaway:
        started = Server(throwaway.superuser, throwaway.data, throwaway.crash)
        started.execute(
            f"CREATE ROLE {OWNER} NOLOGIN",
            f"CREATE ROLE {MIGRATOR} LOGIN PASSWORD '{PASSWORD}' IN ROLE {OWNER}",
            *(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'" for role in SERVICES),
            f"CREATE DATABASE empty_template OWNER {OWNER}",
        )
        started.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC", database="empty_template")
        yield started


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a fresh, empty database of the owner's, dropped afterwards."""
    with fresh_database(server) as name:
        yield name


@contextmanager
def fresh_database(server: Server, template: str = "empty_template") -> Iterator[str]:
    """Make a database of the owner's from a template, and drop it afterwards with everybody in it."""
    name = f"test_{next(_DATABASE_NUMBERS)}"
    server.execute(
        f"DROP DATABASE IF EXISTS {name} WITH (FORCE)",
        # Its files are copied, which takes half as long as writing each of their pages to the log too.
        f"CREATE DATABASE {name} TEMPLATE {template} OWNER {OWNER} STRATEGY FILE_COPY",
        f"GRANT CONNECT ON DATABASE {name} TO PUBLIC",
    )
    yield name
    server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def login(server: Server, database: str) -> Login:
    """The migrator's login to the empty database, acting as the owner."""
    return migrator_of(server, database)


def migrator_of(server: Server, database: str) -> Login:
    """Return the migrator's login to a database, acting as the owner."""
    return replace(server.superuser, database=database, user=MIGRATOR, session_role=OWNER)


@pytest.fixture
def connection(login: Login) -> Iterator[Connection]:
    """A connection to the empty database as the migrator, acting as the owner."""
    with closing(connect(login)) as connection:
        yield connection


@pytest.fixture(scope="module", params=[pytest.param(major, marks=pytest.mark.long_search) for major in VERSIONS])
def fetched_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each supported major version with its contrib modules; skipped where it cannot be had."""
    try:
        programs = programs_of(request.param)
    except NoServerError as error:
        pytest.skip(str(error))
    with running_server(programs) as started:
        yield started


@pytest.fixture
def fetched_connection(fetched_server: Server) -> Iterator[Connection]:
    """A connection to an empty database of such a server, as the migrator."""
    with (
        fresh_database(fetched_server) as database,
        closing(connect(migrator_of(fetched_server, database))) as connection,
    ):
        yield connection


@pytest.fixture
def no_older_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody look into the processes that ran before the test, but for its own.

    A window and a cleanup ask every process of the machine, many times, what it has open. Where much else runs, that
    takes more of the processor than the rest of the test. cutover/test_open_files.py and the tests on a host ask all.
    """
    all_of_them = open_files._process_ids
    older = set(all_of_them()) - {os.getpid()}
    monkeypatch.setattr(open_files, "_process_ids", lambda: [pid for pid in all_of_them() if pid not in older])


@pytest.fixture(scope="session")
def ledger_template(server: Server) -> str:
    """The name of a template database with the ledger."""
    return make_template(server, "ledger_template", "empty_template", [ledger.CREATE_LEDGER])


@pytest.fixture(scope="session")
def schema_template(server: Server, ledger_template: str) -> str:
    """The name of a template database with the ledger and the plan's schema."""
    files = sorted((PROJECT / "files" / "sql").glob("*.sql"))
    return make_template(server, "schema_template", ledger_template, [path.read_text() for path in files])


def make_template(server: Server, name: str, template: str, statements: Iterable[str]) -> str:
    """Make a database of the owner's from another one and statements of the migrator's; return its name."""
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER {OWNER} STRATEGY FILE_COPY")
    with closing(connect(migrator_of(server, name))) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        connection.commit()
    return name


@pytest.fixture
def schema_database(server: Server, schema_template: str) -> Iterator[Login]:
    """The migrator's login to a fresh database that holds the ledger and the plan's empty tables."""
    with fresh_database(server, schema_template) as name:
        yield migrator_of(server, name)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """The services' library in a container: one for the tests of the library and of the services that use it."""
    shared = tmp_path_factory.mktemp("library")
    shared.chmod(0o755)
    with built_library(shared) as library:
        yield library
