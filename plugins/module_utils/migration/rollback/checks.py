"""What must be right before a rollback stops anything: every problem at once, a trial among them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import ledger
from ..core.commands import playbook
from ..core.connection import first_row
from ..core.errors import MigrationError, Problem
from ..core.estate import Group
from ..core.files import WORK_DIRECTORY
from ..core.sql import table_name
from ..postgres.code_in_tables import held_still
from ..window import frozen_file
from ..window.back_on_sqlite import written_since
from ..window.checks import Findings, check_recovery_unit
from ..window.context import WindowContext
from ..window.services import identity_of
from . import dump

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..engine.export.difference import Counts

# Of the frozen file, the one that is written to, and the work files of the export beside it.
_COPIES = 3
_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Options:
    """What is asked of a rollback.

    :param directory: where dumps of PostgreSQL's tables are kept.
    :param lose_rows: the number of rows that may be lost; None to keep every row.
    """

    directory: str = dump.DIRECTORY
    lose_rows: int | None = None


@dataclass(frozen=True)
class Found:
    """What the checks have found.

    :param changed: whether PostgreSQL was written to since the cutover.
    :param identity: what tells that the frozen file is still the one whose hash was right.
    """

    changed: bool
    identity: tuple[int, ...] = ()


def check(context: WindowContext, record: ledger.GroupRecord, options: Options, findings: Findings) -> Found:
    """Note every problem, and return what else was found.

    The services may run: the trial reads one snapshot of PostgreSQL.
    """
    group = context.group
    source = Path(os.path.realpath(group.source_path))
    identity = identity_of(source) if source.exists() else ()
    frozen = None
    check_recovery_unit(context.settings, findings)
    with findings.collecting():
        frozen = _check_frozen_file(group, record, findings)
    _check_names_of_the_file(group, findings)
    with held_still(context.login, group, loaded=True) as held:
        findings.violations.extend(held.code)
        if held.code:
            # Nothing tells whether it was written to: the tables cannot be read.
            return Found(True, identity)
        before = len(findings.violations)
        found = _check_rows(context, record, options, findings, frozen, identity, held.is_services)
        if held.is_services and len(findings.violations) > before:
            what = "its service migrates itself, and the file has the tables of the moment of the cutover"
            fix = "If it has changed them since, undo that by the service's own down-migration, then run again"
            findings.violations.append(Problem(f"cutover group {group.name}", what, fix))
        return found


def _check_rows(
    context: WindowContext,
    record: ledger.GroupRecord,
    options: Options,
    findings: Findings,
    frozen: Path | None,
    identity: tuple[int, ...],
    is_services: bool,
) -> Found:
    """Note every problem of the rows, and of what the rollback needs to bring them back.

    :param is_services: a service owns the tables, and may have changed or dropped them without writing a row.
    """
    connection, group, work_directory = context.connection, context.group, context.settings.work_directory
    changed = bool(written_since(connection, group, record, locked=True))
    if not changed and options.lose_rows:
        findings.violations.append(_wrong_number(group, options.lose_rows, 0))
    if not changed and not is_services:
        return Found(False, identity)
    if frozen is None:
        return Found(changed, identity)
    gone = _tables_gone(connection, group) if is_services else []
    if gone:
        findings.violations.extend(gone)
        return Found(changed, identity)
    _check_room(connection, group, options, frozen, Path(work_directory or WORK_DIRECTORY), findings)
    # Only here: importing it takes long, and a run that only looks after a live group does not need it.
    from ..engine.export import export

    with findings.collecting():
        dump.find_programs(connection)
    with findings.collecting():
        # Whatever stands in the place of the private directory is known before anything is stopped.
        frozen_file.require_own(group.source_path)
        with frozen_file.work_place(work_directory) as place:
            copy = frozen_file.copy_frozen(group, record.frozen_sha256, record.detail.rollback, place)
            if not changed:
                _require_same_shape(connection, group, copy, place)
            elif options.lose_rows is not None:
                lost = number_of(export.count_changes(connection, group, copy, place))
                if lost != options.lose_rows:
                    findings.violations.append(_wrong_number(group, options.lose_rows, lost))
            else:
                _try(connection, group, copy, place, findings)
    return Found(changed, identity)


def number_of(counts: Mapping[str, Counts]) -> int:
    """Return how many rows would be lost."""
    return sum(table.total for table in counts.values())


def require_number(group: Group, typed: int, lost: int) -> None:
    """Refuse to lose another number of rows than the one that was typed.

    :raises MigrationError: naming the right one.
    """
    if typed != lost:
        raise MigrationError(
            "Another number of rows would be lost than the one that was typed.", [_wrong_number(group, typed, lost)]
        )


def _try(connection: Connection, group: Group, frozen: Path, directory: Path, findings: Findings) -> None:
    """Bring the changes back into a scratch copy; note what cannot be said, and how many rows there are."""
    from ..engine.export import export

    try:
        export.rehearse(connection, group, frozen, directory)
    except MigrationError as error:
        findings.violations.extend(
            error.problems or [Problem(group.name, error.summary, "Correct this, then run again")]
        )
        lost = number_of(export.count_changes(connection, group, frozen, directory))
        findings.violations.append(
            Problem(
                f"cutover group {group.name}",
                f"without them there is only its frozen file, which lacks {_rows(lost)} of PostgreSQL",
                "To lose them, and only then, type this number: "
                f"{playbook('rollback', service_env_rollback_groups=group.name, service_env_rollback_lose_rows=lost)}",
            )
        )


def _tables_gone(connection: Connection, group: Group) -> list[Problem]:
    """Return the target tables that their service has dropped or renamed."""
    names = {table_name(mapping.target).as_string(connection): mapping.target for mapping in group.tables}
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM unnest(%s) AS name WHERE to_regclass(name) IS NULL ORDER BY 1", (list(names),))
        found = [names[name] for (name,) in cursor.fetchall()]
    connection.rollback()
    fix = "Bring it back with its rows, or restore it from a backup"
    return [Problem(name, "the table is no more, and its rows are in the frozen file alone", fix) for name in found]


def _require_same_shape(connection: Connection, group: Group, frozen: Path, directory: Path) -> None:
    """Refuse tables that rows of the file would no longer fit, though none was written to.

    :raises MigrationError: naming each table and column.
    """
    from ..engine.export import export

    export.count_changes(connection, group, frozen, directory)


def _wrong_number(group: Group, typed: int, lost: int) -> Problem:
    """Return the problem of a number that is not the right one."""
    return Problem(
        "service_env_rollback_lose_rows",
        f"it is {typed:,}, and going back to the frozen file of {group.name} would lose {_rows(lost)} of PostgreSQL",
        f"Look at these rows; leave the variable away to keep them, or type {lost} to lose them"
        if lost
        else "Leave the variable away",
    )


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"


def _check_frozen_file(group: Group, record: ledger.GroupRecord, findings: Findings) -> Path | None:
    """Return where the frozen file is; note a problem if it is not, or not the one that was frozen."""
    source = Path(os.path.realpath(group.source_path))
    fix = "Put the frozen file back from a backup; without it there is nothing to go back to"
    if not source.exists():
        findings.violations.append(Problem(str(source), "the frozen SQLite file is gone", fix))
        return None
    frozen = frozen_file.find_frozen(group, record.frozen_sha256, record.detail.rollback)
    if frozen is None:
        what = "it is not the file that was frozen at the cutover: its hash is another"
        findings.violations.append(Problem(str(source), what, fix))
        return None
    for suffix in ("-wal", "-journal"):
        journal = Path(f"{frozen}{suffix}")
        if journal.exists() and journal.stat().st_size:
            what = "it holds rows that the frozen file lacks: somebody wrote to it since the cutover"
            findings.violations.append(
                Problem(str(journal), what, "Find out who did, and take these rows over by hand")
            )
            return None
    return frozen


def _check_names_of_the_file(group: Group, findings: Findings) -> None:
    """Note a problem for a name of the file that would still lead to the old one if the file is replaced."""
    source = os.path.realpath(group.source_path)
    for alias in group.aliases:
        if os.path.realpath(alias) != source:
            what = f"it is no symlink that leads to {source}, so it would not lead to the file that replaces it"
            findings.violations.append(Problem(alias, what, f"Make it a symlink: ln -sf {source} {alias}"))


def _check_room(
    connection: Connection, group: Group, options: Options, frozen: Path, work: Path, findings: Findings
) -> None:
    """Note a problem for each file system that has not enough room."""
    tables = [table_name(mapping.target).as_string(connection) for mapping in group.tables]
    with connection.cursor() as cursor:
        cursor.execute(
            # An ordinary table is in no tree of partitions, not even in one of its own.
            "SELECT coalesce(sum(pg_total_relation_size(coalesce(t.relid, name))), 0) "
            "FROM unnest(%s::regclass[]) AS name LEFT JOIN LATERAL pg_partition_tree(name) AS t ON true",
            (tables,),
        )
        stored = int(first_row(cursor)[0])
    connection.rollback()
    size = frozen.stat().st_size
    # A dump is compressed, and holds no index.
    wants = [(frozen.parent, size + _MEBIBYTE), (work, _COPIES * size), (Path(options.directory), stored)]
    # By file system: what is wanted of it altogether, and the first place on it.
    needed: dict[int, tuple[Path, int]] = {}
    for directory, wanted in wants:
        existing = directory
        while not existing.exists():
            existing = existing.parent
        first, before = needed.get(existing.stat().st_dev, (existing, 0))
        needed[existing.stat().st_dev] = (first, before + wanted)
    for directory, wanted in needed.values():
        free = shutil.disk_usage(directory).free
        if free < wanted:
            findings.violations.append(
                Problem(
                    str(directory),
                    f"{free // _MEBIBYTE:,} MiB are free, and a rollback may need {-(-wanted // _MEBIBYTE):,} MiB",
                    "Make room there, or set service_env_rollback_directory to another place",
                )
            )
