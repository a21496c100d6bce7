"""Ids that were rewritten inside texts stay those of the load that wrote them, whatever happens afterwards."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import rehearsal
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.convert import known_ids
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.convert.values import (
    converter,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export.export import (
    ExportReport,
    count_changes,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.replay import (
    RepairedRow,
    replay_rejects,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback.window import (
    EXPORTED,
    describe,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import group as validation
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation.frozen_file import (
    check_proof,
)

from .support import execute, make_group, make_source, make_target, query, rehearse
from .test_export import bring_back, refusal, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

TARGET = """
CREATE TABLE agents (id uuid PRIMARY KEY);
CREATE TABLE flows (id integer PRIMARY KEY, agent text, steps jsonb, note text);
"""
AGENTS = "CREATE TABLE agents (id TEXT PRIMARY KEY);"
FLOWS = "CREATE TABLE flows (id INTEGER PRIMARY KEY, agent TEXT, steps TEXT, note TEXT);"
REWRITE = {"rewrite_ids_of": ["app.agents"]}


def flows_of(path: Path, *rows: Sequence[Any], agents: Iterable[str] | None = None) -> Path:
    """Create a file of flows, which may hold their agents too."""
    script, content = FLOWS, {"flows": list(rows)}
    if agents is not None:
        script, content = AGENTS + FLOWS, {"agents": [(agent,) for agent in agents], **content}
    source = make_source(path, script, content)
    source.chmod(0o600)
    return source


def group_of(path: Path, *more: dict[str, Any], columns: dict[str, Any] | None = None, name: str = "test") -> Group:
    """Return a group whose flows hold ids of agents in two columns."""
    flows = {"source": "flows", "columns": {"agent": REWRITE, "steps": REWRITE} if columns is None else columns}
    return make_group(path, *more, flows, name=name)


def uuid_of(connection: Connection, old_id: str) -> str:
    """Return the UUID that an id became."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT new_id::text FROM migration.id_map WHERE old_id = %s", (old_id,))
        (found,) = cursor.fetchone() or ("",)
    connection.rollback()
    return str(found)


def change(path: Path, script: str) -> None:
    """Let a service write to its file."""
    with closing(sqlite3.connect(path)) as opened:
        opened.executescript(script)


def findings(connection: Connection, group: Group, tmp_path: Path) -> str:
    """Return what the validation finds in the record of the ids."""
    result: dict[str, Any] = validation.validate(connection, group, str(tmp_path / "work"), ask_services=False)
    return "\n".join(
        f"{found['where']}: {found['what']}" for found in result["findings"] if "rewritten" in found["where"]
    )


def way_of(connection: Connection, group: Group, tmp_path: Path) -> str:
    """Run the engine once, and return the way that it took; the result is proven equal."""
    report = rehearse(connection, group, tmp_path)["report"]
    assert all(table["equal"] for table in report["tables"])
    return str(report["way"])


@pytest.fixture
def loaded(connection: Connection, tmp_path: Path) -> tuple[Path, Group]:
    """Flows that were loaded with the ids of their agents; the text a-2 is no id."""
    make_target(connection, TARGET)
    rows = [(1, "a-1", '["a-1", "a-2"]', "x"), (2, "a-2", '["a-2"]', "y")]
    flows = flows_of(tmp_path / "flows.db", *rows, agents=["a-1"])
    group = group_of(flows, {"source": "agents"})
    rehearse(connection, group, tmp_path)
    return flows, group


def test_the_proof_of_a_cutover_can_be_repeated(
    connection: Connection, loaded: tuple[Path, Group], tmp_path: Path
) -> None:
    flows, group = loaded
    run = rehearse(connection, group, tmp_path)["report"]
    edited = group_of(flows, {"source": "agents"}, columns={})
    for asked in (group, edited):
        result: dict[str, Any] = {"information": []}
        findings: list[Any] = []
        check_proof(connection, asked, run, str(tmp_path / "work"), result, findings)
        assert (findings, result) == ([], {"information": [], "proof_repeated": True})
        assert [counts.total for counts in count_changes(connection, asked, flows, tmp_path).values()] == [0, 0]


