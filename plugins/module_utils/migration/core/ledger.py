"""The ledger: schema ``migration`` in the target database, from which every decision is taken.

``schema_apply`` creates it. It holds the history of applied SQL files, the state of each cutover
group, each run's counts and hashes, the id map, the rejected rows, the original of every value
that a policy changed or that has no column in the target, the ids that were rewritten inside texts,
the backups with the time at which each was proven to restore, the daily checks of the soak time, and
what cleanup has shown and done.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import state
from .commands import playbook
from .connection import Json, first_row, psycopg2
from .errors import Busy, MigrationError, Problem
from .group_detail import GroupDetail

if TYPE_CHECKING:
    from datetime import datetime

    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

# The first half of every advisory lock key of ours: 'MIGR' in ASCII, as a 32-bit integer.
LOCK_CLASS = 0x4D494752
SCHEMA_LOCK = 0

CREATE_LEDGER = """
CREATE SCHEMA IF NOT EXISTS migration;
COMMENT ON SCHEMA migration IS 'Ledger of the move from SQLite: never edit by hand.';

CREATE TABLE IF NOT EXISTS migration.applied_file (
  number integer PRIMARY KEY,
  name text NOT NULL UNIQUE,
  sha256 text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now(),
  applied_by text NOT NULL DEFAULT session_user,
  duration_ms integer NOT NULL,
  catalog jsonb NOT NULL
);

CREATE TABLE IF NOT EXISTS migration.cutover_group (
  name text PRIMARY KEY,
  state text NOT NULL,
  changed_at timestamptz NOT NULL DEFAULT now(),
  source_path text NOT NULL,
  rehearsed_at timestamptz,
  cutover_at timestamptz,
  frozen_sha256 text,
  detail jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE IF NOT EXISTS migration.run (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  group_name text NOT NULL,
  kind text NOT NULL,
  started_at timestamptz NOT NULL,
  finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  report jsonb NOT NULL
);

CREATE TABLE IF NOT EXISTS migration.id_map (
  namespace text NOT NULL,
  old_id text NOT NULL,
  new_id uuid NOT NULL,
  PRIMARY KEY (namespace, old_id),
  UNIQUE (namespace, new_id)
);

CREATE TABLE IF NOT EXISTS migration.reject (
  group_name text NOT NULL,
  source_table text NOT NULL,
  row_key text NOT NULL,
  reason text NOT NULL,
  row_values jsonb NOT NULL,
  PRIMARY KEY (group_name, source_table, row_key)
);

CREATE TABLE IF NOT EXISTS migration.original_value (
  group_name text NOT NULL,
  source_table text NOT NULL,
  row_key text NOT NULL,
  column_name text NOT NULL,
  reason text NOT NULL,
  value jsonb NOT NULL,
  PRIMARY KEY (group_name, source_table, row_key, column_name)
);

CREATE TABLE IF NOT EXISTS migration.rewritten_id (
  group_name text NOT NULL,
  ids_hash text NOT NULL,
  old_id text NOT NULL,
  new_id uuid NOT NULL
);

-- An id may be longer than an entry of an index can be.
CREATE INDEX IF NOT EXISTS rewritten_id_group ON migration.rewritten_id (group_name, ids_hash);

CREATE TABLE IF NOT EXISTS migration.backup (
  name text PRIMARY KEY,
  taken_at timestamptz NOT NULL,
  verified_at timestamptz,
  sha256 text NOT NULL,
  manifest jsonb NOT NULL
);

CREATE TABLE IF NOT EXISTS migration.soak_check (
  group_name text NOT NULL,
  checked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  passed boolean NOT NULL,
  findings jsonb NOT NULL,
  PRIMARY KEY (group_name, checked_at)
);

CREATE TABLE IF NOT EXISTS migration.cleanup_plan (
  plan_id text PRIMARY KEY,
  shown_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  facts jsonb NOT NULL
);

CREATE TABLE IF NOT EXISTS migration.cleanup_file (
  path text PRIMARY KEY,
  kind text NOT NULL,
  group_name text NOT NULL,
  plan_id text NOT NULL,
  step text NOT NULL,
  changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  facts jsonb NOT NULL
);

CREATE UNLOGGED TABLE IF NOT EXISTS migration.progress (
  group_name text PRIMARY KEY,
  step text NOT NULL,
  table_name text,
  rows_done bigint,
  rows_total bigint,
  started_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL
);
COMMENT ON TABLE migration.progress IS 'Runs at work: step and table since started_at, written once a second.';
"""


_TABLE_NAMES = re.compile(r"TABLE IF NOT EXISTS (migration\.\w+)")


@dataclass(frozen=True)
class GroupRecord:
    """What the ledger knows of one cutover group."""

    name: str
    state: str
    source_path: str
    rehearsed_at: datetime | None
    cutover_at: datetime | None
    frozen_sha256: str | None
    detail: GroupDetail


def exists(connection: Connection) -> bool:
    """Return whether the ledger has been created in this database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('migration.cutover_group') IS NOT NULL")
        return bool(first_row(cursor)[0])


def is_complete(connection: Connection) -> bool:
    """Return whether every table of the ledger is there; an older release made fewer."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest(%s) AS name",
            (_TABLE_NAMES.findall(CREATE_LEDGER),),
        )
        return bool(first_row(cursor)[0])


def require(connection: Connection) -> None:
    """Raise a clear error if there is no ledger yet.

    :raises MigrationError: telling to run ``schema_apply`` first.
    """
    if not exists(connection):
        raise MigrationError(
            "There is no ledger in the target database.",
            [
                Problem(
                    "schema migration",
                    "it does not exist yet",
                    f"Run {playbook('1_infrastructure')}: schema_apply creates it",
                )
            ],
        )


def unknown_group(name: str, source_path: str = "") -> GroupRecord:
    """Return the record of a group that no ledger knows."""
    return GroupRecord(name, state.PENDING, source_path, None, None, None, GroupDetail())


def read_group(connection: Connection, name: str, source_path: str = "") -> GroupRecord:
    """Return the ledger's record of a group; a group never seen is ``pending``."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, state, source_path, rehearsed_at, cutover_at, frozen_sha256, detail "
            "FROM migration.cutover_group WHERE name = %s",
            (name,),
        )
        row = cursor.fetchone()
    if row is None:
        return unknown_group(name, source_path)
    values: dict[str, Any] = dict(zip(GroupRecord.__dataclass_fields__, row, strict=True))
    return GroupRecord(**{**values, "detail": GroupDetail.from_ledger(values["detail"])})


