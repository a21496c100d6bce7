"""One database with the ledger for many tests, each of which finds it as the first one did.

A new database and a new session take a test longer than most of what it does in them: files are copied, and a session
knows nothing of the catalog yet.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from tests.conftest import OWNER, Server, fresh_database, migrator_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# What a test drops stays in the files of the catalog, because nobody cleans this server up.
_MOST_TESTS = 50
# Every kind of object that may be made in a database, its rights included. Counted by rows, and by those that were
# written since the database was made: nothing of what a test did to it is left when both are as before.
_CATALOGS = (
    "pg_am", "pg_attrdef", "pg_attribute", "pg_cast", "pg_class", "pg_collation", "pg_constraint", "pg_conversion",
    "pg_default_acl", "pg_enum", "pg_event_trigger", "pg_extension", "pg_foreign_data_wrapper", "pg_foreign_server",
    "pg_index", "pg_inherits", "pg_language", "pg_largeobject_metadata", "pg_opclass", "pg_operator",
    "pg_opfamily", "pg_policy", "pg_proc", "pg_publication", "pg_rewrite", "pg_seclabel", "pg_statistic_ext",
    "pg_transform", "pg_trigger", "pg_ts_config", "pg_ts_dict", "pg_ts_parser", "pg_ts_template", "pg_type",
)  # fmt: skip
_SETTINGS = "pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase AND d.datname = current_database()"
_LOOK = " UNION ALL ".join(
    f"SELECT count(*), count(*) FILTER (WHERE age({name}.xmin) < age(%(made)s::xid)) FROM {catalog}"
    for name, catalog in (
        *((name, name) for name in _CATALOGS),
        # The server keeps the schemas of temporary tables for the next ones.
        ("n", "pg_namespace n WHERE nspname !~ '^pg_(toast_)?temp_'"),
        ("pg_db_role_setting", _SETTINGS),
        ("d", "pg_database d WHERE datname = current_database()"),
    )
)
_SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$|public$|migration$)'"
_IN_LEDGER = (
    "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'migration'::regnamespace AND relkind = %(kind)s"
)


class ChangedError(Exception):
    """Something of what a test has done is still there; the text says what."""


class KeptDatabase:
    """A database that tests take one after the other, and another one after a test that has left something in it.

    :param template: database with the ledger.
    """

    def __init__(self, server: Server, template: str) -> None:
        self._server, self._template = server, template
        self._stack = ExitStack()
        self.name = ""

    def take(self) -> str:
        """Return the name of the database, which is made if there is none."""
        if not self.name:
            self.name = self._stack.enter_context(fresh_database(self._server, self._template))
            self.session: Connection = connect(migrator_of(self._server, self.name))
            self._stack.callback(self.session.close)
            self._uses = 0
            self._usual = _attributes(self.session)
            ((self._made,),) = self._rows("SELECT pg_current_xact_id()::xid::text")
            self.session.commit()
            self._tables = [name for (name,) in self._rows(_IN_LEDGER, kind="r")]
            self._sequences = [name for (name,) in self._rows(_IN_LEDGER, kind="S")]
            self._before = self._rows(_LOOK, made=self._made)
            self.session.rollback()
        return self.name

    def give_back(self) -> None:
        """Make the database as it was, or drop it if that cannot be done."""
        self._uses += 1
        try:
            if self._uses == _MOST_TESTS:
                raise ChangedError("the catalog has grown")
            self._end_other_sessions()
            self._clean()
        except (psycopg2.Error, ChangedError):
            self.drop()

    def drop(self) -> None:
        """Drop the database, with everybody in it."""
        self._stack.close()
        self.name = ""

    def _end_other_sessions(self) -> None:
        self._server.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            f"WHERE datname = '{self.name}' AND pid <> {self.session.info.backend_pid}"
        )

    def _clean(self) -> None:
        """Drop what tests make, empty the ledger, and see that nothing else was changed.

        :raises ChangedError: if something was.
        :raises psycopg2.Error: if the session or the ledger is gone, or not all is the owner's to drop.
        """
        self.session.rollback()
        if _attributes(self.session) != self._usual:
            raise ChangedError("the session")
        self.session.autocommit = True
        self._run("DISCARD ALL")
        self._run(f"SET ROLE {OWNER}")
        self.session.autocommit = False
        for (schema,) in self._rows(_SCHEMAS):
            self._run(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
        self._run("; ".join(f"DELETE FROM {table}" for table in self._tables))
        for sequence in self._sequences:
            self._rows("SELECT setval(%(sequence)s, 1, false)", sequence=sequence)
        self.session.commit()
        if self._rows(_LOOK, made=self._made) != self._before:
            raise ChangedError("the catalog")
        self.session.rollback()

    def _run(self, statement: str | sql.Composable) -> None:
        with self.session.cursor() as cursor:
            cursor.execute(statement)

    def _rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.session.cursor() as cursor:
            cursor.execute(statement, values or None)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def _attributes(connection: Connection) -> tuple[Any, ...]:
    """Return what a test may have set in the driver."""
    return (
        connection.autocommit, connection.isolation_level, connection.readonly, connection.deferrable,
        connection.cursor_factory, connection.encoding,
    )  # fmt: skip
