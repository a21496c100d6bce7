"""Every row that the SQLite files held before the playbook ran is in PostgreSQL.

read_sources.py reads the rows on a host where nothing of ours has run, made of the image from which site.yml began. The
conversions are written here once more, apart from the engine's, so that a mistake of the engine cannot hide behind
itself.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
Query = Callable[[str], list[Any]]
Row = dict[str, Any]

GROUPS: list[dict[str, Any]] = yaml.safe_load(
    (ROOT / "inventory/group_vars/all/estate.yml").read_text(encoding="utf-8")
)["estate_cutover_groups"]
TABLES = [pytest.param(group, table, id=table["target"]) for group in GROUPS for table in group["tables"]]
# Logging in after the cutover moves this time forward.
WRITTEN_BY_USE = {("auth.users", "last_login")}


@pytest.fixture(scope="module")
def new_ids(query: Query) -> dict[str, set[str]]:
    """Return for each old id the ids that the ledger gives it: one for each table that uses it."""
    mapped: dict[str, set[str]] = {}
    for row in query("SELECT old_id, new_id FROM migration.id_map"):
        mapped.setdefault(row["old_id"], set()).add(row["new_id"])
    return mapped


def moment(value: Any) -> datetime:
    """Return the moment that a source value means: milliseconds since 1970, or a text in UTC with or without zone."""
    if not isinstance(value, str) or re.fullmatch(r"\d+(\.\d+)?", value):
        return datetime.fromtimestamp(float(value) / 1000, UTC)
    parsed = datetime.fromisoformat(value)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def is_uuid(text: str) -> bool:
    """Tell whether PostgreSQL could take this text as a UUID."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def means_the_same(source: Any, target: Any, data_type: str, new_ids: dict[str, set[str]]) -> bool:
    """Tell whether a value of PostgreSQL is what the source's value must have become."""
    if source is None or target is None:
        return source is None and target is None
    match data_type:
        case "uuid":
            return target in new_ids.get(source, ()) or (is_uuid(source) and target == str(uuid.UUID(source)))
        case "timestamp with time zone":
            return datetime.fromisoformat(target) == moment(source)
        case "jsonb":
            return bool(json.loads(target) == (json.loads(source) if isinstance(source, str) else source))
        case "boolean":
            return source in (0, 1) and target is bool(source)
        case "bytea":
            return bool(target == f"\\x{source['hex']}")
        case "integer":
            return bool(target == source)
        case "text":
            return bool(target == (source if isinstance(source, str) else str(source)))
    raise AssertionError(f"no rule for the type {data_type}")


def columns_of(query: Query, target: str) -> dict[str, str]:
    """Return the type of each column of a table."""
    schema, name = target.split(".")
    rows = query(
        "SELECT column_name, data_type FROM information_schema.columns"
        f" WHERE table_schema = '{schema}' AND table_name = '{name}' ORDER BY ordinal_position"
    )
    return {row["column_name"]: row["data_type"] for row in rows}


def primary_key_of(query: Query, target: str) -> list[str]:
    """Return the columns of a table's primary key."""
    rows = query(
        "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)"
        f" WHERE indisprimary AND indrelid = '{target}'::regclass ORDER BY attname"
    )
    return [row["attname"] for row in rows]


def difference(
    table: dict[str, Any], source: Row, target: Row, types: dict[str, str], new_ids: dict[str, set[str]], kept: set[str]
) -> list[str]:
    """Return the columns in which a row arrived as something else, without those that a policy may change."""
    return [
        f"{column}: {source[column]!r} became {target[column]!r}"
        for column, data_type in types.items()
        if column in source
        and (table["target"], column) not in WRITTEN_BY_USE
        and column not in kept
        and not means_the_same(source[column], target[column], data_type, new_ids)
    ]


@pytest.mark.promise("nothing-lost")
@pytest.mark.parametrize(("group", "table"), TABLES)
def test_every_row_arrived(
    query: Query,
    sources: dict[str, dict[str, list[Row]]],
    new_ids: dict[str, set[str]],
    group: dict[str, Any],
    table: dict[str, Any],
) -> None:
    """Each source row has its row in PostgreSQL, equal in every column, and there are no others."""
    types = columns_of(query, table["target"])
    key = primary_key_of(query, table["target"])
    # As text, a JSON null differs from a missing value.
    expressions = [f'"{name}"::text AS "{name}"' if kind == "jsonb" else f'"{name}"' for name, kind in types.items()]
    targets = query(f"SELECT {', '.join(expressions)} FROM {table['target']}")
    rows = sources[group["source"]["path"]][table["source"]]
    originals = [
        (row["column_name"], row["text"])
        for row in query(
            "SELECT column_name, value ->> 'text' AS text FROM migration.original_value"
            f" WHERE group_name = '{group['name']}' AND source_table = '{table['source']}'"
        )
    ]

    assert len(targets) == len(rows)
    wrong = []
    for row in rows:
        found = [
            target
            for target in targets
            if all(means_the_same(row[column], target[column], types[column], new_ids) for column in key)
        ]
        if len(found) != 1:
            wrong.append(f"{[row[column] for column in key]}: {len(found)} rows")
            continue
        # What a policy of the inventory changed stands in the ledger as it was.
        kept = {column for column, value in row.items() if (column, value) in originals}
        wrong += [
            f"{[row[column] for column in key]} {text}"
            for text in difference(table, row, found[0], types, new_ids, kept)
        ]
    assert wrong == []


def test_the_sources_held_what_they_should(sources: dict[str, dict[str, list[Row]]]) -> None:
    """The comparison is not empty: 17 tables, most of them with rows, and the rows that lay in -wal alone."""
    counts = {table: len(rows) for tables in sources.values() for table, rows in tables.items()}
    assert len(counts) == 17
    assert sum(counts.values()) > 300
    assert counts["role_permissions"] > 40
    assert counts["roles"] == 4


@pytest.mark.promise("policy-keeps-original")
def test_what_a_policy_changed_is_kept_in_the_ledger(query: Query, sources: dict[str, dict[str, list[Row]]]) -> None:
    """`users.role` has no column in PostgreSQL: every user's value stands in the ledger."""
    kept = query(
        "SELECT value ->> 'text' AS role FROM migration.original_value"
        " WHERE source_table = 'users' AND column_name = 'role'"
    )
    users = sources["/opt/swarm-platform/data/swarm.db"]["users"]
    assert sorted(row["role"] for row in kept) == sorted(user["role"] for user in users)


@pytest.mark.promise("sequence-goes-on")
def test_the_sequence_gives_no_number_out_again(query: Query) -> None:
    """The sequence of deployment_events stands above the highest number ever given, also if its row is deleted."""
    (row,) = query(
        "SELECT (SELECT max(id) FROM deploy.deployment_events) AS highest,"
        " (SELECT CASE WHEN is_called THEN last_value + 1 ELSE last_value END"
        "  FROM deploy.deployment_events_id_seq) AS next"
    )
    assert row["next"] > row["highest"] + 1
