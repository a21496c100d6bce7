"""Any source: every kind of table, key, name and encoding that SQLite knows, and what the inventory selects of it."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.plan.planner import (
    TablePlan,
    plan_group,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres.catalog import read_catalog
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.sqlite.tables import (
    count_rows,
    open_snapshot,
    read_left_out,
    read_rows,
    read_tables,
)

from .support import make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


def plan_of(connection: Connection, group: Group) -> dict[str, TablePlan]:
    """Return the plan of each table of a group by its name in the source."""
    with closing(open_snapshot(Path(group.source_path))) as source:
        targets = read_catalog(connection, [mapping.target for mapping in group.tables])
        return {plan.source.name: plan for plan in plan_group(group, source, read_tables(source), targets)}


def problems_of(connection: Connection, group: Group) -> str:
    """Return what planning a group complains about."""
    with pytest.raises(MigrationError) as error:
        plan_of(connection, group)
    return str(error.value)


# ---------------------------------------------------------------- tables and keys


@pytest.mark.promise("any-table-moved")
def test_tables_of_every_kind_arrive(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE clustered (a text, b integer, c text, PRIMARY KEY (a, b));"
        "CREATE TABLE strict (id bigint PRIMARY KEY, x double precision, y bytea, z text);"
        "CREATE TABLE keyless (x text, y text);"
        "CREATE TABLE untyped (a text, b bigint);"
        "CREATE TABLE composite (a bigint, b text, c boolean, PRIMARY KEY (b, a));",
    )
    source = make_source(
        tmp_path / "kinds.db",
        "CREATE TABLE clustered (a TEXT, b INTEGER, c, PRIMARY KEY (a, b)) WITHOUT ROWID;"
        "CREATE TABLE strict (id INTEGER PRIMARY KEY, x REAL, y BLOB, z ANY) STRICT;"
        "CREATE TABLE keyless (x, y);"
        "CREATE TABLE untyped (a, b);"
        "CREATE TABLE composite (a, b, c, PRIMARY KEY (b, a));",
        {
            "clustered": [("x", 2, "second"), ("x", 1, "first"), ("", 1, None)],
            "strict": [(1, 0.1, b"\x00", "text"), (2, None, b"", 5)],
            "keyless": [("same", "row"), ("same", "row"), (None, None)],
            "untyped": [("1", 1), (1, 2)],
            "composite": [(1, "x", 1), (1, "y", 0)],
        },
    )
    tables = ("clustered", "strict", "keyless", "untyped", "composite")
    group = make_group(source, *({"source": name} for name in tables))
    report = rehearse(connection, group, tmp_path)["report"]
    assert all(table["equal"] for table in report["tables"])
    assert {table["source"]: table["target_rows"] for table in report["tables"]} == {
        "clustered": 3, "strict": 2, "keyless": 3, "untyped": 2, "composite": 2,
    }  # fmt: skip
    assert {name: plan.source.key for name, plan in plan_of(connection, group).items()} == {
        "clustered": ("a", "b"),
        "strict": ("id",),
        "keyless": ("rowid",),
        "untyped": ("rowid",),
        "composite": ("b", "a"),
    }
    assert not rehearse(connection, group, tmp_path)["changed"]


def test_rows_with_null_in_their_key_stay_apart(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id text, part text, n integer)")
    source = make_source(
        tmp_path / "null.db",
        "CREATE TABLE t (id TEXT, part TEXT, n INTEGER, PRIMARY KEY (id, part))",
        {"t": [(None, "a", 1), (None, "a", "many"), (None, "a", 3), ("x", "a", 4)]},
    )
    group = make_group(source, {"source": "t", "columns": {"n": {"unconvertible": "reject"}}})
    report = rehearse(connection, group, tmp_path)["report"]
    table = report["tables"][0]
    assert (table["source_rows"], table["target_rows"], table["rejected_rows"], table["equal"]) == (4, 3, 1, True)
    assert report["rejects"][0]["key"] == "rowid=2"
    assert query(connection, "SELECT n FROM app.t ORDER BY n") == [(1,), (3,), (4,)]


def test_a_column_that_takes_a_name_of_the_row_id_is_a_column(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, 'CREATE TABLE t (rowid text, "_rowid_" text); CREATE TABLE k (rowid text PRIMARY KEY)')
    source = make_source(
        tmp_path / "rowid.db",
        "CREATE TABLE t (ROWID TEXT, _rowid_ TEXT); CREATE TABLE k (rowid TEXT PRIMARY KEY NOT NULL)",
        {"t": [("a", "b"), ("a", "b")], "k": [("x",)]},
    )
    group = make_group(source, {"source": "t"}, {"source": "k"})
    plans = plan_of(connection, group)
    assert (plans["t"].source.key, plans["k"].source.key) == (("oid",), ("rowid",))
    with closing(open_snapshot(source)) as opened:
        rows = list(read_rows(opened, plans["t"].source, ("ROWID", "_rowid_")))
        assert rows == [("a", "b", 1), ("a", "b", 2)]
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    assert query(connection, "SELECT rowid, _rowid_ FROM app.t") == [("a", "b"), ("a", "b")]


def test_a_table_whose_rows_cannot_be_told_apart_is_refused(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, 'CREATE TABLE t (rowid text, "_rowid_" text, oid text)')
    source = make_source(tmp_path / "hidden.db", "CREATE TABLE t (rowid, _rowid_, oid)", {"t": [(1, 2, 3)]})
    with closing(open_snapshot(source)) as opened:
        assert read_tables(opened)["t"].key == ()
    found = problems_of(connection, make_group(source, {"source": "t"}))
    assert "t: it has no primary key without NULL, and its columns rowid, _rowid_ and oid hide the row id" in found


@pytest.mark.promise("unmapped-data-refused")
def test_views_triggers_virtual_and_shadow_tables_are_left_out_and_named(
    connection: Connection, tmp_path: Path
) -> None:
    make_target(connection, "CREATE TABLE notes (id integer PRIMARY KEY, body text)")
    source = make_source(
        tmp_path / "search.db",
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT);"
        "CREATE VIRTUAL TABLE found USING fts5(body, content='notes', content_rowid='id');"
        "CREATE VIRTUAL TABLE words USING fts5vocab(found, row);"
        "CREATE VIRTUAL TABLE areas USING rtree(id, low, high);"
        "CREATE VIEW recent AS SELECT * FROM notes;"
        "CREATE TRIGGER index_note AFTER INSERT ON notes"
        " BEGIN INSERT INTO found (rowid, body) VALUES (new.id, new.body); END;"
        "INSERT INTO areas VALUES (1, 0, 5);",
        {"notes": [(1, "needle")]},
    )
    group = make_group(source, {"source": "notes"}, ignored_tables=["areas"])
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["tables"][0]["equal"]
    with closing(open_snapshot(source)) as opened:
        assert list(read_tables(opened)) == ["areas", "notes"]
        left_out = [(entry["kind"], entry["name"]) for entry in read_left_out(opened)]
    assert report["left_out"] == [{"kind": kind, "name": name} for kind, name in left_out]
    assert ("trigger", "index_note") in left_out
    assert ("view", "recent") in left_out
    assert [name for kind, name in left_out if kind == "virtual table"] == ["areas", "found", "words"]
    assert {"found_data", "found_idx", "areas_node"} <= {name for kind, name in left_out if kind == "shadow table"}


@pytest.mark.promise("unmapped-data-refused")
@pytest.mark.parametrize(
    ("script", "found"),
    [
        (
            "USING fts5(body); INSERT INTO v VALUES ('only here')",
            "table v: it is a virtual table (fts5) that holds 1",
        ),
        (
            "USING fts4(body); INSERT INTO v VALUES ('only here')",
            "table v: it is a virtual table (fts4) that holds 1",
        ),
        (
            "USING fts3(body); INSERT INTO v VALUES ('only here')",
            "table v: it is a virtual table (fts3) that holds 1",
        ),
        (
            "USING rtree(id, x0, x1, +label); INSERT INTO v VALUES (1, 0, 1, 'only here')",
            "table v: it is a virtual table (rtree) that holds 1 rows and the inventory names no target for it",
        ),
        (
            "USING fts5(a, content=''); INSERT INTO v VALUES ('nowhere')",
            "table v: it is a full-text index (fts5) that does not keep its texts. List it under 'ignored_tables'",
        ),
    ],
)
def test_rows_that_only_a_virtual_table_holds_are_not_lost_silently(
    connection: Connection, tmp_path: Path, script: str, found: str
) -> None:
    make_target(connection, "CREATE TABLE n (id integer PRIMARY KEY); CREATE TABLE v (body text)")
    source = make_source(tmp_path / "virtual.db", f"CREATE TABLE n (id INTEGER); CREATE VIRTUAL TABLE v {script};")
    assert found in problems_of(connection, make_group(source, {"source": "n"}))
    plan_of(connection, make_group(source, {"source": "n"}, ignored_tables=["v"]))


def test_a_virtual_table_that_cannot_be_read_must_be_listed(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE n (id integer PRIMARY KEY); CREATE TABLE v (body text)")
    source = make_source(
        tmp_path / "module.db",
        "CREATE TABLE n (id INTEGER); PRAGMA writable_schema = ON;"
        "INSERT INTO sqlite_schema VALUES ('table', 'v', 'v', 0, 'CREATE VIRTUAL TABLE v USING vec0(a float[3])');",
    )
    unmapped = problems_of(connection, make_group(source, {"source": "n"}))
    assert "table v: it is a virtual table (vec0) that SQLite cannot read here. List it under" in unmapped
    mapped = problems_of(connection, make_group(source, {"source": "n"}, {"source": "v"}))
    assert "table v: it is a virtual table (vec0) that SQLite cannot read here. It cannot be mapped" in mapped
    group = make_group(source, {"source": "n"}, ignored_tables=["v"])
    assert rehearse(connection, group, tmp_path)["report"]["left_out"] == [{"kind": "virtual table", "name": "v"}]


def test_a_full_text_table_is_mapped_like_any_other(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE found (id integer PRIMARY KEY, body text);"
        "CREATE TABLE areas (id integer PRIMARY KEY, low real, high real, label text)",
    )
    source = make_source(
        tmp_path / "search.db",
        "CREATE VIRTUAL TABLE found USING fts5(body); CREATE VIRTUAL TABLE areas USING rtree(id, low, high, +label);"
        "INSERT INTO found (rowid, body) VALUES (7, 'needle'), (9, 'hay');"
        "INSERT INTO areas VALUES (1, 0.5, 5, 'north');",
    )
    group = make_group(source, {"source": "found", "computed": {"id": "rowid"}}, {"source": "areas"})
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    assert query(connection, "SELECT * FROM app.found ORDER BY id") == [(7, "needle"), (9, "hay")]
    assert query(connection, "SELECT * FROM app.areas") == [(1, 0.5, 5.0, "north")]
    assert not rehearse(connection, group, tmp_path)["changed"]
    with closing(sqlite3.connect(source)) as opened:
        opened.executescript("UPDATE found SET body = 'thread' WHERE rowid = 7; DELETE FROM areas")
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    assert query(connection, "SELECT * FROM app.found ORDER BY id") == [(7, "thread"), (9, "hay")]
    assert query(connection, "SELECT count(*) FROM app.areas") == [(0,)]


@pytest.mark.parametrize(
    "options",
    [
        "USING fts5(body, content='notes')",
        "using\n FTS5(body, content = [notes], content_rowid=id)",
        """/* of (notes, */ USING fts5(tokenize = "unicode61 tokenchars ',('", content = "notes", body)""",
        "USING fts4(content=`notes`, body)",
    ],
)
def test_an_index_over_another_table_cannot_be_mapped(connection: Connection, tmp_path: Path, options: str) -> None:
    make_target(connection, "CREATE TABLE notes (id integer, body text); CREATE TABLE found (body text)")
    source = make_source(
        tmp_path / "search.db",
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT); INSERT INTO notes VALUES (1, 'needle');"
        f"CREATE VIRTUAL TABLE found {options}; INSERT INTO found (found) VALUES ('rebuild')",
    )
    assert rehearse(connection, make_group(source, {"source": "notes"}), tmp_path)["report"]["tables"][0]["equal"]
    found = problems_of(connection, make_group(source, {"source": "notes"}, {"source": "found"}))
    assert re.search(r"found: it is a virtual table \(fts[45]\) that shows what notes holds\. Map notes instead", found)


def test_generated_columns(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE t (id integer PRIMARY KEY, price integer, doubled integer GENERATED ALWAYS AS (price * 2) STORED,"
        " text_of_price text)",
    )
    source = make_source(
        tmp_path / "generated.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, price INTEGER, doubled INTEGER AS (price * 2) STORED,"
        " only_here TEXT AS (price || '!'), text_of_price TEXT AS (price || '') VIRTUAL);"
        "INSERT INTO t (id, price) VALUES (1, 21), (2, NULL);",
    )
    group = make_group(source, {"source": "t"})
    plan = plan_of(connection, group)["t"]
    assert [column.source for column in plan.columns] == ["id", "price", "text_of_price"]
    assert [(column.source, column.target) for column in plan.generated] == [("doubled", "doubled")]
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, "SELECT doubled, text_of_price FROM app.t ORDER BY id") == [(42, "21"), (None, None)]


def test_data_for_a_column_that_the_target_generates_is_not_dropped(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer, total integer GENERATED ALWAYS AS (id * 2) STORED)")
    source = make_source(tmp_path / "total.db", "CREATE TABLE t (id, total)", {"t": [(1, 3)]})
    found = problems_of(connection, make_group(source, {"source": "t"}))
    assert "t.total: it holds data, and app.t.total is generated by PostgreSQL" in found


# ---------------------------------------------------------------- texts and names


@pytest.mark.promise("any-table-moved")
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_texts_arrive_from_every_encoding(connection: Connection, tmp_path: Path, encoding: str) -> None:
    make_target(connection, 'CREATE TABLE "größe" (id text PRIMARY KEY, "wert €" text)')
    texts = ["", "plain", "äöü €", "🦆 \U0010ffff", "a\tb\nc\\", "\x7f\x80\xff"]
    source = make_source(
        tmp_path / "encoded.db",
        f'PRAGMA encoding = \'{encoding}\'; CREATE TABLE "größe" (id TEXT PRIMARY KEY, "wert €" TEXT)',
        {"größe": [(str(number), text) for number, text in enumerate(texts)]},
    )
    with closing(sqlite3.connect(source)) as opened:
        assert opened.execute("PRAGMA encoding").fetchone() == (encoding,)
    report = rehearse(connection, make_group(source, {"source": "größe"}), tmp_path)["report"]
    assert report["tables"][0]["equal"]
    assert report["way"] == migrate.PLAIN_ROWS, "no encoding needs every row to be checked"
    assert query(connection, 'SELECT "wert €" FROM app."größe" ORDER BY id') == [(text,) for text in texts]


@pytest.mark.parametrize(("encoding", "codec"), [("UTF-16le", "utf-16-le"), ("UTF-16be", "utf-16-be")])
def test_half_a_surrogate_pair_is_refused(connection: Connection, tmp_path: Path, encoding: str, codec: str) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, name text, secret text)")
    halves = ["in the \ud800 middle", "at the end \ud800", "\udc00 the wrong one first", "whole 🦆"]
    source = make_source(
        tmp_path / "halves.db",
        f"PRAGMA encoding = '{encoding}'; CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, secret TEXT);"
        + "".join(
            f"INSERT INTO t VALUES ({number}, CAST(x'{text.encode(codec, 'surrogatepass').hex()}' AS TEXT), NULL);"
            for number, text in enumerate(halves)
        ),
    )
    found = problems_of(connection, make_group(source, {"source": "t"}))
    assert "t.name: it holds half a surrogate pair" in found
    assert "rows: id=0; id=1; id=2)" in found
    masked = problems_of(connection, make_group(source, {"source": "t", "columns": {"id": {"secret": True}}}))
    assert "rows: id=(secret); " in masked


ODD_NAMES = ("select", "a b", 'say "hi"', "it's", "100%", "%s", "a.b", "semi;colon", "UPPER", "日本", "back\\slash")


@pytest.mark.promise("any-table-moved")
def test_odd_names(connection: Connection, tmp_path: Path) -> None:
    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    columns = ", ".join(f"{quoted(name)} text" for name in ODD_NAMES)
    table = 'the "order" of 100%s'
    ddl = f"CREATE TABLE {quoted(table)} ({columns}, PRIMARY KEY ({quoted('a b')}, {quoted('%s')}))"
    make_target(connection, ddl)
    source = make_source(tmp_path / "odd.db", ddl)
    with closing(sqlite3.connect(source)) as opened:
        opened.execute(f"INSERT INTO {quoted(table)} VALUES ({', '.join('?' * len(ODD_NAMES))})", ODD_NAMES)
        opened.commit()
    group = make_group(source, {"source": table, "row_filter": '"say ""hi""" <> \'-- "nothing"\''})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, f"SELECT * FROM app.{quoted(table)}") == [ODD_NAMES]
    assert not rehearse(connection, group, tmp_path)["changed"]


