"""Old ids in texts and JSON are named with counts before anything is moved, or rewritten and brought back."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import (
    TABLE_SQL,
    MigrationError,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.convert import values
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.report import (
    warnings_of,
)

from .support import execute, make_group, make_source, make_tables, make_target, query, rehearse
from .test_export import bring_back, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

SOME_UUID = "6fa459ea-ee8a-4ca4-894e-db77e160355e"
# Type of the target, what the file holds, whether an id stands there as a value, and as the name of a member.
HOLDERS: list[tuple[str, Any, int, int]] = [
    ("jsonb", '[{"agent": "forge-1"}]', 1, 0),
    ("json", '{"a": {"b": ["x", "forge-1"]}}', 1, 0),
    ("text", "forge-1", 1, 0),
    ("text", '{"agent": "forge-1"}', 1, 0),
    ("varchar(20)", "forge-1", 1, 0),
    ("text", "the agent forge-1", 0, 0),
    ("text", SOME_UUID, 0, 0),
    ("jsonb", f'["{SOME_UUID}"]', 0, 0),
    ("jsonb", '{"forge-1": 1}', 0, 1),
    ("text", '{"a": [{"forge-1": "forge-1"}]}', 1, 1),
    ("text", "[not json", 0, 0),
    ("text", ' \n["forge-1"]', 1, 0),
    ("text", json.dumps({"payload": '{"agent": "forge-1"}', "no": "[not json"}), 0, 0),
    ("integer", 1, 0, 0),
    ("uuid REFERENCES agents", "forge-1", 0, 0),
]


def test_ids_in_texts_and_json_are_named(connection: Connection, tmp_path: Path) -> None:
    """Each in a table of its own."""
    cases = {f"t{number}": holder for number, holder in enumerate(HOLDERS, 1)}
    tables: dict[str, tuple[str, str, Iterable[Sequence[Any]]]] = {
        "agents": ("id uuid PRIMARY KEY", "id TEXT PRIMARY KEY", [("forge-1",), (SOME_UUID,)])
    }
    for name, (type_name, value, _, _) in cases.items():
        columns = (f"id integer PRIMARY KEY, v {type_name}", "id INTEGER PRIMARY KEY, v")
        tables[name] = (*columns, [(1, value), (2, None)])
    source = make_tables(connection, tmp_path / "t.db", tables)
    group = make_group(source, *({"source": name} for name in tables))
    report = rehearse(connection, group, tmp_path, check_mode=True)["report"]
    found = {entry["column"]: entry for entry in report["ids_in_texts"]}
    said = " ".join(warnings_of(report))
    for name, (_, value, rows, members) in cases.items():
        inside = int("\\" in str(value))
        expected = {
            "column": f"{name}.v",
            "rows": rows,
            "rows_of_member_names": members,
            "ids_of": "agents.id",
            "rows_of_json_in_strings": inside,
            "policy": "columns: {v: {rewrite_ids_of: [app.agents]}}" if rows else "",
        }
        assert found.get(f"{name}.v") == (expected if rows or members or inside else None), name
        assert (f"{name}.v: 1 row holds an id of agents.id in a text" in said) == bool(rows), name
        assert (f"{name}.v: 1 row holds an id of agents.id as the name of a member" in said) == bool(members), name
        assert (f"{name}.v: 1 row holds an id of agents.id in JSON that is itself a string" in said) == bool(inside)
    assert "write 'columns: {v: {rewrite_ids_of: [app.agents]}}' for the table in the inventory" in said
    assert len(report["ids_in_texts"]) == sum(
        bool(rows or members or "\\" in str(value)) for _, value, rows, members in HOLDERS
    )
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])


def test_ids_of_another_group_in_texts_are_named(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE counters (id uuid PRIMARY KEY);"
        "CREATE TABLE flows (id integer PRIMARY KEY, agent text, steps jsonb, note text)",
    )
    agents = make_source(
        tmp_path / "agents.db",
        "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE counters (id INTEGER PRIMARY KEY)",
        {"agents": [("forge-1",), (SOME_UUID.upper(),)], "counters": [(1,), (2,)]},
    )
    flows = make_source(
        tmp_path / "flows.db",
        "CREATE TABLE flows (id INTEGER PRIMARY KEY, agent TEXT, steps TEXT, note TEXT)",
        {"flows": [(1, "forge-1", '[{"agent": "forge-1"}]', "1"), (2, "forge-1", "[]", SOME_UUID)]},
    )
    owners = make_group(agents, {"source": "agents"}, {"source": "counters"})
    holders = make_group(flows, {"source": "flows"}, name="other")
    assert rehearse(connection, holders, tmp_path, check_mode=True)["report"]["ids_in_texts"] == []
    rehearse(connection, owners, tmp_path)
    named = rehearse(connection, holders, tmp_path, check_mode=True)["report"]["ids_in_texts"]
    assert [(found["column"], found["rows"], found["ids_of"]) for found in named] == [
        ("flows.agent", 2, "app.agents"), ("flows.steps", 1, "app.agents"),
    ]  # fmt: skip
    # The ids of another group change by themselves: they are named, and not rewritten.
    assert [found["policy"] for found in named] == ["", ""]
    said = warnings_of(rehearse(connection, holders, tmp_path, check_mode=True)["report"])
    assert "flows.agent: 2 rows hold an id of app.agents in a text" in said[0]
    assert "rewrite it by 'computed', or let the application look it up in migration.id_map" in said[0]
    columns = {"agent": {"rewrite_ids_of": ["app.agents"]}}
    asking = make_group(flows, {"source": "flows", "columns": columns}, name="other")
    for check_mode in (True, False):
        with pytest.raises(MigrationError, match=r"names app\.agents, and group other moves no table of that name"):
            rehearse(connection, asking, tmp_path, check_mode)
    assert query(connection, "SELECT count(*) FROM app.flows") == [(0,)]


def test_a_column_that_refers_to_another_group_does_not_stand_for_its_table(
    connection: Connection, tmp_path: Path
) -> None:
    tables = "CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE flows (id integer, owner uuid, agent text)"
    make_target(connection, tables)
    agents = make_source(
        tmp_path / "a.db", "CREATE TABLE agents (id TEXT PRIMARY KEY)", {"agents": [("a-1",), ("a-2",)]}
    )
    script = "CREATE TABLE flows (id INTEGER PRIMARY KEY, owner TEXT, agent TEXT)"
    flows = make_source(tmp_path / "f.db", script, {"flows": [(1, "a-1", "a-2")]})
    rehearse(connection, make_group(agents, {"source": "agents"}, name="owners"), tmp_path)
    owner = {"references": "app.agents"}
    plain = make_group(flows, {"source": "flows", "columns": {"owner": owner}})
    named = rehearse(connection, plain, tmp_path, check_mode=True)["report"]["ids_in_texts"]
    # The column's own ids are known, and a-2 is none of them: what the other group holds besides is named too.
    assert [(found["column"], found["rows"], found["policy"]) for found in named] == [("flows.agent", 1, "")]
    columns = {"owner": owner, "agent": {"rewrite_ids_of": ["app.agents"]}}
    with pytest.raises(MigrationError, match="moves no table of that name"):
        rehearse(connection, make_group(flows, {"source": "flows", "columns": columns}), tmp_path)


@pytest.mark.parametrize("name", ["a: b", "no", "On"])
def test_the_policy_of_the_warning_can_be_written_as_it_stands(
    connection: Connection, tmp_path: Path, name: str
) -> None:
    make_target(
        connection,
        "CREATE TABLE agents (id uuid PRIMARY KEY, note text); CREATE TABLE orgs (id uuid PRIMARY KEY);"
        f'CREATE TABLE t (id integer PRIMARY KEY, "{name}" text)',
    )
    script = (
        "CREATE TABLE agents (id TEXT PRIMARY KEY, note TEXT); CREATE TABLE orgs (id TEXT PRIMARY KEY);"
        f'CREATE TABLE t (id INTEGER PRIMARY KEY, "{name}" TEXT)'
    )
    rows: dict[str, list[tuple[Any, ...]]] = {
        "agents": [("a-1", "a-1")], "orgs": [("o-1",)], "t": [(1, "a-1"), (2, "o-1"), (3, ' ["a-1"]')],
    }  # fmt: skip
    source = make_source(tmp_path / "t.db", script, rows)
    tables = [{"source": "agents"}, {"source": "orgs"}]
    found = rehearse(connection, make_group(source, *tables, {"source": "t"}), tmp_path, check_mode=True)["report"]
    policies = {entry["column"]: entry["policy"] for entry in found["ids_in_texts"]}
    # What a table says of itself may be a mere word.
    assert policies["agents.note"] == ""
    group = make_group(source, *tables, {"source": "t", **yaml.safe_load(policies[f"t.{name}"])})
    report = rehearse(connection, group, tmp_path, check_mode=True)["report"]
    assert [entry["column"] for entry in report["ids_in_texts"]] == ["agents.note"]
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    joined = f'a.id::text = "{name}" OR "{name}" = \' ["\' || a.id || \'"]\''
    assert query(connection, f"SELECT t.id FROM app.t JOIN app.agents AS a ON {joined} ORDER BY 1") == [(1,), (3,)]


def test_columns_named_like_those_of_a_function_of_sqlite_are_read(connection: Connection, tmp_path: Path) -> None:
    names = ["value", "key", "json", "path", "type", "id", "parent", "root", "atom", "fullkey", "text"]
    columns = ", ".join(f'"{name}" text' for name in names)
    make_target(connection, f"CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE t (n integer, {columns})")
    script = f"CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE t (n INTEGER PRIMARY KEY, {columns})"
    row = (1, *(['["a-1", {"a-1": 1}]'] * len(names)))
    source = make_source(tmp_path / "t.db", script, {"agents": [("a-1",)], "t": [row]})
    group = make_group(source, {"source": "agents"}, {"source": "t"})
    report = rehearse(connection, group, tmp_path, check_mode=True)["report"]
    assert [(found["column"], found["rows"], found["rows_of_member_names"]) for found in report["ids_in_texts"]] == [
        (f"t.{name}", 1, 1) for name in names
    ]


def test_only_ids_that_the_policy_can_name_bring_it_into_the_warning(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE orgs (id uuid PRIMARY KEY); CREATE TABLE agents (id uuid PRIMARY KEY);"
        "CREATE TABLE t (id integer PRIMARY KEY, v text)",
    )
    orgs = make_source(tmp_path / "orgs.db", "CREATE TABLE orgs (id TEXT PRIMARY KEY)", {"orgs": [("o-1",)]})
    rehearse(connection, make_group(orgs, {"source": "orgs"}, name="other"), tmp_path)
    script = "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"
    source = make_source(tmp_path / "t.db", script, {"agents": [("a-1",)], "t": [(1, "a-1"), (2, "o-1")]})
    group = make_group(source, {"source": "agents"}, {"source": "t"})
    found = rehearse(connection, group, tmp_path, check_mode=True)["report"]["ids_in_texts"]
    assert [(entry["ids_of"], entry["policy"]) for entry in found] == [
        ("agents.id", "columns: {v: {rewrite_ids_of: [app.agents]}}"), ("app.orgs", ""),
    ]  # fmt: skip


def test_a_text_that_is_an_id_only_in_another_case_stays_and_is_named(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection, "CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, v text)"
    )
    t = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT COLLATE NOCASE)"
    script = f"CREATE TABLE agents (id TEXT PRIMARY KEY); {t}"
    source = make_source(tmp_path / "t.db", script, {"agents": [("a-1",)], "t": [(1, "a-1"), (2, "A-1"), (3, "b")]})
    columns = {"v": {"rewrite_ids_of": ["app.agents"]}}
    group = make_group(source, {"source": "agents"}, {"source": "t", "columns": columns})
    report = rehearse(connection, group, tmp_path, check_mode=True)["report"]
    assert [(entry["column"], entry["rows"], entry["policy"]) for entry in report["ids_in_texts"]] == [("t.v", 1, "")]
    assert "t.v: 1 row holds an id of agents.id in a text or in JSON. It stays as it is" in " ".join(
        warnings_of(report)
    )
    rehearse(connection, group, tmp_path)
    assert query(connection, "SELECT v FROM app.t WHERE id > 1 ORDER BY id") == [("A-1",), ("b",)]


def test_json_with_a_number_of_any_length_is_json(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection, "CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, v text)"
    )
    script = "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"
    # Python reads no whole number that is longer than 4,300 digits.
    number = "7" * 4_301
    source = make_source(tmp_path / "t.db", script, {"agents": [("a-1",)], "t": [(1, f'[{number}, "a-1"]')]})
    columns = {"v": {"rewrite_ids_of": ["app.agents"]}}
    group = make_group(source, {"source": "agents"}, {"source": "t", "columns": columns})
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    joined = f"SELECT count(*) FROM app.t JOIN app.agents AS a ON v = '[{number}, \"' || a.id || '\"]'"
    assert query(connection, joined) == [(1,)]


def test_a_value_that_only_a_reference_knows_is_no_id_of_the_table(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, owner uuid, v text)",
    )
    script = "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, owner TEXT, v TEXT)"
    rows: dict[str, list[tuple[Any, ...]]] = {
        "agents": [("a-1",)], "t": [(1, "system", "system"), (2, "a-1", "a-1")],
    }  # fmt: skip
    source = make_source(tmp_path / "t.db", script, rows)
    columns = {"owner": {"references": "app.agents"}, "v": {"rewrite_ids_of": ["app.agents"]}}
    group = make_group(source, {"source": "agents"}, {"source": "t", "columns": columns})
    rehearse(connection, group, tmp_path)
    assert query(connection, "SELECT v FROM app.t WHERE id = 1") == [("system",)]
    assert query(connection, "SELECT t.id FROM app.t JOIN app.agents AS a ON a.id::text = v") == [(2,)]


SPELLED, BARE = SOME_UUID.upper(), "0f8fad5bd9cb469fa16570867728950e"
QUOTED = 'say "hé\\\n"'
# Type of the target, what the file holds, and what becomes of it: U+0001 stands for the UUID of forge-1, and so on.
REWRITTEN: list[tuple[str, Any, Any]] = [
    ("text", "forge-1", "\x01"),
    ("varchar(36)", "forge-1", "\x01"),
    ("char(36)", "forge-1", "\x01"),
    ("text", SPELLED, SOME_UUID),
    ("text", "the agent forge-1", "the agent forge-1"),
    ("text", '[ "forge-1",  {"forge-1" : "forge-1", "n": 1.50} ]', '[ "\x01",  {"forge-1" : "\x01", "n": 1.50} ]'),
    ("text", '["forge-1"', '["forge-1"'),
    ("text", ' \n["forge-1"]', ' \n["\x01"]'),
    ("text", json.dumps(['{"agent": "forge-1"}']), json.dumps(['{"agent": "forge-1"}'])),
    ("text", '"forge-1"', '"forge-1"'),
    ("json", '{"a" : ["x", "f\\u006frge-1"]}', '{"a" : ["x", "\x01"]}'),
    ("json", '"forge-1"', '"\x01"'),
    ("jsonb", '{"a":{"forge-1":["forge-1","forge-2"]}}', '{"a": {"forge-1": ["\x01", "forge-2"]}}'),
    ("jsonb", f'["{SPELLED}", "{BARE}", 1]', f'["{SOME_UUID}", "0f8fad5b-d9cb-469f-a165-70867728950e", 1]'),
    ("jsonb", '["\\"forge-1\\"", "\\\\", "forge-1"]', '["\\"forge-1\\"", "\\\\", "\x01"]'),
    ("text", 1, "1"),
    ("text", None, None),
    # Beginnings of other ids, characters that JSON escapes, and digits: a text is an id, a number is none.
    ("text", "forge-10", "\x02"),
    ("text", "forge-", "forge-"),
    ("jsonb", '["forge-10", "forge-1", "forge-100"]', '["\x02", "\x01", "forge-100"]'),
    ("text", QUOTED, "\x03"),
    ("json", json.dumps([QUOTED, "é"]), '["\x03", "\\u00e9"]'),
    ("jsonb", json.dumps({QUOTED: QUOTED}), '{"say \\"hé\\\\\\n\\"": "\x03"}'),
    ("text", "7", "\x04"),
    ("text", 7, "7"),
    ("jsonb", '["7", 7, "07"]', '["\x04", 7, "07"]'),
    ("json", "7", "7"),
    ("json", 7, "7"),
]
OLD_IDS = {"\x01": "forge-1", "\x02": "forge-10", "\x03": QUOTED, "\x04": "7"}


def test_ids_in_a_value_are_rewritten_and_come_back(connection: Connection, tmp_path: Path) -> None:
    """Each in a table of its own."""
    cases = {f"t{number}": case for number, case in enumerate(REWRITTEN, 1)}
    agents = [*((old,) for old in OLD_IDS.values()), (SPELLED,), (BARE,)]
    tables: dict[str, tuple[str, str, Iterable[Sequence[Any]]]] = {
        "agents": ("id uuid PRIMARY KEY", "id TEXT PRIMARY KEY", agents)
    }
    for name, (type_name, value, _) in cases.items():
        columns = (f"id integer PRIMARY KEY, v {type_name}", "id INTEGER PRIMARY KEY, v")
        tables[name] = (*columns, [(1, value), (2, None)])
    source = make_tables(connection, tmp_path / "t.db", tables)
    source.chmod(0o600)
    rewriting = {"columns": {"v": {"rewrite_ids_of": ["app.agents"]}}}
    group = make_group(source, {"source": "agents"}, *({"source": name, **rewriting} for name in cases))
    dry = rehearse(connection, group, tmp_path, check_mode=True)["report"]
    assert all(found["rows"] == 0 for found in dry["ids_in_texts"])
    report = rehearse(connection, group, tmp_path)["report"]
    assert all(table["equal"] for table in report["tables"])
    conversions = {table["source"]: table["conversions"] for table in report["tables"]}
    new_ids = dict(query(connection, "SELECT old_id, new_id::text FROM migration.id_map"))
    for name, (_, _, becomes) in cases.items():
        ((held,),) = query(connection, f"SELECT v::text FROM app.{name} WHERE id = 1")
        changes = becomes is not None and (SOME_UUID in becomes or any(mark in becomes for mark in OLD_IDS))
        for mark, old in OLD_IDS.items():
            becomes = None if becomes is None else becomes.replace(mark, new_ids[old])
        assert held == becomes, name
        rewritten = {"column": "v", "conversion": "ids in it to uuid", "rows": 1}
        assert (rewritten in conversions[name]) == changes, name
    assert not rehearse(connection, group, tmp_path)["changed"]
    # What a service writes on PostgreSQL comes back with the ids of the file, also those of rows that are gone.
    for name in cases:
        execute(connection, f"INSERT INTO app.{name} SELECT 3, v FROM app.{name} WHERE id = 1")
    execute(connection, "DELETE FROM app.agents WHERE id = %s", new_ids["forge-1"])
    _, copy = bring_back(connection, group)
    for name, (type_name, value, _) in cases.items():
        came_back = rows_of(copy, f"SELECT v FROM {name} WHERE id = 3")
        statement = f"SELECT v FROM {name} WHERE id < 3"
        assert rows_of(copy, statement) == rows_of(source, statement), name
        if type_name.startswith("json") and isinstance(value, str):
            assert json.loads(came_back[0][0]) == json.loads(value), name
        else:
            # A number in a column of texts may come back as its text.
            assert came_back in ([(value,)], [(str(value),)]), name


def test_a_column_that_is_too_short_for_the_uuids_is_refused_with_the_type_that_holds_them(
    connection: Connection, tmp_path: Path
) -> None:
    make_target(
        connection,
        "CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, v varchar(20))",
    )
    script = "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v)"
    source = make_source(tmp_path / "t.db", script, {"agents": [("forge-1",)], "t": [(1, "forge-1"), (2, "a text")]})
    table = {"source": "t", "columns": {"v": {"rewrite_ids_of": ["app.agents"]}}}
    group = make_group(source, {"source": "agents"}, table)
    with pytest.raises(MigrationError) as error:
        rehearse(connection, group, tmp_path, check_mode=True)
    said = re.search(
        rf"Give app\.t\.v the type (.*) in {re.escape(TABLE_SQL)}, which holds all 2 values", str(error.value)
    )
    assert said is not None
    execute(connection, f"ALTER TABLE app.t ALTER v TYPE {said.group(1)}")
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])


def test_rows_that_are_added_between_two_runs_are_rewritten_too(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection, "CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, v text)"
    )
    script = "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"
    source = make_source(tmp_path / "t.db", script, {"agents": [("a-1",)], "t": [(1, "a-1"), (2, "a-2")]})
    group = make_group(
        source, {"source": "agents"}, {"source": "t", "columns": {"v": {"rewrite_ids_of": ["app.agents"]}}}
    )
    rehearse(connection, group, tmp_path)
    with closing(sqlite3.connect(source)) as opened:
        # The new id makes one of what was a mere text before.
        opened.executescript("INSERT INTO agents VALUES ('a-2'); INSERT INTO t VALUES (3, 'a-1')")
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    joined = query(connection, "SELECT t.id FROM app.t JOIN app.agents AS a ON a.id::text = v ORDER BY 1")
    assert joined == [(1,), (2,), (3,)]


def test_the_proof_finds_an_id_that_was_not_rewritten(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_target(
        connection, "CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, v jsonb)"
    )
    script = "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"
    source = make_source(tmp_path / "t.db", script, {"agents": [("a-1",)], "t": [(1, '["a-1"]')]})
    group = make_group(
        source, {"source": "agents"}, {"source": "t", "columns": {"v": {"rewrite_ids_of": ["app.agents"]}}}
    )
    monkeypatch.setattr(values, "with_other_ids", lambda text, *_: text)
    with pytest.raises(MigrationError, match=r"in SQLite and .* in PostgreSQL"):
        rehearse(connection, group, tmp_path)
    assert query(connection, "SELECT count(*) FROM app.t") == [(0,)]


@pytest.mark.parametrize(
    ("column", "options", "what"),
    [
        ("n", ["app.agents"], "cannot be safe in this column: its target is integer, no text and no JSON"),
        ("v", ["app.nothing"], "names app.nothing, and group test moves no table of that name"),
        ("v", ["app.t"], "names app.t, and group test moves no table of that name"),
    ],
)
def test_what_cannot_be_rewritten_is_said(
    connection: Connection, tmp_path: Path, column: str, options: list[str], what: str
) -> None:
    make_target(
        connection,
        "CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE flows (id uuid PRIMARY KEY);"
        "CREATE TABLE t (id integer PRIMARY KEY, v text, n integer)",
    )
    script = (
        "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE flows (id TEXT PRIMARY KEY);"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, n INTEGER)"
    )
    source = make_source(tmp_path / "t.db", script, {"agents": [("one",)], "flows": [("one",)], "t": [(1, "one", 1)]})
    table = {"source": "t", "columns": {column: {"rewrite_ids_of": options}}}
    with pytest.raises(MigrationError, match="cannot be planned") as error:
        rehearse(connection, make_group(source, {"source": "agents"}, {"source": "flows"}, table), tmp_path)
    assert what in str(error.value)
    assert f"t.{column}" in error.value.problems[0].where


WATCHED: list[tuple[str, str, dict[str, str], str]] = [
    ("v text UNIQUE", "v TEXT", {}, "the index app.t_v_key in PostgreSQL"),
    ("v varchar(99), EXCLUDE (v WITH =)", "v TEXT", {}, "the index app.t_v_excl in PostgreSQL"),
    ("v text REFERENCES codes", "v TEXT", {}, "the foreign key t_v_fkey in PostgreSQL"),
    ("v text, g integer GENERATED ALWAYS AS (length(v)) STORED", "v TEXT", {}, "the generated column g in PostgreSQL"),
    ("v text", "v TEXT UNIQUE", {}, "the unique index sqlite_autoindex_t_1 in the file"),
    ("v text", "v TEXT REFERENCES codes", {}, "the foreign key to codes in the file"),
    ("v text", "v TEXT REFERENCES agents", {}, "the foreign key to agents in the file"),
    ("v text", "v TEXT, g AS (length(v))", {}, "a generated column in the file perhaps looks at its values"),
    ("v text", "v TEXT", {"nul_character": "remove"}, "'nul_character: remove' may change the same value"),
    ("v text", "v TEXT", {"invalid_utf8": "replace"}, "'invalid_utf8: replace' may change the same value"),
]


@pytest.mark.parametrize(("target", "file", "policies", "what"), WATCHED)
def test_a_column_that_something_else_looks_at_is_refused(
    connection: Connection, tmp_path: Path, target: str, file: str, policies: dict[str, str], what: str
) -> None:
    codes = "CREATE TABLE codes (code text PRIMARY KEY);"
    made = f"CREATE TABLE agents (id uuid PRIMARY KEY); {codes} CREATE TABLE t (id integer PRIMARY KEY, {target})"
    make_target(connection, made)
    script = f"CREATE TABLE agents (id TEXT PRIMARY KEY); {codes} CREATE TABLE t (id INTEGER PRIMARY KEY, {file});"
    source = make_source(tmp_path / "t.db", script, {"agents": [("a-1",)], "codes": [("a-1",)]})
    with closing(sqlite3.connect(source)) as opened:
        opened.executescript("INSERT INTO t (id, v) VALUES (1, 'a-1')")
    others = [{"source": "agents"}, {"source": "codes"}]
    table = {"source": "t", "columns": {"v": {"rewrite_ids_of": ["app.agents"], **policies}}}
    for check_mode in (True, False):
        with pytest.raises(MigrationError, match="cannot be planned") as error:
            rehearse(connection, make_group(source, *others, table), tmp_path, check_mode)
        assert f"'rewrite_ids_of' cannot be safe in this column: {what}" in str(error.value)
    assert query(connection, "SELECT count(*) FROM app.t") == [(0,)]


@pytest.mark.parametrize(
    ("target", "file", "what"),
    [
        ("CREATE INDEX i ON t (upper(v))", "", "the index app.i in PostgreSQL"),
        ("CREATE INDEX i ON t (n) WHERE v <> ''", "", "the index app.i in PostgreSQL"),
        ("CREATE UNIQUE INDEX i ON t (v); CREATE TABLE c (v text REFERENCES t (v))", "", "in PostgreSQL"),
        ("", "CREATE UNIQUE INDEX u ON t (lower(v))", "the unique index u in the file"),
        ("", "CREATE TABLE c (v TEXT REFERENCES t (v))", "the foreign key of c in the file"),
    ],
)
def test_what_stands_beside_the_table_counts_too(
    connection: Connection, tmp_path: Path, target: str, file: str, what: str
) -> None:
    tables = "CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);"
    make_target(connection, tables + target)
    script = "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, n, v TEXT);"
    source = make_source(tmp_path / "t.db", script + file, {"agents": [("a-1",)], "t": [(1, 1, "a-1")]})
    named = rehearse(connection, make_group(source, {"source": "agents"}, {"source": "t"}), tmp_path, True)["report"]
    assert [(entry["column"], entry["policy"]) for entry in named["ids_in_texts"]] == [("t.v", "")]
    table = {"source": "t", "columns": {"v": {"rewrite_ids_of": ["app.agents"]}}}
    with pytest.raises(MigrationError, match="cannot be safe in this column") as error:
        rehearse(connection, make_group(source, {"source": "agents"}, table), tmp_path, check_mode=True)
    assert what in str(error.value)


INDEXED = """
CREATE TABLE agents (id uuid PRIMARY KEY);
CREATE TABLE t (id integer PRIMARY KEY, v text);
CREATE INDEX ON t (v);
"""


def test_a_value_whose_uuids_do_not_fit_an_index_is_named_by_a_dry_run(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, INDEXED)
    script = "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"
    ids = [f"{number:02d}" for number in range(100)]
    rows: dict[str, list[tuple[Any, ...]]] = {
        "agents": [(old,) for old in ids], "t": [(1, json.dumps(ids, separators=(",", ":")))],
    }  # fmt: skip
    source = make_source(tmp_path / "t.db", script, rows)
    table = {"source": "t", "columns": {"v": {"rewrite_ids_of": ["app.agents"]}}}
    said = []
    for check_mode in (True, False):
        with pytest.raises(MigrationError) as error:
            rehearse(connection, make_group(source, {"source": "agents"}, table), tmp_path, check_mode)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "id=1" in said[0]


@pytest.mark.parametrize("value", ["one", '{"by": ["one"]}', SOME_UUID, BARE])
def test_only_a_value_that_holds_an_unclear_id_is_refused(connection: Connection, tmp_path: Path, value: str) -> None:
    tables = "CREATE TABLE agents (id uuid PRIMARY KEY); CREATE TABLE orgs (id uuid PRIMARY KEY);"
    make_target(connection, tables + "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    script = (
        "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE orgs (id TEXT PRIMARY KEY);"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"
    )
    # One id in two tables, and UUIDs that two tables spell otherwise.
    ids = {"agents": [("one",), ("a-1",), (SOME_UUID,), (BARE,)]}
    ids["orgs"] = [("one",), (SOME_UUID.upper(),), (BARE.upper(),)]
    source = make_source(tmp_path / "t.db", script, {**ids, "t": [(1, "a-1"), (2, '{"one": 1}')]})
    columns = {"v": {"rewrite_ids_of": ["app.agents", "app.orgs"]}}
    group = make_group(source, {"source": "agents"}, {"source": "orgs"}, {"source": "t", "columns": columns})
    assert rehearse(connection, group, tmp_path)["report"]["tables"][2]["equal"]
    with closing(sqlite3.connect(source)) as opened:
        opened.execute("INSERT INTO t VALUES (3, ?)", (value,))
        opened.commit()
    for check_mode in (True, False):
        with pytest.raises(MigrationError, match="holds an id that stands in two of the tables") as error:
            rehearse(connection, group, tmp_path, check_mode)
        assert "id=3" in str(error.value)
        assert "id=1" not in str(error.value)


def test_two_spellings_of_one_id_in_its_table_are_unclear(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, INDEXED)
    script = "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"
    agents = {"source": "agents", "columns": {"id": {"duplicate": "reject"}}}
    source = make_source(tmp_path / "t.db", script, {"agents": [(BARE,), (BARE.upper(),)], "t": [(1, BARE.upper())]})
    table = {"source": "t", "columns": {"v": {"rewrite_ids_of": ["app.agents"]}}}
    with pytest.raises(MigrationError, match="or whose UUID has two spellings there") as error:
        rehearse(connection, make_group(source, agents, table), tmp_path, check_mode=True)
    assert "id=1" in str(error.value)
    # What it advises.
    assert error.value.problems[0].fix.startswith("Leave 'rewrite_ids_of' out, so that all ids in the column stay as ")
    rehearse(connection, make_group(source, agents, {"source": "t"}), tmp_path)
    assert query(connection, "SELECT v FROM app.t") == [(BARE.upper(),)]


def test_an_id_that_is_longer_than_an_entry_of_an_index_is_recorded(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, INDEXED.replace("CREATE INDEX ON t (v);", ""))
    script = "CREATE TABLE agents (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"
    long = "".join(chr(33 + (number * number * 7 + number // 90) % 90) for number in range(2_660))
    source = make_source(tmp_path / "t.db", script, {"agents": [(long,)], "t": [(1, long)]})
    source.chmod(0o600)
    table = {"source": "t", "columns": {"v": {"rewrite_ids_of": ["app.agents"]}}}
    group = make_group(source, {"source": "agents"}, table)
    assert all(found["equal"] for found in rehearse(connection, group, tmp_path)["report"]["tables"])
