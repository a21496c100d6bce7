"""The plan that a run names: what its id stands for, what differs from it, and each way around it."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import EncryptedString
from ansible.template import Templar

from ansible_collections.swarm.sqlite_to_postgresql.plugins.lookup import run_limit
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import (
    Login,
    connected,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover.planned import find
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion import plan
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion.tree import read_tree
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import host_settings
from tests.conftest import PROJECT

from .conftest import Clone

FILES = {"001_notes.sql": "a" * 64, "002_more.sql": "b" * 64}
TREE = "c" * 64
# Nothing answers at this port.
NO_SERVER = Login("127.0.0.1", 1, "none", "nobody")


def described(source: Path) -> dict[str, Any]:
    """Return a cutover group as the inventory describes it."""
    service = {
        "name": "notes",
        "user": "swarm",
        "directory": "/opt/notes",
        "database_role": "notes",
        "schemas": ["notes"],
        "health_url": "http://127.0.0.1:4001/health",
    }
    tables = [{"source": "notes", "target": "notes.notes"}, {"source": "tags", "target": "notes.tags"}]
    return {"name": "notes", "source": {"path": str(source)}, "tables": tables, "services": [service]}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a database with two tables."""
    path = tmp_path / "notes.db"
    change(path, "CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT NOT NULL); CREATE TABLE tags (name TEXT)")
    return path