def test_names_that_differ_in_case_alone(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        'CREATE TABLE people (userid integer PRIMARY KEY, "Mail" text, mail text, "bossId" integer'
        " REFERENCES people (userid))",
    )
    source = make_source(
        tmp_path / "case.db",
        "CREATE TABLE People (UserId INTEGER PRIMARY KEY, mail TEXT, BossID INTEGER)",
        {"People": [(1, "a", None), (2, "b", 1)]},
    )
    group = make_group(source, {"source": "People", "target": "app.people"})
    plan = plan_of(connection, group)["People"]
    assert {column.source: column.target for column in plan.columns} == {
        "UserId": "userid", "mail": "mail", "BossID": "bossId",
    }  # fmt: skip
    assert plan.foreign_keys[0].referenced_columns == ("UserId",)
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    clashing = make_source(
        tmp_path / "clash.db", "CREATE TABLE people (userid INTEGER, MAIL TEXT)", {"people": [(1, "a")]}
    )
    found = problems_of(connection, make_group(clashing, {"source": "people"}))
    assert "people.MAIL: it holds data, and app.people has no column MAIL, but Mail and mail" in found


def test_two_columns_cannot_fill_one(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (a integer)")
    source = make_source(tmp_path / "twice.db", "CREATE TABLE t (a, b)", {"t": [(1, 2)]})
    found = problems_of(connection, make_group(source, {"source": "t", "columns": {"b": {"target": "a"}}}))
    assert "t: its columns a and b all go to app.t.a" in found


@pytest.mark.parametrize("target", ["app.a.b", "t", ".t", "app."])
def test_a_target_with_another_number_of_dots_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(MigrationError, match=r"Write schema\.table with one dot"):
        make_group(tmp_path / "x.db", {"source": "t", "target": target})


# ---------------------------------------------------------------- what the inventory selects


@pytest.fixture
def shop(connection: Connection, tmp_path: Path) -> Path:
    """A source with orders, some of them deleted, and its target."""
    make_target(
        connection,
        "CREATE TABLE orders (id integer PRIMARY KEY, price numeric(10, 2), origin text NOT NULL, year integer,"
        " vat real);"
        "CREATE TABLE items (id integer PRIMARY KEY, order_id integer REFERENCES orders (id));"
        'CREATE SEQUENCE "Order numbers"; CREATE TABLE plain (n integer)',
    )
    return make_source(
        tmp_path / "shop.db",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, cents INTEGER, made TEXT, deleted INTEGER);"
        "CREATE TABLE items (id INTEGER PRIMARY KEY, order_id INTEGER); CREATE TABLE plain (n);",
        {
            "orders": [(1, 1250, "2024-05-06", 0), (2, 99, "2023-01-01", 1), (3, 5, "2025-01-01", None)],
            "items": [(1, 1)],
        },
    )


