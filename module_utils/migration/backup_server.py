"""PostgreSQL's own programs, and whole databases: created, dropped, and swapped by their names."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backup_settings import Settings
from .connection import Login, connected, explained, first_row
from .errors import MigrationError, Problem

try:
    import psycopg2
    from psycopg2 import sql
    from psycopg2.extensions import make_dsn
except ImportError:  # reported by connection.connect()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

# The comment of a database that this program made for its own work, and may drop.
WORK_MARK = "Work of the backup program, to be dropped: "
_LOCK_WAIT_MILLISECONDS = 60_000
_LAST_LINES = 3
# PostgreSQL cuts longer names.
_NAME_BYTES = 63
# Their values are lists of names, each quoted by itself.
_LIST_SETTINGS = {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}


class ProgramFailed(MigrationError):
    """One of PostgreSQL's programs ended with an error."""


def name_with(database: str, suffix: str) -> str:
    """Return the database's name with a suffix, cut so that PostgreSQL keeps the suffix."""
    return database.encode()[: _NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix


def server_version(connection: Connection) -> tuple[int, str]:
    """Return the server's major version and its version as text."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version')")
        return connection.server_version // 10000, str(first_row(cursor)[0])


def require_client(settings: Settings, major: int) -> str:
    """Return the version of the client programs.

    :raises MigrationError: if they are missing or not of the server's major version.
    """
    program = settings.programs_for(major) / "pg_dump"
    fix = f"Install postgresql-client-{major}: playbooks/1_infrastructure.yml does"
    try:
        output = subprocess.run(
            [str(program), "--version"], env=_environment(None), text=True, capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        what = error.strerror if isinstance(error, OSError) else f"exit code {error.returncode}"
        raise MigrationError("There is no usable pg_dump.", [Problem(str(program), f"{what}", fix)]) from None
    version = re.search(r"\) (\S+)", output)
    found = version[1] if version else output.strip()
    if re.match(r"\d+", found) is None or int(re.findall(r"\d+", found)[0]) != major:
        raise MigrationError(
            "The client programs are of another version than the server.",
            [Problem(str(program), f"its version is {found}, the server's {major}", fix)],
        )
    return found


def _environment(login: Login | None) -> dict[str, str]:
    """Return a child's environment. Only its own user can read it, so the password may stand in it."""
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    if login is not None:
        environment |= {
            "PGHOST": login.host,
            "PGPORT": str(login.port),
            "PGUSER": login.user,
            "PGSSLMODE": login.ssl_mode,
            "PGCONNECT_TIMEOUT": str(login.connect_timeout),
            "PGAPPNAME": "sqlite_to_postgresql backup",
            # Nothing of the account's own decides.
            "PGPASSFILE": "/dev/null",
            "PGSERVICEFILE": "/dev/null",
        }
        if login.password is not None:
            environment["PGPASSWORD"] = login.password
        if login.ca_cert is not None:
            environment["PGSSLROOTCERT"] = login.ca_cert
    return environment


@contextmanager
def running(settings: Settings, major: int, program: str, arguments: Sequence[str]) -> Iterator[None]:
    """Run one of PostgreSQL's programs while the block does its own work; wait for it at the end.

    :raises ProgramFailed: with its last words, if it fails. It is ended if the block fails.
    """
    path = settings.programs_for(major) / program
    command = [str(path), "--no-password", *arguments]
    if settings.login.session_role and program != "pg_dumpall":
        command += ["--role", settings.login.session_role]
    with subprocess.Popen(
        command,
        env=_environment(settings.login),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        umask=0o077,
    ) as process:
        lines: list[str] = []
        reader = threading.Thread(target=_keep_last, args=(process, lines), daemon=True)
        reader.start()
        try:
            yield
        except BaseException:
            process.kill()
            raise
        finally:
            status = process.wait()
            reader.join()
    if status != 0:
        fix = "Look at the server's log, then run again"
        if any("No space left on device" in line for line in lines):
            fix = "Free space there, then run again"
        raise ProgramFailed(f"{program} failed.", [Problem(program, " / ".join(lines) or f"exit code {status}", fix)])


def run_program(settings: Settings, major: int, program: str, arguments: Sequence[str]) -> None:
    """Run one of PostgreSQL's programs to its end; see :func:`running`."""
    with running(settings, major, program, arguments):
        pass


def _keep_last(process: subprocess.Popen[str], lines: list[str]) -> None:
    """Read a child's errors, and keep the last lines."""
    for line in process.stderr or ():
        lines.append(line.strip())
        del lines[:-_LAST_LINES]


def dump(settings: Settings, major: int, snapshot: str, path: Path) -> Any:
    """Return the context in which pg_dump writes the database, as an exported snapshot shows it, into a file."""
    arguments = ["--format=custom", f"--snapshot={snapshot}", f"--lock-wait-timeout={_LOCK_WAIT_MILLISECONDS}"]
    dsn = make_dsn(dbname=settings.login.database)
    return running(settings, major, "pg_dump", [*arguments, f"--file={path}", f"--dbname={dsn}"])


def dump_roles(settings: Settings, major: int, path: Path) -> None:
    """Write every role and its memberships, without passwords, as SQL into a file."""
    dsn = make_dsn(dbname=settings.maintenance_database)
    run_program(
        settings, major, "pg_dumpall", ["--roles-only", "--no-role-passwords", f"--file={path}", f"--dbname={dsn}"]
    )


def restore(settings: Settings, major: int, path: Path, database: str) -> None:
    """Restore a dump into an empty database, to the first error."""
    dsn = make_dsn(dbname=database)
    run_program(settings, major, "pg_restore", ["--exit-on-error", f"--dbname={dsn}", str(path)])


@contextmanager
def maintenance(settings: Settings) -> Iterator[Connection]:
    """Return a connection to another database of the server, in autocommit, as the role that logs in."""
    login = replace(settings.login, database=settings.maintenance_database, session_role=None)
    with explained("working on whole databases"), connected(login) as connection:
        connection.rollback()
        connection.autocommit = True
        yield connection


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
                  FROM pg_db_role_setting s WHERE s.setdatabase = d.oid)
        FROM pg_database d WHERE d.datname = current_database()
        """
    )
    names = ("owner", "encoding", "collate", "ctype", "provider", "locale", "privileges", "settings")
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

    :raises MigrationError: if the database of this name is not ours.
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
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))
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
    with maintenance(settings) as connection, maintenance(settings) as other, connection.cursor() as cursor:
        connection.autocommit = False
        done = threading.Event()
        # The rename locks the database against new sessions, then waits 5 s for the present ones to be gone.
        ending = threading.Thread(target=_end_sessions, args=(other, (database, new), done), daemon=True)
        ending.start()
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
            what = f"{error.diag.message_primary}: {error.diag.message_detail or ''}"
            fix = "End its sessions and prepared transactions, then run again; nothing was renamed"
            raise MigrationError("The databases could not be swapped.", [Problem(database, what, fix)]) from None
        finally:
            done.set()
            ending.join()


def _rename(cursor: Cursor, present: str, future: str) -> None:
    """Rename a database."""
    cursor.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(present), sql.Identifier(future)))


def _end_sessions(connection: Connection, databases: tuple[str, ...], done: threading.Event) -> None:
    """End every session in these databases, again and again until it is enough."""
    with connection.cursor() as cursor:
        while not done.wait(0.05):
            try:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = ANY (%s) AND pid <> pg_backend_pid()",
                    (list(databases),),
                )
            except psycopg2.Error:
                return  # the rename then says who is still there
