"""Rejected rows that are repaired: in the source before the cutover, by a replay after it."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.replay import (
    RepairedRow,
    replay_rejects,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.modules import sqlite_migrate_replay

from .support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login

PROJECT = Path(__file__).resolve().parents[2]
TARGET = """
CREATE TABLE people (id uuid PRIMARY KEY, name varchar(9) NOT NULL, mail text UNIQUE, born timestamptz, secret text);
CREATE TABLE notes (number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner uuid REFERENCES people, n integer,
    twice integer);
"""
SOURCE = """
CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT, mail TEXT, born INTEGER, secret TEXT CHECK (secret <> 'x'));
CREATE TABLE notes (owner TEXT, n, twice INTEGER AS (n * 2));
CREATE TRIGGER forbid BEFORE UPDATE ON people BEGIN SELECT raise(ABORT, 'never'); END;
"""
ROWS: dict[str, Any] = {
    "people": [
        ("ann", "Ann", "a@x", 1704164645678, "s1"),
        ("bob", None, "b@x", 1704164645679, "s2"),
        ("joe", "far too long a name", "a@x", 1704164645680, "s3"),
    ],
}
REJECT_ALL = dict.fromkeys(("null_value", "unconvertible", "orphan", "duplicate", "out_of_range"), "reject")


def group_of(path: Path) -> Group:
    """Return a group that rejects whatever does not fit."""
    people = {"name": REJECT_ALL, "mail": {"duplicate": "reject"}, "secret": {"secret": True}}
    return make_group(
        path,
        {"source": "people", "columns": people},
        {"source": "notes", "columns": {"owner": REJECT_ALL, "n": REJECT_ALL}, "computed": {"number": "rowid"}},
    )


@pytest.fixture
def group(connection: Connection, tmp_path: Path) -> Group:
    """A rehearsed group with four rejected rows."""
    make_target(connection, TARGET)
    source = make_source(tmp_path / "people.db", SOURCE, ROWS)
    with closing(sqlite3.connect(source)) as opened:
        rows = [("ann", 1), ("bob", 2), ("joe", 3), ("ann", "many")]
        opened.executemany("INSERT INTO notes (owner, n) VALUES (?, ?)", rows)
        opened.commit()
    made = group_of(source)
    report = rehearse(connection, made, tmp_path)["report"]
    assert {(reject["table"], reject["key"]) for reject in report["rejects"]} == {
        ("people", "id='bob'"), ("people", "id='joe'"),
        ("notes", "rowid=2"), ("notes", "rowid=3"), ("notes", "rowid=4"),
    }  # fmt: skip
    return made


@pytest.fixture
def live(connection: Connection, group: Group) -> Group:
    """The same group after its cutover."""
    for step in ("freeze", "go_live"):
        ledger.take_step(connection, group.name, step, group.source_path)
    connection.commit()
    return group


def replay(connection: Connection, group: Group, tmp_path: Path, *rows: tuple[str, str, Mapping[str, Any]]) -> Any:
    """Replay rows given as (table, key, values)."""
    repaired = [RepairedRow(*row) for row in rows]
    return replay_rejects(connection, group, repaired, work_directory=str(tmp_path / "work"))


@pytest.mark.promise("rejected-rows-replayed")
def test_a_row_repaired_in_the_source_is_loaded_by_the_next_run(
    connection: Connection, group: Group, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(group.source_path)) as opened:
        opened.executescript("DROP TRIGGER forbid; UPDATE people SET name = 'Bob' WHERE id = 'bob'")
    report = rehearse(connection, group, tmp_path)["report"]
    assert [reject["key"] for reject in report["rejects"]] == ["id='joe'", "rowid=3", "rowid=4"]
    assert query(connection, "SELECT row_key FROM migration.reject ORDER BY 1") == [
        ("id='joe'",), ("rowid=3",), ("rowid=4",),
    ]  # fmt: skip
    assert query(connection, "SELECT number, n FROM app.notes JOIN app.people ON owner = id ORDER BY 1") == [
        (1, 1),
        (2, 2),
    ]


@pytest.mark.promise("rejected-rows-replayed")
def test_repaired_rows_are_replayed_after_the_cutover(connection: Connection, live: Group, tmp_path: Path) -> None:
    before = Path(live.source_path).read_bytes()
    # The services go on writing meanwhile.
    execute(connection, "INSERT INTO app.people VALUES (gen_random_uuid(), 'New', 'n@x', now(), NULL)")
    result = replay(
        connection,
        live,
        tmp_path,
        ("notes", "rowid=2", {}),
        ("notes", "rowid=4", {"n": 21}),
        ("people", "id='bob'", {"name": "Bob", "secret": "x"}),
    )
    assert result["changed"] and len(result["rows"]) == 3
    assert query(connection, "SELECT name, mail, born::text, secret FROM app.people WHERE name = 'Bob'") == [
        ("Bob", "b@x", "2024-01-02 03:04:05.679+00", "x")
    ]
    notes = "SELECT number, name, n, twice FROM app.notes JOIN app.people ON owner = id ORDER BY number"
    assert query(connection, notes) == [
        (1, "Ann", 1, 2), (2, "Bob", 2, 4), (4, "Ann", 21, 42),
    ]  # fmt: skip
    assert query(connection, "SELECT row_key FROM migration.reject ORDER BY 1") == [("id='joe'",), ("rowid=3",)]
    assert query(connection, "SELECT old_id FROM migration.id_map WHERE namespace = 'app.people' ORDER BY 1") == [
        ("ann",), ("bob",),
    ]  # fmt: skip
    originals = "SELECT row_key, column_name, value, reason FROM migration.original_value ORDER BY 1, 2"
    why = "repaired by hand; the row was rejected: name holds NULL, and the target column is NOT NULL"
    assert query(connection, originals) == [
        ("id='bob'", "name", None, why),
        ("id='bob'", "secret", {"text": "s2"}, why),
        (
            "rowid=4",
            "n",
            {"text": "many"},
            "repaired by hand; the row was rejected: n holds text where integer is needed",
        ),
    ]
    runs = "SELECT kind, report -> 'rows' FROM migration.run ORDER BY id DESC LIMIT 1"
    assert query(connection, runs) == [("replay", result["rows"])]
    assert Path(live.source_path).read_bytes() == before
    with pytest.raises(MigrationError, match="no row with the key rowid=2 was rejected"):
        replay(connection, live, tmp_path, ("notes", "rowid=2", {}))


@pytest.mark.promise("rejected-rows-replayed")
@pytest.mark.parametrize(
    ("row", "found"),
    [
        (("people", "id='joe'", {"name": "Joe"}), "people: people_mail_key was refused"),
        (("people", "id='joe'", {"mail": "j@x"}), "rejected again.*id='joe': name holds more .* can: 19"),
        (("people", "id='joe'", {"name": "Joe", "born": "never"}), "people.born: holds text that is not a time"),
        (("people", "id='joe'", {"nick": "J"}), "it has no column nick that could be repaired"),
        (("notes", "rowid=3", {}), "is not present in table"),
        (("notes", "rowid=3", {"twice": 4}), "it has no column twice that could be repaired"),
        (("notes", "rowid=9", {}), "no row with the key rowid=9 was rejected"),
    ],
)  # fmt: skip
def test_what_still_cannot_be_loaded_changes_nothing(
    connection: Connection, live: Group, tmp_path: Path, row: tuple[str, str, dict[str, Any]], found: str
) -> None:
    everything = (
        "SELECT array(SELECT p::text FROM app.people p), array(SELECT n::text FROM app.notes n),"
        " (SELECT count(*) FROM migration.reject), (SELECT count(*) FROM migration.id_map),"
        " (SELECT count(*) FROM migration.original_value), (SELECT count(*) FROM migration.run)"
    )
    before = query(connection, everything)
    with pytest.raises(MigrationError) as error:
        replay(connection, live, tmp_path, ("people", "id='bob'", {"name": "Bob"}), row)
    assert re.search(found, str(error.value), re.DOTALL)
    assert query(connection, everything) == before


def test_a_trigger_that_changes_a_replayed_row_is_found(connection: Connection, live: Group, tmp_path: Path) -> None:
    execute(
        connection,
        "CREATE FUNCTION app.change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.mail := 'other'; RETURN NEW; END $$;"
        "CREATE TRIGGER change BEFORE INSERT ON app.people FOR EACH ROW EXECUTE FUNCTION app.change()",
    )
    with pytest.raises(MigrationError, match="the rows read back from PostgreSQL are not those that were sent"):
        replay(connection, live, tmp_path, ("people", "id='bob'", {"name": "Bob"}))
    assert query(connection, "SELECT count(*) FROM app.people") == [(1,)]


def test_before_the_cutover_the_source_is_the_place_to_repair(
    connection: Connection, group: Group, tmp_path: Path
) -> None:
    with pytest.raises(MigrationError, match=r"its state is 'rehearsed'.*Repair the row in the SQLite file"):
        replay(connection, group, tmp_path, ("notes", "rowid=4", {"n": 1}))
    ledger.take_step(connection, group.name, "freeze", group.source_path)
    connection.commit()
    with pytest.raises(MigrationError, match=r"its state is 'frozen'.*playbooks/4_service_cutover\.yml -l dev again"):
        replay(connection, group, tmp_path, ("notes", "rowid=4", {"n": 1}))


@pytest.mark.promise("rejected-rows-replayed")
def test_a_dry_run_replays_nothing(connection: Connection, live: Group, tmp_path: Path) -> None:
    row = RepairedRow("people", "id='bob'", {"name": "Bob"})
    result = replay_rejects(connection, live, [row], check_mode=True, work_directory=str(tmp_path / "work"))
    assert result["changed"]
    assert query(connection, "SELECT count(*) FROM app.people") == [(1,)]
    filtered = replace(live, tables=(replace(live.tables[0], row_filter="name IS NULL"), live.tables[1]))
    with pytest.raises(MigrationError, match="row_filter leaves a repaired row out"):
        replay_rejects(connection, filtered, [row], work_directory=str(tmp_path / "work"))


def test_the_module_reads_rows_and_knows_the_secrets(live: Group) -> None:
    row = sqlite_migrate_replay.as_row(
        {"table": "people", "key": "id='bob'", "values": {"a": True, "b": {"blob": "00ff"}, "secret": "hush"}}
    )
    assert row == RepairedRow("people", "id='bob'", {"a": 1, "b": b"\x00\xff", "secret": "hush"})
    assert sqlite_migrate_replay.secrets_of(live, [row, RepairedRow("nothing", "id=1", {"secret": "not known"})]) == {
        "hush"
    }
    for value in ([1], {"blob": "0g"}, {"blob": 1}, {"text": "a"}):
        with pytest.raises(MigrationError, match=r"t, id=1: a: its value is"):
            sqlite_migrate_replay.as_row({"table": "t", "key": "id=1", "values": {"a": value}})


PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: sqlite_migrate, tasks_from: replay}
"""