def orders(**more: Any) -> dict[str, Any]:
    """Return the mapping of the orders."""
    kept = {name: {"without_target": "keep"} for name in ("cents", "made", "deleted")}
    return {"source": "orders", "columns": {**kept, **more.pop("columns", {})}, **more}


COMPUTED = {
    "price": "printf('%d.%02d', cents / 100, cents % 100) -- cents to euros",
    "origin": "'web'",
    "year": "CAST(substr(made, 1, 4) AS INTEGER)",
    "vat": 0.25,
}


def test_rows_are_filtered_and_columns_computed(connection: Connection, shop: Path, tmp_path: Path) -> None:
    group = make_group(
        shop,
        orders(row_filter='deleted = 0 OR "deleted" IS NULL -- all others', computed=COMPUTED),
        {"source": "items"},
    )
    plan = plan_of(connection, group)["orders"]
    assert plan.filtered_rows == 1
    with closing(open_snapshot(shop)) as opened:
        assert (count_rows(opened, plan.source), count_rows(opened, "orders")) == (2, 3)
        assert opened.execute(f"SELECT o.id FROM {plan.source.relation} o ORDER BY 1").fetchall() == [(1,), (3,)]
    first = rehearse(connection, group, tmp_path)
    table = next(table for table in first["report"]["tables"] if table["source"] == "orders")
    assert (table["source_rows"], table["target_rows"], table["equal"]) == (2, 2, True)
    assert query(connection, "SELECT id, price::text, origin, year, vat FROM app.orders ORDER BY id") == [
        (1, "12.50", "web", 2024, 0.25),
        (3, "0.05", "web", 2025, 0.25),
    ]
    assert not rehearse(connection, group, tmp_path)["changed"]


