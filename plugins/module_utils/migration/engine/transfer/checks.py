"""What must hold before rows are replaced, and before a run commits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...core.connection import first_row
from ...core.errors import MigrationError, Problem, RowsRefused
from ...core.estate import Group
from ...core.sql import table_name
from ...postgres.catalog import ForeignKey
from ...postgres.foreign_keys import is_validated, orphan_count
from ...postgres.strangers import find_strangers_code
from ..plan.planner import TablePlan
from ..proof.compare import Comparison
from ..proof.target_state import TargetState, read_target_state
from .full_load import are_truncated
from .incremental import NeedsFullLoad, Synced

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


def require_access(connection: Connection, plans: Sequence[TablePlan]) -> None:
    """Refuse tables of which we may not write every row, a database in which we may make no temporary table, and code.

    The code is what a stranger has in a table that we read and load: it would run with our rights.

    :raises MigrationError: naming each with what is missing.
    """
    problems = []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_user, current_database(), has_database_privilege(current_database(), 'TEMPORARY')"
        )
        role, database, may_stage = first_row(cursor)
        tables = [table_name(plan.target.name).as_string(connection) for plan in plans]
        rights = ["SELECT", "INSERT", "UPDATE", "DELETE", *["TRUNCATE"] * are_truncated(cursor, tables)]
        for plan, table in zip(plans, tables, strict=True):
            cursor.execute(
                "SELECT row_security_active(%(table)s::regclass), "
                "array(SELECT r FROM unnest(%(rights)s) AS r WHERE NOT has_table_privilege(%(table)s::regclass, r))",
                {"table": table, "rights": rights},
            )
            hidden, missing = first_row(cursor)
            if hidden:
                what = f"row level security lets role {role} see and write only the rows that a policy allows"
                fix = (
                    f"Until the cutover: ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY; or let {role} have BYPASSRLS"
                )
                problems.append(Problem(plan.target.name, what, fix))
            if missing:
                what = f"role {role} may not {', '.join(missing)} there"
                fix = "Let the session_role of postgres_migrator_login own the table"
                problems.append(Problem(plan.target.name, what, fix))
        problems += find_strangers_code(cursor, [plan.target.name for plan in plans])
    if not may_stage:
        what = f"role {role} may not make temporary tables in database {database}"
        problems.append(Problem("target database", what, f"GRANT TEMPORARY ON DATABASE {database} TO {role}"))
    if problems:
        raise MigrationError("The target tables cannot be written as a whole.", problems)


def require_ours(group: Group, present: Mapping[str, TargetState], loaded: Mapping[str, Any]) -> None:
    """Refuse to replace rows that no run of ours has written.

    :raises MigrationError: naming each table that holds such rows.
    """
    if not any(table.rows for table in present.values()):
        return
    problems = []
    for name, table in present.items():
        ours = loaded.get(name)
        if table.rows and not table.ours:
            then = "no run has loaded it yet" if ours is None else f"our last run left {ours['rows']:,} rows"
            problems.append(
                Problem(
                    name,
                    f"it holds {table.rows:,} rows, and {then}: somebody else wrote to it",
                    "Find out who wrote there. If those rows are not needed, delete them by hand, then run again",
                )
            )
        elif ours is not None and not table.ours:
            problems.append(
                Problem(
                    name,
                    f"it is empty, and our last run left {ours['rows']:,} rows: somebody else emptied it",
                    "Find out who did. To load it again, empty the group's other target tables too, then run again",
                )
            )
    if problems:
        raise MigrationError(f"The target tables of cutover group {group.name} hold rows that are not ours.", problems)


def require_equal(group: Group, plans: Sequence[TablePlan], comparisons: Sequence[Comparison]) -> None:
    """Refuse to commit what does not read back as it was.

    :raises RowsRefused: naming rows, columns and both values.
    """
    problems = []
    for plan, comparison in zip(plans, comparisons, strict=True):
        if comparison.equal:
            continue
        where = f"{group.source_path}: {plan.source.name} → {plan.target.name}"
        fix = "Nothing was committed. Please report this with the row named here"
        for found in comparison.differences or [
            {"key": "?", "column": "?", "source": str(comparison.source_rows), "target": str(comparison.target_rows)}
        ]:
            what = (
                f"{found['key']}: {found['column']} is {found['source']} in SQLite and {found['target']} in PostgreSQL"
            )
            problems.append(Problem(where, what, fix))
    if problems:
        raise RowsRefused(f"Verification of cutover group {group.name} failed.", problems)


def require_only_these_changes(
    connection: Connection, plans: Sequence[TablePlan], before: Mapping[str, TargetState], synced: Sequence[Synced]
) -> None:
    """Refuse a sync after which more rows than those it moved are no longer what they were.

    :raises NeedsFullLoad: then every row has to be looked at.
    """
    after = read_target_state(connection, plans, {})
    for table in synced:
        name = table.plan.target.name
        untouched = sum(after[name].writers.get(writer, 0) for writer in before[name].writers)
        if after[name].rows != table.comparison.target_rows or untouched != before[name].rows - table.before.rows:
            raise NeedsFullLoad(f"{name} changed by more than the rows that were moved.")


def may_read_referenced(cursor: Any, key: ForeignKey) -> bool:
    """Return whether we see every row of the table that a foreign key refers to.

    PostgreSQL itself reads it as its owner: a load needs no right on it.
    """
    cursor.execute(
        "SELECT has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') "
        "AND NOT row_security_active(c.oid) FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid "
        "WHERE k.conrelid = %s::regclass AND k.conname = %s",
        (table_name(key.table).as_string(cursor), key.name),
    )
    return bool(first_row(cursor)[0])


def check_foreign_keys(
    connection: Connection, plans: Sequence[TablePlan], count_orphans: bool = True
) -> list[dict[str, Any]]:
    """Return each foreign key of the group: whether PostgreSQL holds it valid, and its orphans counted.

    :param count_orphans: if False, a valid one is taken at PostgreSQL's word, as one that refers to a table that we may
        not read always is.
    """
    result = []
    with connection.cursor() as cursor:
        for plan in plans:
            for key in plan.target.foreign_keys:
                valid = is_validated(cursor, key)
                taken_at_its_word = valid and not (count_orphans and may_read_referenced(cursor, key))
                orphans = 0 if taken_at_its_word else orphan_count(cursor, key)
                result.append({"name": f"{key.table}: {key.name}", "valid": valid, "orphans": orphans})
    return result
