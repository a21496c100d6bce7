"""What keeps the target's rows right: sequences, foreign keys, other constraints, and indexes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core import ledger
from ..core.commands import playbook
from ..core.connection import first_row, sql
from ..core.errors import Problem
from ..core.sql import table_name
from ..postgres import catalog
from ..postgres.foreign_keys import is_validated, orphan_count
from ..postgres.sequences import next_value

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..core.estate import Group, TableMapping

_RUN_VALIDATION = f"then run {playbook('5_validation')} again"


def validate_structure(connection: Connection, group: Group, result: dict[str, Any], findings: list[Problem]) -> None:
    """Check sequences, constraints and indexes of the target, all at one moment."""
    connection.rollback()
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    tables = catalog.read_catalog(connection, [table.target for table in group.tables])
    run = ledger.read_latest_run(connection, group.name, "final", "rehearsal") or {}
    required = {entry["name"]: int(entry["required"]) for entry in run.get("sequences", [])}
    feeding = {mapping.target: _declared_sequences(mapping) for mapping in group.tables}
    for target in sorted(tables):
        result["sequences"] += _read_sequences(connection, tables[target], feeding[target], required)
        result["foreign_keys"] += _read_foreign_keys(connection, tables[target])
    result["constraints"] = _read_constraints(connection, list(tables))
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
    findings += [
        Problem(
            f"constraint {constraint['name']}",
            "PostgreSQL has not validated it, so older rows may break it",
            f"ALTER TABLE … VALIDATE CONSTRAINT, {_RUN_VALIDATION}",
        )
        for constraint in result["constraints"]
        if not constraint["valid"]
    ]
    for index in result["indexes"]:
        if not index["valid"]:
            findings.append(
                Problem(
                    f"index {index['name']}", "it is not valid", f"REINDEX INDEX {index['name']}, {_RUN_VALIDATION}"
                )
            )


def _declared_sequences(mapping: TableMapping) -> dict[str, str]:
    """Return the sequences that no column owns and the inventory names, by target column."""
    columns = mapping.columns.values()
    return {options.target: options.sequence for options in columns if options.sequence is not None}


def _read_sequences(
    connection: Connection, table: catalog.TargetTable, declared: Mapping[str, str], required: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return the sequences that feed a table, and whether each is ahead of every id given out.

    :param declared: sequences that no column owns, by column.
    :param required: the least next value that the last load found necessary, by sequence: SQLite may
        have given out higher ids than those that are left.
    """
    found = []
    for column in table.columns.values():
        # As SQL reads it: quoted where needed.
        name = column.sequence or table.sequences.get(declared.get(column.name, ""))
        if name is None:
            continue
        with connection.cursor() as cursor:
            following = next_value(cursor, name)
            cursor.execute(
                sql.SQL("SELECT coalesce(max({}), 0) + 1 FROM {}").format(
                    sql.Identifier(column.name), table_name(table.name)
                )
            )
            least = max(int(first_row(cursor)[0]), required.get(name, 1))
        found.append({"name": name, "next_value": following, "required": least, "correct": following >= least})
    return found


def _read_foreign_keys(connection: Connection, table: catalog.TargetTable) -> list[dict[str, Any]]:
    """Return the foreign keys of a table, whether each is validated, and its orphans by count."""
    with connection.cursor() as cursor:
        return [
            {
                "name": f"{key.table}: {key.name}",
                "valid": is_validated(cursor, key),
                "orphans": orphan_count(cursor, key),
            }
            for key in table.foreign_keys
        ]


def _read_constraints(connection: Connection, tables: list[str]) -> list[dict[str, Any]]:
    """Return the primary keys, unique and check constraints of the tables, and whether each is validated."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT n.nspname || '.' || t.relname || ': ' || k.conname, k.convalidated
            FROM pg_constraint k
            JOIN pg_class t ON t.oid = k.conrelid
            JOIN pg_namespace n ON n.oid = t.relnamespace
            WHERE n.nspname || '.' || t.relname = ANY (%s) AND k.contype IN ('p', 'u', 'c', 'x', 'n')
            ORDER BY 1
            """,
            (tables,),
        )
        return [{"name": name, "valid": valid} for name, valid in cursor.fetchall()]


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