def test_a_selection_keeps_the_row_id(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (rowid text, n integer, twice integer)")
    source = make_source(
        tmp_path / "selected.db", "CREATE TABLE t (rowid TEXT, n)", {"t": [("a", 1), ("b", "no"), ("c", 3), ("d", 4)]}
    )
    group = make_group(
        source,
        {
            "source": "t",
            "row_filter": "rowid <> 'a' AND _rowid_ <> 4",
            "computed": {"twice": "n * 2"},
            "columns": {"n": {"unconvertible": "reject"}},
        },
    )
    plan = plan_of(connection, group)["t"]
    assert (plan.source.key, plan.filtered_rows) == (("_rowid_",), 2)
    report = rehearse(connection, group, tmp_path)["report"]
    assert [reject["key"] for reject in report["rejects"]] == ["_rowid_=2"]
    assert query(connection, "SELECT rowid, n, twice FROM app.t") == [("c", 3, 6)]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"row_filter": "deleted = "}, "orders: row_filter: SQLite refuses it"),
        ({"row_filter": "no_such = 1"}, "orders: row_filter: SQLite refuses it: no such column: no_such"),
        ({"row_filter": '"no_such" = 1'}, 'orders: row_filter: the source has no column "no_such"'),
        ({"computed": {"year": "frob(made)"}}, "orders: computed: year: SQLite refuses it: no such function: frob"),
        ({"computed": {"year": "sum(cents)"}}, "orders: computed: year: SQLite refuses it: misuse of aggregate"),
        (
            {"computed": {"year": "json_extract(made, '$')"}},
            "orders: computed: year: SQLite refuses it: malformed JSON",
        ),
        ({"computed": {"none": "1"}}, "orders: computed: none: app.orders has no such column"),
        ({"row_filter": "1)", "computed": {"year": "(1"}}, "orders: computed: year: SQLite refuses it"),
    ],
)
def test_bad_sql_of_the_inventory_is_named(
    connection: Connection, shop: Path, options: dict[str, Any], found: str
) -> None:
    computed = {"origin": "'web'", **options.pop("computed", {})}
    assert found in problems_of(connection, make_group(shop, orders(computed=computed, **options), {"source": "items"}))