def rows_of_target(connection: Connection) -> list[tuple[Any, ...]]:
    """Return all flows in PostgreSQL."""
    return query(connection, "SELECT * FROM app.flows ORDER BY id")


def test_a_load_that_is_repeated_and_rounds_of_catching_up(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TARGET)
    flows = flows_of(tmp_path / "t.db", (1, "a-1", '["a-1"]', None), agents=["a-1"])
    group = group_of(flows, {"source": "agents"})
    assert way_of(connection, group, tmp_path) == migrate.PLAIN_ROWS
    recorded = query(connection, "SELECT ctid, * FROM migration.rewritten_id")
    assert len(recorded) == 1
    assert not rehearse(connection, group, tmp_path)["changed"]
    change(flows, "INSERT INTO flows VALUES (2, 'a-1', '{\"by\": \"a-1\"}', NULL); UPDATE flows SET note = 'a-1'")
    assert way_of(connection, group, tmp_path) == migrate.CHANGED_ROWS
    # The same ids are not written again.
    assert query(connection, "SELECT ctid, * FROM migration.rewritten_id") == recorded
    # A new id makes one of what was a mere text before, also in rows that nobody has touched.
    change(flows, "INSERT INTO flows VALUES (3, 'a-2', NULL, NULL)")
    assert way_of(connection, group, tmp_path) == migrate.CHANGED_ROWS
    change(flows, "INSERT INTO agents VALUES ('a-2')")
    assert way_of(connection, group, tmp_path) == migrate.PLAIN_ROWS
    one, two = uuid_of(connection, "a-1"), uuid_of(connection, "a-2")
    assert rows_of_target(connection) == [
        (1, one, [one], "a-1"), (2, one, {"by": one}, "a-1"), (3, two, None, None),
    ]  # fmt: skip
    _, copy = bring_back(connection, group)
    assert copy.read_bytes() == flows.read_bytes()


def test_a_rehearsal_says_that_a_new_id_makes_the_downtime_longer(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TARGET)
    flows = flows_of(tmp_path / "t.db", (1, "a-1", "[]", None), agents=["a-1"])
    group = group_of(flows, {"source": "agents"})
    said = rehearsal.rehearse(connection, group, str(tmp_path / "work"))["msg"]
    assert re.search(
        r"If a row of app\.agents comes or goes before the cutover, the final sync loads all rows again"
        r", which took \S+ s, because 'rewrite_ids_of' names their ids: the downtime is longer by that time",
        said,
    )
    without = group_of(flows, {"source": "agents"}, columns={})
    assert "loads all rows again" not in rehearsal.rehearse(connection, without, str(tmp_path / "work"))["msg"]


def test_an_inventory_that_was_edited_after_the_load_does_not_change_the_rollback(
    connection: Connection, tmp_path: Path
) -> None:
    make_target(connection, TARGET)
    flows = flows_of(tmp_path / "t.db", (1, "a-1", '["a-1"]', "a-1"), agents=["a-1"])
    rehearse(connection, group_of(flows, {"source": "agents"}), tmp_path)
    for columns in ({}, {"note": REWRITE}):
        edited = group_of(flows, {"source": "agents"}, columns=columns)
        _, copy = bring_back(connection, edited)
        assert copy.read_bytes() == flows.read_bytes()
    # A load goes by the inventory again, and forgets what it does not rewrite.
    assert way_of(connection, group_of(flows, {"source": "agents"}, columns={}), tmp_path) == migrate.PLAIN_ROWS
    assert rows_of_target(connection) == [(1, "a-1", ["a-1"], "a-1")]
    assert query(connection, "SELECT * FROM migration.rewritten_id") == []


