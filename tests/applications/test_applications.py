"""Databases that real applications have made are moved, written to by the application, and brought back.

Nothing of a database is made up here: the application makes its tables on both sides with its own tool, fills the
SQLite file, reads what has arrived on PostgreSQL, and writes to it. What is equal is said by compare.py, which shares
no code with the engine, and by the application.

They run in `make test-all` alone, because each application has to be fetched from its package registry. An application
that cannot be installed fails its test.
"""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import parse_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export import export
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import (
    migrate as engine,
)
from tests.conftest import Server

from .compare import compare, raw_rows, rewritten, storage_classes
from .support import Application, ApplicationError, applications, group_of


def empty_tables(login: Login) -> list[str]:
    """Take away the rows that the application's own migrations have written, and return the tables that held any."""
    with closing(connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        tables = [str(row[0]) for row in cursor.fetchall()]
        held = []
        for table in tables:
            cursor.execute(f"SELECT EXISTS (SELECT 1 FROM {table})")
            if cursor.fetchone() == (True,):
                held.append(table)
        cursor.execute(f"TRUNCATE {', '.join(tables)}")
        cursor.execute(ledger.CREATE_LEDGER)
        connection.commit()
    return sorted(held)


def differing(one: Any, other: Any, place: str = "") -> list[str]:
    """Return where two values of plain data differ, a line each."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in differing(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for number, pair in pairs for line in differing(*pair, f"{place}[{number}]")]
    return [] if one == other else [f"{place}: {one!r} and {other!r}"]


@pytest.fixture
def login(server: Server, database: str) -> Login:
    """The superuser's login to an empty database: a local server, as the application's own guide has it."""
    server.execute("GRANT ALL ON SCHEMA public TO PUBLIC", database=database)
    return replace(server.superuser, database=database)


@pytest.mark.long_search
@pytest.mark.promise("nothing-lost", "inventory-describes-any-estate")
@pytest.mark.parametrize("application", applications(), ids=lambda application: application.name)
def test_an_application_finds_its_rows_on_both_sides(application: Application, login: Login, tmp_path: Path) -> None:
    try:
        move_and_bring_back(application, login, tmp_path)
    except ApplicationError as error:
        pytest.fail(str(error), pytrace=False)


def move_and_bring_back(application: Application, login: Login, tmp_path: Path) -> None:
    """Go the whole way with one application."""
    work, file = tmp_path / "application", tmp_path / "application.db"
    at_postgresql = f"postgresql://{login.user}:{login.password}@{login.host}:{login.port}/{login.database}"
    for step in ("schema", "rows"):
        application.step(step, f"sqlite:///{file}", work)
    found = application.read(f"sqlite:///{file}", work)
    application.step("schema", at_postgresql, work)
    by_its_migrations = empty_tables(login)
    group = parse_group(group_of(application.name, file, application.mapping))
    dsn = at_postgresql

    def migrate(check_mode: bool = False) -> dict[str, Any]:
        with closing(connect(login)) as connection:
            result: dict[str, Any] = engine.migrate(
                connection, group, engine.REHEARSAL, check_mode, str(tmp_path / "w")
            )
        return result

    def the_same(path: Path) -> None:
        compared = compare(str(path), dsn, group.ignored_tables)
        assert compared.differences == []
        print(f"{path.name}: {len(compared.rows)} tables, {sum(compared.rows.values())} rows, {compared.values} values")

    def bring_back(path: Path) -> bool:
        shutil.copyfile(file, path)
        path.chmod(0o600)
        with closing(connect(login)) as connection:
            return bool(export.export_changes(connection, group, file, path).changed)

    if "sql" in application.mapping:
        with pytest.raises(MigrationError, match=re.escape(application.mapping["refused"])):
            migrate()
        with closing(connect(login)) as connection, connection.cursor() as cursor:
            cursor.execute(application.mapping["sql"])
            connection.commit()
    assert migrate(check_mode=True)["changed"]
    report = migrate()["report"]
    assert all(table["equal"] for table in report["tables"])
    assert all(key["valid"] and not key["orphans"] for key in report["foreign_keys"])
    print(f"filled by its own migrations: {by_its_migrations}")
    the_same(file)
    assert not migrate()["changed"]
    # Brought back before anything was written there, each value has its very bytes. The file itself may differ: it
    # learns which ids PostgreSQL's sequences have given out.
    untouched = tmp_path / "untouched.db"
    assert not bring_back(untouched)
    assert raw_rows(str(untouched)) == raw_rows(str(file))

    assert differing(found, application.read(at_postgresql, work)) == []
    application.step("change", at_postgresql, work)
    changed = application.read(at_postgresql, work)
    assert changed != found, "a change that nobody sees shows nothing"
    returned = tmp_path / "returned.db"
    assert bring_back(returned)
    the_same(returned)
    assert rewritten(str(file), str(returned), dsn) == []
    assert differing(changed, application.read(f"sqlite:///{returned}", work)) == []

    # In the very storage classes that the application itself writes.
    by_application = tmp_path / "by_application.db"
    shutil.copyfile(file, by_application)
    application.step("change", f"sqlite:///{by_application}", work)
    expected = storage_classes(str(by_application))
    assert {key: kinds for key, kinds in storage_classes(str(returned)).items() if kinds != expected[key]} == {}
