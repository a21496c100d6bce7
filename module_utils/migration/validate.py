"""Validation of one cutover group: whether everything that was in SQLite is in PostgreSQL.

Read-only on both sides, so it may run any day. What is compared depends on where the group
stands. Before its cutover the services still write to SQLite: the target must be what the last
rehearsal proved, and what the source gained since is information. After it PostgreSQL is the
store: the frozen file must be the one that was recorded, the final sync must have proven every
table equal, and what the services wrote since is information.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import catalog, engine, ledger, state
from .connection import first_row
from .errors import MigrationError, Problem
from .fingerprint import fingerprint
from .snapshot import sha256_of

try:
    from psycopg2 import sql
except ImportError:  # reported by connection.connect()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from .estate import Group

_LONGEST_LIST = 200
_RUN_VALIDATION = "then run playbooks/5_validation.yml again"

# Settings of the server that decide whether a crash can lose data, who may come in, and how much it may use.
_SETTINGS = (
    "server_encoding",
    "data_checksums",
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "listen_addresses",
    "ssl",
    "password_encryption",
    "max_connections",
    "shared_buffers",
    "effective_cache_size",
    "work_mem",
)
_EXPECTED_SETTINGS = {
    "server_encoding": ("UTF8", "text outside this encoding cannot be stored"),
    "fsync": ("on", "a crash of the host may lose or damage data"),
    "full_page_writes": ("on", "a crash of the host may damage data"),
    "synchronous_commit": ("on", "a crash of the host may lose the last commits"),
    "password_encryption": ("scram-sha-256", "new passwords are stored as a weak hash"),
}


def validate(connection: Connection, group: Group, work_directory: str | None = None) -> dict[str, Any]:
    """Compare both sides of a group and return what was found, as plain data.

    :param work_directory: private directory for snapshots.
    :return: ``valid``, the ``findings`` that make it false, what is worth knowing without being wrong
        (``information``), and everything the report shows of the group.
    :raises MigrationError: if the comparison cannot be made at all.
    """
    ledger.require(connection)
    record = ledger.read_group(connection, group.name, group.source_path)
    result = blank(group, record.state)
    findings: list[Problem] = []
    if record.state == state.PENDING:
        result["basis"] = "It has not been rehearsed yet, so there is nothing to compare."
    else:
        if state.is_on_postgresql(record.state):
            _validate_live(connection, group, record, result, findings)
        else:
            _validate_rehearsed(connection, group, record, result, findings, work_directory)
        _validate_structure(connection, group, result, findings)
    _read_kept(connection, group, result)
    result["server"] = _read_server(connection)
    connection.rollback()
    result["findings"] = [asdict(finding) for finding in findings]
    result["valid"] = not findings
    return result


def blank(group: Group, group_state: str) -> dict[str, Any]:
    """Return the result for a group of which nothing has been compared."""
    return {
        "group": group.name,
        "state": group_state,
        "source_path": group.source_path,
        "services": [service.name for service in group.services],
        "basis": "",
        "valid": True,
        "findings": [],
        "information": [],
        "tables": [],
        "sequences": [],
        "foreign_keys": [],
        "indexes": [],
        "rejects": {"total": 0, "rows": []},
        "original_values": {"total": 0, "rows": []},
        "loaded_by": "",
        "seconds": {},
        "cutover": None,
        "server": {},
        "next_step": state.advice(group_state),
    }


def not_compared(group: Group, reason: str) -> dict[str, Any]:
    """Return the result for a group whose target cannot be reached yet, as on a bare host in check mode."""
    result = blank(group, state.PENDING)
    result["basis"] = f"Nothing was compared: {reason}"
    return result


# --- before the cutover -------------------------------------------------------------------------


def _validate_rehearsed(
    connection: Connection,
    group: Group,
    record: ledger.GroupRecord,
    result: dict[str, Any],
    findings: list[Problem],
    work_directory: str | None,
) -> None:
    """Compare source and target of a group whose services use SQLite."""
    if record.state == state.FROZEN:
        findings.append(
            Problem(
                f"cutover group {group.name}", "its cutover was interrupted: it is frozen", state.advice(record.state)
            )
        )
    run = ledger.read_latest_run(connection, group.name, "rehearsal", "final")
    if run is None:
        findings.append(
            Problem(
                f"cutover group {group.name}",
                f"its state is '{record.state}', but the ledger holds no run of it",
                "Rehearse it again: ansible-playbook playbooks/3_data_migration.yml",
            )
        )
        return
    result["basis"] = f"Its services write to SQLite; compared now, against what the {run['kind']} run proved."
    result["loaded_by"] = run["kind"]
    result["seconds"] = dict(run["seconds"])
    connection.rollback()
    try:
        now = {table["target"]: table for table in engine.compare(connection, group, work_directory)["tables"]}
    except MigrationError as error:
        # The source gained a value that no policy covers, or the target lost a table.
        findings.extend(error.problems or [Problem(f"cutover group {group.name}", error.summary, _RUN_VALIDATION)])
        now = {}
    connection.rollback()
    for then in run["tables"]:
        table = now.get(then["target"])
        if table is None:
            result["tables"].append({**then, "written_since": None, "rows_now": None})
            continue
        where = f"{group.name}: {then['source']} → {then['target']}"
        if not then["equal"]:
            findings.append(_unequal(where, then, "playbooks/3_data_migration.yml"))
        elif table["target_hash"] != then["target_hash"]:
            findings.append(
                Problem(
                    where,
                    f"PostgreSQL does not hold what the {run['kind']} run left there "
                    f"({then['target_rows']:,} rows then, {table['target_rows']:,} now)",
                    "Find out who wrote to it, then rehearse again: ansible-playbook playbooks/3_data_migration.yml",
                )
            )
        elif table["source_hash"] != then["source_hash"]:
            result["information"].append(
                f"{then['source']}: written to in SQLite since the {run['kind']} run ({then['source_rows']:,} rows "
                f"then, {table['source_rows']:,} now); the next sync brings it over"
            )
            # The proof that stands is the one of the run; the source has moved on since.
            result["tables"].append({**then, "written_since": None, "rows_now": table["target_rows"]})
            continue
        result["tables"].append({**table, "written_since": None, "rows_now": table["target_rows"]})


# --- after the cutover --------------------------------------------------------------------------


def _validate_live(
    connection: Connection,
    group: Group,
    record: ledger.GroupRecord,
    result: dict[str, Any],
    findings: list[Problem],
) -> None:
    """Check the proof of the cutover and what has become of both sides since."""
    result["basis"] = "PostgreSQL is its store; the proof is the final sync of the cutover, on the frozen file."
    result["cutover"] = _read_cutover(connection, group, record)
    if record.state == state.LIVE:
        _check_frozen_source(group, record, result, findings)
    run = ledger.read_latest_run(connection, group.name, "final")
    if run is None:
        findings.append(
            Problem(
                f"cutover group {group.name}",
                "the ledger holds no final sync of it, so nothing proves that its rows arrived",
                "Go back with playbooks/rollback.yml, then cut it over again",
            )
        )
        return
    result["loaded_by"] = run["kind"]
    result["seconds"] = dict(run["seconds"])
    recorded = record.detail.get("fingerprint") or record.detail.get(engine.LOADED) or {}
    if not recorded:
        result["information"].append(
            "The ledger holds no fingerprint of the cutover: what was written since is unknown"
        )
    now = fingerprint(connection, group)
    for table in run["tables"]:
        where = f"{group.name}: {table['source']} → {table['target']}"
        if not table["equal"] or table["source_hash"] != table["target_hash"]:
            findings.append(_unequal(where, table, "playbooks/rollback.yml"))
        present = now.get(table["target"])
        if present is None:
            findings.append(_gone(group, table["target"]))
            continue
        before = recorded.get(table["target"])
        written = None if before is None else before["hash"] != present["hash"]
        result["tables"].append({**table, "written_since": written, "rows_now": present["rows"]})
    written_tables = [table["target"] for table in result["tables"] if table["written_since"]]
    if written_tables:
        result["information"].append(f"Written to in PostgreSQL since the cutover: {', '.join(written_tables)}")


def _check_frozen_source(
    group: Group, record: ledger.GroupRecord, result: dict[str, Any], findings: list[Problem]
) -> None:
    """Check that the frozen file is still the one that was recorded: it is the way back."""
    path = Path(group.source_path)
    try:
        found = sha256_of(path)
    except FileNotFoundError:
        findings.append(
            Problem(str(path), "the frozen SQLite file is gone, and with it the way back", "Put it back from a backup")
        )
        return
    except OSError as error:
        findings.append(Problem(str(path), f"cannot be read: {error.strerror}", f"Correct this, {_RUN_VALIDATION}"))
        return
    if record.frozen_sha256 is None:
        result["information"].append(f"The ledger holds no hash of the frozen file {path}")
    elif found != record.frozen_sha256:
        findings.append(
            Problem(
                str(path),
                "the frozen SQLite file has changed since the cutover: a program writes to it, or it was replaced",
                "Find the program that opens it (fuser) and its rows; nothing of them is in PostgreSQL",
            )
        )
    wal = Path(f"{path.resolve()}-wal")
    if wal.exists() and wal.stat().st_size > 0:
        findings.append(
            Problem(
                str(wal),
                "rows were written to the frozen SQLite file since the cutover",
                "Find the program that opens it (fuser) and its rows; nothing of them is in PostgreSQL",
            )
        )


def _read_cutover(connection: Connection, group: Group, record: ledger.GroupRecord) -> dict[str, Any]:
    """Return when the group was cut over, and for how long its services were down."""
    run = ledger.read_latest_run(connection, group.name, "cutover") or {}
    return {
        "at": None if record.cutover_at is None else record.cutover_at.isoformat(timespec="seconds"),
        "downtime_seconds": run.get("downtime_seconds"),
        "steps": [dict(step) for step in run.get("steps") or ()],
    }


def _unequal(where: str, table: Mapping[str, Any], playbook: str) -> Problem:
    """Return the finding for a table whose two sides were not equal when it was loaded."""
    return Problem(
        where,
        f"the two sides differ: {table['source_rows']:,} rows in SQLite, {table['target_rows']:,} in PostgreSQL, "
        f"hashes {table['source_hash']} and {table['target_hash']}",
        f"Do not go on; run {playbook} and look at its list of rows",
    )


def _gone(group: Group, target: str) -> Problem:
    """Return the finding for a target table that is not there."""
    return Problem(
        f"{group.name}: {target}",
        "the table is not in the database",
        "Run playbooks/1_infrastructure.yml: schema_apply",
    )


# --- structure ----------------------------------------------------------------------------------


def _validate_structure(connection: Connection, group: Group, result: dict[str, Any], findings: list[Problem]) -> None:
    """Check sequences, foreign keys and indexes of the target, all at one moment."""
    connection.rollback()
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    tables = catalog.read_catalog(connection, [table.target for table in group.tables])
    run = ledger.read_latest_run(connection, group.name, "final", "rehearsal") or {}
    required = {entry["name"]: int(entry["required"]) for entry in run.get("sequences", [])}
    for target in sorted(tables):
        result["sequences"] += _read_sequences(connection, tables[target], required)
        result["foreign_keys"] += _read_foreign_keys(connection, tables[target])
    result["indexes"] = _read_indexes(connection, list(tables))
    for sequence in result["sequences"]:
        if not sequence["correct"]:
            findings.append(
                Problem(
                    f"sequence {sequence['name']}",
                    f"its next value is {sequence['next_value']}, and {sequence['required']} or more is needed: "
                    "the next insert fails or gives out an id twice",
                    f"SELECT setval('{sequence['name']}', {sequence['required']}, false), {_RUN_VALIDATION}",
                )
            )
    for key in result["foreign_keys"]:
        if not key["valid"]:
            findings.append(
                Problem(
                    f"foreign key {key['name']}",
                    "PostgreSQL has not validated it",
                    f"ALTER TABLE … VALIDATE CONSTRAINT, {_RUN_VALIDATION}",
                )
            )
        if key["orphans"]:
            findings.append(
                Problem(
                    f"foreign key {key['name']}",
                    f"rows that reference a row that is not there: {key['orphans']:,}",
                    "Triggers or session_replication_role have bypassed it: correct these rows",
                )
            )
    for index in result["indexes"]:
        if not index["valid"]:
            findings.append(
                Problem(
                    f"index {index['name']}", "it is not valid", f"REINDEX INDEX {index['name']}, {_RUN_VALIDATION}"
                )
            )


def _read_sequences(
    connection: Connection, table: catalog.TargetTable, required: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return the sequences that feed a table, and whether each is ahead of every id given out.

    :param required: the least next value that the last load found necessary, by sequence: SQLite may
        have given out higher ids than those that are left.
    """
    found = []
    schema, name = table.name.split(".", 1)
    for column in table.columns.values():
        if column.sequence is None:
            continue
        sequence_schema, sequence_name = (part.strip('"') for part in column.sequence.split(".", 1))
        with connection.cursor() as cursor:
            cursor.execute(
                sql.SQL(
                    "SELECT CASE WHEN s.is_called THEN s.last_value + p.increment_by ELSE s.last_value END, "
                    "(SELECT coalesce(max({column}), 0) + 1 FROM {table}) "
                    "FROM {sequence} s, pg_sequences p WHERE p.schemaname = %s AND p.sequencename = %s"
                ).format(
                    column=sql.Identifier(column.name),
                    table=sql.Identifier(schema, name),
                    sequence=sql.Identifier(sequence_schema, sequence_name),
                ),
                (sequence_schema, sequence_name),
            )
            next_value, after_largest = first_row(cursor)
        least = max(int(after_largest), required.get(column.sequence, 1))
        found.append(
            {
                "name": column.sequence,
                "next_value": int(next_value),
                "required": least,
                "correct": int(next_value) >= least,
            }
        )
    return found


