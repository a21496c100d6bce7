"""Keys that the target allows once: named, or all rows but the first rejected; and UUIDs in their several spellings."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate

from .support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

REJECT = {"duplicate": "reject"}
GUID = "00404239392c3de45033a264f858817f"
AS_UUID = "00404239-392c-3de4-5033-a264f858817f"


def refusal(connection: Connection, tmp_path: Path, group: Any, first: bool = True) -> str:
    """Return why a group is refused; before the first load a dry run must say the same."""
    with pytest.raises(MigrationError) as error:
        rehearse(connection, group, tmp_path)
    if first:
        with pytest.raises(MigrationError) as dry_run:
            rehearse(connection, group, tmp_path, check_mode=True)
        assert str(error.value) == str(dry_run.value)
    return str(error.value)


# ---------------------------------------------------------------- the policy


@pytest.mark.promise("policy-keeps-original")
def test_doubled_rows_are_refused_or_rejected_but_for_the_first(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (a text, b text, n integer, UNIQUE (a, b))")
    rows = [("x", "y", 1), ("x", "z", 2), ("x", "y", 3), (None, "y", 4), (None, "y", 5), ("x", "y", 6)]
    source = make_source(tmp_path / "doubled.db", "CREATE TABLE t (a TEXT, b TEXT, n INTEGER)", {"t": rows})
    found = refusal(connection, tmp_path, make_group(source, {"source": "t"}))
    assert "t.a+b: holds the same key more than once (1 row: a='x', b='y': 3 times)" in found
    assert "Set 'duplicate' for the column: reject (2 rows)" in found
    group = make_group(source, {"source": "t", "columns": {"b": REJECT}})
    report = rehearse(connection, group, tmp_path)["report"]
    table = report["tables"][0]
    assert (table["source_rows"], table["target_rows"], table["rejected_rows"], table["equal"]) == (6, 4, 2, True)
    reason = "a+b holds the same key as an earlier row"
    assert report["rejects"] == [{"table": "t", "key": f"rowid={n}", "reason": reason} for n in (3, 6)]
    assert query(connection, "SELECT n FROM app.t ORDER BY n") == [(1,), (2,), (4,), (5,)]
    assert query(connection, "SELECT row_values -> 'n' FROM migration.reject ORDER BY row_key") == [
        ({"integer": "3"},),
        ({"integer": "6"},),
    ]
    assert not rehearse(connection, group, tmp_path)["changed"]


@pytest.mark.parametrize("statement", ["DELETE FROM t WHERE id = 1", "UPDATE t SET k = 'other' WHERE id = 1"])
def test_a_double_takes_the_place_of_the_row_that_is_gone(
    connection: Connection, tmp_path: Path, statement: str
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, k text UNIQUE)")
    rows = [(1, "a"), (2, "a"), *((number, f"k{number}") for number in range(3, 50))]
    source = make_source(tmp_path / "doubled.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT)", {"t": rows})
    group = make_group(source, {"source": "t", "columns": {"k": REJECT}})
    assert [reject["key"] for reject in rehearse(connection, group, tmp_path)["report"]["rejects"]] == ["id=2"]
    with closing(sqlite3.connect(source)) as opened:
        opened.execute(statement)
        opened.commit()
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["rejects"] == []
    assert query(connection, "SELECT id FROM app.t WHERE k = 'a'") == [(2,)]
    assert query(connection, "SELECT count(*) FROM migration.reject") == [(0,)]


def test_children_of_a_rejected_double_stay_with_the_row_that_is_left(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE tags (name text PRIMARY KEY, colour text, number integer UNIQUE);"
        "CREATE TABLE uses (id integer PRIMARY KEY, tag text REFERENCES tags, number integer REFERENCES tags (number))",
    )
    source = make_source(
        tmp_path / "tags.db",
        "CREATE TABLE tags (name TEXT, colour TEXT, number INTEGER);"
        "CREATE TABLE uses (id INTEGER PRIMARY KEY, tag TEXT, number INTEGER);",
        {
            "tags": [("a", "red", 1), ("a", "blue", 2), ("b", "green", 3)],
            "uses": [(1, "a", 1), (2, "b", 3), (3, "a", None)],
        },
    )
    group = make_group(source, {"source": "tags", "columns": {"name": REJECT}}, {"source": "uses"})
    report = rehearse(connection, group, tmp_path)["report"]
    assert all(table["equal"] for table in report["tables"])
    assert query(connection, "SELECT id, colour FROM app.uses JOIN app.tags ON tag = name ORDER BY id") == [
        (1, "red"),
        (2, "green"),
        (3, "red"),
    ]
    # Number 2 went with the rejected row.
    with closing(sqlite3.connect(source)) as opened:
        opened.execute("UPDATE uses SET number = 2 WHERE id = 3")
        opened.commit()
    found = refusal(connection, tmp_path, group, first=False)
    assert "uses.number: refers to a row of tags that does not exist (1 row: id=3: 2)" in found


def test_a_row_stays_if_the_row_it_doubles_goes(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, a integer UNIQUE, b integer UNIQUE)")
    source = make_source(
        tmp_path / "chain.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)",
        # 2 doubles 1 by a; 3 doubles only 2, by b; 4 doubles 3 by b
        {"t": [(1, 1, 1), (2, 1, 2), (3, 3, 2), (4, 4, 2)]},
    )
    both = make_group(source, {"source": "t", "columns": {"a": REJECT, "b": REJECT}})
    report = rehearse(connection, both, tmp_path)["report"]
    assert [reject["key"] for reject in report["rejects"]] == ["id=2", "id=4"]
    assert query(connection, "SELECT id FROM app.t ORDER BY id") == [(1,), (3,)]
    only_a = make_group(source, {"source": "t", "columns": {"a": REJECT}})
    assert "t.b: holds the same key more than once (1 row: b=2: 2 times)" in refusal(
        connection, tmp_path, only_a, first=False
    )
    with closing(sqlite3.connect(source)) as opened:
        opened.execute("DELETE FROM t WHERE id = 4")
        opened.commit()
    assert rehearse(connection, only_a, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, "SELECT id FROM app.t ORDER BY id") == [(1,), (3,)]


@pytest.mark.parametrize(
    ("kind", "values", "left"),
    [
        ("integer", [5, "5", 6], 2),
        ("text", ["5", 5, 5.0], 2),
        ("uuid", [GUID, AS_UUID, GUID.upper(), AS_UUID.upper(), "other"], 2),
        ("text", ["a", "A", "a "], 3),
    ],
)
def test_what_becomes_the_same_value_is_the_same_key(
    connection: Connection, tmp_path: Path, kind: str, values: list[Any], left: int
) -> None:
    make_target(connection, f"CREATE TABLE t (k {kind} PRIMARY KEY)")
    script = "CREATE TABLE t (k COLLATE NOCASE)"
    source = make_source(tmp_path / "same.db", script, {"t": [(value,) for value in values]})
    if left < len(values):
        found = refusal(connection, tmp_path, make_group(source, {"source": "t"}))
        assert "t.k: holds the same key more than once" in found
    group = make_group(source, {"source": "t", "columns": {"k": REJECT}})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, "SELECT count(*) FROM app.t") == [(left,)]
    assert not rehearse(connection, group, tmp_path)["changed"]


@pytest.mark.promise("secret-column-masked")
def test_a_secret_key_is_not_shown(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (k text UNIQUE, u uuid)")
    source = make_source(tmp_path / "s.db", "CREATE TABLE t (k, u)", {"t": [("hush", GUID), ("hush", AS_UUID)]})
    columns: dict[str, Any] = {"k": {"secret": True}, "u": {"secret": True}}
    found = refusal(connection, tmp_path, make_group(source, {"source": "t", "columns": columns}))
    assert "hush" not in found and GUID not in found and AS_UUID not in found
    assert "more than once" in found and "more than one spelling" in found


# ---------------------------------------------------------------- spellings of a UUID


@pytest.mark.parametrize("odd", [False, True], ids=["plain", "odd"])
def test_a_uuid_without_hyphens_is_that_uuid_everywhere(connection: Connection, tmp_path: Path, odd: bool) -> None:
    make_target(
        connection,
        "CREATE TABLE a (guid uuid PRIMARY KEY, parent uuid REFERENCES a, n integer);"
        "CREATE TABLE slots (id integer PRIMARY KEY, obj_guid uuid, other uuid)",
    )
    upper = "ABCDEF39392C3DE45033A264F8588170"
    number = "12" if odd else 12  # a text in an integer column goes through Python
    source = make_source(
        tmp_path / "guid.db",
        "CREATE TABLE a (guid TEXT PRIMARY KEY, parent TEXT, n);"
        "CREATE TABLE slots (id INTEGER PRIMARY KEY, obj_guid TEXT, other TEXT);",
        {
            "a": [(GUID, None, number), (upper, GUID, number), ("root", upper, number), (f"{{{AS_UUID}}}", "root", 1)],
            "slots": [(1, GUID, AS_UUID), (2, upper, None), (3, GUID, AS_UUID)],
        },
    )
    group = make_group(source, {"source": "a"}, {"source": "slots"})
    report = rehearse(connection, group, tmp_path)["report"]
    assert all(table["equal"] for table in report["tables"])
    assert query(connection, "SELECT guid::text FROM app.a WHERE parent IS NULL") == [(AS_UUID,)]
    assert query(connection, "SELECT count(*) FROM app.slots JOIN app.a ON guid = obj_guid") == [(3,)]
    assert query(connection, f"SELECT count(*) FROM app.slots WHERE other = '{AS_UUID}'") == [(2,)]
    conversions = {
        (entry["column"], entry["conversion"]): entry["rows"]
        for table in report["tables"]
        for entry in table["conversions"]
    }
    assert conversions[("guid", "uuid in other spelling to uuid")] == 2
    assert conversions[("guid", "text id to uuid")] == 2  # braces are part of a text
    assert conversions[("obj_guid", "uuid in other spelling to uuid")] == 3
    # Export: each spelling as it was.
    spelling = "SELECT old_id FROM migration.id_map JOIN app.a ON new_id = guid WHERE namespace = 'app.a' ORDER BY 1"
    assert query(connection, spelling) == [(GUID,), (upper,), ("root",), (f"{{{AS_UUID}}}",)]
    assert not rehearse(connection, group, tmp_path)["changed"]
    execute(connection, "UPDATE migration.id_map SET old_id = lower(old_id) WHERE namespace = 'app.slots.obj_guid'")
    compared = migrate.compare(connection, group, str(tmp_path / "work"))["tables"]
    (difference,) = next(table for table in compared if table["source"] == "slots")["differences"]
    assert (difference["column"], difference["source"], difference["target"]) == (
        "obj_guid",
        repr(upper),
        repr(upper.lower()),
    )


def test_two_spellings_of_one_uuid_are_named(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE a (guid uuid PRIMARY KEY); CREATE TABLE b (id integer PRIMARY KEY, owner uuid, alone uuid)",
    )
    source = make_source(
        tmp_path / "guid.db",
        "CREATE TABLE a (guid TEXT PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY, owner TEXT, alone TEXT);",
        {"a": [(GUID,)], "b": [(1, AS_UUID, AS_UUID), (2, None, AS_UUID.upper())]},
    )
    group = make_group(source, {"source": "a"}, {"source": "b", "columns": {"owner": {"references": "app.a"}}})
    found = refusal(connection, tmp_path, group)
    assert f"a.guid: holds a UUID in more than one spelling, also in b.owner (1 row: b id=1: '{AS_UUID}' and" in found
    assert (
        f"b.alone: holds a UUID in more than one spelling (1 row: id=2: '{AS_UUID.upper()}' and id=1: '{AS_UUID}')"
        in found
    )
    assert "Write it the same way in every row of the source" in found


def test_a_text_that_is_no_uuid_still_needs_to_belong_somewhere(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, u uuid)")
    source = make_source(
        tmp_path / "text.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT)",
        {"t": [(1, "role-admin"), (2, f"{{{AS_UUID}}}"), (3, GUID[:-1] + "g"), (4, GUID)]},
    )
    found = refusal(connection, tmp_path, make_group(source, {"source": "t"}))
    assert (
        "t.u: holds an id that is not a UUID, and no foreign key or 'references' says whose id it is (3 rows" in found
    )