def take_step(
    connection: Connection,
    name: str,
    step: str,
    source_path: str,
    frozen_sha256: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> str:
    """Take one step in the life of a group and return its new state. The caller commits.

    :param step: a step of :mod:`.core.state`; whether it is allowed is decided there alone.
    :param frozen_sha256: hash of the frozen source, recorded by the step ``freeze``.
    :param detail: keys merged into the record's ``detail``, from :func:`.core.group_detail.changes`.
    :raises MigrationError: if the step is not allowed from the group's present state.
    """
    record = read_group(connection, name, source_path)
    new_state = state.next_state(name, record.state, step)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO migration.cutover_group AS g
                   (name, state, source_path, rehearsed_at, cutover_at, frozen_sha256, detail)
            VALUES (%(name)s, %(state)s, %(path)s,
                    CASE WHEN %(step)s = 'rehearse' THEN clock_timestamp() END,
                    CASE WHEN %(step)s = 'go_live' THEN clock_timestamp() END,
                    %(sha256)s, %(detail)s)
            ON CONFLICT (name) DO UPDATE SET
                   state = excluded.state,
                   changed_at = clock_timestamp(),
                   source_path = excluded.source_path,
                   rehearsed_at = coalesce(excluded.rehearsed_at, g.rehearsed_at),
                   cutover_at = coalesce(excluded.cutover_at, g.cutover_at),
                   frozen_sha256 = coalesce(excluded.frozen_sha256, g.frozen_sha256),
                   detail = g.detail || excluded.detail
            """,
            {
                "name": name,
                "state": new_state,
                "path": source_path,
                "step": step,
                "sha256": frozen_sha256,
                "detail": Json(dict(detail or {})),
            },
        )
    return new_state


def merge_detail(connection: Connection, name: str, detail: Mapping[str, Any]) -> None:
    """Merge keys into the ``detail`` of a group that is already known. The caller commits.

    :param detail: from :func:`.core.group_detail.changes`.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE migration.cutover_group SET detail = detail || %s WHERE name = %s", (Json(dict(detail)), name)
        )


