"""The archive of a SQLite file: a snapshot made by SQLite itself, compressed, with a manifest, and proven.

Nothing of a file may move before its archive was read back from the disk and every row of every
table was found in it to be the same as in the file. The archive stays for good.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core.errors import MigrationError, Problem
from ..core.files import WORK_DIRECTORY, sha256_of, sync_directory, synchronise
from ..host import safe_paths
from ..sqlite.snapshot import remove_leftovers
from ..sqlite.tables import open_snapshot, quote_name, row_id_of

ARCHIVE_DIRECTORY = "/var/backups/sqlite-migration"
MANIFEST = "manifest.json"
SNAPSHOT = "snapshot.db.gz"
_CHUNK_BYTES = 1 << 20
_COMPRESSION = 6
_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Piece:
    """One file of a database: the file itself, or what SQLite keeps beside it.

    :param suffix: empty, or ``-wal``, ``-shm``, ``-journal``.
    """

    suffix: str
    directory: int
    name: str
    path: str
    inode: int
    sha256: str


@contextmanager
def private_copy(pieces: Sequence[Piece], work_directory: str | None = None) -> Iterator[Path]:
    """Give a private copy of a database, made through descriptors, that is to the byte what the plan names.

    SQLite sees only the copy: neither the file nor what lies beside it is changed by reading it.

    :raises Changed: if a piece is not the file that the plan names.
    """
    work = Path(work_directory or WORK_DIRECTORY)
    # A dry run leaves the host as it was.
    missing = [directory for directory in (work, *work.parents) if not directory.exists()]
    with ExitStack() as stack:
        for directory in reversed(missing):
            stack.callback(_remove_if_empty, directory)
        descriptor = stack.enter_context(safe_paths.private_directory(work))
        remove_leftovers(work)
        prefix = f"run-{os.getpid()}-"
        private = stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=safe_paths.through(descriptor)))
        copy = Path(private) / "source.db"
        for piece in pieces:
            with safe_paths.open_file(piece.directory, piece.name, piece.path, piece.inode) as file:
                target = Path(f"{copy}{piece.suffix}")
                if safe_paths.copy_to(file, target) != piece.sha256:
                    raise safe_paths.changed(piece.path, "its content is no longer what the plan names")
                if piece.suffix == "-shm":
                    # SQLite makes it anew; a stale one would mislead it.
                    target.unlink()
        yield copy


def _remove_if_empty(directory: Path) -> None:
    """Remove a directory if nothing is in it."""
    with suppress(OSError):
        directory.rmdir()


def make(
    pieces: Sequence[Piece],
    name: str,
    facts: Mapping[str, Any],
    archive_directory: str = ARCHIVE_DIRECTORY,
    work_directory: str | None = None,
) -> dict[str, Any]:
    """Archive a database, read the archive back, and compare it row by row; return its description.

    An archive of the same name that is there already, after a crash, is taken if it is proven the same way.

    :param name: the archive's directory below ``archive_directory``.
    :param facts: what else the manifest shall hold: the ledger's data, the plan's id.
    :raises MigrationError: if the file is not the planned one, the disk is full, or a row differs.
    """
    path = pieces[0].path
    try:
        with (
            private_copy(pieces, work_directory) as copy,
            safe_paths.private_directory(archive_directory) as directory,
        ):
            if safe_paths.identify(directory, name) is None:
                _write(copy, pieces, name, facts, directory)
            return _prove(copy, name, directory, archive_directory, path)
    except sqlite3.Error as error:
        fix = "Look at the file: it stays where it is"
        raise MigrationError(f"{path} cannot be archived.", [Problem(path, f"SQLite refuses: {error}", fix)]) from None
    except OSError as error:
        fix = "Correct this, or name another sqlite_cleanup_archive_directory; the file stays where it is"
        problem = Problem(archive_directory, f"the archive of {path} cannot be made: {error.strerror}", fix)
        raise MigrationError(f"{path} cannot be archived.", [problem]) from None


def _write(copy: Path, pieces: Sequence[Piece], name: str, facts: Mapping[str, Any], directory: int) -> None:
    """Write the archive into a directory of another name, and give it its own when it is complete on the disk."""
    unfinished = f"{name}{_UNFINISHED}"
    base = Path(safe_paths.through(directory))
    # Left behind by a run that was killed.
    with suppress(FileNotFoundError):
        shutil.rmtree(base / unfinished)
    os.mkdir(unfinished, 0o700, dir_fd=directory)
    try:
        snapshot = copy.with_name("snapshot.db")
        os.close(os.open(snapshot, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(copy)) as reader, closing(sqlite3.connect(snapshot)) as writer:
            reader.backup(writer)
            writer.execute("PRAGMA journal_mode = DELETE")
        archive = base / unfinished / SNAPSHOT
        snapshot_sha256 = _compress(snapshot, archive)
        with closing(_open(snapshot)) as connection:
            tables = describe(connection)
        manifest = {
            "source": pieces[0].path,
            "source_files": [{"path": piece.path, "inode": piece.inode, "sha256": piece.sha256} for piece in pieces],
            "archived_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "sqlite_version": sqlite3.sqlite_version,
            "snapshot_sha256": snapshot_sha256,
            "archive": SNAPSHOT,
            "archive_sha256": sha256_of(archive),
            "tables": tables,
            **facts,
        }
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        with _create(base / unfinished / MANIFEST) as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        snapshot.unlink()
        sync_directory(base / unfinished)
        safe_paths.move(directory, unfinished, directory, name)
        synchronise(directory)
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(base / unfinished)
        raise


def _prove(copy: Path, name: str, directory: int, archive_directory: str, path: str) -> dict[str, Any]:
    """Read an archive back and compare it with the private copy of its source, row by row."""
    base = Path(safe_paths.through(directory)) / name
    where = f"{archive_directory}/{name}"
    try:
        manifest = json.loads((base / MANIFEST).read_text(encoding="utf-8"))
        wanted_archive, wanted_snapshot = str(manifest["archive_sha256"]), str(manifest["snapshot_sha256"])
        tables = manifest["tables"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unproven(where, f"its manifest cannot be read: {error}") from None
    restored = copy.with_name("restored.db")
    if sha256_of(base / SNAPSHOT) != wanted_archive:
        raise _unproven(where, f"{SNAPSHOT} is not the file that its manifest names")
    try:
        found = _decompress(base / SNAPSHOT, restored)
    except (OSError, EOFError, ValueError) as error:
        raise _unproven(where, f"{SNAPSHOT} cannot be read back: {error}") from None
    if found != wanted_snapshot:
        raise _unproven(where, f"what {SNAPSHOT} holds is not the snapshot that its manifest names")
    try:
        with closing(_open(copy)) as source, closing(_open(restored)) as archived:
            difference = compare(source, archived)
            if difference:
                raise _unproven(where, f"it is not the same as {path}: {difference}")
            if describe(archived) != tables:
                raise _unproven(where, "its tables are not those that its manifest names")
    finally:
        restored.unlink()
    return {
        "directory": where,
        "archive_sha256": wanted_archive,
        "snapshot_sha256": wanted_snapshot,
        "rows": sum(int(table["rows"]) for table in tables.values()),
        "tables": {table: int(entry["rows"]) for table, entry in tables.items()},
    }


def _unproven(where: str, what: str) -> MigrationError:
    """Return the error for an archive that cannot be relied on."""
    fix = "Move this archive away and look at it; a new one is made by the next run, and the file stays until then"
    return MigrationError("An archive does not prove to be good.", [Problem(where, what, fix)])


def require_intact(description: Mapping[str, Any]) -> None:
    """Raise unless an archive is still, to the byte, the one that was proven.

    :param description: what :func:`make` returned.
    """
    where = str(description["directory"])
    with safe_paths.private_directory(where, create=False) as directory:
        try:
            found = sha256_of(Path(safe_paths.through(directory)) / SNAPSHOT)
        except OSError as error:
            raise _unproven(where, f"{SNAPSHOT} cannot be read: {error.strerror}") from None
    if found != description["archive_sha256"]:
        raise _unproven(where, f"{SNAPSHOT} has changed since it was proven")


# ---------------------------------------------------------------- rows


def _open(path: Path) -> sqlite3.Connection:
    """Open a private database so that every value comes back with its type, and a text as its very bytes."""
    connection = open_snapshot(path)
    connection.text_factory = lambda data: (data,)
    return connection


def _tables_of(connection: sqlite3.Connection) -> dict[str, str]:
    """Return for each table that holds rows of its own the query of all its rows, SQLite's own tables included."""
    text = connection.text_factory
    connection.text_factory = str
    try:
        queries = {}
        # A virtual table holds its rows in other tables, which are listed too.
        for name, without_row_id in connection.execute(
            "SELECT l.name, l.wr FROM pragma_table_list AS l WHERE l.schema = 'main' AND l.type IN ('table', 'shadow') "
            "AND l.name NOT IN ('sqlite_schema', 'sqlite_temp_schema') ORDER BY l.name"
        ).fetchall():
            columns = [
                column
                for column, hidden in connection.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (name,))
                if hidden == 0
            ]
            fields = list(map(quote_name, columns))
            row_id = row_id_of(columns)
            if not without_row_id and row_id:
                fields.insert(0, row_id)
            queries[name] = f"SELECT {', '.join(fields)} FROM {quote_name(name)} NOT INDEXED"  # noqa: S608 (quoted)
        queries["sqlite_schema"] = "SELECT type, name, tbl_name, sql FROM sqlite_schema"
        return queries
    finally:
        connection.text_factory = text