@pytest.mark.parametrize(("expression", "found"), [(None, "is None"), ([], r"is \[\]"), ("", "is ''")])
def test_an_expression_is_a_text_or_a_number(tmp_path: Path, expression: Any, found: str) -> None:
    with pytest.raises(MigrationError, match=rf"'computed: a' {found}"):
        make_group(tmp_path / "x.db", {"source": "t", "computed": {"a": expression}})


def test_a_computed_column_does_not_hide_data_of_its_source(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer, state text)")
    source = make_source(tmp_path / "states.db", "CREATE TABLE t (id, state)", {"t": [(1, "OPEN")]})
    computed = {"state": "lower(state)"}
    found = problems_of(connection, make_group(source, {"source": "t", "computed": computed}))
    assert "t.state: it holds data, and the inventory computes app.t.state instead" in found
    kept = {"state": {"without_target": "keep"}}
    rehearse(connection, make_group(source, {"source": "t", "computed": computed, "columns": kept}), tmp_path)
    assert query(connection, "SELECT state FROM app.t") == [("open",)]
    assert query(connection, "SELECT value FROM migration.original_value") == [({"text": "OPEN"},)]


def test_options_and_secrets_of_computed_columns(connection: Connection, shop: Path, tmp_path: Path) -> None:
    def group(**columns: Any) -> Group:
        computed = {"origin": "'web'", "year": "made"}
        return make_group(shop, orders(computed=computed, columns=columns), {"source": "items"})

    with pytest.raises(MigrationError, match=r"orders\.computed year: holds text .*2024-05-06"):
        rehearse(connection, group(), tmp_path)
    with pytest.raises(MigrationError) as error:
        rehearse(connection, group(made={"secret": True, "without_target": "keep"}), tmp_path)
    assert "2024" not in str(error.value)
    rehearse(connection, group(year={"unconvertible": "set_null"}), tmp_path)
    assert query(connection, "SELECT count(*), count(year) FROM app.orders") == [(3, 0)]