def test_a_rollback_and_a_new_cutover(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TARGET)
    flows = flows_of(tmp_path / "t.db", (1, "a-1", '["a-1"]', None), agents=["a-1"])
    group = group_of(flows, {"source": "agents"})
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.agents VALUES ('0f8fad5b-d9cb-469f-a165-70867728950e')")
    execute(
        connection,
        "INSERT INTO app.flows SELECT 2, id::text, jsonb_build_array(id, 'b-1'), NULL FROM app.agents WHERE id <> %s",
        uuid_of(connection, "a-1"),
    )
    execute(connection, "UPDATE app.flows SET steps = steps || '[7]' WHERE id = 1")
    moved = rows_of_target(connection)
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT agent, steps FROM flows WHERE id = 1") == [("a-1", '["a-1", 7]')]
    copy.replace(flows)
    execute(connection, "TRUNCATE app.agents, app.flows")
    assert way_of(connection, group, tmp_path) == migrate.PLAIN_ROWS
    assert rows_of_target(connection) == moved
    change(flows, "INSERT INTO agents VALUES ('b-1')")
    way_of(connection, group, tmp_path)
    assert rows_of_target(connection)[1][2] == [moved[1][1], uuid_of(connection, "b-1")]


@pytest.mark.parametrize("kind", ["text", "jsonb", "json"])
def test_old_ids_that_a_service_writes_on_postgresql_come_back_as_they_are(
    connection: Connection, tmp_path: Path, kind: str
) -> None:
    make_target(connection, TARGET + f"CREATE TABLE t (id integer PRIMARY KEY, v {kind}, n integer)")
    script = AGENTS + "CREATE TABLE t (id INTEGER PRIMARY KEY, v, n)"
    rows = [(number, '["a-1"]', number) for number in (1, 2, 3)]
    source = make_source(tmp_path / "t.db", script, {"agents": [("a-1",)], "t": rows})
    source.chmod(0o600)
    group = make_group(source, {"source": "agents"}, {"source": "t", "columns": {"v": REWRITE}})
    rehearse(connection, group, tmp_path)
    execute(connection, "UPDATE app.t SET v = '[\"a-1\", 1]' WHERE id = 1")
    execute(connection, "UPDATE app.t SET n = 7 WHERE id = 2")
    execute(connection, "INSERT INTO app.t VALUES (9, '[\"a-1\"]', 9)")
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT * FROM t") == [
        (1, '["a-1", 1]', 1), (2, '["a-1"]', 7), (3, '["a-1"]', 3), (9, '["a-1"]', 9),
    ]  # fmt: skip
    # Beside the UUID that it became, such an id cannot be told from it in the file: both stay as they stand.
    new = uuid_of(connection, "a-1")
    execute(connection, f'UPDATE app.t SET v = \'["a-1", "{new}"]\' WHERE id = 3')
    report, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT v FROM t WHERE id = 3") == [(f'["a-1", "{new}"]',)]
    # Each value that the next move would change, or that names no row of the file, is counted.
    assert report.tables[1].ids_as_written == {"v": 3}
    assert ids_in_description(report) == "3 of t.v"


def ids_in_description(report: ExportReport) -> str:
    """Return what a rollback says of values that hold ids as they were written."""
    whole = {**report.as_dict(), "group": "test", "way": EXPORTED, "downtime_seconds": 1, "services": []}
    found = re.search(r"of the values that services have written, (.*) hold ids that are not as", describe(whole))
    return found.group(1) if found else ""