def record_run(connection: Connection, group_name: str, kind: str, started_at: datetime, report: dict[str, Any]) -> int:
    """Write one run with its report (counts, hashes, conversions, times) and return its id."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO migration.run (group_name, kind, started_at, report) VALUES (%s, %s, %s, %s) RETURNING id",
            (group_name, kind, started_at, Json(report)),
        )
        return int(first_row(cursor)[0])


def read_latest_run(connection: Connection, group_name: str, *kinds: str) -> dict[str, Any] | None:
    """Return the report of the group's newest run, or None.

    :param kinds: only runs of these kinds, for example ``rehearsal``, ``final``; all if not given.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT report FROM migration.run WHERE group_name = %s AND (%s OR kind = ANY (%s)) "
            "ORDER BY id DESC LIMIT 1",
            (group_name, not kinds, list(kinds)),
        )
        row = cursor.fetchone()
    return None if row is None else dict(row[0])


@contextmanager
def locked(connection: Connection, name: str, wait_seconds: float = 10.0) -> Iterator[None]:
    """Hold the advisory lock called ``name`` for the session; take it again freely inside.

    The lock is the session's, so it outlives transactions and ends with the connection, even if
    this process is killed.

    :param name: what is locked, for example ``group registry`` or ``schema``.
    :param wait_seconds: how long to wait for another session before giving up.
    :raises Busy: naming the session that holds the lock.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT hashtext(%s), current_setting('lock_timeout')", (name,))
        key, before = first_row(cursor)
        cursor.execute("SELECT set_config('lock_timeout', %s, false)", (f"{int(wait_seconds * 1000)}ms",))
        connection.commit()
        try:
            cursor.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_CLASS, key))
        except psycopg2.errors.LockNotAvailable:
            connection.rollback()
            busy = _busy(cursor, name, key)
            connection.rollback()
            raise busy from None
        finally:
            if not connection.closed:
                cursor.execute("SELECT set_config('lock_timeout', %s, false)", (before,))
                connection.commit()
    try:
        yield
    finally:
        if not connection.closed:
            connection.rollback()
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", (LOCK_CLASS, key))
            connection.commit()


def lock_until_commit(connection: Connection, name: str, wait_seconds: float = 10.0) -> None:
    """Take the advisory lock called ``name`` for the transaction, which waits for no other lock longer from here on.

    A transaction that cannot have it can go on.

    :param name: as of :func:`locked`.
    :param wait_seconds: how long to wait for another session before giving up.
    :raises Busy: naming the session that holds the lock.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT hashtext(%s)", (name,))
        (key,) = first_row(cursor)
        cursor.execute("SAVEPOINT before_lock")
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{int(wait_seconds * 1000)}ms",))
        try:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, key))
        except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected):
            cursor.execute("ROLLBACK TO SAVEPOINT before_lock")
            raise _busy(cursor, name, key) from None


def _busy(cursor: Cursor, name: str, key: int) -> Busy:
    """Return the error that names the session which holds a lock.

    :param key: the second half of the lock's key.
    """
    cursor.execute(
        "SELECT a.pid, a.usename FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.classid::bigint = %s "
        "AND l.objid = (%s::bigint & 4294967295)::oid",
        (LOCK_CLASS, key),
    )
    holder = cursor.fetchone()
    who = "another session" if holder is None else f"session {holder[0]} of {holder[1]}"
    return Busy(
        f"Another run is at work on {name}.",
        [Problem(name, f"{who} holds its lock", "Wait until that run has ended, then run again")],
    )
