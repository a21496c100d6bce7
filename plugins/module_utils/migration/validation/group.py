"""Validation of one cutover group: whether everything that was in SQLite is in PostgreSQL.

Read-only on both sides, so it may run any day. What is compared depends on where the group
stands. Before its cutover the services still write to SQLite: the target must be what the last
rehearsal proved, and what the source gained since is information. After it PostgreSQL is the
store: the frozen file must be the one that was recorded, its rows must hash to what the final sync
proved equal, and what the services wrote since is counted by table. After a rollback SQLite is the
store again, and what its services wrote since is information.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..core import ledger, state
from ..core.commands import playbook
from ..core.connection import explained
from ..core.decide import Interrupted, decide
from ..core.errors import MigrationError, Problem
from ..engine.convert.recorded_ids import find_changed_ids
from ..engine.proof.ledger_content import find_changes
from ..engine.proof.target_state import since
from ..postgres.code_in_tables import own_tables
from ..postgres.strangers import find_strangers_code
from .frozen_file import check_frozen_file, check_proof, count_written_since, find_unwanted_writes, rows_that_differ
from .ledger_lists import read_kept
from .services import find_strays, look_at_services
from .structure import validate_structure

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..core.estate import Group
    from ..host.service_health import Listings

# A table that somebody has locked must not hold the validation up for ever.
_LOCK_TIMEOUT = "30s"
_TRY_AGAIN = f"Correct this, then run {playbook('5_validation')} again"


def validate(
    connection: Connection,
    group: Group,
    work_directory: str | None = None,
    ask_services: bool = True,
    unwritten_tables: Collection[str] = (),
    listings: Listings | None = None,
    code: Sequence[Problem] = (),
) -> dict[str, Any]:
    """Compare both sides of a group and return what was found, as plain data.

    :param work_directory: private directory for snapshots.
    :param ask_services: ask each service for its health, too.
    :param unwritten_tables: target tables that no service writes to: what differs in them after the cutover is wrong.
    :param listings: shared by the groups that are validated together.
    :param code: what was found in tables that a service owns, which the caller keeps as they are until the end.
    :return: ``valid``, the ``findings`` that make it false, what is worth knowing without being wrong
        (``information``), what of it a person has to look after (``warnings``), and everything the report shows of the
        group.
    :raises MigrationError: if the comparison cannot be made at all.
    """
    findings: list[Problem] = []
    with explained(f"validating cutover group {group.name}"):
        ledger.require(connection)
        record = ledger.read_group(connection, group.name, group.source_path)
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", (_LOCK_TIMEOUT,))
        connection.commit()
    result = blank(group, record.state)
    result["rehearsal"] = dict(record.detail.rehearsal) or None
    if decide(record).interrupted is not Interrupted.NOTHING:
        where, what = f"cutover group {group.name}", "its rollback to SQLite was interrupted"
        again = playbook("rollback", service_env_rollback_groups=group.name)
        fix = f"Run {again} again; or, to stay on PostgreSQL, {playbook('4_service_cutover')}"
        findings.append(Problem(where, what, fix))
    if record.state == state.PENDING:
        result["basis"] = "It has not been rehearsed yet, so there is nothing to compare."
    elif foreign := [*code] or _strangers_code(connection, group):
        result["basis"] = "Nothing was compared: code of other roles would run where its tables are read."
        findings.extend(foreign)
    else:
        with _collecting(connection, group, findings):
            if state.is_on_postgresql(record.state):
                _validate_live(connection, group, record, result, findings, work_directory, unwritten_tables)
            elif record.state == state.ROLLED_BACK:
                _validate_rolled_back(connection, group, result, findings, work_directory)
            else:
                _validate_rehearsed(connection, group, record, result, findings, work_directory)
        with _collecting(connection, group, findings):
            validate_structure(connection, group, result, findings)
    with _collecting(connection, group, findings):
        read_kept(connection, group, result)
        recorded = record.detail.ledger_content
        if recorded is not None:
            findings.extend(find_changes(connection, group.name, recorded))
            findings.extend(find_changed_ids(connection, group.name))
        elif result["rejects"]["total"] or result["original_values"]["total"]:
            result["information"].append(
                "The ledger holds no hash of the rejected rows and original values: so changes go unseen"
            )
    if ask_services:
        result["service_health"], shortcomings = look_at_services(group, record.state)
        findings.extend(shortcomings)
        if state.is_on_postgresql(record.state):
            with _collecting(connection, group, findings):
                strays, warnings = find_strays(
                    connection, group, result["service_health"], record.detail.proven, listings
                )
                findings.extend(strays)
                result["warnings"] = warnings
                # The report shows it too.
                result["information"].extend(warnings)
    result["findings"] = [asdict(finding) for finding in findings]
    result["valid"] = not findings
    return result


def _strangers_code(connection: Connection, group: Group) -> list[Problem]:
    """Return the code of strangers that would run with our rights if we read the tables, or why nobody knows."""
    found: list[Problem] = []
    with _collecting(connection, group, found), connection.cursor() as cursor:
        owners = {service.database_role for service in group.services if service.migrates_itself}
        found.extend(find_strangers_code(cursor, (mapping.target for mapping in group.tables), table_owners=owners))
    return found


@contextmanager
def _collecting(connection: Connection, group: Group, findings: list[Problem]) -> Iterator[None]:
    """Note why one part cannot be compared as a finding, so that the report tells all the others.

    :raises MigrationError: if the connection is lost: then there are no others.
    """
    try:
        with explained(f"validating cutover group {group.name}"):
            yield
    except MigrationError as error:
        if connection.closed:
            raise
        findings.extend(error.problems or [Problem(f"cutover group {group.name}", error.summary, _TRY_AGAIN)])
    except OSError as error:
        where = str(error.filename or group.source_path)
        findings.append(Problem(where, f"it cannot be used: {error.strerror}", _TRY_AGAIN))
    except sqlite3.Error as error:
        findings.append(Problem(group.source_path, f"SQLite cannot read it: {error}", _TRY_AGAIN))
    finally:
        if not connection.closed:
            connection.rollback()


def blank(group: Group, group_state: str) -> dict[str, Any]:
    """Return the result for a group of which nothing has been compared."""
    return {
        "group": group.name,
        "state": group_state,
        "source_path": group.source_path,
        "services": [service.name for service in group.services],
        "service_health": [],
        "proof_repeated": None,
        "basis": "",
        "valid": True,
        "findings": [],
        "information": [],
        "warnings": [],
        "tables": [],
        "sequences": [],
        "foreign_keys": [],
        "constraints": [],
        "indexes": [],
        "rejects": {"total": 0, "rows": []},
        "original_values": {"total": 0, "rows": []},
        "loaded_by": "",
        "seconds": {},
        "cutover": None,
        "rehearsal": None,
        "next_step": state.advice(group_state, group.name),
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
    # Only here: a group that lives in PostgreSQL needs nothing of this, and importing it takes long.
    from ..engine.transfer import migrate

    if record.state == state.FROZEN:
        findings.append(
            Problem(
                f"cutover group {group.name}",
                "its cutover was interrupted: it is frozen",
                state.advice(record.state, group.name),
            )
        )
    run = ledger.read_latest_run(connection, group.name, "rehearsal", "final")
    if run is None:
        findings.append(
            Problem(
                f"cutover group {group.name}",
                f"its state is '{record.state}', but the ledger holds no run of it",
                f"Rehearse it again: {playbook('3_data_migration')}",
            )
        )
        return
    result["basis"] = f"Its services write to SQLite; compared now, against what the {run['kind']} run proved."
    result["loaded_by"] = run["kind"]
    result["seconds"] = dict(run["seconds"])
    connection.rollback()
    left = {table["target"]: table["target_hash"] for table in run["tables"]}
    try:
        compared = migrate.compare(
            connection, group, work_directory, is_named=lambda name, found: found.target_hash != left.get(name)
        )
        now = {table["target"]: table for table in compared["tables"]}
    except MigrationError as error:
        # The source gained a value that no policy covers, or the target lost a table.
        findings.extend(error.problems or [Problem(f"cutover group {group.name}", error.summary, _TRY_AGAIN)])
        now = {}
    connection.rollback()
    for then in _still_named(group, run, result["information"]):
        table = now.get(then["target"])
        if table is None:
            result["tables"].append({**then, "written_since": None, "rows_now": None})
            continue
        where = f"{group.name}: {then['source']} → {then['target']}"
        if not then["equal"]:
            findings.append(_unequal(where, then, playbook("3_data_migration")))
        elif table["target_hash"] != then["target_hash"]:
            findings.append(
                Problem(
                    where,
                    f"PostgreSQL does not hold what the {run['kind']} run left there "
                    f"({then['target_rows']:,} rows then, {table['target_rows']:,} now)"
                    f"{rows_that_differ(table)}",
                    f"Find out who wrote to it, then rehearse again: {playbook('3_data_migration')}",
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
    findings.extend(_never_moved(group, run, f"Rehearse it again: {playbook('3_data_migration')}"))


# --- after a rollback ---------------------------------------------------------------------------


def _validate_rolled_back(
    connection: Connection,
    group: Group,
    result: dict[str, Any],
    findings: list[Problem],
    work_directory: str | None,
) -> None:
    """Compare both sides of a group whose services use SQLite again; PostgreSQL keeps what it held until then."""
    # Only here: a group that lives in PostgreSQL needs nothing of this, and importing it takes long.
    from ..engine.transfer import migrate

    result["basis"] = "Its services use SQLite again; PostgreSQL keeps what it held when they went back."
    run = ledger.read_latest_run(connection, group.name, migrate.FINAL, migrate.REHEARSAL)
    result["loaded_by"] = "" if run is None else run["kind"]
    result["seconds"] = {} if run is None else dict(run["seconds"])
    connection.rollback()
    try:
        now = migrate.compare(connection, group, work_directory, is_named=lambda *_: False)["tables"]
    except MigrationError as error:
        # The next rehearsal would refuse it too.
        findings.extend(error.problems or [Problem(f"cutover group {group.name}", error.summary, _TRY_AGAIN)])
        return
    finally:
        connection.rollback()
    proven = {} if run is None else {table["target"]: table for table in run["tables"]}
    for table in now:
        shown = table
        if not table["equal"]:
            # The proof that stands is the one of the move; SQLite has moved on since.
            shown = proven.get(table["target"], table)
            result["information"].append(
                f"{table['source']}: SQLite, its store, holds {table['source_rows']:,} rows and PostgreSQL "
                f"{table['target_rows']:,}: its services have written since, or rows were given up on the rollback; "
                "the next rehearsal makes PostgreSQL equal again"
            )
        result["tables"].append({**shown, "written_since": None, "rows_now": table["target_rows"]})


# --- after the cutover --------------------------------------------------------------------------


def _validate_live(
    connection: Connection,
    group: Group,
    record: ledger.GroupRecord,
    result: dict[str, Any],
    findings: list[Problem],
    work_directory: str | None,
    unwritten_tables: Collection[str],
) -> None:
    """Check the proof of the cutover and what has become of both sides since."""
    back = playbook("rollback", service_env_rollback_groups=group.name)
    result["basis"] = "PostgreSQL is its store; the proof is the final sync of the cutover, on the frozen file."
    result["cutover"] = _read_cutover(connection, group, record)
    at_rest = record.state == state.LIVE and check_frozen_file(group, record, result, findings)
    run = ledger.read_latest_run(connection, group.name, "final")
    if run is None:
        findings.append(
            Problem(
                f"cutover group {group.name}",
                "the ledger holds no final sync of it, so nothing proves that its rows arrived",
                f"Go back with {back}, then cut it over again",
            )
        )
        return
    result["loaded_by"] = run["kind"]
    result["seconds"] = dict(run["seconds"])
    recorded = record.detail.fingerprint or record.detail.loaded
    if not recorded:
        result["information"].append(
            "The ledger holds no fingerprint of the cutover: what was written since is unknown"
        )
    now = since(connection, group, recorded)
    own = own_tables(group)
    unwritten = all(table.written is False for table in now.values())
    written_rows: dict[str, dict[str, int]] = {}
    if at_rest:
        check_proof(connection, group, run, work_directory, result, findings)
        if result["proof_repeated"]:
            result["basis"] += " The rows of that file were hashed again now: they are the ones that were proven."
        if not unwritten:
            written_rows = count_written_since(connection, group, work_directory, result["information"])
    for table in _still_named(group, run, result["information"]):
        where = f"{group.name}: {table['source']} → {table['target']}"
        if not table["equal"] or table["source_hash"] != table["target_hash"]:
            findings.append(_unequal(where, table, back))
        present = now.get(table["target"])
        if present is None and table["target"] in own:
            result["information"].append(f"{table['target']}: the service that migrates itself has dropped this table")
            continue
        if present is None:
            findings.append(_gone(group, table["target"]))
            continue
        counted = written_rows.get(table["target"])
        result["tables"].append(
            {**table, "written_since": present.written, "rows_now": present.rows, "written_rows": counted}
        )
    findings.extend(_never_moved(group, run, f"Go back with {back}, rehearse, and cut it over again"))
    unwanted = [name for name in unwritten_tables if name in now and now[name].written]
    if unwanted:
        findings.extend(find_unwanted_writes(connection, group, unwanted, work_directory, at_rest))
    written_tables = [
        table["target"] for table in result["tables"] if table["written_since"] and not table["written_rows"]
    ]
    if written_tables:
        result["information"].append(f"Written to in PostgreSQL since the cutover: {', '.join(written_tables)}")


def _read_cutover(connection: Connection, group: Group, record: ledger.GroupRecord) -> dict[str, Any]:
    """Return when the group was cut over, and for how long its services were down."""
    run = ledger.read_latest_run(connection, group.name, "cutover") or {}
    return {
        "at": None if record.cutover_at is None else record.cutover_at.isoformat(timespec="seconds"),
        **{key: run.get(key) for key in ("downtime_seconds", "window_seconds", "own_seconds", "services_seconds")},
        "steps": [dict(step) for step in run.get("steps") or ()],
        "services": [dict(service) for service in run.get("services") or ()],
    }


def _still_named(group: Group, run: Mapping[str, Any], information: list[str]) -> list[Mapping[str, Any]]:
    """Return the tables of a run that the inventory still names, and say which it does not."""
    named = {(mapping.source, mapping.target) for mapping in group.tables}
    tables: list[Mapping[str, Any]] = []
    for table in run["tables"]:
        if (table["source"], table["target"]) in named:
            tables.append(table)
        else:
            information.append(
                f"{table['source']} → {table['target']}: moved by the {run['kind']} run, and the inventory no longer "
                "names it; its rows were not compared"
            )
    return tables


def _never_moved(group: Group, run: Mapping[str, Any], fix: str) -> list[Problem]:
    """Return the tables that the inventory names and a run has not moved."""
    moved = {(table["source"], table["target"]) for table in run["tables"]}
    return [
        Problem(
            f"{group.name}: {mapping.source} → {mapping.target}",
            f"the inventory names it, and the {run['kind']} run did not move it: its rows are in SQLite alone",
            fix,
        )
        for mapping in group.tables
        if (mapping.source, mapping.target) not in moved
    ]


def _unequal(where: str, table: Mapping[str, Any], command: str) -> Problem:
    """Return the finding for a table whose two sides were not equal when it was loaded."""
    return Problem(
        where,
        f"the two sides differ: {table['source_rows']:,} rows in SQLite, {table['target_rows']:,} in PostgreSQL, "
        f"hashes {table['source_hash']} and {table['target_hash']}",
        f"Do not go on; run {command} and look at its list of rows",
    )


def _gone(group: Group, target: str) -> Problem:
    """Return the finding for a target table that is not there."""
    return Problem(
        f"{group.name}: {target}",
        "the table is not in the database",
        f"Run {playbook('1_infrastructure')}: schema_apply",
    )