def _read_foreign_keys(connection: Connection, table: catalog.TargetTable) -> list[dict[str, Any]]:
    """Return the foreign keys of a table, whether each is validated, and its orphans by count."""
    found = []
    for key in table.foreign_keys:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT convalidated FROM pg_constraint WHERE conname = %s AND conrelid = %s::regclass",
                (key.name, _regclass(key.table)),
            )
            (valid,) = first_row(cursor)
            pairs = list(zip(key.columns, key.referenced_columns, strict=True))
            cursor.execute(
                sql.SQL(
                    "SELECT count(*) FROM {child} c WHERE {present} AND NOT EXISTS "
                    "(SELECT FROM {parent} p WHERE {joined})"
                ).format(
                    child=sql.Identifier(*key.table.split(".", 1)),
                    parent=sql.Identifier(*key.referenced_table.split(".", 1)),
                    present=sql.SQL(" AND ").join(
                        sql.SQL("{} IS NOT NULL").format(sql.Identifier("c", column)) for column in key.columns
                    ),
                    joined=sql.SQL(" AND ").join(
                        sql.SQL("{} = {}").format(sql.Identifier("p", parent), sql.Identifier("c", child))
                        for child, parent in pairs
                    ),
                )
            )
            (orphans,) = first_row(cursor)
        found.append({"name": f"{key.table}: {key.name}", "valid": bool(valid), "orphans": int(orphans)})
    return found