def test_a_sequence_that_no_column_owns(connection: Connection, shop: Path) -> None:
    def planned(sequence: str) -> dict[str, Any]:
        columns = {"id": {"sequence": sequence}}
        group = make_group(shop, orders(computed={"origin": "'web'"}, columns=columns), {"source": "items"})
        return {column.source: column.sequence for column in plan_of(connection, group)["orders"].columns}

    assert planned("app.Order numbers") == {"computed origin": None, "id": 'app."Order numbers"'}
    with pytest.raises(MigrationError, match=r"orders\.id: its 'sequence' app\.nothing does not exist"):
        planned("app.nothing")


# ---------------------------------------------------------------- the unit of numbers in time columns


TIMES: dict[str, list[Any]] = {
    "seconds": [1704164645, 1704164646.5, "1704164647"],
    "milliseconds": [1704164645678, 1704164645678.0],
    "microseconds": [1704164645678901],
    "julian_days": [2460311.6278434955, 2451545, "2460311.5"],
    "none": ["2024-01-02 03:04:05", None, ""],
}


def test_units_are_decided_from_whole_columns_in_one_scan(connection: Connection, tmp_path: Path) -> None:
    columns = ", ".join(f"{name} timestamptz" for name in TIMES)
    make_target(connection, f"CREATE TABLE t ({columns}, day date)")
    source = make_source(tmp_path / "times.db", f"CREATE TABLE t ({', '.join(TIMES)}, day)")
    with closing(sqlite3.connect(source)) as opened:
        for name, values in {**TIMES, "day": [2460311.5]}.items():
            opened.executemany(f"INSERT INTO t ({name}) VALUES (?)", [(value,) for value in values])
        opened.commit()
    group = make_group(source, {"source": "t"})
    with closing(open_snapshot(source)) as opened:
        statements: list[str] = []
        opened.set_trace_callback(statements.append)
        (plan,) = plan_group(group, opened, read_tables(opened), read_catalog(connection, ["app.t"]))
    assert {column.source: column.epoch_unit for column in plan.columns} == {
        **{name: name for name in TIMES}, "none": None, "day": "julian_days",
    }  # fmt: skip
    assert len([statement for statement in statements if "min(" in statement]) == 1