def change(path: Path, script: str) -> None:
    """Run statements in a database."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def look(source: Path, login: Login = NO_SERVER, /, **differently: Any) -> dict[str, Any]:
    """Return what would be found with a source, described a little differently."""
    return find_there([{**described(source), **differently}], login, FILES, str(source.parent / "work"))


def differences(planned: dict[str, Any], found: dict[str, Any], made_at: str = "") -> list[str]:
    """Return what differs from a plan that was made just now."""
    return plan.differences(planned, found, made_at or datetime.now(UTC).isoformat())


def find_there(*arguments: Any) -> dict[str, Any]:
    """Return what would be found on this machine, of which the inventory says nothing else."""
    found = find(*arguments)
    found["decides"].update(machine="this one", settings={})
    found["shown"]["is_marked"] = True
    return found


# --- what the id stands for ---------------------------------------------------------------------


def id_of(found: dict[str, Any], **differently: Any) -> str:
    """Return the id of a plan that decides what was found on one host."""
    content = {"made_at": "2026-01-01T00:00:00+00:00", "by": "anna", "tree": TREE, "hosts": {"a": found["decides"]}}
    return plan.plan_id({**content, **differently})


@pytest.mark.promise("run-keeps-to-its-plan")
def test_what_decides_stays_while_services_write(source: Path) -> None:
    before = look(source)
    change(source, "INSERT INTO notes VALUES ('a', 'b'); CREATE INDEX quick ON notes (body)")
    after = look(source)
    assert before["shown"]["groups"]["notes"]["bytes"] < after["shown"]["groups"]["notes"]["bytes"]
    assert id_of(before) == id_of(after)
    assert differences(before["decides"], after["decides"]) == []


def test_an_address_of_a_service_may_hold_a_secret_and_is_not_hashed(source: Path) -> None:
    service = described(source)["services"][0]
    addresses = {"health_url": "http://anna:word@127.0.0.1:4001/health", "query_url": "http://127.0.0.1/q?key=word"}
    found = [
        look(source),
        look(source, services=[{**service, **addresses}]),
        look(source, services=[{**service, "user": "x"}]),
    ]
    digests = [one["decides"]["groups"]["notes"]["services"] for one in found]
    assert digests[0] == digests[1] != digests[2]


def test_the_id_stands_for_everything_in_the_plan(source: Path) -> None:
    found = look(source)
    others: tuple[dict[str, Any], ...] = (
        {"tree": "d" * 64},
        {"made_at": "2026-01-02T00:00:00+00:00"},
        {"by": "ben"},
        {"hosts": {"b": {}}},
    )
    assert len({id_of(found), *(id_of(found, **other) for other in others)}) == 5


@pytest.mark.promise("run-keeps-to-its-plan")
@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("ALTER TABLE notes ADD COLUMN extra TEXT", "notes: table notes of its source has other columns: extra TEXT"),
        ("CREATE TABLE more (a)", "notes: table more is new"),
        ("DROP TABLE tags", "notes: table tags is there no more"),
    ],
)
def test_a_source_of_another_structure_is_another_plan(source: Path, script: str, told: str) -> None:
    before = look(source)
    change(source, script)
    after = look(source)
    assert id_of(before) != id_of(after)
    assert differences(before["decides"], after["decides"]) == [told]


@pytest.mark.promise("run-keeps-to-its-plan")
def test_what_the_inventory_of_the_environment_says_is_part_of_the_plan(source: Path) -> None:
    before = look(source)["decides"]
    entry = described(source)
    tables = [{**entry["tables"][0], "target": "notes.others"}, entry["tables"][1]]
    services = [{**entry["services"][0], "directory": "/opt/others"}]
    others: list[tuple[dict[str, Any], str]] = [
        ({"tables": tables}, "notes: the mapping of table notes has changed"),
        ({"services": services}, "notes: service notes has changed"),
        (
            {"source": {"path": str(source), "aliases": ["/opt/a.db"]}},
            "describes its source otherwise",
        ),
    ]
    for differently, told in others:
        found = look(source, **differently)["decides"]
        assert told in "; ".join(differences(before, found))
    renamed = find_there([{**entry, "name": "others"}], NO_SERVER, FILES, "/nowhere")["decides"]
    assert differences(before, renamed) == ["cutover group notes is there no more", "cutover group others is new"]
    edited = find_there([entry], NO_SERVER, {**FILES, "002_more.sql": "0" * 64}, "/nowhere")["decides"]
    assert differences(before, edited) == ["SQL file 002_more.sql has changed"]


def test_a_source_that_cannot_be_read_is_refused_and_nothing_is_left_behind(source: Path, login: Login) -> None:
    planned = look(source)["decides"]
    source.write_bytes(b"no database at all, but some text")
    with pytest.raises(MigrationError, match="not an SQLite database"):
        look(source, login)
    source.unlink()
    with pytest.raises(MigrationError, match="the file does not exist"):
        look(source, login)
    # While no server answers, the group may be on PostgreSQL, and its source in quarantine.
    gone = look(source)
    told = differences(planned, gone["decides"])
    assert told == [f"notes: its source {source} cannot be read any more"]
    assert f"2 tables, but {source} cannot be read." in "\n".join(
        plan.lines("0" * 12, "prod", TREE, {"a": gone}, "it", "the mark")
    )
    assert list(source.parent.iterdir()) == []


def test_a_source_with_rows_in_its_journal_is_read_as_it_is(source: Path) -> None:
    with closing(sqlite3.connect(source)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE later (a INTEGER)")
        writer.commit()
        assert look(source)["decides"]["groups"]["notes"]["columns"]["later"] == ["a INTEGER"]
        # A writer at work is not disturbed, and what it has not committed is not seen.
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("ALTER TABLE later ADD COLUMN b")
        assert look(source)["decides"]["groups"]["notes"]["columns"]["later"] == ["a INTEGER"]
        writer.rollback()


def test_a_look_leaves_nothing_beside_a_source_of_a_stopped_service(source: Path, tmp_path: Path) -> None:
    """With a write-ahead log that was folded into the file, one of a killed service, and without its index."""
    with closing(sqlite3.connect(source)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE later (a INTEGER)")
        writer.commit()
        killed = tmp_path / "killed"
        killed.mkdir()
        for suffix in ("", "-wal"):
            (killed / f"notes.db{suffix}").write_bytes(Path(f"{source}{suffix}").read_bytes())
    assert Path(f"{source}-wal").exists() is False
    for path in (source, killed / "notes.db"):
        before = {entry: entry.read_bytes() for entry in path.parent.iterdir() if entry.is_file()}
        assert look(path)["decides"]["groups"]["notes"]["columns"]["later"] == ["a INTEGER"]
        assert {entry: entry.read_bytes() for entry in path.parent.iterdir() if entry.is_file()} == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_source_is_opened_with_the_rights_of_its_owner(source: Path) -> None:
    """A service that puts a link to somebody else's file at the source's place learns nothing of it."""
    nobody = 65534
    # Nobody may enter pytest's own directory.
    with tempfile.TemporaryDirectory() as directory:
        own, foreign = Path(directory) / "notes.db", Path(directory) / "foreign.db"
        Path(directory).chmod(0o755)
        for path in (own, foreign):
            path.write_bytes(source.read_bytes())
            path.chmod(0o600)
        os.chown(own, nobody, nobody)
        assert look(own)["decides"]["groups"]["notes"]["columns"]["tags"] == ["name TEXT"]
        own.unlink()
        own.symlink_to(foreign)
        assert look(own)["decides"]["groups"]["notes"]["columns"]["tags"] == ["name TEXT"]
        os.chown(own, nobody, nobody, follow_symlinks=False)
        assert look(own)["decides"]["groups"]["notes"]["columns"] is None


# --- what is no difference ----------------------------------------------------------------------


def take(login: Login, *steps: str) -> None:
    """Take a group through steps of its life."""
    with connected(login) as connection:
        for step in steps:
            ledger.take_step(connection, "notes", step, "/opt/notes.db")
        connection.commit()


@pytest.mark.promise("run-keeps-to-its-plan")
def test_what_the_planned_work_has_changed_is_no_difference(source: Path, login: Login) -> None:
    """A run that was interrupted anywhere goes on under the same plan; a later plan does not go back."""
    before = look(source)
    assert (before["decides"]["server"], before["decides"]["pending"]) == (0, sorted(FILES))
    found = [before, look(source, login)]
    # There was no server at the same address.
    before["decides"]["login"] = found[1]["decides"]["login"]
    with connected(login) as connection, connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER)
        for number, name in enumerate(FILES, 1):
            cursor.execute(
                "INSERT INTO migration.applied_file (number, name, sha256, duration_ms, catalog) "
                "VALUES (%s, %s, %s, 1, '{}')",
                (number, name, FILES[name]),
            )
            connection.commit()
            found.append(look(source, login))
    for step in ("rehearse", "freeze", "go_live"):
        take(login, step)
        found.append(look(source, login))
    assert found[1]["decides"]["server"] >= 15
    assert [entry["decides"]["groups"]["notes"]["state"] for entry in found[-3:]] == ["rehearsed", "frozen", "live"]
    ids = [id_of(entry) for entry in found]
    assert len(set(ids)) == len(ids)
    for index, planned in enumerate(found):
        for later in found[index:]:
            assert differences(planned["decides"], later["decides"]) == []
    for earlier in found[:4]:
        assert differences(found[-1]["decides"], earlier["decides"]) != []
    told = differences(found[-1]["decides"], found[0]["decides"])
    assert "none answers" in told[0]
    assert told[1:] == [
        "SQL files are to be applied that were applied already: 001_notes.sql, 002_more.sql",
        "notes: its state was 'live', and now is 'pending'",
        "notes: table notes is new",
        "notes: table tags is new",
    ]


@pytest.mark.promise("run-keeps-to-its-plan")
def test_a_group_that_went_back_needs_a_new_plan(source: Path, login: Login) -> None:
    with connected(login) as connection, connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER)
        connection.commit()
    planned = look(source, login)
    take(login, "rehearse", "freeze", "go_live", "roll_back")
    back = look(source, login)
    told = differences(planned["decides"], back["decides"])
    assert told == ["notes: its state was 'pending', and now is 'rolled_back'"]
    # The new one brings it there again.
    for step in ("rehearse", "freeze", "go_live"):
        take(login, step)
        assert differences(back["decides"], look(source, login)["decides"]) == []


@pytest.mark.promise("run-keeps-to-its-plan")
def test_a_window_that_failed_leads_back_to_its_begin(source: Path, login: Login) -> None:
    with connected(login) as connection, connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER)
        connection.commit()
    take(login, "rehearse", "freeze")
    frozen = look(source, login)
    take(login, "thaw")
    assert differences(frozen["decides"], look(source, login)["decides"]) == []


def test_a_rollback_that_was_interrupted_since_is_a_difference(source: Path) -> None:
    planned = look(source)["decides"]
    found = copy.deepcopy(planned)
    found["groups"]["notes"]["interrupted"] = "undo"
    told = differences(planned, found)
    assert told == ["notes: a rollback was interrupted since, and the run would undo it"]
    assert differences(found, planned) == []


# --- what was planned without the server --------------------------------------------------------


@pytest.mark.promise("run-keeps-to-its-plan")
def test_a_plan_that_was_made_without_the_server_fits_no_older_ledger(source: Path, login: Login) -> None:
    """While it is down, every group looks as if it had never been moved."""
    blind = look(source)["decides"]
    with connected(login) as connection, connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER)
        cursor.execute(
            "INSERT INTO migration.applied_file (number, name, sha256, applied_at, duration_ms, catalog) "
            "VALUES (1, '001_notes.sql', %s, '2026-01-01 12:00+00', 1, '{}')",
            (FILES["001_notes.sql"],),
        )
        connection.commit()
    take(login, "rehearse", "freeze", "go_live")
    found = look(source, login)["decides"]
    blind["login"] = found["login"]
    told = "a ledger is there since 2026-01-01T12:00:00+00:00, which the plan did not see"
    assert differences(blind, found) == [told]
    assert differences(blind, found, "2026-01-01T11:59:00+00:00") == []
    another = {**found, "ledger_since": "2026-01-02T12:00:00+00:00"}
    assert "its ledger began at 2026-01-01T12:00:00+00:00, and now another is there" in differences(found, another)[0]


@pytest.mark.promise("run-keeps-to-its-plan")
def test_a_ledger_of_tables_that_an_application_made_begins_with_the_first_run(source: Path, login: Login) -> None:
    with connected(login) as connection, connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER)
        connection.commit()
        planned = look(source, login)["decides"]
        assert planned["ledger_since"] == ""
        cursor.execute(
            "INSERT INTO migration.run (group_name, kind, started_at, finished_at, report) VALUES "
            "('notes', 'rehearsal', '2026-01-01 11:50+00', '2026-01-01 12:00+00', '{}'), "
            "('notes', 'rehearsal', '2026-01-02 11:50+00', '2026-01-02 12:00+00', '{}')"
        )
        connection.commit()
    found = look(source, login)["decides"]
    told = "a ledger is there since 2026-01-01T12:00:00+00:00, which the plan did not see"
    assert differences(planned, found) == [told]
    assert differences(planned, found, "2026-01-01T11:59:00+00:00") == []


def test_no_sql_file_is_looked_for_where_the_inventory_names_no_directory() -> None:
    """Else it would be the root directory of this machine. No plugin can be loaded here, so a look would fail."""
    path = PROJECT / "roles" / "promotion_gate" / "tasks" / "look.yml"
    (task,) = DataLoader().load_from_file(str(path), trusted_as_template=True)
    templar = Templar(DataLoader(), variables={"__promotion_gate_sql_directory": ""})
    assert templar.template(task["vars"]["__promotion_gate_paths"]) == []


@pytest.mark.promise("run-keeps-to-its-plan")
def test_a_login_that_is_refused_is_not_taken_for_no_server(source: Path, login: Login) -> None:
    there = look(source, login)["decides"]
    wrongs: tuple[dict[str, Any], ...] = (
        {"database": "no_such_database"},
        {"session_role": "no_such_role"},
        {"user": "nobody_at_all"},
    )
    for wrong in wrongs:
        found = look(source, replace(login, **wrong))
        assert "exist" in found["decides"]["refused"] or "authentication" in found["decides"]["refused"]
        found["decides"]["login"] = there["login"]
        assert found["decides"]["refused"] in differences(there, found["decides"])[0]
        assert found["shown"]["silent"] == ""
    found = look(source)
    assert (found["decides"]["refused"], "Connection refused" in found["shown"]["silent"]) == ("", True)


def test_a_certificate_that_is_not_trusted_is_one_of_a_server(source: Path, login: Login) -> None:
    found = look(source, replace(login, ssl_mode="verify-full"))
    assert found["shown"]["silent"] == ""
    assert found["decides"]["refused"] != ""


@pytest.mark.promise("run-keeps-to-its-plan")
def test_no_plan_is_made_of_a_server_that_refuses_the_login(clone: Clone, login: Login) -> None:
    more = f"postgres_port: {login.port}\npostgres_host: {login.host}\npostgres_database: no_such_database\n"
    (clone.root / "inventory" / "group_vars" / "prod" / "more.yml").write_text(more)
    status, output = clone.run("ansible-playbook", "playbooks/plan.yml", "-l", "prod")
    assert status != 0
    assert "There is no plan, because a server answers, and refuses the login." in output
    assert not (clone.root / "reports" / "prod").exists()


@pytest.mark.promise("run-keeps-to-its-plan")
def test_who_cannot_look_may_go_on_with_a_reason(clone: Clone, login: Login) -> None:
    """A source is gone that the ledger, which answers, takes for needed: an old plan locks nobody out."""
    variables = {"host": login.host, "port": login.port, "database": login.database}
    directory = clone.root / "inventory" / "group_vars" / "prod"
    (directory / "more.yml").write_text(
        yaml.safe_dump({f"postgres_{name}": value for name, value in variables.items()})
    )
    passwords = directory / "vault.yml"
    passwords.write_text(passwords.read_text().replace(f"{login.user}: for-tests", f"{login.user}: '{login.password}'"))
    clone.collect(clone.key)
    clone.be_named()
    named = clone.plan()
    nothing = ("playbooks/2_shared_library.yml", "-l", "prod", "--tags", "no_such_tag", *named)
    (clone.host / "registry.db").unlink()
    status, output = clone.run("ansible-playbook", *nothing)
    assert (status != 0, "registry.db: the file does not exist" in output) == (True, True), output
    reason = ("-e", json.dumps({"promotion_override_reason": "The old file is gone, and this very run repairs it."}))
    status, output = clone.run("ansible-playbook", *nothing, *reason)
    assert (status, "registry.db: the file does not exist" in output) == (0, True), output


# --- what the controller knows of a plan --------------------------------------------------------


@pytest.fixture
def problems(source: Path, tmp_path: Path) -> Callable[..., str]:
    """Return a function that says why a run may not keep to a plan that was just made of host a in prod."""
    root = tmp_path / "project"
    name = plan.write(root, "prod", TREE, {"a": look(source)})

    def ask(**differently: Any) -> str:
        given = {"environment": "prod", "name": name, "tree": TREE, "host": "a", "maximum_age_days": 3.0, "fix": "Fix."}
        return "\n".join(map(str, plan.problems_of(root, **{**given, **differently})))

    assert ask() == ""
    return ask


@pytest.mark.promise("run-keeps-to-its-plan")
def test_a_plan_is_known_young_and_of_this_tree_and_host(problems: Callable[..., str], tmp_path: Path) -> None:
    assert "it names no plan" in problems(name="")
    assert "no plan of prod with this id was made" in problems(name="0" * 12)
    assert "no plan of stage with this id was made" in problems(environment="stage")
    assert "it was made for another tree" in problems(tree="d" * 64)
    assert "it says nothing of b" in problems(host="b")
    assert "3.2 days old; 3 are allowed" in problems(now=datetime.now(UTC) + timedelta(days=3.2))
    assert "it was made in the future" in problems(now=datetime.now(UTC) - timedelta(days=1))
    (path,) = (tmp_path / "project" / "reports" / "prod" / "plans").iterdir()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.promise("run-keeps-to-its-plan")
def test_a_plan_that_was_altered_does_not_count(problems: Callable[..., str], tmp_path: Path) -> None:
    (path,) = (tmp_path / "project" / "reports" / "prod" / "plans").iterdir()
    whole = json.loads(path.read_text())
    for change_of in (
        {"tree": "d" * 64},
        {"environment": "stage"},
        {"made_at": "some day"},
        {"made_at": datetime.now(UTC).isoformat()},
        {"by": "somebody else"},
        {"hosts": {**whole["hosts"], "b": whole["hosts"]["a"]}},
    ):
        path.write_text(json.dumps({**whole, **change_of}))
        assert "was altered since it was made" in problems()
    path.write_text("{")
    assert "was altered since it was made" in problems()


@pytest.mark.promise("run-keeps-to-its-plan")
def test_an_id_names_no_other_file(problems: Callable[..., str], tmp_path: Path) -> None:
    (path,) = (tmp_path / "project" / "reports" / "prod" / "plans").iterdir()
    path.rename(path.parent.parent / path.name)
    assert "no plan of prod with this id was made" in problems(name=f"../{path.stem}")


def test_a_plan_can_be_read(source: Path) -> None:
    found = look(source)
    found["shown"]["groups"]["notes"]["rows"] = {"notes": 1234}
    text = "\n".join(plan.lines("0" * 12, "prod", TREE, {"a": found}, "the command", "the mark"))
    for told in (
        "Plan 000000000000 of prod, for the tree cccccccccccc:",
        "a has no PostgreSQL yet that answers. SQL files to apply: 001_notes.sql, 002_more.sql.",
        "This is right only if no group was ever moved there: no server was asked (127.0.0.1:1: ",
        "notes is rehearsed and moved to PostgreSQL: 2 tables",
        "tables: notes to notes.notes (1,234 rows), tags to notes.tags\n",
        "services: notes; files: /opt/notes/.env; expected downtime: known once it is rehearsed",
        "Snapshots need",
        "The plan does not cover passwords, what the services' own files hold, ",
        "Next: the command",
    ):
        assert told in text
    unmarked = {**found, "shown": {**found["shown"], "is_marked": False}}
    hosts = {"a": found, "b": unmarked, "c": unmarked}
    text = "\n".join(plan.lines("0" * 12, "prod", TREE, hosts, "the command", "the mark"))
    assert text.endswith("\nNext, to mark b, c as prod: the mark\nThen: the command")


@pytest.mark.promise("run-keeps-to-its-plan")
def test_the_commands_that_a_run_prints_name_its_plan() -> None:
    """Those that need one; but for what is written to a host, where it has to stay as it is."""
    manager = SimpleNamespace(extra_vars={"plan": "3f0a86c1d2b7"})
    variables = {"hostvars": SimpleNamespace(_variable_manager=manager), "ansible_limit": "prod"}
    variables |= {"environment_name": "prod", "ansible_config_file": str(PROJECT / "ansible.cfg")}
    lookup = run_limit.LookupModule(templar=Templar(DataLoader()))
    assert lookup.run([], variables) == ["prod -e plan=3f0a86c1d2b7"]
    assert lookup.run(["environment"], variables) == ["prod"]
    # What a rollback prints comes after it, and the plan came before.
    assert lookup.run([], variables, plan=False) == ["prod"]
    for name in ("rollback", "restore"):
        text = (PROJECT / "playbooks" / f"{name}.yml").read_text()
        assert text.count("run_limit', plan=false)") == text.count("run_limit'") > 0
    manager.extra_vars["plan"] = "x; reboot"
    assert lookup.run([], variables) == ["prod -e 'plan=x; reboot'"]


# --- a run --------------------------------------------------------------------------------------


@pytest.mark.promise("run-keeps-to-its-plan")
def test_a_run_names_its_plan_and_finds_what_was_planned(clone: Clone) -> None:
    clone.collect(clone.key)
    clone.be_named()
    output = clone.refuses("3_data_migration")
    assert "it names no plan. See what a run would do; it ends with the plan's id: " in output
    assert "ansible-playbook site.yml -l prod --check --diff" in output
    named = clone.plan()
    # A reason that nothing needs leaves no trace.
    unneeded = ("-e", json.dumps({"promotion_override_reason": "Just to be on the safe side."}))
    clone.passes("3_data_migration", *named, *unneeded)
    (written,) = (clone.root / "reports" / "prod" / "runs").iterdir()
    assert (json.loads(written.read_text())["override"], (written.parents[1] / "overrides").exists()) == (None, False)
    # Whatever tags are chosen, the first task compares.
    clone.change_source("ALTER TABLE agents ADD COLUMN extra TEXT")
    options = ("-l", "prod", "--tags", "no_such_tag", *named)
    status, output = clone.run("ansible-playbook", "playbooks/3_data_migration.yml", *options)
    assert (status != 0, "registry: table agents of its source has other columns: extra TEXT" in output) == (True,) * 2
    assert "See what the run would do now, and name that plan: ansible-playbook site.yml -l prod --check" in output
    path = re.search(r"The record of this run is in (\S+)\. Sign it: scripts/sign_evidence\.py path/to/key", output)
    assert path is not None, output
    record = json.loads((clone.root / path[1]).read_text())
    assert (record["verdict"], record["override"]) == ("failed", None)
    assert record["stopped_in"] == {"swarm-prod": "promotion_gate : Plan | Look at what a run would find and do"}
    assert (record["tree"], f"plan={record['plan']}") == (read_tree(clone.root).digest, named[1])
    assert record["evidence"]["sha256"] == hashlib.sha256(clone.record.read_bytes()).hexdigest()
    assert record["evidence"]["signer"] == "anna@example.org"
    reason = "The column was added by the fix itself."
    given = ("-e", json.dumps({"promotion_override_reason": reason}))
    assert "has other columns: extra TEXT" in clone.passes("3_data_migration", *named, *given)
    newest = max((clone.root / "reports" / "prod" / "runs").iterdir())
    record = json.loads(newest.read_text())
    assert (record["verdict"], record["override"]["reason"]) == ("passed", reason)
    # Only the comparison with the host has found something.
    (overridden,) = record["override"]["passed_over"]
    assert "has other columns: extra TEXT" in overridden


@pytest.mark.promise("run-keeps-to-its-plan")
def test_every_module_that_moves_forward_asks_for_the_plan(clone: Clone) -> None:
    """A play of somebody's own in a tree that has evidence; cleanup and a replay name by themselves what they do."""
    asked = ("schema_apply", "shared_library", "sqlite_migrate", "cutover_group")
    names = (*asked, "sqlite_cleanup", "sqlite_migrate_replay")
    tasks = [{f"swarm.sqlite_to_postgresql.{name}": {}, "ignore_unreachable": True} for name in names]
    for task in tasks:
        task["ignore_errors"] = True
    clone.edit("playbooks/own.yml", yaml.safe_dump([{"hosts": "prod", "gather_facts": False, "tasks": tasks}]))
    clone.add("playbooks/own.yml")
    clone.collect(clone.key)
    clone.be_named()
    output = clone.run("ansible-playbook", "playbooks/own.yml", "-l", "prod")[1]
    # Each is told twice: as the message, and among the problems, which Ansible's own output shows too.
    assert output.count("what: it names no plan") == len(asked), output
    command = ("swarm-prod", "-m", "swarm.sqlite_to_postgresql.schema_apply", "--playbook-dir", str(clone.root))
    output = clone.run("ansible", *command, "-e", "plan=3f0a86c1d2b7")[1]
    assert "the command ansible does not compare what it finds with a plan" in output


