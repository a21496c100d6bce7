"""A dump of one group's tables, of one snapshot, that is read back before anybody relies on it.

``pg_dump`` writes it beside the other work of a rollback, while the services are stopped. Once they run again, every
row that ``pg_restore`` reads from it is compared with what the server says in the same snapshot, as a multiset of
hashed rows. Only then it gets its name: ``.partial`` was not read back yet, ``.unproven`` is not what the server holds,
or could not be compared.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from ..core.commands import playbook
from ..core.connection import Login, connect, first_row, sql
from ..core.errors import MigrationError, Problem
from ..core.estate import Group
from ..core.files import sha256_of, sync_directory
from ..core.sql import table_name
from ..postgres.client_programs import NoVersion, version_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

DIRECTORY = "/var/lib/sqlite-migration/rollback"
# Without the id map nobody can tell whose id a UUID was.
_LEDGER_TABLES = ("migration.id_map", "migration.reject", "migration.original_value")
_REWRITTEN_IDS = "migration.rewritten_id"
_PROGRAM_DIRECTORIES = "/usr/lib/postgresql"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COPY = re.compile(rb'COPY ((?:"(?:[^"]|"")+"|[^\s."(]+)\.(?:"(?:[^"]|"")+"|[^\s."(]+)) \((.*)\) FROM stdin;\n\Z')
_IDENTIFIER = re.compile(r'"((?:[^"]|"")+)"|([^\s,."]+)')
_LAST_LINE = b"\\.\n"
# What a row looks like in a COPY depends on these; pg_dump sets some of them itself.
_FORMS = {
    "search_path": "",
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
}


@dataclass(frozen=True)
class Dumped:
    """A dump that was read back.

    :param rows: table → rows in it, as ``schema.table``; the parts of a partitioned table by their own names.
    """

    path: str
    sha256: str
    size_bytes: int
    rows: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Programs:
    """Where ``pg_dump`` and ``pg_restore`` are, both of one version."""

    pg_dump: str
    pg_restore: str


def find_programs(connection: Connection) -> Programs:
    """Return programs that can dump this server: of its version, or of a later one.

    :raises MigrationError: if this host has none.
    """
    wanted = connection.info.server_version // 10_000
    found: dict[int, Programs] = {}
    likely = [Path(_PROGRAM_DIRECTORIES, str(wanted), "bin"), *map(Path, _PATH.split(":"))]
    for directory in [*likely, *Path(_PROGRAM_DIRECTORIES).glob("*/bin")]:
        programs = Programs(str(directory / "pg_dump"), str(directory / "pg_restore"))
        version = _major_of(programs.pg_dump)
        if version is not None and version == _major_of(programs.pg_restore):
            # Nothing fits better, and each question starts a program.
            if version == wanted:
                return programs
            found.setdefault(version, programs)
    for version in sorted(found):
        if version >= wanted:
            return found[version]
    what = f"pg_dump {max(found)} cannot dump a server of version {wanted}" if found else "pg_dump is not installed"
    raise MigrationError(
        "The tables cannot be dumped.",
        [
            Problem(
                "this host",
                what,
                f"Install postgresql-client-{wanted}: {playbook('1_infrastructure')} does so",
            )
        ],
    )


def _major_of(program: str) -> int | None:
    """Return the major version of a program; None if it is not there or does not work."""
    with suppress(NoVersion):
        return version_of(program)[0]
    return None


class GroupDump:
    """One dump in the making.

    :param directory: where it goes; it is made with mode 0700, the dump with 0600.
    :param lock_seconds: how long it waits for who keeps a table from being read.
    """

    def __init__(
        self, login: Login, connection: Connection, group: Group, directory: Path, lock_seconds: float = 30.0
    ) -> None:
        self._login = login
        self._programs = find_programs(connection)
        self._group = group
        self._tables = _tables_with_rows(connection, [mapping.target for mapping in group.tables])
        self._sequences = _sequences_of(connection, self._tables)
        connection.rollback()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        prefix = f"{quote(group.name, safe='')}-"
        # Of a run that was killed; not of a group whose name begins with this one's.
        ours = re.compile(rf"{re.escape(prefix)}\d{{8}}T\d+Z\.partial")
        for left in directory.iterdir():
            if ours.fullmatch(left.name):
                left.unlink()
        self._lock_timeout = f"{max(1, round(lock_seconds * 1000))}ms"
        self.path = directory / f"{prefix}{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.dump"
        self._partial = partial_of(self.path)
        self._reader: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def start(self, snapshot_id: str) -> None:
        """Start ``pg_dump`` on an exported snapshot; it goes on by itself. The snapshot is held until :meth:`close`."""
        self._reader = _hold(self._login, snapshot_id, self._lock_timeout)
        # The password goes through the environment, which only the user of the process can read.
        command = [self._programs.pg_dump, "--format=custom", f"--snapshot={snapshot_id}", "--no-password"]
        command.append(f"--lock-wait-timeout={self._lock_timeout}")
        if self._login.session_role:
            command.append(f"--role={self._login.session_role}")
        command += [f"--table={_pattern(name)}" for name in (*self._tables, *self._sequences)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by cancel())
        descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=self._errors,
                env=_environment(self._login),
            )
        finally:
            os.close(descriptor)

    def wait(self) -> None:
        """Wait until the dump is written and on the disk.

        :raises MigrationError: if it could not be written.
        """
        if self._process is None or self._errors is None:
            raise ValueError("wait() needs a dump that was started")
        if self._process.wait() != 0:
            self._errors.seek(0)
            what = _last_line(self._errors.read()) or f"pg_dump ended with {self._process.returncode}"
            raise _failed(self._group, self.path, what)
        with self._partial.open("rb") as file:
            os.fsync(file.fileno())
        sync_directory(self.path.parent)

    def prove(self) -> Dumped:
        """Read the dump back, compare it with the server in the same snapshot, and give it its name.

        :raises MigrationError: if it is not equal.
        """
        if self._reader is None:
            raise ValueError("prove() needs a dump that was started")
        return _prove(self._reader, self._programs, self._group, self._tables, self.path)

    def cancel(self) -> None:
        """End the dump if it still goes on, and remove what is not finished."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self.close()
        self._partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the snapshot go."""
        if self._errors is not None:
            self._errors.close()
        if self._reader is not None:
            self._reader.close()


def prove_left(login: Login, connection: Connection, group: Group, path: Path) -> Dumped:
    """Read back what a run has dumped that was killed before it could do so itself.

    The tables are still what they were: nobody but their owner may write to them while SQLite is the store.

    :raises MigrationError: if it is not what the server holds now.
    """
    programs = find_programs(connection)
    tables = _tables_with_rows(connection, [mapping.target for mapping in group.tables])
    connection.rollback()
    if not partial_of(path).exists():
        raise _failed(group, path, "it is no more")
    with closing(_hold(login, None, "30000ms")) as reader:
        return _prove(reader, programs, group, tables, path)


def set_aside(path: Path) -> Path:
    """Give a dump that could not be proven a name that says so, and return it."""
    unproven = path.with_suffix(".unproven")
    with suppress(FileNotFoundError):
        partial_of(path).rename(unproven)
    return unproven


def partial_of(path: Path) -> Path:
    """Return under which name a dump lies until it is proven."""
    return path.with_suffix(".partial")


def _hold(login: Login, snapshot_id: str | None, lock_timeout: str) -> Connection:
    """Return a session that sees one moment: an exported one, or now."""
    connection = connect(login)
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if snapshot_id is not None:
            cursor.execute("SET TRANSACTION SNAPSHOT %s", (snapshot_id,))
        for name, value in {**_FORMS, "lock_timeout": lock_timeout}.items():
            cursor.execute("SELECT pg_catalog.set_config(%s, %s, true)", (name, value))
    return connection


def _prove(reader: Connection, programs: Programs, group: Group, tables: Sequence[str], path: Path) -> Dumped:
    """Compare a dump with what a session sees, and give it its name."""
    partial = partial_of(path)
    read = _read_back(programs, group, partial)
    problems = []
    for name in tables:
        columns = _columns_of(reader, name)
        expected = _rows_of(reader, name, columns)
        if name == _REWRITTEN_IDS and name not in read and not expected.rows:
            # An upgrade between the dump and its proof has made this table.
            continue
        found_columns, found = read.get(name, ([], RowsHashed()))
        if found_columns != columns or found != expected:
            what = f"it holds {found.rows:,} rows of it, and the server {expected.rows:,}, or others"
            problems.append(Problem(f"{partial}: {name}", what, "Run again; please report this"))
    if problems:
        raise MigrationError("The dump is not what PostgreSQL holds.", problems)
    partial.rename(path)
    sync_directory(path.parent)
    rows = {name: hashed.rows for name, (_, hashed) in read.items()}
    return Dumped(str(path), sha256_of(path), path.stat().st_size, rows)


def _read_back(programs: Programs, group: Group, partial: Path) -> dict[str, tuple[list[str], RowsHashed]]:
    """Return columns and hashed rows of each table in the dump."""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [programs.pg_restore, "--data-only", "--file=-", str(partial)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
        ) as process,
    ):
        read = dict(_read_tables(process.stdout or ()))
        if process.wait() != 0:
            errors.seek(0)
            what = _last_line(errors.read()) or f"pg_restore ended with {process.returncode}"
            raise _failed(group, partial, what)
    return read


def _failed(group: Group, path: Path, what: str) -> MigrationError:
    """Return the error for a dump that did not come about."""
    return MigrationError(
        f"The tables of cutover group {group.name} could not be dumped.",
        [Problem(str(path), what, "Correct this, then run again")],
    )


class RowsHashed:
    """A multiset of rows, as the number of them and the sum of their hashes."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, line: bytes) -> None:
        """Take one row as a line of COPY."""
        self.rows += 1
        self._sum += int.from_bytes(hashlib.blake2b(line, digest_size=16).digest(), "big")

    def __eq__(self, other: object) -> bool:
        """Return whether both hold the same rows."""
        return isinstance(other, RowsHashed) and (self.rows, self._sum) == (other.rows, other._sum)

    __hash__ = None  # type: ignore[assignment] # it changes


