"""Validation of what all cutover groups share: the server, its schema, who may do what, and the backups.

Read-only, so it may run any day. What time alone changes, such as the age of a backup, stands in no text: a report that
says nothing new is not written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from . import ledger, privileges, schema, state
from .connection import explained, first_row
from .errors import MigrationError, Problem

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from .estate import Group

_RUN_VALIDATION = "then run playbooks/5_validation.yml again"
_TOO_POWERFUL = ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls")

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


def validate(connection: Connection, groups: Sequence[Group], backup_max_age_hours: float) -> dict[str, Any]:
    """Look at the server and return what was found, as plain data.

    :param groups: every cutover group of the estate.
    :param backup_max_age_hours: how old the newest backup that was proven to restore may be.
    :return: ``findings``, ``information``, and for the report ``server``, ``drift``, ``privileges`` and ``backup``.
    :raises MigrationError: if there is no ledger.
    """
    ledger.require(connection)
    findings: list[Problem] = []
    result = blank()
    with explained("validating the server"):
        result["server"] = _read_server(connection, findings, result["information"])
        connection.rollback()
        result["drift"] = _read_drift(connection, findings)
        result["privileges"] = _read_privileges(connection, groups, findings)
        connection.rollback()
        result["backup"] = _read_backup(connection, groups, backup_max_age_hours, findings, result["information"])
        connection.rollback()
    result["findings"] = [asdict(finding) for finding in findings]
    return result


def blank(reason: str = "") -> dict[str, Any]:
    """Return the result for a server at which nobody has looked yet, and why."""
    return {
        "findings": [],
        "information": [f"Nothing was looked at: {reason}"] if reason else [],
        "server": {},
        "drift": [],
        "privileges": {},
        "backup": {},
    }


def _read_drift(connection: Connection, findings: list[Problem]) -> list[str]:
    """Return how the tables differ from what the applied SQL files left: an index or a constraint may be missing."""
    try:
        drift = schema.find_drift(connection)
    except MigrationError as error:
        findings.extend(error.problems)
        return []
    fix = (
        "Undo the change, or put it into a new file of files/sql and run playbooks/1_infrastructure.yml, "
        f"{_RUN_VALIDATION}"
    )
    findings.extend(Problem("schema of the target", line, fix) for line in drift)
    return drift


def _read_privileges(connection: Connection, groups: Sequence[Group], findings: list[Problem]) -> dict[str, Any]:
    """Return which roles were looked at; each must have exactly the privileges of its service."""
    wanted: dict[str, set[str]] = {}
    for group in groups:
        for service in group.services:
            wanted.setdefault(service.database_role, set()).update(service.schemas)
    by_role = {role: sorted(schemas) for role, schemas in sorted(wanted.items())}
    fix = f"Run playbooks/1_infrastructure.yml: schema_apply sets them, {_RUN_VALIDATION}"
    try:
        found = privileges.synchronise(connection, by_role, check_mode=True)
    except MigrationError as error:
        findings.extend(error.problems)
        return {"roles": by_role}
    findings.extend(Problem("privileges", f"missing: {line}", fix) for line in found["granted"])
    findings.extend(Problem("privileges", f"too much: {line}", fix) for line in found["revoked"])
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT r.rolname, (SELECT string_agg(name, ', ' ORDER BY name) "
            "FROM jsonb_each(to_jsonb(r)) AS o (name, value) WHERE name = ANY (%s) AND value = 'true') "
            "FROM pg_roles r WHERE rolname = ANY (%s) ORDER BY 1",
            (list(_TOO_POWERFUL), list(by_role)),
        )
        powers = cursor.fetchall()
        cursor.execute(
            "SELECT n.nspname || '.' || c.relname, string_agg(DISTINCT a.privilege_type, ', ') FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN aclexplode(c.relacl) a "
            "WHERE a.grantee = 0 AND pg_get_userbyid(c.relowner) = current_user GROUP BY 1 ORDER BY 1"
        )
        public = cursor.fetchall()
    findings.extend(
        Problem(f"role {role}", f"it has more power than a service needs: {names}", f"ALTER ROLE, {_RUN_VALIDATION}")
        for role, names in powers
        if names
    )
    findings.extend(
        Problem(f"{table}", f"every role has {names} on it", f"REVOKE … FROM PUBLIC, {_RUN_VALIDATION}")
        for table, names in public
    )
    return {"roles": by_role}


def _read_backup(
    connection: Connection,
    groups: Sequence[Group],
    max_age_hours: float,
    findings: list[Problem],
    information: list[str],
) -> dict[str, Any]:
    """Return the newest backup that was proven to restore.

    Once a group lives in PostgreSQL and backups are taken at all, one of them must be proven and not too old. The first
    has that much time after it was taken.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), min(taken_at), max(taken_at) FILTER (WHERE verified_at IS NOT NULL), "
            "(SELECT name FROM migration.backup WHERE verified_at IS NOT NULL ORDER BY taken_at DESC LIMIT 1), "
            "clock_timestamp() FROM migration.backup"
        )
        taken, first_taken_at, verified_at, name, now = first_row(cursor)
    live = [
        group.name
        for group in groups
        if state.is_on_postgresql(ledger.read_group(connection, group.name, group.source_path).state)
    ]
    moment = "" if verified_at is None else verified_at.isoformat(timespec="seconds")
    proven = f"backup {name}, taken at {moment}" if name else ""
    if not taken:
        information.append("No backup of PostgreSQL has been taken yet; cleanup needs one that was proven to restore")
    elif live and now - (verified_at or first_taken_at) > timedelta(hours=max_age_hours):
        what = f"the newest that was proven to restore is {proven}" if name else "none was ever proven to restore"
        findings.append(
            Problem(
                "backups of PostgreSQL",
                f"{what}: {max_age_hours:g} hours are allowed",
                f"Look at the timers of the role postgres_backup (systemctl list-timers), {_RUN_VALIDATION}",
            )
        )
    elif name:
        information.append(f"The newest backup that was proven to restore: {proven}")
    else:
        information.append("No backup of PostgreSQL has been proven to restore yet")
    return {"taken": bool(taken), "newest_verified": name, "newest_verified_taken_at": moment or None}


def _read_server(connection: Connection, findings: list[Problem], information: list[str]) -> dict[str, Any]:
    """Return the server's version and the settings worth noting; some values may lose data."""
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
            fix = f"Set it in conf.d (role postgres_config), {_RUN_VALIDATION}"
            findings.append(Problem(f"setting {name}", f"it is {value}, expected {wanted}: {consequence}", fix))
        if pending:
            notes.append("changed in the configuration, waits for a restart of the server")
            information.append(f"The setting {name} waits for a restart of the server")
        if name == "max_connections" and limits is not None:
            notes.append(f"{usable} for ordinary roles, whose limits together allow {limits}")
        settings.append({"name": name, "value": value, "note": "; ".join(notes)})
    return {"version": version, "settings": settings}
