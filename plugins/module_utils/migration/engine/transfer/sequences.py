"""The sequences that number new rows: each goes on after every id that the source has ever given out."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...core.connection import first_row, sql
from ...core.errors import TABLE_SQL, MigrationError, Problem
from ...postgres.sequences import next_value
from ...sqlite.tables import quote_name, read_sequence
from ..plan.planner import TablePlan

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


def read_sequences(
    connection: Connection, snapshot: sqlite3.Connection, plans: Sequence[TablePlan]
) -> list[dict[str, Any]]:
    """Return each sequence of the group once: what it gives out next, and the least that it must.

    Several columns may share one. A deleted maximum counts too: AUTOINCREMENT never gives an id out again, nor may
    the sequence.
    """
    required: dict[str, int] = {}
    for plan in plans:
        # The rows that a filter leaves behind hold ids too, and stay.
        every_row = replace(plan.source, row_filter=None).relation
        for column in plan.columns:
            if column.sequence is not None:
                largest = snapshot.execute(
                    f"SELECT max(CAST({quote_name(column.source)} AS INTEGER)) FROM {every_row}"  # noqa: S608 (quoted)
                ).fetchone()[0]
                least = max(largest or 0, read_sequence(snapshot, plan.source.name)) + 1
                required[column.sequence] = max(required.get(column.sequence, 1), least)
    sequences = []
    with connection.cursor() as cursor:
        for name, least in required.items():
            following = next_value(cursor, name)
            sequences.append({"name": name, "next_value": following, "required": least, "correct": following >= least})
    return sequences


def require_room(connection: Connection, sequences: Sequence[dict[str, Any]]) -> None:
    """Refuse sequences that have no number left for a new row, or only numbers that are taken.

    :raises MigrationError: naming each with its bounds.
    """
    problems = []
    with connection.cursor() as cursor:
        for sequence in sequences:
            cursor.execute("SELECT seqmin, seqmax FROM pg_sequence WHERE seqrelid = %s::regclass", (sequence["name"],))
            least, most = first_row(cursor)
            if not sequence["correct"] and not least <= sequence["required"] <= most:
                problems.append(
                    Problem(
                        sequence["name"],
                        f"its next number has to be {sequence['required']:,}, after all ids of the source, and its "
                        f"bounds are {least:,} and {most:,}",
                        f"Give the sequence such bounds in {TABLE_SQL} (ALTER SEQUENCE … AS bigint NO MAXVALUE, with a "
                        "positive increment), and its columns a type that holds them",
                    )
                )
    if problems:
        raise MigrationError("Sequences of the target have no number for a new row.", problems)


def set_sequences(connection: Connection, sequences: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Move the sequences that are behind and return how all of them stand then."""
    with connection.cursor() as cursor:
        for sequence in sequences:
            if not sequence["correct"]:
                cursor.execute("SELECT setval(%s::regclass, %s, false)", (sequence["name"], sequence["required"]))
    return [
        sequence if sequence["correct"] else {**sequence, "next_value": sequence["required"], "correct": True}
        for sequence in sequences
    ]


def unset_sequences(connection: Connection, plans: Sequence[TablePlan]) -> list[str]:
    """Return the sequences in the schemas of the group that nobody has set, and that nothing links with a column.

    A sequence that a column owns, or that a table of somebody else's uses, is none of the group's.
    """
    names = [plan.target.name for plan in plans]
    fed = [column.sequence for plan in plans for column in plan.columns if column.sequence is not None]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT quote_ident(n.nspname) || '.' || quote_ident(s.relname) AS name, q.seqstart
            FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid
            WHERE n.nspname = ANY (%(schemas)s)
              AND CASE s.relkind WHEN 'S' THEN has_sequence_privilege(s.oid, 'SELECT') END
              AND NOT quote_ident(n.nspname) || '.' || quote_ident(s.relname) = ANY (%(fed)s)
              AND NOT EXISTS (SELECT FROM pg_depend o WHERE o.classid = 'pg_class'::regclass AND o.objid = s.oid
                              AND o.refclassid = 'pg_class'::regclass AND o.deptype IN ('a', 'i'))
              AND NOT EXISTS (SELECT FROM pg_depend k JOIN pg_attrdef d ON d.oid = k.objid
                              JOIN pg_class t ON t.oid = d.adrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
                              WHERE k.classid = 'pg_attrdef'::regclass AND k.refclassid = 'pg_class'::regclass
                                AND k.refobjid = s.oid AND NOT tn.nspname || '.' || t.relname = ANY (%(names)s))
            ORDER BY 1
            """,
            {"schemas": [plan.mapping.target_schema for plan in plans], "fed": fed, "names": names},
        )
        unset = []
        for name, start in cursor.fetchall():
            cursor.execute(sql.SQL("SELECT is_called OR last_value <> %s FROM {}").format(sql.SQL(name)), (start,))
            if not first_row(cursor)[0]:
                unset.append(name)
    return unset