@pytest.mark.parametrize("values", [[1704164645, 1704164645678], [0, 1704164645], [2460311.5, 1704164645], [-5]])
def test_an_ambiguous_unit_is_refused_unless_named(connection: Connection, tmp_path: Path, values: list[Any]) -> None:
    make_target(connection, "CREATE TABLE t (at timestamptz)")
    source = make_source(tmp_path / "times.db", "CREATE TABLE t (at)", {"t": [(value,) for value in values]})
    found = problems_of(connection, make_group(source, {"source": "t"}))
    assert "t.at: it holds numbers" in found and "julian_days" in found
    named = make_group(source, {"source": "t", "columns": {"at": {"epoch_unit": "seconds"}}})
    assert plan_of(connection, named)["t"].columns[0].epoch_unit == "seconds"


@pytest.mark.parametrize(
    "values",
    [
        ["20240102"],
        [20240102, 1704164645],
        ["20150102230000", "2015-12-01 10:59:00"],
        [20150102230000, 20151231235959],
        [20150102230000.0],
        [201501022300, 201501022301],
        ["20150102230000123"],
    ],
)
@pytest.mark.parametrize("unit", [None, "seconds", "microseconds", "julian_days"])
def test_dates_without_separators_are_no_numbers(
    connection: Connection, tmp_path: Path, values: list[Any], unit: str | None
) -> None:
    make_target(connection, "CREATE TABLE t (at timestamptz)")
    source = make_source(tmp_path / "times.db", "CREATE TABLE t (at)", {"t": [(value,) for value in values]})
    options = {} if unit is None else {"epoch_unit": unit}
    found = problems_of(connection, make_group(source, {"source": "t", "columns": {"at": options}}))
    assert re.search(r"t\.at: it holds numbers from 20\d+ to 20\d+, which look like dates written without", found)
    assert "Say by 'computed' in the inventory which times they are" in found
    secret = make_group(source, {"source": "t", "columns": {"at": {**options, "secret": True}}})
    assert "t.at: it holds numbers, which look like dates" in problems_of(connection, secret)


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([20241302, 20240100], "seconds"),  # no month 13, no day 0
        ([201501022300], "milliseconds"),  # a day in 1976, if one says so
        ([201501022300, 1704164645678], None),  # nobody writes both
        ([0, 19000100, 21010000], "seconds"),
    ],
)
def test_numbers_are_not_taken_for_dates(
    connection: Connection, tmp_path: Path, values: list[Any], unit: str | None
) -> None:
    make_target(connection, "CREATE TABLE t (at timestamptz)")
    source = make_source(tmp_path / "times.db", "CREATE TABLE t (at)", {"t": [(value,) for value in values]})
    options = {} if unit is None else {"epoch_unit": unit}
    plan = plan_of(connection, make_group(source, {"source": "t", "columns": {"at": options}}))["t"]
    assert plan.columns[0].epoch_unit == (unit or "milliseconds")


def test_an_unknown_time_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="'time_zone' is 'Europe/Atlantis', which is not known here"):
        make_group(tmp_path / "x.db", {"source": "t", "columns": {"at": {"time_zone": "Europe/Atlantis"}}})