def test_words_that_are_ids_come_back_and_are_counted(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE roles (id uuid PRIMARY KEY, name text); CREATE TABLE t (id integer, v jsonb)")
    script = "CREATE TABLE roles (id TEXT PRIMARY KEY, name TEXT); CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"
    rows: dict[str, list[tuple[Any, ...]]] = {
        "roles": [("admin", "admin"), ("user", "user")], "t": [(1, '{"role": "admin", "type": "x"}'), (2, "[]")],
    }  # fmt: skip
    source = make_source(tmp_path / "t.db", script, rows)
    source.chmod(0o600)
    table = {"source": "t", "columns": {"v": {"rewrite_ids_of": ["app.roles"]}}}
    group = make_group(source, {"source": "roles"}, table)
    rehearse(connection, group, tmp_path)
    execute(connection, "UPDATE app.t SET v = jsonb_set(v, '{type}', '\"user\"') WHERE id = 1")
    execute(connection, "UPDATE app.t SET v = '[1]' WHERE id = 2")
    report, copy = bring_back(connection, group)
    ((value,),) = rows_of(copy, "SELECT v FROM t WHERE id = 1")
    assert json.loads(value) == {"role": uuid_of(connection, "admin"), "type": "user"}
    assert ids_in_description(report) == "1 of t.v"


def test_an_old_id_whose_row_gets_another_key_comes_back(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE agents (id uuid PRIMARY KEY);"
        "CREATE TABLE t (code text PRIMARY KEY, id integer UNIQUE, u text UNIQUE, v text)",
    )
    script = AGENTS + "CREATE TABLE t (id INTEGER PRIMARY KEY, code TEXT UNIQUE, u TEXT UNIQUE, v TEXT)"
    rows = [(1, "c1", "p", "a-1"), (2, "c2", "q", "x"), (3, "c3", "r", "x")]
    source = make_source(tmp_path / "t.db", script, {"agents": [("a-1",)], "t": rows})
    source.chmod(0o600)
    group = make_group(source, {"source": "agents"}, {"source": "t", "columns": {"v": REWRITE}})
    rehearse(connection, group, tmp_path)
    execute(connection, "UPDATE app.t SET id = 7, v = 'a-1' WHERE code = 'c2'")
    report, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT id, code, v FROM t ORDER BY 1") == [(1, "c1", "a-1"), (3, "c3", "x"), (7, "c2", "a-1")]
    assert report.tables[1].ids_as_written == {"v": 1}
    # Rows that change places are held back until both are free, and each keeps what is known of it.
    execute(connection, "UPDATE app.t SET id = id + 100, u = u || '#'")
    execute(connection, "UPDATE app.t SET id = 1, u = 'q', v = 'a-1' WHERE code = 'c2'")
    execute(connection, "UPDATE app.t SET id = 2, u = 'p', v = 'a-1' WHERE code = 'c1'")
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT id, code, u, v FROM t ORDER BY 1") == [
        (1, "c2", "q", "a-1"), (2, "c1", "p", "a-1"), (103, "c3", "r#", "x"),
    ]  # fmt: skip


def test_uuids_that_the_file_spells_otherwise_are_counted(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TARGET)
    bare, new = "0f8fad5bd9cb469fa16570867728950e", "6fa459ea-ee8a-4ca4-894e-db77e160355e"
    flows = flows_of(tmp_path / "t.db", (1, bare, json.dumps([bare]), None), agents=[bare])
    group = group_of(flows, {"source": "agents"})
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.agents VALUES (%s)", new)
    execute(connection, "INSERT INTO app.flows SELECT 2, %s, jsonb_build_array(id) FROM app.agents LIMIT 1", new)
    execute(connection, "INSERT INTO app.flows SELECT 3, id::text FROM app.agents WHERE id <> %s", new)
    report, copy = bring_back(connection, group)
    # The table gets its new id without hyphens, and a text cannot say that it means that one.
    assert rows_of(copy, "SELECT id FROM agents ORDER BY 1") == [(bare,), (new.replace("-", ""),)]
    assert rows_of(copy, "SELECT agent FROM flows WHERE id > 1") == [(new,), (bare,)]
    assert report.tables[1].ids_as_written["agent"] == 1
    assert "of flows.agent" in ids_in_description(report)


