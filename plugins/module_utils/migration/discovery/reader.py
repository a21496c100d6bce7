"""Reads a database of somebody else's in a process that has that user's rights alone.

SQLite opens a file, and what stands beside it, by their names. A process that may do no more than the user may is the
only one that can be led nowhere else by them. What it finds comes back as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.commands import playbook
from ..core.errors import MigrationError, Problem
from ..core.estate import parse_group
from ..core.rights import groups_of
from ..draft.draft import Draft, draft
from ..engine.transfer import migrate
from ..host import safe_paths
from ..sqlite.snapshot import snapshot
from ..sqlite.tables import count_rows, open_snapshot, read_tables
from .files import Database

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Of what is told of one database.
_MOST_BYTES = 16 << 20
_BESIDE = ("-wal", "-journal")
# What a reader has to say: its result, or a summary with problems.
_Read = Callable[[str], Any]


def read_draft(database: Database, uid: int, group: str, held: bool, parent: str, seconds: float) -> Draft:
    """Return the draft for a database.

    :param uid: the user with whose rights it is read.
    :param group: the name of its cutover group.
    :param held: whether a process has it open.
    :param parent: an existing directory in which a private one is made for the snapshot.
    :param seconds: how long this may take.
    :raises MigrationError: if this user cannot read it, or it takes too long.
    """

    def read(work: str) -> dict[str, Any]:
        copy = _copy(database.path, work, held)
        return asdict(draft(database.path, group, f"{work}/snapshots", copy, frozen=not (held or copy)))

    found = _as_user(database, uid, parent, seconds, read)
    return Draft(**{**found, "questions": [Problem(**question) for question in found["questions"]]})


def read_counts(database: Database, uid: int, parent: str, seconds: float) -> dict[str, int]:
    """Return the tables of a database that nobody has open, each with its rows. The parameters are as above."""

    def read(work: str) -> dict[str, int]:
        copy = _copy(database.path, work, held=False)
        with (
            snapshot(copy or database.path, f"{work}/snapshots", frozen=not copy) as taken,
            closing(open_snapshot(taken.path)) as connection,
        ):
            return {table: count_rows(connection, table) for table in read_tables(connection)}

    return dict(_as_user(database, uid, parent, seconds, read))


def read_refusals(
    database: Database,
    uid: int,
    mapping: Mapping[str, Any],
    held: bool,
    connection: Connection,
    parent: str,
    seconds: float,
) -> list[Problem]:
    """Return what the engine refuses when it would move a database, as its dry run finds it; nothing is moved.

    :param mapping: the entry of its cutover group. The other parameters are as above.
    :param connection: to a database that holds the ledger and the tables. Nobody else may use it meanwhile.
    """

    def read(work: str) -> list[dict[str, str]]:
        # One that is not held may have its journals beside it, which SQLite would clear up in its place.
        copy = "" if held else _private_copy(database.path, work)
        group = parse_group({**mapping, "source": {"path": copy or database.path}})
        try:
            migrate.migrate(connection, group, migrate.REHEARSAL, check_mode=True, work_directory=f"{work}/snapshots")
        except MigrationError as error:
            problems = error.problems or [Problem(group.source_path, error.summary, "Correct the draft")]
            return [
                asdict(replace(problem, where=problem.where.removeprefix(f"{group.source_path}: ")))
                for problem in problems
            ]
        return []

    return [Problem(**problem) for problem in _as_user(database, uid, parent, seconds, read)]


def _copy(path: str, work: str, held: bool) -> str:
    """Return the path of a private copy of a database that nobody has open, with its journals.

    It is empty where none is needed: a file in use is read together with its writers, and one without journals as it
    is. SQLite would make files beside it, or clear up, if it read the others in their place.
    """
    if held or not any(os.path.lexists(path + end) for end in _BESIDE):
        return ""
    return _private_copy(path, work)


def _private_copy(path: str, work: str) -> str:
    """Return the path of a private copy of a database and of its journals."""
    copy = f"{work}/{os.path.basename(path)}"
    for end in ("", *_BESIDE):
        with suppress(FileNotFoundError), safe_paths.regular_file(path + end, follow=False) as source:
            safe_paths.copy_to(source, Path(copy + end))
    return copy


def _as_user(database: Database, uid: int, parent: str, seconds: float, read: _Read) -> Any:
    """Return what a function reads with the rights of a user; it gets a private directory.

    :raises MigrationError: if it fails, or another file stands at the name before or after it.
    """
    if database.links > 1:
        raise _unread(database.path, f"it has {database.links} names (hard links), so it may be somebody else's file")
    if uid == 0:
        # Root may do everything: nobody else may be able to exchange what is on its way.
        safe_paths.require_private(os.path.dirname(database.path), secret=False)
    # The user may not exchange the directory within ours.
    outer = Path(tempfile.mkdtemp(prefix="sqlite-discover-", dir=parent))
    try:
        work = outer / "work"
        work.mkdir(mode=0o700)
        if uid != os.geteuid():
            outer.chmod(0o711)
            os.chown(work, uid, groups_of(uid)[0])
        return _in_a_process(database, uid, str(work), seconds, read)
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def _in_a_process(database: Database, uid: int, work: str, seconds: float, read: _Read) -> Any:
    """Run the function in a process of its own, and return its result."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(database, uid, work, read, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise _unread(database.path, f"reading it did not end within {seconds:,.0f} seconds")
        answer = json.loads(receiver.recv_bytes(_MOST_BYTES))
    except (OSError, EOFError) as error:
        # So multiprocessing says that there is more than was asked for.
        if "bad message length" in str(error):
            raise _unread(database.path, f"what is to be told of it takes more than {_MOST_BYTES:,} bytes") from None
        raise _unread(database.path, f"the process that read it as user id {uid} has ended") from None
    finally:
        # With those that check a large snapshot.
        if process.ident is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.ident, signal.SIGKILL)
        process.kill()
        process.join()
        receiver.close()
    if "summary" in answer:
        raise MigrationError(answer["summary"], [Problem(**problem) for problem in answer["problems"]])
    return answer["result"]