def _regclass(name: str) -> str:
    """Return ``schema.table`` quoted, as a cast to regclass reads it."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split(".", 1))


def _read_indexes(connection: Connection, tables: list[str]) -> list[dict[str, Any]]:
    """Return the indexes of the tables and whether each is valid."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT n.nspname || '.' || c.relname, i.indisvalid AND i.indisready
            FROM pg_index i
            JOIN pg_class c ON c.oid = i.indexrelid
            JOIN pg_class t ON t.oid = i.indrelid
            JOIN pg_namespace n ON n.oid = t.relnamespace
            WHERE n.nspname || '.' || t.relname = ANY (%s)
            ORDER BY 1
            """,
            (tables,),
        )
        return [{"name": name, "valid": valid} for name, valid in cursor.fetchall()]


# --- what the ledger keeps ----------------------------------------------------------------------


def _read_kept(connection: Connection, group: Group, result: dict[str, Any]) -> None:
    """Read the rejected rows and the original values, without any value of a secret column."""
    secret = {
        (table.source, column.name) for table in group.tables for column in table.columns.values() if column.secret
    }
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT source_table, row_key, reason, count(*) OVER () FROM migration.reject "
            "WHERE group_name = %s ORDER BY source_table, row_key LIMIT %s",
            (group.name, _LONGEST_LIST),
        )
        rows = cursor.fetchall()
        result["rejects"] = {
            "total": rows[0][3] if rows else 0,
            "rows": [
                {"table": table, "key": _shown_key(table, key, secret), "reason": reason}
                for table, key, reason, _ in rows
            ],
        }
        cursor.execute(
            "SELECT source_table, row_key, column_name, reason, value, count(*) OVER () FROM migration.original_value "
            "WHERE group_name = %s ORDER BY source_table, column_name, row_key LIMIT %s",
            (group.name, _LONGEST_LIST),
        )
        rows = cursor.fetchall()
        result["original_values"] = {
            "total": rows[0][5] if rows else 0,
            "rows": [
                {
                    "table": table,
                    "key": _shown_key(table, key, secret),
                    "column": column,
                    "reason": reason,
                    "value": "(secret)" if (table, column) in secret else _shown(value),
                }
                for table, key, column, reason, value, _ in rows
            ],
        }


def _shown_key(table: str, key: str, secret: Collection[tuple[str, str]]) -> str:
    """Return a row's key as the ledger keeps it, ``id='echo'``, unless a secret column may be part of it."""
    return "(secret)" if any(f"{column}=" in key for name, column in secret if name == table) else key