@pytest.mark.promise("run-keeps-to-its-plan")
def test_a_dry_run_of_a_protected_environment_ends_with_its_plan(clone: Clone) -> None:
    """The last playbook of site.yml, here behind one phase alone."""
    phase = {"import_playbook": "playbooks/2_shared_library.yml"}
    last = yaml.safe_load((PROJECT / "site.yml").read_text())[-1]
    assert last["ansible.builtin.import_playbook"] == "playbooks/plan.yml"
    clone.edit("own.yml", yaml.safe_dump([phase, last]))
    told = re.compile(
        # The host does not say yet that it is prod, and the run alone would be refused.
        r"Next, to mark swarm-prod as prod: ansible-playbook playbooks/1_infrastructure\.yml "
        r"-l prod -e promotion_this_host_is=prod -e (plan=\w{12}) "
        r"Then: ansible-playbook site\.yml -l prod -e (plan=\w{12})"
    )
    status, output = clone.run("ansible-playbook", "own.yml", "-l", "prod", "--check", "--diff", "--tags", "plan")
    ((named, again),) = told.findall(output)
    assert (status, named) == (0, again), output
    reason = json.dumps({"promotion_override_reason": "This playbook is none of the tree."})
    options = ("-e", named, "-e", reason, "--tags", "plan")
    status, output = clone.run("ansible-playbook", "own.yml", "-l", "prod", *options)
    assert (status, "Next:" in output) == (0, False), output
    assert "ok: [swarm-prod]" in output.partition("Plan | Look at what a run would find and do")[2][:90]
    status, output = clone.run("ansible-playbook", "own.yml", "-l", "dev", "--check", "--tags", "plan")
    assert (status, "Next:" in output) == (0, False), output


