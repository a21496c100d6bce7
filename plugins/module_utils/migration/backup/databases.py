"""Whole databases: created, dropped, and swapped by their names."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.connection import connected, explained, first_row, psycopg2, sql
from ..core.errors import MigrationError, Problem
from ..core.ledger import LOCK_CLASS
from . import preflight
from .settings import Settings

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

# The comment of a database that this program made for its own work, and may drop.
WORK_MARK = "Work of the backup program, to be dropped: "
# A killed run's session may still finish a statement.
_SHORTEST_WAIT_SECONDS = 10
# PostgreSQL cuts longer names.
_NAME_BYTES = 63
# Their values are lists of names, each quoted by itself.
_LIST_SETTINGS = {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}


def name_with(database: str, suffix: str) -> str:
    """Return the database's name with a suffix, cut so that PostgreSQL keeps the suffix."""
    return database.encode()[: _NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix


def server_version(connection: Connection) -> tuple[int, str]:
    """Return the server's major version and its version as text."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version')")
        return connection.server_version // 10000, str(first_row(cursor)[0])


@contextmanager
def maintenance(settings: Settings) -> Iterator[Connection]:
    """Return a connection to another database of the server, in autocommit, as the role that logs in."""
    login = replace(settings.login, database=settings.maintenance_database, session_role=None)
    with explained("working on whole databases"), connected(login) as connection:
        connection.rollback()
        connection.autocommit = True
        yield connection


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Let one drill or restore at a time work beside this database, whatever host or directory it is started from.

    :raises MigrationError: if another one is at work for longer than we wait.
    """
    wait = max(settings.lock_wait_seconds, _SHORTEST_WAIT_SECONDS)
    with maintenance(settings) as connection, connection.cursor() as cursor:
        # The session does nothing until it is closed, which takes the lock away.
        cursor.execute(
            "SELECT set_config('idle_session_timeout', '0', false), set_config('lock_timeout', %s, false)",
            (f"{wait * 1000:.0f}",),
        )
        try:
            cursor.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (LOCK_CLASS, settings.login.database))
        except psycopg2.errors.LockNotAvailable:
            what = "another drill or restore of it is at work, started on another host or for another directory"
            raise MigrationError(
                "Another run of the backup program is at work.",
                [Problem(f"database {settings.login.database}", what, "Wait until it has ended, then run again")],
            ) from None
        yield


@contextmanager
def work_database(
    settings: Settings, database: str, manifest: Mapping[str, Any], purpose: str, swapped: str | None = None
) -> Iterator[Path | None]:
    """Make an empty database for a backup to be restored into, and drop it if that fails; return its disk, if known.

    Sessions are short: a long restore would have a gateway cut an idle one.

    :param swapped: the database that it is to replace, None for a drill.
    :raises MigrationError: if rights, roles or room are missing, or its name is taken by somebody else's.
    """
    with maintenance(settings) as connection, connection.cursor() as cursor:
        preflight.require_rights(cursor, manifest, swapped)
        # What a killed run left behind takes room too.
        drop_work(settings, connection, database)
        disk = preflight.require_room_to_restore(settings, cursor, manifest)
    try:
        with maintenance(settings) as connection:
            create(connection, database, manifest["properties"], purpose)
        yield disk
    except BaseException:
        with suppress(MigrationError):
            drop(settings, database)
        raise


def drop(settings: Settings, database: str) -> None:
    """Drop a database of our own; see :func:`drop_work`."""
    with maintenance(settings) as connection:
        drop_work(settings, connection, database)


def read_properties(cursor: Cursor) -> dict[str, Any]:
    """Return what pg_dump leaves out of a dump: owner, locale, rights and settings of the database itself."""
    cursor.execute(
        """
        SELECT pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
               d.datlocprovider::text,
               coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
               (SELECT coalesce(json_agg(json_build_array(
                         CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END,
                         a.privilege_type, a.is_grantable)), '[]')
                  FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a),
               (SELECT coalesce(json_agg(json_build_array(
                         CASE s.setrole WHEN 0 THEN NULL ELSE pg_get_userbyid(s.setrole) END, s.setconfig)), '[]')
                  FROM pg_db_role_setting s WHERE s.setdatabase = d.oid),
               d.datconnlimit
        FROM pg_database d WHERE d.datname = current_database()
        """
    )
    names = (
        "owner",
        "encoding",
        "collate",
        "ctype",
        "provider",
        "locale",
        "privileges",
        "settings",
        "connection_limit",
    )
    return dict(zip(names, first_row(cursor), strict=True))


def comment_of(connection: Connection, database: str) -> str | None:
    """Return a database's comment, empty if it has none, and None if there is no such database."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = %s",
            (database,),
        )
        row = cursor.fetchone()
    return None if row is None else str(row[0])


def drop_work(settings: Settings, connection: Connection, database: str) -> bool:
    """Drop a database of our own that is done with or was left behind; return whether there was one.

    PostgreSQL's own ``WITH (FORCE)`` is not used: it refuses a role without pg_signal_backend as soon as
    autovacuum looks at the database, as it does after a restore. A plain DROP ends autovacuum by itself.

    :raises MigrationError: if the database of this name is not ours, or a session in it cannot be ended.
    """
    comment = comment_of(connection, database)
    if comment is None:
        return False
    # A run that was killed right after it had created the database leaves it without a comment, and empty.
    if not comment.startswith(WORK_MARK) and (comment or not _is_empty(settings, database)):
        raise MigrationError(
            f"Database {database} is in the way, and it is not ours.",
            [Problem(f"database {database}", "was not made by this program", "Rename it, then run again")],
        )
    with _sessions_ended(settings, database), connection.cursor() as cursor:
        try:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(database)))
        except psycopg2.errors.ObjectInUse as error:
            raise _in_use(error, f"Database {database} could not be dropped.", database, "it is still there") from None
    return True


def _is_empty(settings: Settings, database: str) -> bool:
    """Return whether a database holds no table or other relation of a user's."""
    login = replace(settings.login, database=database, session_role=None)
    with connected(login) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT NOT EXISTS (SELECT FROM pg_class WHERE oid >= 16384)")
        return bool(first_row(cursor)[0])