def test_a_uuid_that_the_column_cannot_hold_as_its_id_is_counted(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TARGET + "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    script = "CREATE TABLE agents (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)"
    source = make_source(tmp_path / "t.db", script, {"agents": [(7,), (8,)], "t": [(1, 7)]})
    source.chmod(0o600)
    group = make_group(source, {"source": "agents"}, {"source": "t", "columns": {"v": REWRITE}})
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.t VALUES (2, %s)", uuid_of(connection, "8"))
    report, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT v FROM t") == [(7,), (uuid_of(connection, "8"),)]
    assert ids_in_description(report) == "1 of t.v"


def test_an_unclear_id_that_a_service_writes_comes_back_and_is_counted(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TARGET + "CREATE TABLE orgs (id uuid PRIMARY KEY)")
    script = AGENTS + FLOWS + "CREATE TABLE orgs (id TEXT PRIMARY KEY);"
    source = make_source(tmp_path / "t.db", script, {"agents": [("a-1",), ("one",)], "orgs": [("one",)]})
    source.chmod(0o600)
    columns = {"agent": {"rewrite_ids_of": ["app.agents", "app.orgs"]}}
    group = group_of(source, {"source": "agents"}, {"source": "orgs"}, columns=columns)
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.flows SELECT 1, id::text FROM app.orgs")
    execute(connection, "INSERT INTO app.flows VALUES (2, 'one')")
    one = uuid_of(connection, "a-1")
    execute(connection, "INSERT INTO app.flows VALUES (3, %s), (4, %s)", one, f'{{"{one}": 1}}')
    report, copy = bring_back(connection, group)
    ((first,), *others) = rows_of(copy, "SELECT agent FROM flows ORDER BY id")
    assert [(first,)] == query(connection, "SELECT id::text FROM app.orgs")
    assert others == [("one",), ("a-1",), (f'{{"{one}": 1}}',)]
    assert ids_in_description(report) == "3 of flows.agent"
    # As soon as one of both rows is gone, it is clear whom a text means.
    change(source, "DELETE FROM orgs; INSERT INTO flows VALUES (1, 'one', NULL, NULL)")
    execute(connection, "TRUNCATE app.flows")
    way_of(connection, group, tmp_path)
    assert query(connection, "SELECT agent FROM app.flows") == query(
        connection, "SELECT new_id::text FROM migration.id_map WHERE namespace = 'app.agents' AND old_id = 'one'"
    )


def test_old_ids_of_rows_without_a_number_of_their_own_come_back(connection: Connection, tmp_path: Path) -> None:
    tables = "CREATE TABLE u (v text); CREATE TABLE t (name text, part integer, v text, PRIMARY KEY (name, part))"
    make_target(connection, f"{TARGET}{tables};")
    script = f"{AGENTS}{tables} WITHOUT ROWID;"
    content: dict[str, list[tuple[Any, ...]]] = {
        "agents": [("a-1",)], "t": [("x", 1, "a-1")], "u": [("a-1",), ("b",)],
    }  # fmt: skip
    source = make_source(tmp_path / "t.db", script, content)
    source.chmod(0o600)
    holders = [{"source": name, "columns": {"v": REWRITE}} for name in ("t", "u")]
    group = make_group(source, {"source": "agents"}, *holders)
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.t VALUES ('x', 2, 'a-1')")
    execute(connection, "INSERT INTO app.u VALUES ('a-1'), ('a-1')")
    execute(connection, "UPDATE app.t SET v = 'a-1' WHERE part = 1")
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT * FROM t") == [("x", 1, "a-1"), ("x", 2, "a-1")]
    assert sorted(rows_of(copy, "SELECT v FROM u")) == [("a-1",), ("a-1",), ("a-1",), ("b",)]


def test_an_old_id_comes_back_in_a_new_row_of_which_the_file_gives_a_part_of_the_key(
    connection: Connection, tmp_path: Path
) -> None:
    make_target(connection, TARGET + "CREATE TABLE t (id integer PRIMARY KEY, v text)")
    key = "tenant TEXT NOT NULL DEFAULT 'x', id INTEGER, v TEXT, PRIMARY KEY (tenant, id)"
    source = make_source(
        tmp_path / "t.db", f"{AGENTS} CREATE TABLE t ({key})", {"agents": [("a-1",)], "t": [("x", 1, "a-1")]}
    )
    source.chmod(0o600)
    columns = {"tenant": {"without_target": "keep"}, "v": REWRITE}
    group = make_group(source, {"source": "agents"}, {"source": "t", "columns": columns})
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.t VALUES (2, 'a-1')")
    report, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT * FROM t") == [("x", 1, "a-1"), ("x", 2, "a-1")]
    assert report.tables[1].ids_as_written == {"v": 1}


def test_a_computed_column_comes_back_by_its_inverse(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TARGET + "CREATE TABLE t (id integer PRIMARY KEY, agent text)")
    script = AGENTS + "CREATE TABLE t (id INTEGER PRIMARY KEY, agent TEXT)"
    source = make_source(tmp_path / "t.db", script, {"agents": [("a-1",)], "t": [(1, "agent:a-1"), (2, None)]})
    source.chmod(0o600)
    table = {
        "source": "t",
        "columns": {"agent": {"without_target": "keep"}, "computed agent": REWRITE},
        "computed": {"agent": {"from": "substr(agent, 7)", "back": "'agent:' || agent"}},
    }
    group = make_group(source, {"source": "agents"}, table)
    rehearse(connection, group, tmp_path)
    new = uuid_of(connection, "a-1")
    assert query(connection, "SELECT * FROM app.t ORDER BY 1") == [(1, new), (2, None)]
    execute(connection, "INSERT INTO app.t VALUES (3, %s), (4, 'a-1')", new)
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT * FROM t") == [(1, "agent:a-1"), (2, None), (3, "agent:a-1"), (4, "agent:a-1")]


def test_a_repaired_row_is_replayed_with_the_ids_of_the_load(
    connection: Connection, loaded: tuple[Path, Group], tmp_path: Path
) -> None:
    flows, _ = loaded
    change(flows, "INSERT INTO flows VALUES (3, 'a-1', '{', NULL), (4, NULL, NULL, 'x')")
    columns = {"agent": REWRITE, "steps": {**REWRITE, "invalid_json": "reject"}}
    group = group_of(flows, {"source": "agents"}, columns=columns)
    rehearse(connection, group, tmp_path)
    for step in ("freeze", "go_live"):
        ledger.take_step(connection, group.name, step, group.source_path)
    connection.commit()
    repaired = [RepairedRow("flows", "id=3", {"steps": '["a-1", "a-2"]'})]
    replay_rejects(connection, group, repaired, work_directory=str(tmp_path / "work"))
    one = uuid_of(connection, "a-1")
    assert rows_of_target(connection)[2] == (3, one, [one, "a-2"], None)
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT agent, steps FROM flows WHERE id < 3") == [
        ("a-1", '["a-1", "a-2"]'),
        ("a-2", '["a-2"]'),
    ]