def _work(database: Database, uid: int, work: str, read: _Read, sender: Pipe) -> None:
    """Become the user, read, and send what was found."""
    os.setsid()
    try:
        if uid != os.geteuid():
            group, groups = groups_of(uid)
            os.setgroups(groups)
            os.setresgid(group, group, group)
            os.setresuid(uid, uid, uid)
        os.chdir(work)
        _require_same(database)
        result = read(work)
        _require_same(database)
        answer = json.dumps({"result": result}, ensure_ascii=False).encode()
    except MigrationError as error:
        answer = _refusal(error)
    except UnicodeError:
        # What is told of it could stand in no draft.
        answer = _refusal(_unread(database.path, "the name or default of a table or column in it is not UTF-8"))
    except (OSError, sqlite3.Error) as error:
        what = f"user id {uid} cannot read it: {getattr(error, 'strerror', None) or error}"
        answer = _refusal(_unread(database.path, what))
    sender.send_bytes(answer)
    sender.close()
    # Nothing of the parent's is closed or flushed a second time.
    os._exit(0)


def _refusal(error: MigrationError) -> bytes:
    """Return an error as an answer."""
    answer = {"summary": error.summary, "problems": error.as_dicts()}
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")


def _require_same(database: Database) -> None:
    """Refuse another file at the database's name.

    :raises MigrationError: if there is one.
    """
    info = os.lstat(database.path)
    if (info.st_dev, info.st_ino) != database.inode:
        raise _unread(database.path, "another file stands at its name while it is read")


def _unread(path: str, what: str) -> MigrationError:
    """Return the error for a database that was not read."""
    fix = f"Look at it yourself; then run it again, {playbook('discover')}, or describe it by hand"
    return MigrationError(f"{path} was not read.", [Problem(path, what, fix)])