class _Lines:
    """What ``COPY TO`` writes to: hashes each line."""

    def __init__(self, hashed: RowsHashed) -> None:
        self._hashed = hashed
        self._rest = b""

    def write(self, data: bytes) -> int:
        """Take the next piece of the stream."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hashed.add(line)
        return len(data)


def _read_tables(stream: Iterable[bytes]) -> Iterator[tuple[str, tuple[list[str], RowsHashed]]]:
    """Yield name, columns and hashed rows of each table from what ``pg_restore`` prints."""
    lines = iter(stream)
    for line in lines:
        match = _COPY.match(line)
        if match is None:
            continue
        hashed = RowsHashed()
        for row in lines:
            if row == _LAST_LINE:
                break
            hashed.add(row.removesuffix(b"\n"))
        yield ".".join(_identifiers(match[1])), (_identifiers(match[2]), hashed)


def _identifiers(text: bytes) -> list[str]:
    """Return names that were quoted where needed and separated by points or commas."""
    found = _IDENTIFIER.findall(text.decode())
    return [quoted.replace('""', '"') or bare for quoted, bare in found]


def _tables_with_rows(connection: Connection, names: Sequence[str]) -> list[str]:
    """Return the tables that hold the rows of these and of the ledger: of a partitioned one its parts."""
    with connection.cursor() as cursor:
        # An older ledger has no ids that were rewritten in texts.
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (_REWRITTEN_IDS,))
        more = (_REWRITTEN_IDS,) if first_row(cursor)[0] else ()
        quoted = [table_name(name).as_string(connection) for name in (*names, *_LEDGER_TABLES, *more)]
        cursor.execute(
            """
            WITH RECURSIVE part (oid) AS (
                SELECT unnest(%s::regclass[])::oid
                UNION
                SELECT i.inhrelid FROM part JOIN pg_class c USING (oid) JOIN pg_inherits i ON i.inhparent = c.oid
                WHERE c.relkind = 'p'
            )
            SELECT n.nspname || '.' || c.relname FROM part JOIN pg_class c USING (oid)
            JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' ORDER BY 1
            """,
            (quoted,),
        )
        return [str(row[0]) for row in cursor.fetchall()]


def _sequences_of(connection: Connection, tables: Sequence[str]) -> list[str]:
    """Return the sequences that number the rows of these tables."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT n.nspname || '.' || s.relname FROM pg_depend d "
            "JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace "
            "WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass "
            "AND d.refobjid = ANY (%s::regclass[]) ORDER BY 1",
            ([table_name(name).as_string(connection) for name in tables],),
        )
        return [str(row[0]) for row in cursor.fetchall()]


