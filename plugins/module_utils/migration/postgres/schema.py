"""Applies the numbered SQL files of the target's schema: each once, in order, or not at all.

Each file and its row in ``migration.applied_file`` commit together. The row keeps the file's hash
and the catalog as the file left it, so that an edited file and a table changed by hand are found.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core import ledger
from ..core.connection import Json, explained, next_step, psycopg2
from ..core.errors import MigrationError, Problem
from ..core.group_detail import KEYS
from .catalog import DESCRIBE_COLUMNS
from .own_schemas import IS_OWNED_BY_SERVICE, owned_schemas
from .schema_files import IN_TRANSACTION, SqlFile, Statement, split_statements

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

# A statement that says who owns something or may use it.
_GIVES_AWAY = re.compile(
    r"(alter\b.*\bowner\s+to|grant|revoke|alter\s+default\s+privileges)\b", re.IGNORECASE | re.DOTALL
)
LOCK_ATTEMPTS = 5

# One line for each object in the schemas that the current role owns, or that services which migrate themselves own in
# its place, the ledger's left out; of schema public, which the database's owner does not own by name, its own tables.
DESCRIBE_CATALOG = f"""
WITH schemas AS (
  SELECT oid, nspname FROM pg_namespace AS n
  WHERE (pg_get_userbyid(nspowner) = current_user OR {IS_OWNED_BY_SERVICE}) AND nspname NOT IN ('migration', 'public')
), relations AS (
  SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relkind, c.relpersistence, c.relrowsecurity
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE (n.oid IN (SELECT oid FROM schemas) OR n.nspname = 'public' AND pg_get_userbyid(c.relowner) = current_user)
    AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
)
SELECT 'schema ' || nspname FROM schemas
UNION ALL
SELECT CASE relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'S' THEN 'sequence ' ELSE 'table ' END
       || name || CASE relpersistence WHEN 'u' THEN ' unlogged' ELSE '' END
       || CASE WHEN relrowsecurity THEN ' with row level security' ELSE '' END
FROM relations WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
UNION ALL
{DESCRIBE_COLUMNS}
WHERE r.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT 'constraint ' || r.name || '.' || k.conname || ' ' || pg_get_constraintdef(k.oid)
FROM relations r JOIN pg_constraint k ON k.conrelid = r.oid
-- PostgreSQL 18 lists NOT NULL here as well: it stands with the column already.
WHERE k.contype <> 'n'
UNION ALL
SELECT 'index ' || pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' invalid' END
FROM relations r JOIN pg_index i ON i.indrelid = r.oid
UNION ALL
SELECT 'trigger ' || pg_get_triggerdef(t.oid)
       || CASE t.tgenabled WHEN 'O' THEN '' WHEN 'D' THEN ' disabled' WHEN 'R' THEN ' only on replicas' ELSE ' always'
          END
FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
UNION ALL
-- Those that guard the foreign keys are PostgreSQL's own; disabled, they let orphans in.
SELECT DISTINCT 'constraint ' || r.name || '.' || k.conname || ' is not enforced by its triggers'
FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid JOIN pg_constraint k ON k.oid = t.tgconstraint
WHERE t.tgisinternal AND t.tgenabled IN ('D', 'R')
UNION ALL
SELECT 'rule ' || regexp_replace(pg_get_ruledef(w.oid), '[[:space:]]+', ' ', 'g')
FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid
WHERE w.rulename <> '_RETURN'
UNION ALL
SELECT 'policy ' || p.polname || ' on ' || r.name FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
"""  # noqa: S608 (SQL of ours)

# In such a line the name of a schema, by the kind of the line: raw, or as the server writes it in SQL.
_RAW_SCHEMA = re.compile(
    r"(?:schema|view|materialized view|sequence|table|column|constraint) ([^.]+?)(?:\..*)?\Z", re.DOTALL
)
_QUOTED_SCHEMA = re.compile(
    r"(?:index|trigger|rule) .*? (?:ON|TO) (?:ONLY )?(?:\"((?:[^\"]|\"\")+)\"|([^\s.\"]+))\.", re.DOTALL
)
_POLICY_SCHEMA = re.compile(r"policy .* on ([^.]+)\.[^.]*\Z", re.DOTALL)


def apply(
    connection: Connection,
    files: Sequence[SqlFile],
    check_mode: bool = False,
    fail_on_drift: bool = True,
    lock_timeout_seconds: float = 5.0,
) -> dict[str, Any]:
    """Apply the files that the ledger does not know yet.

    :param check_mode: say what would be applied, and write nothing.
    :param fail_on_drift: refuse if the catalog is not as the last file left it; else only report it.
    :param lock_timeout_seconds: how long a statement waits for a lock, before it is tried again.
    :returns: ``changed``, ``applied`` (names), ``drift`` (one line for each difference), and ``own_changes``: the lines
        of the schemas that services which migrate themselves own, or have owned.
    :raises MigrationError: before anything is written, or after the failing file was rolled back.
    """
    with explained("applying the SQL files"), ledger.locked(connection, "schema"):
        known, complete = ledger.exists(connection), ledger.is_complete(connection)
        if not complete and not check_mode:
            with connection.cursor() as cursor:
                cursor.execute(ledger.CREATE_LEDGER)
            connection.commit()
        applied = _read_applied(connection) if known else {}
        pending = _pending(files, applied)
        found = find_drift(connection, lock_timeout_seconds) if applied else Drift([], [])
        drift = found.of_ours
        _require_ours(connection, pending)
        if drift and fail_on_drift:
            fix = "Undo the change, or put it into a new file and set schema_apply_drift to warn for one run"
            raise MigrationError(
                "The tables in the database are not as the applied files left them.",
                [Problem("target database", line, fix) for line in drift],
            )
        if not check_mode:
            for file in pending:
                _apply_file(connection, file, lock_timeout_seconds)
        connection.rollback()
    return {
        "changed": bool(pending) or not complete,
        "applied": [file.name for file in pending],
        "drift": drift,
        "own_changes": found.of_services,
    }


def _require_ours(connection: Connection, pending: Sequence[SqlFile]) -> None:
    """Refuse files that name a schema which a service owns at this moment: it changes its tables itself.

    :raises MigrationError: naming each file with the schema and the role.
    """
    with connection.cursor() as cursor:
        owned = owned_schemas(cursor)
    fix = (
        "Let the service make this change by a migration of its own, and take the statement out; or take "
        "'migrates_itself' out of the service and run again: then the schema is changed by these files alone"
    )
    problems = []
    for file in pending:
        for statement in split_statements(file.content):
            for schema, role in owned.items():
                if _names_schema(statement.code, schema):
                    what = f"it names schema {schema}, which belongs to role {role} since its cutover"
                    problems.append(Problem(f"{file.name}:{statement.line}", what, fix))
    if problems:
        raise MigrationError("The SQL files would change a schema whose service migrates itself.", problems)


def _names_schema(text: str, schema: str) -> bool:
    """Return whether a statement names a schema: before a dot, as a schema, or in a search path."""
    name = f'(?<![\\w$".])(?:{re.escape(schema)}(?![\\w$])|"{re.escape(schema)}")'
    return (
        re.search(
            rf"{name}\s*\.|\bschema\s+(?:if\s+(?:not\s+)?exists\s+)?{name}|search_path\b.*{name}",
            text,
            re.IGNORECASE | re.DOTALL,
        )
        is not None
    )


def _read_applied(connection: Connection) -> dict[int, tuple[str, str]]:
    """Return number → (name, sha256) of the files that are applied."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT number, name, sha256 FROM migration.applied_file")
        return {number: (name, sha256) for number, name, sha256 in cursor.fetchall()}


def _pending(files: Sequence[SqlFile], applied: Mapping[int, tuple[str, str]]) -> list[SqlFile]:
    """Return the files to apply.

    :raises MigrationError: if an applied file was edited, renamed or removed, or a new one comes too early.
    """
    problems = []
    by_number = {file.number: file for file in files}
    for number, (name, sha256) in sorted(applied.items()):
        file = by_number.get(number)
        if file is None:
            problems.append(Problem(name, "was applied and is missing now", "Put it back; to undo it add a new file"))
        elif file.name != name:
            problems.append(Problem(file.name, f"was applied under the name {name}", "Give it its old name again"))
        elif file.sha256 != sha256:
            problems.append(
                Problem(name, "was edited after it was applied", "Restore it, and put the change into a new file")
            )
    last = max(applied, default=0)
    pending = [file for file in files if file.number not in applied]
    problems.extend(
        Problem(
            file.name,
            f"is new, but {applied[last][0]} with a higher number is applied already",
            f"Give it a number above {last:03d}",
        )
        for file in pending
        if file.number < last
    )
    if problems:
        raise MigrationError("The SQL files do not fit what is already applied.", problems)
    return pending


def describe_catalog(cursor: Cursor) -> list[str]:
    """Return one line for each object in the schemas that the current role owns, sorted.

    The search path is emptied for this transaction: names are written out in full, whoever asks.
    """
    cursor.execute("SELECT set_config('search_path', '', true)")
    cursor.execute(DESCRIBE_CATALOG)
    return sorted(row[0] for row in cursor.fetchall())


class Drift(NamedTuple):
    """How the catalog differs from what the last file left, one line for each difference.

    :param of_services: those in schemas that services which migrate themselves own, or have owned before a rollback.
    """

    of_ours: list[str]
    of_services: list[str]


