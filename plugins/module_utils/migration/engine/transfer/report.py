"""What a run of the engine reports of its source and of each table, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...core.errors import TABLE_SQL
from ...core.estate import Group
from ...core.migration_tools import tool_of
from ...sqlite.snapshot import Snapshot
from ..prepare.table import PreparedTable
from ..proof.compare import Comparison
from .incremental import Synced
from .snapshot_diff import TableDifference


def warnings_of_group(group: Group) -> list[str]:
    """Return a sentence on each sign that the services change their tables themselves, which ends with the cutover."""
    names = sorted({*(mapping.source for mapping in group.tables), *group.ignored_tables})
    # Which of several services of a group the table is of, nothing tells.
    if any(service.migrates_itself for service in group.services):
        return []
    return [
        f"{group.name}: its table {name} shows that {tool} changes the services' tables when they "
        "start, or by hand. On PostgreSQL their role may not, and such a start fails with 'permission denied for "
        "schema': set 'migrates_itself' for the service, whose role then owns its schema (README.md says what that "
        "means); or switch these changes off before the cutover, and write later ones into files/sql."
        for name in names
        if (tool := tool_of(name)) is not None
    ]


def warnings_of(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence on each thing that a report shows and that a person should look at before the cutover."""
    warnings = []
    if report["unset_sequences"]:
        warnings.append(
            f"{', '.join(report['unset_sequences'])}: these sequences have given out nothing yet, and nothing shows "
            "which column takes its values from them. Name 'sequence' for that column in the inventory, or set them by "
            "hand before the services use them."
        )
    for found in report["ids_in_texts"]:
        if found["rows"]:
            warnings.append(
                f"{found['column']}: {_hold(found['rows'])} an id of {found['ids_of']} in a text or in JSON. It stays "
                f"as it is, while that id becomes a UUID: {_cure(found['policy'])}, or let the application look it up "
                "in migration.id_map."
            )
        if found["rows_of_member_names"]:
            warnings.append(
                f"{found['column']}: {_hold(found['rows_of_member_names'])} an id of {found['ids_of']} as the name of "
                "a member in JSON. 'rewrite_ids_of' leaves such names as they are: rewrite them by 'computed', or let "
                "the application look them up in migration.id_map."
            )
        if found["rows_of_json_in_strings"]:
            warnings.append(
                f"{found['column']}: {_hold(found['rows_of_json_in_strings'])} an id of {found['ids_of']} in JSON that "
                "is itself a string in JSON. 'rewrite_ids_of' leaves it as it is: rewrite it by 'computed', or let the "
                "application look it up in migration.id_map."
            )
    if report["one_way_columns"]:
        warnings.append(
            f"{', '.join(report['one_way_columns'])}: what the services write there on PostgreSQL does not come back "
            "in a rollback, and rows that cannot do without it close it. Name the inverse in the inventory, 'computed: "
            "{column: {from: …, back: …}}', where there is one."
        )
    if report["triggers"]:
        warnings.append(
            f"{', '.join(report['triggers'])}: did not act on the rows that were moved, and will on those that the "
            "services write. What they fill that SQLite does not hold (a search column, an audit table) is not filled "
            "for the moved rows: fill it by hand after the cutover if it is needed."
        )
    if report["row_level_security"]:
        warnings.append(
            f"{', '.join(report['row_level_security'])}: row level security is on, so a service sees and changes only "
            "the rows that a policy allows its role. See that there is a policy for each service's role."
        )
    if report["missing_views"]:
        warnings.append(
            f"{', '.join(report['missing_views'])}: views of the SQLite file, and PostgreSQL has nothing of that name. "
            f"Create in {TABLE_SQL} what the services read."
        )
    if report["other_defaults"]:
        warnings.append(
            f"{', '.join(report['other_defaults'])}: a new row that names no value gets another one than it did in "
            f"SQLite. Correct the default in {TABLE_SQL}, or see that the services always name the value."
        )
    if report["search_paths"]:
        warnings.append(
            f"{', '.join(report['search_paths'])}: a statement without the name of the schema, as services write for "
            "SQLite, would not reach the table. Set the search path of the service's role (ALTER ROLE … SET "
            "search_path), or let the service name the schema."
        )
    return warnings


def _cure(policy: str) -> str:
    """Return how ids in a column are rewritten, by the policy if it can be had there."""
    return f"write '{policy}' for the table in the inventory" if policy else "rewrite it by 'computed'"


def _hold(rows: int) -> str:
    """Return the beginning of a sentence on what some rows hold."""
    return "1 row holds" if rows == 1 else f"{rows:,} rows hold"


def source_report(copy: Snapshot) -> dict[str, Any]:
    """Return what the report says of the source file."""
    return {"path": str(copy.source_path), "inode": copy.inode, "size_bytes": copy.size_bytes}


def synced_report(table: Synced, found: TableDifference, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the report says of a table of which only the changed rows were moved.

    :param earlier: the report of the run before, which counted the conversions of all rows.
    """
    known: Mapping[str, Any] = next(
        (entry for entry in earlier.get("tables", ()) if entry["source"] == table.plan.source.name), {}
    )
    conversions = Counter(
        {(entry["column"], entry["conversion"]): entry["rows"] for entry in known.get("conversions", ())}
    )
    conversions.subtract(table.before.conversions)
    conversions.update(table.prepared.conversions)
    counted = replace(table.prepared, conversions=Counter({name: rows for name, rows in conversions.items() if rows}))
    return {
        **table_report(counted, table.comparison, bool(found)),
        "kept": known.get("kept", []),
        "rows_moved": {"in": len(found.new), "out": len(found.old)},
    }


def table_report(table: PreparedTable, comparison: Comparison, changed: bool) -> dict[str, Any]:
    """Return what the report says of one table."""
    return {
        "source": table.plan.source.name,
        "target": table.plan.target.name,
        "source_rows": table.source_rows,
        "target_rows": comparison.target_rows,
        "rejected_rows": len(table.rejected),
        "filtered_rows": table.plan.filtered_rows,
        "source_hash": comparison.source_hash,
        "target_hash": comparison.target_hash,
        "equal": comparison.equal,
        "changed": changed,
        "differences": comparison.differences,
        "conversions": [
            {"column": column, "conversion": conversion, "rows": rows}
            for (column, conversion), rows in sorted(table.conversions.items())
        ],
        "kept": [
            {
                "column": column,
                "rows": sum(values.values()),
                "values": {value or "(secret)": rows for value, rows in values.items()},
            }
            for column, values in table.kept.items()
        ],
    }
