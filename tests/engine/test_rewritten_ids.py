"""Ids that were rewritten inside texts stay those of the load that wrote them, whatever happens afterwards."""

from __future__ import annotations

import json
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
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.convert import known_ids
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.convert.values import (
    converter,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export.export import (
    count_changes,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.replay import (
    RepairedRow,
    replay_rejects,
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
def two_groups(connection: Connection, tmp_path: Path) -> tuple[Path, Group, Group]:
    """Flows that were loaded with the ids of another group, of which one comes to be an id only afterwards."""
    make_target(connection, TARGET)
    agents = make_source(tmp_path / "agents.db", AGENTS, {"agents": [("a-1",)]})
    flows = flows_of(tmp_path / "flows.db", (1, "a-1", '["a-1", "a-2"]', "x"), (2, "a-2", '["a-2"]', "y"))
    owners, holders = make_group(agents, {"source": "agents"}, name="owners"), group_of(flows)
    rehearse(connection, owners, tmp_path)
    rehearse(connection, holders, tmp_path)
    change(agents, "INSERT INTO agents VALUES ('a-2'), ('x')")
    return flows, owners, holders


def test_a_rehearsal_of_another_group_changes_nothing_of_what_was_loaded(
    connection: Connection, two_groups: tuple[Path, Group, Group], tmp_path: Path
) -> None:
    flows, owners, holders = two_groups
    before = migrate.compare(connection, holders, str(tmp_path / "work"))
    way_of(connection, owners, tmp_path)
    assert uuid_of(connection, "a-2")
    assert migrate.compare(connection, holders, str(tmp_path / "work")) == before
    assert before["tables"][0]["equal"]
    assert [counts.total for counts in count_changes(connection, holders, flows, tmp_path).values()] == [0]
    _, copy = bring_back(connection, holders)
    assert copy.read_bytes() == flows.read_bytes()
    execute(connection, "UPDATE app.flows SET note = 'z', steps = steps || steps WHERE id = 1")
    _, copy = bring_back(connection, holders)
    assert rows_of(copy, "SELECT agent, note FROM flows") == [("a-1", "z"), ("a-2", "y")]
    ((steps,),) = rows_of(copy, "SELECT steps FROM flows WHERE id = 1")
    assert json.loads(steps) == ["a-1", "a-2", "a-1", "a-2"]


def test_the_proof_of_a_cutover_can_be_repeated_after_a_rehearsal_of_another_group(
    connection: Connection, two_groups: tuple[Path, Group, Group], tmp_path: Path
) -> None:
    _, owners, holders = two_groups
    run = rehearse(connection, holders, tmp_path)["report"]
    way_of(connection, owners, tmp_path)
    result: dict[str, Any] = {"information": []}
    findings: list[Any] = []
    check_proof(connection, holders, run, str(tmp_path / "work"), result, findings)
    assert (findings, result) == ([], {"information": [], "proof_repeated": True})


def test_a_group_that_refers_to_some_ids_rewrites_all_of_them(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, f"{TARGET} ALTER TABLE flows ALTER agent TYPE uuid USING NULL;")
    agents = make_source(tmp_path / "agents.db", AGENTS, {"agents": [("a-1",), ("a-2",)]})
    flows = flows_of(tmp_path / "flows.db", (1, "a-1", '["a-1", "a-2"]', None))
    columns = {"agent": {"references": "app.agents"}, "steps": REWRITE}
    rehearse(connection, make_group(agents, {"source": "agents"}, name="owners"), tmp_path)
    holders = group_of(flows, columns=columns)
    way_of(connection, holders, tmp_path)
    assert rows_of_target(connection)[0][2] == [uuid_of(connection, "a-1"), uuid_of(connection, "a-2")]
    _, copy = bring_back(connection, holders)
    assert copy.read_bytes() == flows.read_bytes()


def test_an_id_that_is_gone_from_the_file_is_none_any_more(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TARGET)
    flows = flows_of(tmp_path / "t.db", (1, "a-2", "[]", None), agents=["a-1", "a-2"])
    group = group_of(flows, {"source": "agents"})
    rehearse(connection, group, tmp_path)
    change(flows, "DELETE FROM agents WHERE id = 'a-2'")
    way_of(connection, group, tmp_path)
    # As a first load of this file would have it, though the id map remembers the id.
    assert rows_of_target(connection) == [(1, "a-2", [], None)]


def test_the_next_load_rewrites_the_ids_of_its_day(
    connection: Connection, two_groups: tuple[Path, Group, Group], tmp_path: Path
) -> None:
    flows, owners, holders = two_groups
    way_of(connection, owners, tmp_path)
    assert way_of(connection, holders, tmp_path) == migrate.PLAIN_ROWS
    one, two = uuid_of(connection, "a-1"), uuid_of(connection, "a-2")
    assert [row[1:3] for row in rows_of_target(connection)] == [(one, [one, two]), (two, [two])]
    _, copy = bring_back(connection, holders)
    assert copy.read_bytes() == flows.read_bytes()


def test_ids_that_no_text_holds_yet_are_recorded_though_nothing_is_loaded(
    connection: Connection, tmp_path: Path
) -> None:
    make_target(connection, TARGET)
    agents = make_source(tmp_path / "agents.db", AGENTS, {"agents": [("a-1",)]})
    flows = flows_of(tmp_path / "flows.db", (1, "a-1", "[]", None))
    owners, holders = make_group(agents, {"source": "agents"}, name="owners"), group_of(flows)
    rehearse(connection, owners, tmp_path)
    rehearse(connection, holders, tmp_path)
    change(agents, "INSERT INTO agents VALUES ('a-2')")
    rehearse(connection, owners, tmp_path)
    assert not rehearse(connection, holders, tmp_path)["changed"]
    change(flows, "INSERT INTO flows VALUES (2, 'a-2', '[\"a-2\"]', NULL)")
    # One row was moved with the new id: it must come back with it.
    assert way_of(connection, holders, tmp_path) == migrate.CHANGED_ROWS
    assert rows_of_target(connection)[1][1] == uuid_of(connection, "a-2")
    _, copy = bring_back(connection, holders)
    assert copy.read_bytes() == flows.read_bytes()


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
    # Beside the UUID that it became, such an id cannot be told from it in the file.
    new = uuid_of(connection, "a-1")
    execute(connection, f'UPDATE app.t SET v = \'["a-1", "{new}"]\' WHERE id = 3')
    assert "t.v: holds ids of the file beside UUIDs that such became" in refusal(connection, group)


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
    connection: Connection, two_groups: tuple[Path, Group, Group], tmp_path: Path
) -> None:
    flows, owners, _ = two_groups
    change(flows, "INSERT INTO flows VALUES (3, 'a-1', '{', NULL), (4, NULL, NULL, 'x')")
    columns = {"agent": REWRITE, "steps": {**REWRITE, "invalid_json": "reject"}}
    group = group_of(flows, columns=columns)
    rehearse(connection, group, tmp_path)
    for step in ("freeze", "go_live"):
        ledger.take_step(connection, group.name, step, group.source_path)
    connection.commit()
    rehearse(connection, owners, tmp_path)
    repaired = [RepairedRow("flows", "id=3", {"steps": '["a-1", "a-2"]'})]
    replay_rejects(connection, group, repaired, work_directory=str(tmp_path / "work"))
    one = uuid_of(connection, "a-1")
    assert rows_of_target(connection)[2] == (3, one, [one, "a-2"], None)
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT agent, steps FROM flows WHERE id < 3") == [
        ("a-1", '["a-1", "a-2"]'),
        ("a-2", '["a-2"]'),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM migration.rewritten_id WHERE old_id = 'a-1'",
        "UPDATE migration.rewritten_id SET old_id = 'b' WHERE old_id = 'a-1'",
        "INSERT INTO migration.rewritten_id SELECT group_name, ids_hash, 'y', new_id FROM migration.rewritten_id",
    ],
)
def test_a_record_that_somebody_has_changed_is_never_believed(
    connection: Connection, two_groups: tuple[Path, Group, Group], tmp_path: Path, statement: str
) -> None:
    flows, owners, holders = two_groups
    change(Path(owners.source_path), "DELETE FROM agents WHERE id <> 'a-1'")
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