def _shown(value: Any) -> str:
    """Return an original value, which the ledger keeps with its storage class, for a person."""
    if isinstance(value, Mapping) and len(value) == 1:
        (value,) = value.values()
    text = str(value)
    return text if len(text) <= _LONGEST_LIST else f"{text[:_LONGEST_LIST]}…"


def _read_server(connection: Connection) -> dict[str, Any]:
    """Return the server's version and the settings worth noting."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, current_setting(name), pending_restart FROM pg_settings "
            "WHERE name = ANY (%s) OR pending_restart ORDER BY array_position(%s, name), name",
            (list(_SETTINGS), list(_SETTINGS)),
        )
        rows = cursor.fetchall()
        cursor.execute(
            "SELECT current_setting('server_version'), "
            "(SELECT sum(rolconnlimit) FROM pg_roles WHERE rolcanlogin AND rolconnlimit > 0), "
            "current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        )
        version, limits, usable = first_row(cursor)
    settings = []
    for name, value, pending in rows:
        notes = []
        wanted, consequence = _EXPECTED_SETTINGS.get(name, (value, ""))
        if value != wanted:
            notes.append(f"expected {wanted}: {consequence}")
        if pending:
            notes.append("changed in the configuration, waits for a restart of the server")
        if name == "max_connections" and limits is not None:
            notes.append(f"{usable} for ordinary roles, whose limits together allow {limits}")
        settings.append({"name": name, "value": value, "note": "; ".join(notes)})
    return {"version": version, "settings": settings}