def test_an_environment_that_is_not_protected_may_use_a_plan(clone: Clone) -> None:
    nothing = ("playbooks/2_shared_library.yml", "-l", "dev", "--tags", "no_such_tag")
    named = clone.plan("dev")
    assert clone.run("ansible-playbook", *nothing, *named)[0] == 0
    clone.change_source("CREATE TABLE more (a)")
    status, output = clone.run("ansible-playbook", *nothing, *named)
    assert (status != 0, "registry: table more is new" in output) == (True, True), output
    assert "What is there is not what was planned, and nothing was changed." in output


def test_a_host_that_failed_leaves_no_plan(clone: Clone) -> None:
    hosts = {host: {"ansible_connection": "local"} for host in ("a", "b")}
    (clone.root / "two.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    fail = {"ansible.builtin.fail": {"msg": "No."}, "when": "inventory_hostname == 'b'"}
    keep = {
        "swarm.sqlite_to_postgresql.promotion_plan_record": {"environment_name": "prod", "found": {"a": {}}},
        "run_once": True,
    }
    plays = [{"hosts": "all", "gather_facts": False, "tasks": [task]} for task in (fail, keep)]
    clone.edit("own.yml", yaml.safe_dump(plays))
    status, output = clone.run("ansible-playbook", "-i", "two.yml", "own.yml")
    assert status != 0
    assert "There is no plan, because it is about all hosts of the run." in output
    assert "b: the dry run has failed there" in output


@pytest.mark.promise("run-keeps-to-its-plan")
@pytest.mark.parametrize("phase", ["1_infrastructure", "2_shared_library", "3_data_migration", "4_service_cutover"])
def test_no_variable_of_the_inventory_takes_the_plan_from_a_phase(phase: str) -> None:
    """What a playbook gives to a role itself counts more than any inventory."""
    first = yaml.safe_load((PROJECT / "playbooks" / f"{phase}.yml").read_text())[0]
    (gate,) = [task for task in first["tasks"] if task["ansible.builtin.import_role"]["name"] == "promotion_gate"]
    assert gate["vars"]["promotion_gate_needs_plan"] is True
    assert gate["vars"]["promotion_gate_leads_back"] is False


BEFORE = """
postgres_port: "{{ named_otherwise }}"
named_otherwise: 1
"""
AFTER = """
postgres_port: "{{ named_otherwise }}"
named_otherwise: 2
postgres_database: other
service_env_on_failure: stay
"""


@pytest.mark.promise("run-keeps-to-its-plan")
def test_a_run_that_goes_elsewhere_is_not_the_planned_one(clone: Clone) -> None:
    """Another target, another policy, and another machine; a password is none of the plan's business."""
    more = clone.root / "inventory" / "group_vars" / "prod" / "more.yml"
    more.write_text(BEFORE)
    clone.collect(clone.key)
    clone.be_named()
    named = clone.plan()
    more.write_text(AFTER)
    passwords = more.with_name("vault.yml")
    passwords.write_text(passwords.read_text().replace("for-tests", "others"))
    (clone.host / "etc" / "machine-id").write_text("2" * 32 + "\n")
    clone.be_named(machine_id="2" * 32)
    options = ("-l", "prod", "--tags", "no_such_tag", *named)
    status, output = clone.run("ansible-playbook", "playbooks/2_shared_library.yml", *options)
    assert status != 0
    assert re.findall(r" - swarm-prod, plan [0-9a-f]{12}: (.*?)\. See", output.partition("fatal: ")[2]) == [
        "it is another machine",
        "the target was swarm_migrator@127.0.0.1:1/swarm, as swarm_owner, "
        "and now is swarm_migrator@127.0.0.1:2/other, as swarm_owner",
        "the inventory's named_otherwise has changed",
        "the inventory's postgres_database has changed",
        "the inventory's service_env_on_failure is new",
    ]


@pytest.mark.promise("run-keeps-to-its-plan")
def test_no_variable_of_the_inventory_empties_a_plan(clone: Clone) -> None:
    """What a plan is about is written in the role, in variables that count more than any inventory."""
    more = clone.root / "inventory" / "group_vars" / "prod" / "more.yml"
    login = {"login_host": "192.0.2.9", "login_db": "a", "login_user": "b", "login_password": "c"}
    others: dict[str, Any] = {"groups": [], "login": login, "sql_directory": "/nowhere", "work_directory": "/nowhere"}
    names = {f"{begin}promotion_gate_{name}": value for begin in ("", "__") for name, value in others.items()}
    more.write_text(yaml.safe_dump(names))
    status, output = clone.run("ansible-playbook", "playbooks/plan.yml", "-l", "prod")
    assert status == 0, output
    (path,) = (clone.root / "reports" / "prod" / "plans").iterdir()
    for told in ("registry is rehearsed and moved to PostgreSQL", "SQL files to apply: 001_", f"in {clone.host}/work;"):
        assert told in output
    assert json.loads(path.read_text())["hosts"]["swarm-prod"]["decides"]["login"].startswith("swarm_migrator@127")


def test_a_secret_has_no_part_in_what_the_inventory_says() -> None:
    """Not even as a hash, which would let a short one be guessed."""
    encrypted = EncryptedString(ciphertext="$ANSIBLE_VAULT;1.1;AES256\n00")
    assert host_settings.without_secrets(
        {
            "login_password": "abc",
            "api_key": "abc",
            "token": ["abc"],
            "address": "https://user:abc@example.org/x",
            "other": [encrypted, {"vault_of_all": "abc", "port": 5432}],
        }
    ) == {"address": "https://example.org/x", "other": ["", {"port": 5432}]}