def create(connection: Connection, database: str, properties: Mapping[str, Any], purpose: str) -> None:
    """Create an empty database with the locale and owner of another, marked as ours, closed to everybody else."""
    clauses = [
        sql.SQL("ENCODING {}").format(sql.Literal(properties["encoding"])),
        sql.SQL("LC_COLLATE {}").format(sql.Literal(properties["collate"])),
        sql.SQL("LC_CTYPE {}").format(sql.Literal(properties["ctype"])),
        sql.SQL("OWNER {}").format(sql.Identifier(properties["owner"])),
    ]
    if properties["provider"] == "i":
        clauses.append(sql.SQL("LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(properties["locale"])))
    elif properties["provider"] == "b":
        clauses.append(sql.SQL("LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(sql.Literal(properties["locale"])))
    name = sql.Identifier(database)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(name, sql.SQL(" ").join(clauses)))
        cursor.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, sql.Literal(WORK_MARK + purpose)))
        cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))


def apply_properties(connection: Connection, database: str, properties: Mapping[str, Any]) -> None:
    """Give a database the rights and settings of the one whose properties these are."""
    name = sql.Identifier(database)
    with connection.cursor() as cursor:
        limit = sql.Literal(properties.get("connection_limit", -1))
        cursor.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(name, limit))
        for grantee, privilege, grantable in properties["privileges"]:
            cursor.execute(
                sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                    sql.SQL(privilege),  # a keyword of PostgreSQL's, from its own catalog
                    name,
                    sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee),
                    sql.SQL(" WITH GRANT OPTION" if grantable and grantee != properties["owner"] else ""),
                )
            )
        for role, settings in properties["settings"]:
            whose = sql.SQL("DATABASE {}").format(name)
            if role is not None:
                whose = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), name)
            for setting in settings:
                key, _, value = setting.partition("=")
                values = [part.strip().strip('"') for part in value.split(",")] if key in _LIST_SETTINGS else [value]
                cursor.execute(
                    sql.SQL("ALTER {} SET {} TO {}").format(
                        whose, sql.Identifier(*key.split(".")), sql.SQL(", ").join(map(sql.Literal, values))
                    )
                )


def swap(settings: Settings, database: str, new: str, old: str, comment: str) -> None:
    """Give ``new`` the name of ``database``, which becomes ``old``, in one transaction; end all sessions in it.

    Whoever connects meanwhile waits, and finds the new database or is told to try again: at no moment, not even
    after a crash, is there no database of this name or one that nobody may enter.

    :raises MigrationError: if a session cannot be ended, or a prepared transaction is open.
    """
    with (
        maintenance(settings) as connection,
        connection.cursor() as cursor,
        _sessions_ended(settings, database, new),
    ):
        connection.autocommit = False
        try:
            if comment_of(connection, database) is not None:
                _rename(cursor, database, old)
            _rename(cursor, new, database)
            cursor.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(database), sql.Literal(comment))
            )
            connection.commit()
        except psycopg2.errors.ObjectInUse as error:
            connection.rollback()
            raise _in_use(error, "The databases could not be swapped.", database, "nothing was renamed") from None


def _in_use(error: psycopg2.Error, message: str, database: str, outcome: str) -> MigrationError:
    """Return the error for a database whose sessions could not all be ended."""
    what = f"{error.diag.message_primary}: {error.diag.message_detail or ''}"
    fix = f"End its sessions and prepared transactions, then run again; {outcome}"
    return MigrationError(message, [Problem(f"database {database}", what, fix)])


def _rename(cursor: Cursor, present: str, future: str) -> None:
    """Rename a database."""
    cursor.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(present), sql.Identifier(future)))


@contextmanager
def _sessions_ended(settings: Settings, *databases: str) -> Iterator[None]:
    """End every session in these databases, again and again, for as long as the block works.

    What drops or renames a database locks it against new sessions, then waits 5 s for the present ones to be gone.
    """
    with maintenance(settings) as connection:
        done = threading.Event()
        ending = threading.Thread(target=_end_sessions, args=(connection, databases, done), daemon=True)
        ending.start()
        try:
            yield
        finally:
            done.set()
            ending.join()


def _end_sessions(connection: Connection, databases: tuple[str, ...], done: threading.Event) -> None:
    """End every session in these databases, again and again until it is enough.

    Autovacuum, the only one without a role, is left to PostgreSQL, which ends it before it drops or renames.
    """
    with connection.cursor() as cursor:
        while not done.wait(0.05):
            try:
                cursor.execute(
                    "SELECT pid FROM pg_stat_activity "
                    "WHERE datname = ANY (%s) AND pid <> pg_backend_pid() AND usesysid IS NOT NULL",
                    (list(databases),),
                )
                for (process,) in cursor.fetchall():
                    # One that we may not end keeps no other from being ended; who is left is said by what waits.
                    with suppress(psycopg2.errors.InsufficientPrivilege):
                        cursor.execute("SELECT pg_terminate_backend(%s)", (process,))
            except psycopg2.Error:
                return