def describe(connection: sqlite3.Connection) -> dict[str, dict[str, Any]]:
    """Return number and hash of the rows of every table, in the order of the file."""
    described = {}
    for table, query in _tables_of(connection).items():
        digest = hashlib.sha256()
        count = 0
        for row in connection.execute(query):
            for value in row:
                digest.update(_encoded(value))
            digest.update(b"\n")
            count += 1
        described[table] = {"rows": count, "sha256": digest.hexdigest()}
    return described


def _encoded(value: Any) -> bytes:
    """Return a value with its type, so that no two values have the same bytes."""
    if value is None:
        return b"n"
    if isinstance(value, int):
        return b"i%d;" % value
    if isinstance(value, float):
        return b"r" + struct.pack(">d", value)
    if isinstance(value, tuple):
        return b"t%d:" % len(value[0]) + bytes(value[0])
    return b"b%d:" % len(value) + bytes(value)


def compare(one: sqlite3.Connection, other: sqlite3.Connection) -> str:
    """Return the first difference between two databases, empty if every row of every table is the same."""
    queries = _tables_of(one)
    others = _tables_of(other)
    if queries != others:
        return f"the tables differ: {', '.join(sorted(set(queries) ^ set(others))) or 'their columns'}"
    for table, query in queries.items():
        rows, copies = one.execute(query), other.execute(query)
        count = 0
        while True:
            row, copied = rows.fetchone(), copies.fetchone()
            if row is None and copied is None:
                break
            count += 1
            if row is None or copied is None or [*map(_encoded, row)] != [*map(_encoded, copied)]:
                return f"row {count:,} of table {table}"
    return ""


# ---------------------------------------------------------------- files


def _create(path: Path) -> Any:
    """Create a private file and open it for writing."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


def _compress(source: Path, target: Path) -> str:
    """Compress a file into a new private one that is on the disk afterwards, and return the content's SHA-256."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, _create(target) as file:
        # Without a name and a time in it, the same content gives the same archive.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_COMPRESSION, fileobj=file, mtime=0) as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                digest.update(chunk)
                writer.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        # What is read back comes from the disk, not from memory.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return digest.hexdigest()


def _decompress(source: Path, target: Path) -> str:
    """Decompress a file into a new private one, and return the content's SHA-256."""
    digest = hashlib.sha256()
    with gzip.open(source, "rb") as reader, _create(target) as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()
