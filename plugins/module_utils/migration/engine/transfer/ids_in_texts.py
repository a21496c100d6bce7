"""Old ids in texts and JSON, to which no foreign key leads: unless the inventory says to rewrite them, they stay."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...sqlite.tables import quote_name
from ..convert.known_ids import owners_of_ids
from ..convert.rewritable import why_not
from ..plan.planner import ColumnPlan, TablePlan
from ..prepare.duplicates import is_any_uuid

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_BLANKS = "' ' || char(9, 10, 13)"
# YAML reads some words as something else than a text.
_PLAIN_NAME = re.compile(r"(?!(?i:y|n|yes|no|on|off|true|false|null)\Z)[A-Za-z_]\w*(?:[ .]\w+)*\Z", re.ASCII)


def ids_in_texts(
    connection: Connection, snapshot: sqlite3.Connection, plans: Sequence[TablePlan]
) -> list[dict[str, Any]]:
    """Return each column of texts or JSON that keeps ids which become others, with its rows and whose ids these are.

    Names of members of JSON are counted apart, and JSON inside a string of JSON: nothing rewrites them.

    Looked for are the ids of this group, and those of other groups that stand in the ledger already. Every text is read
    and every JSON text parsed: a dry run does so, and no run that moves rows.
    """
    own = _text_ids(snapshot, plans)
    owners = [
        (
            column.namespace or "",
            f"{plan.source.name}.{column.source}",
            f"SELECT {quote_name(column.source)} FROM {plan.source.relation} WHERE {_is_text_id(column)}",  # noqa: S608
        )
        for plan, column in own
    ]
    sources = owners_of_ids(plans)
    names = _note_ids_of_others(connection, snapshot, [column.namespace for _, column in own])
    owners += [
        (name, name, f"SELECT old_id FROM temp.ids_of_others WHERE owner = {number}")  # noqa: S608 (our own number)
        for number, name in enumerate(names)
    ]
    found: list[tuple[bool, dict[str, Any]]] = []
    # Column → all that 'rewrite_ids_of' can name there, and how that is written.
    advised: dict[str, list[str]] = {}
    policies: dict[str, str] = {}
    for namespace, owner, ids in owners:
        for plan in plans:
            referring = {name for key in plan.foreign_keys for name in key.columns}
            for other in plan.columns:
                if other.kind not in ("text", "char", "json") or other.source in referring:
                    continue
                values, in_other_case, members, inside = _count(snapshot, plan, other, ids)
                is_rewritten = namespace in other.options.rewrite_ids_of
                values = in_other_case if is_rewritten else values
                if not values and not members and not inside:
                    continue
                column = f"{plan.source.name}.{other.source}"
                rows = {"rows": values, "rows_of_member_names": members, "rows_of_json_in_strings": inside}
                # What stands in a table's own texts is a word of the application more often than an id of its rows.
                is_advised = (
                    values > 0
                    and not is_rewritten
                    and namespace in sources
                    and namespace != plan.target.name
                    and not why_not(connection, snapshot, plan, other)
                )
                found.append((is_advised, {"column": column, "ids_of": owner, **rows}))
                if is_advised:
                    names = advised.setdefault(column, list(other.options.rewrite_ids_of))
                    names.append(namespace)
                    listed = ", ".join(map(_in_yaml, names))
                    policies[column] = f"columns: {{{_in_yaml(other.source)}: {{rewrite_ids_of: [{listed}]}}}}"
    return [{**entry, "policy": policies[entry["column"]] if is_advised else ""} for is_advised, entry in found]


def _in_yaml(name: str) -> str:
    """Return a name as YAML reads it."""
    return name if _PLAIN_NAME.match(name) else json.dumps(name, ensure_ascii=False)


def _count(snapshot: sqlite3.Connection, plan: TablePlan, column: ColumnPlan, ids: str) -> tuple[int, int, int, int]:
    """Return how many rows hold an id as a text or as a string of JSON, in another case, as a member, inside a string.

    In another case: as a text that is an id only by the collation of the column. As a member: as the name of one.
    Inside a string: where a string of the JSON is itself JSON that holds an id.

    :param ids: the query of the ids.
    """
    name = quote_name(column.source)
    is_value, is_member = f"j.type = 'text' AND j.atom IN ({ids})", f"typeof(j.key) = 'text' AND j.key IN ({ids})"
    inner = f"SELECT 1 FROM json_tree(j.atom) AS k WHERE k.type = 'text' AND k.atom IN ({ids})"  # noqa: S608
    is_inside = f"CASE WHEN j.type = 'text' AND {_is_json('j.atom')} THEN EXISTS ({inner}) ELSE 0 END"
    bits = f"max({is_value}) + 2 * max({is_member}) + 4 * max({is_inside})"
    # The table-valued function has columns of its own, whose names the column may have.
    holds = f"SELECT {bits} FROM (SELECT {name} AS text) AS valid, json_tree(valid.text) AS j"  # noqa: S608 (quoted)
    query = (
        "SELECT count(*) FILTER (WHERE whole OR held & 1), count(*) FILTER (WHERE whole AND NOT exact), "  # noqa: S608
        "count(*) FILTER (WHERE held & 2), count(*) FILTER (WHERE held & 4) FROM ("
        f"SELECT {name} IN ({ids}) AS whole, {name} COLLATE BINARY IN ({ids}) AS exact, "
        f"CASE WHEN {_is_json(name)} THEN ({holds}) ELSE 0 END AS held "
        f"FROM {plan.source.relation} WHERE typeof({name}) = 'text')"
    )
    values, in_other_case, members, inside = snapshot.execute(query).fetchone()
    return int(values), int(in_other_case), int(members), int(inside)


def _is_json(text: str) -> str:
    """Return the SQL that is true for a text that is an array or an object of JSON."""
    return f"CASE WHEN ltrim({text}, {_BLANKS}) GLOB '[[{{]*' THEN json_valid({text}) ELSE 0 END"


def _note_ids_of_others(connection: Connection, snapshot: sqlite3.Connection, own: Sequence[str | None]) -> list[str]:
    """Note the ids of other groups in a temporary table of SQLite, and return the namespaces by their number there.

    An id that is a number is left out: any number in a text would be taken for it.
    """
    snapshot.execute("DROP TABLE IF EXISTS temp.ids_of_others")
    snapshot.execute("CREATE TEMP TABLE ids_of_others (owner INTEGER, old_id TEXT, PRIMARY KEY (owner, old_id))")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT namespace FROM migration.id_map WHERE namespace <> ALL (%s) ORDER BY 1",
            ([name for name in own if name is not None],),
        )
        names = [str(name) for (name,) in cursor.fetchall()]
    # Read piece by piece: there may be millions.
    with connection.cursor("ids_of_others") as cursor:
        cursor.execute(
            "SELECT array_position(%s, namespace) - 1, old_id FROM migration.id_map WHERE namespace = ANY (%s) "
            "AND old_id ~ '[^0-9]' AND replace(lower(old_id), '-', '') <> replace(new_id::text, '-', '')",
            (names, names),
        )
        snapshot.executemany("INSERT INTO temp.ids_of_others VALUES (?, ?)", cursor)
    snapshot.commit()
    return names


def _text_ids(snapshot: sqlite3.Connection, plans: Sequence[TablePlan]) -> list[tuple[TablePlan, ColumnPlan]]:
    """Return the keys whose ids become others, if they hold any such id."""
    keys = [
        (plan, column)
        for plan in plans
        for column in plan.columns
        if column.records_ids and column.text_ids and plan.target.key == (column.target,)
    ]
    return [
        (plan, column)
        for plan, column in keys
        if snapshot.execute(
            f"SELECT 1 FROM {plan.source.relation} WHERE {_is_text_id(column)} LIMIT 1"  # noqa: S608 (quoted)
        ).fetchone()
    ]


def _is_text_id(column: ColumnPlan) -> str:
    """Return the SQL that is true for an id that becomes another one."""
    name = quote_name(column.source)
    return f"typeof({name}) = 'text' AND NOT {is_any_uuid(name)}"
