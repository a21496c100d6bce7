"""A database in which drafts are tried: made for one run, and removed again whatever happens."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core import ledger
from ..core.commands import playbook
from ..core.connection import (
    Login,
    LoginRefused,
    ServerUnreachable,
    connect,
    connected,
    explained,
    first_row,
    psycopg2,
    sql,
)
from ..core.errors import MigrationError, Problem
from ..draft.names import quote
from ..window.signals import uninterruptible

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_PREFIX = "discovery_try_"
# The comment by which a database is known as one that a trial has made, and that holds nothing else.
_MARK = "a scratch database of discovery: the next trial drops it"
# Those of runs that were killed: nobody is connected to them, but perhaps a process of the server's own. A database of
# somebody else's may have a name like theirs.
_LEFT_OVER = """
SELECT datname FROM pg_database d
WHERE datname ~ %s AND shobj_description(d.oid, 'pg_database') = %s AND pg_get_userbyid(datdba) = current_user
  AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid AND a.usename IS NOT NULL)
"""


def require_right(login: Login) -> None:
    """Refuse a role that may not create databases. Nothing is made.

    :raises MigrationError: if it is so, or the server cannot be asked.
    """
    with connected(_itself(login), read_only=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper OR rolcreatedb, current_user FROM pg_roles WHERE rolname = current_user")
        may, role = first_row(cursor)
        if not may:
            fix = (
                f"Give it the right for this run, as a superuser: ALTER ROLE {quote(role)} CREATEDB; phase 1 takes it "
                "away again. Or name another login as discovery_login"
            )
            problem = Problem(f"role {role}", "it may not create databases (CREATEDB)", fix)
            raise _no_place(login, problem)


def require_place(login: Login) -> None:
    """Refuse a role that may not create databases, and a server that does not let it into them, by making one.

    :raises MigrationError: if it is so, or the server cannot be asked.
    """
    require_right(login)
    with scratch_database(login):
        pass


@contextmanager
def scratch_database(login: Login) -> Iterator[Login]:
    """Make a database and give the login to it; at the end it is dropped, with everybody in it.

    What earlier runs have left behind, because they were killed, is dropped too, if its comment says that it is theirs.

    :param login: to any database of the server, as a role that may create others.
    :raises MigrationError: if the server does not let this role into it.
    """
    own = _itself(login)
    scratch = replace(own, database=_PREFIX + secrets.token_hex(8))
    try:
        with connected(own) as connection:
            _begin_autocommit(connection)
            with explained("making a scratch database"), connection.cursor() as cursor:
                # Another run's that nobody is connected to yet is not left over.
                cursor.execute("SELECT pg_advisory_lock(hashtext(%s))", (_PREFIX,))
                cursor.execute(_LEFT_OVER, (f"^{_PREFIX}[0-9a-f]{{16}}$", _MARK))
                for (name,) in cursor.fetchall():
                    cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
                create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'")
                cursor.execute(create.format(sql.Identifier(scratch.database)))
                mark = sql.SQL("COMMENT ON DATABASE {} IS {}")
                cursor.execute(mark.format(sql.Identifier(scratch.database), sql.Literal(_MARK)))
            try:
                guard = connect(scratch)
            except (LoginRefused, ServerUnreachable) as error:
                fix = (
                    "Let it into new databases for this run, by a rule of postgres_config_hba_extra_rules with "
                    f"{{type: host, database: all, user: {own.user}, …}} and {playbook('1_infrastructure')}; or name "
                    "another login or server as discovery_login"
                )
                what = f"it may not enter a database that it has made: {error.problems[0].what}"
                raise _no_place(login, Problem(f"role {own.user}", what, fix)) from None
            connection.close()
            with closing(guard):
                yield scratch
    finally:
        with uninterruptible(), connected(own) as connection:
            _begin_autocommit(connection)
            with explained("dropping the scratch database"), connection.cursor() as cursor:
                drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
                cursor.execute(drop.format(sql.Identifier(scratch.database)))


def make_tables(connection: Connection, files: Mapping[str, str]) -> dict[str, str]:
    """Make the ledger and the tables of drafted SQL, and return what PostgreSQL says of the files that it refuses.

    Nothing of such a file is left. The connection commits.

    :param files: name → SQL.
    """
    refused = {}
    with connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER)
        for name, text in files.items():
            cursor.execute("SAVEPOINT file")
            try:
                cursor.execute(text)
            except psycopg2.DatabaseError as error:
                if connection.closed:
                    raise
                refused[name] = str(error).strip()
                cursor.execute("ROLLBACK TO SAVEPOINT file")
    connection.commit()
    return refused


def _no_place(login: Login, problem: Problem) -> MigrationError:
    """Return the error for a server on which nothing can be tried."""
    return MigrationError(f"A draft cannot be tried on {login.host}:{login.port}.", [problem])


def _itself(login: Login) -> Login:
    """Return the login without another role: the right to create databases is not inherited."""
    return replace(login, session_role=None)


def _begin_autocommit(connection: Connection) -> None:
    """Let each statement commit by itself: databases are made and dropped outside of transactions."""
    connection.rollback()
    connection.autocommit = True
