"""Validation of what all cutover groups share: the server, its schema, who may do what, and the backups.

Read-only, so it may run any day. What time alone changes, such as the age of a backup, stands in no text: a report that
says nothing new is not written again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..core import ledger, state
from ..core.commands import playbook
from ..core.connection import explained, first_row
from ..core.errors import MigrationError, Problem
from ..postgres import schema
from .privileges import read_privileges

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..core.estate import Group

_RUN_VALIDATION = f"then run {playbook('5_validation')} again"

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
# The values that are right, the usual one first, and what else may happen.
_EXPECTED_SETTINGS = {
    "server_encoding": (("UTF8",), "text outside this encoding cannot be stored"),
    "fsync": (("on",), "a crash of the host may lose or damage data"),
    "full_page_writes": (("on",), "a crash of the host may damage data"),
    "synchronous_commit": (
        ("on", "local", "remote_write", "remote_apply"),
        "a crash of the host may lose the last commits",
    ),
    "password_encryption": (("scram-sha-256",), "new passwords are stored as a weak hash"),
}
_BOOLEANS = {"true": "on", "yes": "on", "1": "on", "false": "off", "no": "off", "0": "off"}
# What a role may have of its own, and the database: our session does not show what another role's sessions get.
_EXPECTED_OF_ROLES = {
    "synchronous_commit": _EXPECTED_SETTINGS["synchronous_commit"],
    "session_replication_role": (("origin",), "foreign keys and triggers do not guard what is written"),
    "default_transaction_read_only": (("off",), "nothing can be written"),
}


def validate(
    connection: Connection,
    groups: Sequence[Group],
    backup_max_age_hours: float,
    unwritten_tables: Sequence[str] = (),
    overruled_settings: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Look at the server and return what was found, as plain data.

    :param groups: every cutover group of the estate.
    :param backup_max_age_hours: how old the newest backup that was proven to restore may be.
    :param unwritten_tables: target tables that no service writes to; each must be one of the groups'.
    :param overruled_settings: settings for which the server does not use the value that the role postgres_config has
        given them: ``name``, ``wanted``, ``found`` and ``source``, as its administrator sees them.
    :return: ``findings``, ``information``, and for the report ``server``, ``drift``, ``privileges`` and ``backup``.
    :raises MigrationError: if there is no ledger.
    """
    ledger.require(connection)
    findings: list[Problem] = []
    result = blank()
    with explained("validating the server"):
        result["server"] = _read_server(connection, findings, result["information"])
        findings.extend(_read_settings_of_roles(connection, groups))
        findings.extend(_overruled(overruled_settings))
        findings.extend(_unknown_tables(groups, unwritten_tables))
        connection.rollback()
        result["drift"] = _read_drift(connection, findings, result["information"])
        result["privileges"] = read_privileges(connection, groups, findings, result["information"])
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


def _unknown_tables(groups: Sequence[Group], names: Sequence[str]) -> list[Problem]:
    """Return the names that nobody would ever look at."""
    targets = {mapping.target for group in groups for mapping in group.tables}
    fix = "Correct validation_unwritten_tables: it names target tables, as schema.table"
    return [
        Problem(f"validation_unwritten_tables: {name}", "no cutover group moves this table", fix)
        for name in names
        if name not in targets
    ]


def _overruled(settings: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Return the settings that were changed behind the role's back."""
    return [
        Problem(
            f"setting {setting['name']}",
            f"the server uses {setting['found']}, from {setting['source']}, and the role postgres_config has set "
            f"{setting['wanted']}",
            "Remove the other value (ALTER SYSTEM RESET for postgresql.auto.conf), or change it in the inventory and "
            f"run {playbook('1_infrastructure')}, {_RUN_VALIDATION}",
        )
        for setting in settings
    ]


def _read_drift(connection: Connection, findings: list[Problem], information: list[str]) -> list[str]:
    """Return how the tables differ from what the applied SQL files left: an index or a constraint may be missing.

    What a service that migrates itself has changed is no finding.
    """
    try:
        drift, own_changes = schema.find_drift(connection)
    except MigrationError as error:
        findings.extend(error.problems)
        return []
    fix = (
        f"Undo the change, or put it into a new file of files/sql and run {playbook('1_infrastructure')}, "
        f"{_RUN_VALIDATION}"
    )
    findings.extend(Problem("schema of the target", line, fix) for line in drift)
    information.extend(f"Changed by the service that migrates itself: {line}" for line in own_changes)
    return drift


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
        right, consequence = _EXPECTED_SETTINGS.get(name, ((value,), ""))
        if value not in right:
            what = f"expected {right[0]}: {consequence}"
            notes.append(what)
            fix = f"Set it in conf.d (role postgres_config), {_RUN_VALIDATION}"
            findings.append(Problem(f"setting {name}", f"it is {value}, {what}", fix))
        if pending:
            notes.append("changed in the configuration, waits for a restart of the server")
            information.append(f"The setting {name} waits for a restart of the server")
        if name == "max_connections" and limits is not None:
            notes.append(f"{usable} for ordinary roles, whose limits together allow {limits}")
        settings.append({"name": name, "value": value, "note": "; ".join(notes)})
    return {"version": version, "settings": settings}


def _read_settings_of_roles(connection: Connection, groups: Sequence[Group]) -> list[Problem]:
    """Return the settings of single roles, or of the database, that may lose data or keep a service from writing."""
    roles = {service.database_role for group in groups for service in group.services}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT CASE WHEN s.setrole <> 0 THEN 'role ' || pg_get_userbyid(s.setrole) "
            "WHEN s.setdatabase <> 0 THEN 'the database' ELSE 'every role' END, "
            "split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1) "
            "FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS entry "
            "WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) "
            "AND (s.setrole = 0 OR pg_get_userbyid(s.setrole) = ANY (%s)) ORDER BY 1, 2",
            (sorted(roles),),
        )
        rows = cursor.fetchall()
    findings = []
    for whom, name, text in rows:
        # It stands there as somebody has written it.
        value = _BOOLEANS.get(text.lower(), text)
        right, consequence = _EXPECTED_OF_ROLES.get(name, ((value,), ""))
        if value not in right:
            what = f"it is {value}, expected {right[0]}: {consequence}"
            fix = f"Take it away again (ALTER ROLE or ALTER DATABASE … RESET {name}), {_RUN_VALIDATION}"
            findings.append(Problem(f"setting {name} of {whom}", what, fix))
    return findings