def test_a_repaired_row_keeps_the_id_that_texts_may_hold(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection, "CREATE TABLE agents (id uuid PRIMARY KEY, level integer); CREATE TABLE t (id integer, v text)"
    )
    script = "CREATE TABLE agents (id TEXT PRIMARY KEY, level); CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"
    rows: dict[str, Any] = {"agents": [("a-1", "high"), ("a-2", 2)], "t": [(1, "a-1")]}
    source = make_source(tmp_path / "t.db", script, rows)
    source.chmod(0o600)
    agents = {"source": "agents", "columns": {"level": {"unconvertible": "reject"}}}
    group = make_group(source, agents, {"source": "t", "columns": {"v": REWRITE}})
    rehearse(connection, group, tmp_path)
    for step in ("freeze", "go_live"):
        ledger.take_step(connection, group.name, step, group.source_path)
    connection.commit()
    key = query(connection, "SELECT row_key FROM migration.reject")[0][0]
    with pytest.raises(MigrationError, match=r"agents: the row id='?a-1'? would get another id, and 'rewrite_ids_of'"):
        replay_rejects(connection, group, [RepairedRow("agents", key, {"level": 1, "id": "a-9"})])
    replay_rejects(connection, group, [RepairedRow("agents", key, {"level": 1})])
    assert query(connection, "SELECT a.level, t.v = a.id::text FROM app.agents a, app.t ORDER BY 1") == [
        (1, True),
        (2, False),
    ]
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT level, v FROM agents JOIN t ON agents.id = v") == [(1, "a-1")]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM migration.rewritten_id WHERE old_id = 'a-1'",
        "UPDATE migration.rewritten_id SET old_id = 'b' WHERE old_id = 'a-1'",
        "INSERT INTO migration.rewritten_id SELECT group_name, ids_hash, 'y', new_id FROM migration.rewritten_id",
        "TRUNCATE migration.rewritten_id",
    ],
)
def test_a_record_that_somebody_has_changed_is_never_believed(
    connection: Connection, loaded: tuple[Path, Group], tmp_path: Path, statement: str
) -> None:
    flows, holders = loaded
    assert findings(connection, holders, tmp_path) == ""
    execute(connection, statement)
    said = "migration.rewritten_id: what it keeps of group test is not what the last run wrote there"
    assert said in refusal(connection, holders)
    with pytest.raises(MigrationError) as error:
        migrate.compare(connection, holders, str(tmp_path / "work"))
    assert said in str(error.value)
    assert said in findings(connection, holders, tmp_path)
    # Before the cutover the next run knows what it ought to hold.
    assert not rehearse(connection, holders, tmp_path)["changed"]
    assert findings(connection, holders, tmp_path) == ""
    _, copy = bring_back(connection, holders)
    assert copy.read_bytes() == flows.read_bytes()