@pytest.mark.promise("rejected-rows-replayed")
def test_the_playbook_replays_and_prints_no_secret(
    connection: Connection, login: Login, live: Group, tmp_path: Path
) -> None:
    shipped = yaml.safe_load((PROJECT / "playbooks" / "replay_rejects.yml").read_text())
    (task,) = shipped[-1]["tasks"]
    assert task["ansible.builtin.import_role"] == {"name": "sqlite_migrate", "tasks_from": "replay"}
    columns = {"name": REJECT_ALL, "secret": {"secret": True}, "mail": {"duplicate": "reject"}}
    entry = {
        "name": live.name,
        "source": {"path": live.source_path},
        "tables": [
            {"source": "people", "target": "app.people", "columns": columns},
            {"source": "notes", "target": "app.notes", "columns": {"owner": REJECT_ALL, "n": REJECT_ALL},
             "computed": {"number": "rowid"}},
        ],
    }  # fmt: skip
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "estate_cutover_groups": [entry],
        "sqlite_migrate_work_directory": str(tmp_path / "work"),
        "sqlite_migrate_login": {
            "login_host": login.host, "login_port": login.port, "login_db": login.database, "login_user": login.user,
            "login_password": login.password, "session_role": login.session_role, "ssl_mode": login.ssl_mode,
        },
        "sqlite_migrate_replay_group": live.name,
        "sqlite_migrate_replay_rows": [
            {"table": "people", "key": "id='bob'", "values": {"name": "Bob", "secret": "hush-hush"}}
        ],
    }  # fmt: skip
    (tmp_path / "play.yml").write_text(PLAY)
    (tmp_path / "variables.json").write_text(json.dumps(variables))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def run(*options: str, **more: str) -> str:
        command = ["ansible-playbook", "-i", "localhost,", "-e", f"@{tmp_path / 'variables.json'}", *options]
        command += [argument for name, value in more.items() for argument in ("-e", f"{name}={value}")]
        done = subprocess.run(
            [*command, str(tmp_path / "play.yml")], env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    assert "the estate's cutover groups are test" in run(sqlite_migrate_replay_group="other")
    assert "changed=1" in run("--check")
    assert query(connection, "SELECT count(*) FROM app.people") == [(1,)]
    output = run("-vvv")
    assert "1 repaired rows are in PostgreSQL, and no longer in migration.reject." in output
    # The file of variables holds it; the module's own arguments and results must not show it.
    results = output[output.index("TASK [sqlite_migrate : Replay | Load") :]
    assert "hush-hush" not in results
    assert query(connection, "SELECT secret FROM app.people WHERE name = 'Bob'") == [("hush-hush",)]
