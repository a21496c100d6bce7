"""Both sides of a group that lives in PostgreSQL: the frozen file, its proof, and what was written since."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.commands import playbook
from ..core.errors import MigrationError, Problem
from ..core.files import WORK_DIRECTORY, sha256_of_open
from ..engine.convert.recorded_ids import with_recorded_ids
from ..engine.convert.server_text import ServerForms
from ..engine.plan.planner import plan_group
from ..engine.prepare.prepare import prepare
from ..engine.prepare.server_refusals import recorded_refusals
from ..engine.proof.checksums import sum_source
from ..engine.proof.row_differences import WHOLE_ROW
from ..host.safe_paths import open_owned
from ..host.write_protection import is_protected
from ..postgres import catalog
from ..sqlite.snapshot import has_pages, snapshot
from ..sqlite.tables import open_snapshot, read_tables

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..core.estate import Group
    from ..core.ledger import GroupRecord

_RUN_VALIDATION = f"then run {playbook('5_validation')} again"
_RAISES_IT = f"puts it up again, {_RUN_VALIDATION}"
_SHOWN_ROWS = 5


def check_frozen_file(group: Group, record: GroupRecord, result: dict[str, Any], findings: list[Problem]) -> bool:
    """Check that the frozen file is still the one that was recorded: a rollback needs it.

    :returns: whether it can be read, at rest.
    """
    path = Path(group.source_path)
    try:
        with open_owned(path, users=None, links=None) as source:
            path = source.path
            found = sha256_of_open(source.descriptor)
            protected = is_protected(source.descriptor)
    except MigrationError as error:
        findings.extend(error.problems)
        return False
    except FileNotFoundError:
        findings.append(
            Problem(str(path), "the frozen SQLite file is gone, and with it the rollback", "Put it back from a backup")
        )
        return False
    except OSError as error:
        findings.append(Problem(str(path), f"cannot be read: {error.strerror}", f"Correct this, {_RUN_VALIDATION}"))
        return False
    fix = "Find the program that opens it (fuser) and its rows; nothing of them is in PostgreSQL"
    if record.frozen_sha256 is None:
        result["information"].append(f"The ledger holds no hash of the frozen file {path}")
    elif found != record.frozen_sha256:
        what = "the frozen SQLite file has changed since the cutover: a program writes to it, or it was replaced"
        findings.append(Problem(str(path), what, fix))
    if record.detail.file_before and not protected:
        what = "its write protection is gone: an old program could write rows to it"
        findings.append(Problem(str(path), what, f"Run {playbook('4_service_cutover')}, which {_RAISES_IT}"))
    wal, journal = (Path(f"{path.resolve()}{suffix}") for suffix in ("-wal", "-journal"))
    written = [wal] if wal.exists() and wal.stat().st_size > 0 else []
    written += [journal] if has_pages(journal) else []
    what = "rows were written to the frozen SQLite file since the cutover"
    findings.extend(Problem(str(file), what, fix) for file in written)
    return not written


def check_proof(
    connection: Connection,
    group: Group,
    run: Mapping[str, Any],
    work_directory: str | None,
    result: dict[str, Any],
    findings: list[Problem],
) -> None:
    """Check that the rows of the frozen file, hashed again, are those that the final sync proved equal."""
    named = {mapping.source for mapping in group.tables}
    tables = [table for table in run["tables"] if table["source"] in named]
    # Rejected rows are in the file, and in no sum.
    proven = {
        table["source"]: (table["source_rows"] - table["rejected_rows"], table["source_hash"]) for table in tables
    }
    try:
        hashes = _hash_frozen_rows(connection, group, work_directory, exact=False)
        if any(hashes.get(source) != sums for source, sums in proven.items()):
            # What the fast way takes for plain may be what differs.
            hashes = _hash_frozen_rows(connection, group, work_directory, exact=True)
    except MigrationError as error:
        # The tables may have moved on: a later SQL file can leave no way to say the old rows as they were proven.
        reasons = "; ".join(str(problem) for problem in error.problems) or error.summary
        result["information"].append(f"The rows of the frozen file cannot be hashed again as at the cutover: {reasons}")
        return
    finally:
        connection.rollback()
    result["proof_repeated"] = all(hashes.get(source) == sums for source, sums in proven.items())
    for source, (rows, content_hash) in sorted(proven.items()):
        rows_now, hash_now = hashes.get(source, (0, "none"))
        if (rows_now, hash_now) != (rows, content_hash):
            findings.append(
                Problem(
                    f"{group.name}: {source}",
                    f"the rows of the frozen file are not those that were proven at the cutover: {rows:,} rows then, "
                    f"{rows_now:,} now, hashes {content_hash} and {hash_now}",
                    "The file was changed, or the ledger was: do not delete anything, and compare both with a backup",
                )
            )


def _hash_frozen_rows(
    connection: Connection, group: Group, work_directory: str | None, exact: bool
) -> dict[str, tuple[int, str]]:
    """Return rows and content hash of each table of the frozen file, rejected rows aside."""
    with (
        snapshot(group.source_path, work_directory, frozen=True, users=group.users) as copy,
        closing(open_snapshot(copy.path)) as source,
    ):
        targets = catalog.read_catalog(connection, [table.target for table in group.tables])
        plans = plan_group(group, source, read_tables(source), targets, asks=False)
        plans = with_recorded_ids(connection, group.name, plans)
        forms = ServerForms(connection)
        refusals = recorded_refusals(connection, group.name)
        prepared = prepare(group, source, plans, copy.directory, forms, spool=False, exact=exact, refusals=refusals)
        sums = {table.plan.source.name: sum_source(source, table, forms) for table in prepared.tables}
    return {name: (found.rows, found.hexdigest()) for name, found in sums.items()}


def count_written_since(
    connection: Connection, group: Group, work_directory: str | None, information: list[str]
) -> dict[str, dict[str, int]]:
    """Return how many rows of each table PostgreSQL holds otherwise than the frozen file, by target table."""
    # Only here: most groups are validated without it, and importing it takes long.
    from ..engine.export import export

    directory = Path(work_directory or WORK_DIRECTORY)
    made = not directory.exists()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        counts = export.count_changes(connection, group, Path(group.source_path), directory)
    except MigrationError as error:
        reasons = "; ".join(str(problem) for problem in error.problems) or error.summary
        information.append(f"Which rows were written since the cutover cannot be told: {reasons}")
        return {}
    finally:
        if made:
            with suppress(OSError):
                directory.rmdir()
    written = {}
    for table in group.tables:
        count = counts.get(table.source)
        if count is None or not count.total:
            continue
        written[table.target] = {
            "added": count.inserted,
            "changed": count.updated + count.unsaid,
            "gone": count.deleted,
        }
        parts = [f"{number:,} {what}" for what, number in written[table.target].items() if number]
        information.append(f"{table.target}: rows written since the cutover: {', '.join(parts)}")
    return written


def find_unwanted_writes(
    connection: Connection, group: Group, names: Collection[str], work_directory: str | None, at_rest: bool
) -> list[Problem]:
    """Return what differs in tables that were written to and that nobody should write to.

    :param at_rest: whether the frozen file can be read, to tell the very rows.
    """
    tables: dict[str, dict[str, Any]] = {}
    if at_rest:
        # Only here, as above.
        from ..engine.transfer import migrate

        # A later SQL file can leave no way to compare: then only that they were written to can be told.
        with suppress(MigrationError):
            compared = migrate.compare(connection, group, work_directory, is_named=lambda name, _: name in names)
            tables = {table["target"]: table for table in compared["tables"]}
        connection.rollback()
    fix = "Find out who wrote to it and put the rows back, or take it out of validation_unwritten_tables"
    return [
        Problem(
            f"{group.name}: {mapping.source} → {mapping.target}",
            "it was written to since the cutover, and validation_unwritten_tables says that nobody writes to it"
            + rows_that_differ(tables.get(mapping.target, {})),
            fix,
        )
        for mapping in group.tables
        if mapping.target in names
    ]


def rows_that_differ(table: Mapping[str, Any]) -> str:
    """Return the first rows of a compared table that differ, as the end of a sentence; nothing if none is known."""
    differences = table.get("differences") or []
    shown = []
    for found in differences[:_SHOWN_ROWS]:
        what = "" if found["column"] == WHOLE_ROW else f"{found['column']} is "
        shown.append(f"{found['key']}: {what}{found['source']} in SQLite and {found['target']} in PostgreSQL")
    if len(differences) > _SHOWN_ROWS:
        shown.append("and more")
    return f"; what differs from SQLite now: {'; '.join(shown)}" if shown else ""
