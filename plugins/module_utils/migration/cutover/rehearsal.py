"""A rehearsal while the services run: the load and its proof, how long the window will be, and the whole rollback.

What it finds is kept in the ledger together with the snapshot that was loaded. As long as that is the
same, another run has nothing to rehearse again.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import ledger
from ..core.errors import MigrationError, Problem
from ..core.estate import Group
from ..core.group_detail import GroupDetail, changes
from ..engine.export.export import ExportReport
from ..engine.export.export import rehearse as rehearse_rollback
from ..engine.transfer import baseline, migrate
from ..engine.transfer.report import warnings_of, warnings_of_group
from ..host import open_files
from ..host.manager import family_of
from ..host.managers import key_of, managers_of
from ..window.checks import foreign_processes

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Where the time of the managers and the services in a window is known from.
FROM_CUTOVER = "an earlier cutover on this host"


def rehearse(connection: Connection, group: Group, work_directory: str, rollback: bool = True) -> dict[str, Any]:
    """Make the target equal to the source, and find out what the cutover and the rollback will be like.

    :param rollback: bring everything back into a scratch copy too, which reads both sides once more.
    :returns: what :func:`.engine.transfer.migrate.migrate` does, with ``rehearsal`` (see
        ``roles/sqlite_migrate/README.md``), ``msg`` and ``warnings``.
    :raises MigrationError: with every violation, or if the rollback would not give back what was loaded.
    """
    warnings = [*_warnings(group), *warnings_of_group(group)]
    began = time.monotonic()
    result = migrate.migrate(connection, group, migrate.REHEARSAL, work_directory=work_directory)
    warnings += warnings_of(result["report"])
    seconds = time.monotonic() - began
    detail = ledger.read_group(connection, group.name, group.source_path).detail
    connection.rollback()
    found: Mapping[str, Any] = detail.rehearsal
    if found.get("token") != _token(detail) or (rollback and not found.get("way_back")):
        sync = _measure_sync(connection, group, result, work_directory)
        detail = ledger.read_group(connection, group.name, group.source_path).detail
        connection.rollback()
        services, source = _measure_services(connection, group)
        sync, services = round(sync, 3), round(services, 3)
        full = result["report"]["way"] != migrate.CHANGED_ROWS
        found = {
            "token": _token(detail),
            "rehearsed_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "load_seconds": round(seconds, 3) if full else found.get("load_seconds"),
            "final_sync_seconds": sync,
            "services_seconds": services,
            "services_seconds_from": source,
            "expected_downtime_seconds": round(sync + services, 3),
            "new_ids_load_all_rows": _tables_of_rewritten_ids(group),
            "way_back": _rehearse_rollback(connection, group, detail, Path(work_directory)) if rollback else None,
        }
        ledger.merge_detail(connection, group.name, changes(rehearsal=found))
        connection.commit()
    return {**result, "rehearsal": dict(found), "msg": describe(group.name, found), "warnings": warnings}


def describe(name: str, found: Mapping[str, Any]) -> str:
    """Return what a rehearsal has shown, in one sentence or two."""
    load = "" if found["load_seconds"] is None else f" (all rows loaded and proven in {found['load_seconds']:.1f} s)"
    start = "" if found["services_seconds_from"] == FROM_CUTOVER else ", and what its services take to start"
    text = (
        f"{name} is rehearsed{load}; expected downtime about {found['expected_downtime_seconds']:.1f} s{start}: "
        f"final sync {found['final_sync_seconds']:.1f} s, stop and start {found['services_seconds']:.1f} s "
        f"({found['services_seconds_from']})."
    )
    tables = found.get("new_ids_load_all_rows")  # an older rehearsal does not hold it
    if tables:
        took = "" if found["load_seconds"] is None else f", which took {found['load_seconds']:.1f} s"
        text += (
            f" If a row of {', '.join(tables)} comes or goes before the cutover, the final sync loads all rows again"
            f"{took}, because 'rewrite_ids_of' names their ids: the downtime is longer by that time."
        )
    back = found["way_back"]
    if back is None:
        return f"{text} The rollback was not rehearsed."
    return (
        f"{text} The rollback into a scratch copy took {back['seconds']:.1f} s: nothing to change, "
        f"{back['rows']:,} rows of equal content."
    )


def _tables_of_rewritten_ids(group: Group) -> list[str]:
    """Return the target tables whose ids are rewritten in texts: a new id may stand in rows that nobody has touched."""
    return sorted(
        {name for mapping in group.tables for options in mapping.columns.values() for name in options.rewrite_ids_of}
    )


def _measure_sync(connection: Connection, group: Group, result: Mapping[str, Any], work_directory: str) -> float:
    """Return what the final sync takes: a sync of what the services have written since the snapshot, as it will be."""
    if result["report"]["way"] != migrate.CHANGED_ROWS:
        result = migrate.migrate(connection, group, migrate.REHEARSAL, work_directory=work_directory)
    seconds = result["report"]["seconds"]
    # The final sync shows nobody how numbers are read.
    return float(seconds["total"]) - float(seconds.get(migrate.READINGS, 0.0))


def _measure_services(connection: Connection, group: Group) -> tuple[float, str]:
    """Return the seconds that the services' stop and start take in a window, and where that is known from."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (report ->> 'downtime_seconds')::float8 - (report ->> 'own_seconds')::float8 FROM migration.run "
            "WHERE kind = 'cutover' AND report ->> 'measured_by' = 'client' "
            "ORDER BY group_name = %s DESC, id DESC LIMIT 1",
            (group.name,),
        )
        row = cursor.fetchone()
    connection.rollback()
    if row is not None:
        return max(0.0, float(row[0])), FROM_CUTOVER
    began, names = time.monotonic(), list[str]()
    with suppress(MigrationError):
        for manager in managers_of(group.services).values():
            names.append(manager.called)
            if manager.problem() is None:
                manager.processes()
    return 2 * (time.monotonic() - began), f"two calls of {' and '.join(dict.fromkeys(names)) or 'pm2'}"