def find_drift(connection: Connection, lock_timeout_seconds: float = 5.0) -> Drift:
    """Return how the catalog differs from what the last file left.

    Nothing differs where no file was applied. The transaction is rolled back.

    :raises MigrationError: if a table is locked against everybody.
    """
    with connection.cursor() as cursor:
        limit_waiting(cursor, lock_timeout_seconds)
        cursor.execute("SELECT catalog FROM migration.applied_file ORDER BY number DESC LIMIT 1")
        row = cursor.fetchone()
        if row is None:
            connection.rollback()
            return Drift([], [])
        expected = set(row[0])
        try:
            found = set(describe_catalog(cursor))
        except psycopg2.errors.LockNotAvailable:
            fix = "End the session that holds the lock, then run again"
            raise MigrationError(
                "The tables in the database cannot be looked at.",
                [Problem("target database", "another session has a table locked against everybody", fix)],
            ) from None
        cursor.execute(
            "SELECT DISTINCT jsonb_array_elements_text(detail -> %s) FROM migration.cutover_group "
            "WHERE jsonb_typeof(detail -> %s) = 'array'",
            (KEYS["own_schemas"], KEYS["own_schemas"]),
        )
        own = {schema for (schema,) in cursor.fetchall()} | set(owned_schemas(cursor))
    connection.rollback()
    drift = Drift([], [])
    for what, lines in (("missing", expected - found), ("not from our files", found - expected)):
        for line in sorted(lines):
            (drift.of_services if _schema_of(line) in own else drift.of_ours).append(f"{what}: {line}")
    return drift


def _schema_of(line: str) -> str:
    """Return the schema that a line of the catalog speaks of."""
    for pattern in (_RAW_SCHEMA, _QUOTED_SCHEMA, _POLICY_SCHEMA):
        match = pattern.match(line)
        if match is not None:
            return next(group for group in match.groups() if group).replace('""', '"')
    return ""


def limit_waiting(cursor: Cursor, lock_timeout_seconds: float) -> None:
    """Let no statement of this transaction wait longer for a lock."""
    cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{int(lock_timeout_seconds * 1000)}ms",))


def _apply_file(connection: Connection, file: SqlFile, lock_timeout_seconds: float) -> None:
    """Apply one file and record it, in one transaction; retry a few times while somebody else holds a lock."""
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        started = time.monotonic()
        try:
            with connection.cursor() as cursor:
                limit_waiting(cursor, lock_timeout_seconds)
                for statement in split_statements(file.content):
                    _execute(cursor, file, statement)
                cursor.execute(
                    "INSERT INTO migration.applied_file (number, name, sha256, duration_ms, catalog) "
                    "VALUES (%s, %s, %s, %s, %s)",
                    (
                        file.number,
                        file.name,
                        file.sha256,
                        int((time.monotonic() - started) * 1000),
                        Json(describe_catalog(cursor)),
                    ),
                )
            connection.commit()
            # What a function or a block of the file has set for the session is not the next file's.
            with connection.cursor() as cursor:
                cursor.execute("RESET ALL")
            connection.commit()
            return
        except MigrationError as error:
            if not connection.closed:
                connection.rollback()
            if not isinstance(error, _LockTimeout) or attempt == LOCK_ATTEMPTS:
                raise
            time.sleep(0.5 * attempt)


class _LockTimeout(MigrationError):
    """A statement that did not get a lock: worth another attempt."""


def _execute(cursor: Cursor, file: SqlFile, statement: Statement) -> None:
    """Execute one statement; an error names file, line, SQLSTATE and PostgreSQL's own words."""
    if not statement.executed:
        return
    try:
        cursor.execute(statement.executed)
    except psycopg2.Error as error:
        line = statement.line
        if error.diag.statement_position:
            line += statement.text.count("\n", 0, int(error.diag.statement_position) - 1)
        details = (error.diag.message_primary, error.diag.message_detail, error.diag.message_hint)
        what = "; ".join(detail for detail in details if detail) or str(error).strip().partition("\n")[0]
        kind: type[MigrationError] = MigrationError
        fix = "Correct the file, then run again"
        if isinstance(error, (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected)):
            kind, fix = _LockTimeout, "End the session that holds the lock, then run again"
            what = f"no lock within the time allowed, tried {LOCK_ATTEMPTS} times"
        elif isinstance(error, psycopg2.OperationalError):
            fix = f"{next_step(error)}: what is applied is in the ledger"
        elif isinstance(error, psycopg2.errors.ActiveSqlTransaction):
            fix = IN_TRANSACTION
        elif isinstance(
            error,
            (psycopg2.errors.DuplicateSchema, psycopg2.errors.DuplicateTable, psycopg2.errors.DuplicateObject),
        ):
            fix = "If it was made by hand, drop or rename it; else correct the file. Then run again"
        elif _GIVES_AWAY.match(statement.code):
            fix = (
                "Leave it out, as pg_dump -s --no-owner --no-privileges does: all objects belong to the owner, and the "
                "estate says who may use them. Then run again"
            )
        elif isinstance(error, psycopg2.errors.InsufficientPrivilege):
            fix = (
                "The files are applied as the owner of the tables, not as a superuser. Correct the file, then run again"
            )
        code = f" (SQLSTATE {error.pgcode})" if error.pgcode else ""
        raise kind(
            f"{file.name} was rolled back: nothing of it is applied. The files before it are.",
            [Problem(f"{file.name}:{line}", f"{what}{code}", fix)],
        ) from None