def test_a_record_whose_table_is_gone_is_a_finding(
    connection: Connection, loaded: tuple[Path, Group], tmp_path: Path
) -> None:
    execute(connection, "DROP TABLE migration.rewritten_id")
    said = "migration.rewritten_id: what it keeps of group test is not what the last run wrote there"
    assert said in findings(connection, loaded[1], tmp_path)
    assert said in refusal(connection, loaded[1])


def test_a_load_that_rewrites_nothing_any_more_needs_no_table_of_ids(
    connection: Connection, loaded: tuple[Path, Group], tmp_path: Path
) -> None:
    execute(connection, "DROP TABLE migration.rewritten_id")
    way_of(connection, group_of(loaded[0], {"source": "agents"}, columns={}), tmp_path)
    assert rows_of_target(connection)[0] == (1, "a-1", ["a-1", "a-2"], "x")


def test_a_text_cannot_name_another_uuid_than_the_row_has(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_target(connection, TARGET)
    flows = flows_of(tmp_path / "t.db", (1, "a-1", "[]", None), agents=["a-1"])
    monkeypatch.setattr(
        known_ids, "converter", lambda column, note: converter(replace(column, namespace="other"), note)
    )
    with pytest.raises(MigrationError, match=r"1 ids became another UUID in texts than migration\.id_map has for them"):
        rehearse(connection, group_of(flows, {"source": "agents"}), tmp_path)
    assert rows_of_target(connection) == []


def test_a_ledger_of_an_older_release_has_no_place_for_the_ids(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TARGET + "DROP TABLE migration.rewritten_id")
    flows = flows_of(tmp_path / "t.db", (1, "a-1", '["a-1"]', None), agents=["a-1"])
    with pytest.raises(MigrationError, match=r"rewritten_id: it does not exist yet\. Run .*1_infrastructure"):
        rehearse(connection, group_of(flows, {"source": "agents"}), tmp_path)
    # All else is as it was without it.
    without = group_of(flows, {"source": "agents"}, columns={})
    way_of(connection, without, tmp_path)
    _, copy = bring_back(connection, without)
    assert copy.read_bytes() == flows.read_bytes()


@pytest.mark.long_search
def test_a_hundred_thousand_ids_take_one_pass(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TARGET)
    count = 100_000
    source = tmp_path / "t.db"
    with closing(sqlite3.connect(source)) as opened:
        opened.executescript(AGENTS + FLOWS)
        opened.executemany("INSERT INTO agents VALUES (?)", ((f"agent-{number}",) for number in range(count)))
        opened.executemany(
            "INSERT INTO flows VALUES (?, ?, ?, NULL)",
            ((number, f"agent-{number * 10}", json.dumps([f"agent-{number}"])) for number in range(count // 10)),
        )
        opened.commit()
    source.chmod(0o600)
    group = group_of(source, {"source": "agents"})
    assert way_of(connection, group, tmp_path) == migrate.PLAIN_ROWS
    assert query(
        connection,
        "SELECT count(*) FROM app.flows AS f JOIN app.agents AS a ON a.id::text = f.agent "
        "JOIN app.agents AS b ON b.id::text = f.steps ->> 0",
    ) == [(count // 10,)]
    # Both columns share one set.
    assert query(connection, "SELECT count(*), count(DISTINCT ids_hash) FROM migration.rewritten_id") == [(count, 1)]
    execute(connection, "UPDATE app.flows SET note = 'x', steps = steps || steps WHERE id = 3")
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT * FROM flows WHERE id = 3") == [(3, "agent-30", '["agent-3", "agent-3"]', "x")]