def _columns_of(connection: Connection, name: str) -> list[str]:
    """Return the columns that a COPY of a table holds: all but those computed from others."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_catalog.pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
            (table_name(name).as_string(connection),),
        )
        return list(first_row(cursor)[0] or [])


def _rows_of(connection: Connection, name: str, columns: Sequence[str]) -> RowsHashed:
    """Return the rows of a table as the server says them."""
    hashed = RowsHashed()
    statement = sql.SQL("COPY {} ({}) TO STDOUT").format(
        table_name(name), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor() as cursor:
        cursor.copy_expert(statement, _Lines(hashed))
    return hashed


def _pattern(name: str) -> str:
    """Return a table's name for ``pg_dump --table``, where nothing inside quotes has a meaning of its own."""
    schema, _, table = name.partition(".")
    return ".".join('"' + part.replace('"', '""') + '"' for part in (schema, table))


def _environment(login: Login) -> dict[str, str]:
    """Return the environment in which the programs reach the server."""
    values = {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "PGHOST": login.host,
        "PGPORT": str(login.port),
        "PGDATABASE": login.database,
        "PGUSER": login.user,
        "PGPASSWORD": login.password,
        "PGSSLMODE": login.ssl_mode,
        "PGSSLROOTCERT": login.ca_cert,
        "PGCONNECT_TIMEOUT": str(login.connect_timeout),
        "PGCLIENTENCODING": "UTF8",
        "PGOPTIONS": "-c timezone=UTC -c bytea_output=hex",
        "PGAPPNAME": "sqlite_to_postgresql",
    }
    return {name: value for name, value in values.items() if value}


def _last_line(text: bytes) -> str:
    """Return the last line of what a program printed."""
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