def _rehearse_rollback(connection: Connection, group: Group, detail: GroupDetail, work: Path) -> dict[str, Any] | None:
    """Bring everything back into a copy of the snapshot that was loaded; None if that is no more.

    :raises MigrationError: if the rollback is not open, or would change what nobody has changed.
    """
    snapshot = baseline.find(work, group.name, _token(detail))
    if snapshot is None:
        return None
    # A directory of this name is removed by the next run if this one is killed.
    directory = work / f"run-{os.getpid()}-rollback"
    directory.mkdir(mode=0o700)
    began = time.monotonic()
    try:
        report = rehearse_rollback(connection, group, snapshot, directory)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        fix = "Free some disk, or point sqlite_migrate_work_directory to a larger one"
        raise MigrationError(
            f"Not enough disk to rehearse the rollback of cutover group {group.name}.",
            [Problem(str(work), "the disk is full", fix)],
        ) from None
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    _require_nothing_to_change(group, report)
    return {
        "seconds": round(time.monotonic() - began, 3),
        "tables": len(report.tables),
        "rows": sum(table.rows for table in report.tables),
    }


def _require_nothing_to_change(group: Group, report: ExportReport) -> None:
    """Refuse a rollback that would not give back what has just been loaded.

    :raises MigrationError: naming the tables.
    """
    if report.changed:
        raise MigrationError(
            f"The rollback of cutover group {group.name} does not give back what was loaded.",
            [
                Problem(
                    f"{group.name}: {table.target} → {table.source}",
                    f"it would insert {table.inserted:,}, update {table.updated:,} and delete {table.deleted:,} rows, "
                    "and nobody has written to PostgreSQL",
                    "Do not cut over. Find out who writes to this table in PostgreSQL, else please report this",
                )
                for table in report.tables
                if table.inserted or table.updated or table.deleted
            ],
        )


def _warnings(group: Group) -> list[str]:
    """Return a sentence for each process that would make the cutover refuse, while it can still be dealt with."""
    with suppress(MigrationError, OSError):
        if open_files.find_holders(group.source_path):
            return [
                f"{problem.where}: {problem.what}, so the cutover will refuse. {problem.fix}."
                for problem in foreign_processes(group.source_path, _pids_of_services(group))
            ]
    return []


def _pids_of_services(group: Group) -> set[int]:
    """Return the processes of the group's services; those of a manager that cannot be asked do not run under it."""
    names = {service.name for service in group.services}
    pids = set()
    for key in sorted({key_of(service) for service in group.services}):
        with suppress(MigrationError):
            manager = managers_of(service for service in group.services if key_of(service) == key)[key]
            if manager.problem() is None:
                pids |= family_of(process for process in manager.processes() if process.name in names)
    return pids


def _token(detail: GroupDetail) -> str | None:
    """Return which snapshot the ledger says was loaded."""
    token: str | None = detail.baseline.get("token")
    return token
