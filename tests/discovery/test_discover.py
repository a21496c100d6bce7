"""What is found on this very machine, below a directory with real databases and real processes."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery import render, settings

from .support import SCRIPT, SECRET, holding, legacy_at, look_at, make_database, source_at, state_of


@pytest.mark.promise("discover-finds-every-file")
def test_an_open_file_is_one_source_with_its_aliases_and_its_log(tmp_path: Path) -> None:
    path = make_database(tmp_path / "app" / "data" / "app.db")
    (tmp_path / "app" / "link.db").symlink_to(path)
    with holding(path, mode="wal", directory=tmp_path / "app") as (pid, _):
        found = look_at(tmp_path, tmp_path / "app")
        (source,) = found.sources
        info = path.stat()
    assert source.database.inode == (info.st_dev, info.st_ino)
    assert (source.database.path, source.aliases) == (str(path), (str(tmp_path / "app" / "link.db"),))
    assert source.database.log > 0
    assert source.held
    assert [service.pids for service in source.users] == [frozenset([pid])]
    assert source.draft is not None
    # The third row stands in the log alone.
    assert [(table["source"], table["rows"]) for table in source.draft.tables] == [("users", 3)]


@pytest.mark.promise("discover-finds-every-file")
def test_a_file_that_is_mapped_and_a_deleted_one_are_found(tmp_path: Path) -> None:
    mapped = make_database(tmp_path / "mapped.db")
    deleted = make_database(tmp_path / "deleted.db")
    with holding(mapped, mode="mapped"), holding(deleted):
        deleted.unlink()
        found = look_at(tmp_path)
    assert [source.database.path for source in found.sources] == [str(mapped)]
    (problem,) = [entry for entry in found.problems if "deleted.db" in entry.where]
    assert "its name was deleted" in problem.what


@pytest.mark.promise("discover-finds-every-file")
@pytest.mark.parametrize(
    "value",
    [
        "data/app.db",
        "file:./data/app.db?mode=rw",
        "sqlite:///data/app.db",
        "sqlite:{root}/data/app.db",
        "{root}/data/app.db",
    ],
)
def test_a_setting_that_names_a_file_is_told_by_its_key_alone(tmp_path: Path, value: str) -> None:
    path = make_database(tmp_path / "data" / "app.db")
    other = make_database(tmp_path / "held.db")
    environment = {"STORE_URL": value.format(root=tmp_path)}
    with holding(other, directory=tmp_path, environment=environment):
        found = look_at(tmp_path)
    source = source_at(found, path)
    assert not source.held
    assert [use.keys for use in source.users.values()] == [{"STORE_URL in its environment"}]
    (decision,) = [entry for entry in render.summary(found)["decisions"] if "none of its processes" in entry["what"]]
    assert decision["where"].startswith("inventory/group_vars/all/estate.yml: app, services, ")


def test_values_that_are_no_paths_lead_nowhere() -> None:
    values = {
        "A": "postgres://u:p@h/db.db x",
        "B": "true",
        "C": "",
        "D": "/a\x00b",
        "E": "mysql:thing",
        "F": "sqlite::memory:",
    }
    found = dict(settings.paths_in(values))
    assert "A" not in found
    assert set(found) <= {"F"}


@pytest.mark.promise("discover-counts-unused-files")
def test_what_nobody_uses_is_counted_and_left_as_it_is(tmp_path: Path) -> None:
    full = make_database(tmp_path / "full.db")
    empty = tmp_path / "empty.sqlite"
    empty.touch()
    logged = make_database(tmp_path / "logged.db")
    writer = sqlite3.connect(logged)
    writer.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; INSERT INTO users VALUES (3, 'c', '')"
    )
    (tmp_path / "copy").mkdir()
    for end in ("", "-wal"):
        (tmp_path / "copy" / f"logged.db{end}").write_bytes(Path(f"{logged}{end}").read_bytes())
    writer.close()
    (tmp_path / "text.db").write_text("id,name\n")
    (tmp_path / "node_modules").mkdir()
    make_database(tmp_path / "node_modules" / "package.db")
    (tmp_path / "snapshots").mkdir()
    before = state_of(tmp_path)
    found = look_at(tmp_path, tmp_path)
    after = state_of(tmp_path)
    assert {Path(entry.database.path).name for entry in found.legacy} == {"full.db", "empty.sqlite", "logged.db"}
    assert legacy_at(found, full).rows == {"users": 2}
    assert legacy_at(found, empty).rows == {}
    # The third row stands in the log alone, which nobody has open.
    assert legacy_at(found, tmp_path / "copy" / "logged.db").rows == {"users": 3}
    assert {**after, "snapshots": ()} == {**before, "snapshots": ()}
    decisions = [entry["what"] for entry in render.summary(found)["decisions"]]
    assert f"{full} holds rows: 2 in users, and no service that we know uses it" in decisions


@pytest.mark.promise("discover-finds-every-file")
def test_a_file_that_no_service_uses_is_drafted_if_it_is_to_be_moved(tmp_path: Path) -> None:
    book = make_database(tmp_path / "books" / "2026.gnucash")
    other = make_database(tmp_path / "other.db")
    (tmp_path / "books" / "empty.db").touch()
    found = look_at(tmp_path, tmp_path)
    assert found.sources == []
    (fix,) = [entry["fix"] for entry in render.summary(found)["decisions"] if str(book) in entry["what"]]
    assert f"-e discover_move={book}" in fix

    found = look_at(tmp_path, moved_files=(f"{tmp_path}/books/*", f"{tmp_path}/nothing/*.db"))
    (source,) = found.sources
    assert (source.database.path, source.users, source.held) == (str(book), {}, False)
    (entry,) = yaml.safe_load(render.files(found, "host")[render.ESTATE_FILE])["estate_cutover_groups"]
    assert (entry["name"], entry["services"]) == ("app_2026", [])
    assert [table["source"] for table in entry["tables"]] == ["users"]
    # An empty file holds nothing to move. A file elsewhere was not looked for.
    assert [Path(legacy.database.path).name for legacy in found.legacy] == ["empty.db"]
    (problem,) = found.problems
    assert problem.where == f"discover_move: {tmp_path}/nothing/*.db"
    # The command that the page prints finds the same.
    assert (
        f"-e 'discover_move={tmp_path}/books/*,{tmp_path}/nothing/*.db'"
        in render.files(found, "host")[render.PAGE_FILE]
    )
    found = look_at(tmp_path, moved_files=(str(other),))
    assert [source.database.path for source in found.sources] == [str(other)]


@pytest.mark.parametrize(
    ("key", "value", "settings_drafted"),
    [
        ("STORE_URL", "sqlite:///app.db", {"STORE_URL": "postgresql://"}),
        ("STORE_URL", "sqlite+aiosqlite:///app.db", {"STORE_URL": "postgresql+asyncpg://"}),
        # Nobody knows which driver it would need, what a path alone becomes, or what the role writes anyway.
        ("STORE_URL", "sqlite+pysqlcipher:///app.db", {}),
        ("STORE_FILE", "app.db", {}),
        ("STORE_URL", "file:app.db", {}),
        ("DATABASE_URL", "sqlite:///app.db", {}),
    ],
)
def test_a_setting_that_is_a_url_is_drafted_as_one_of_postgresql(
    tmp_path: Path, key: str, value: str, settings_drafted: dict[str, str]
) -> None:
    database = make_database(tmp_path / "app.db")
    with holding(database, directory=tmp_path, environment={key: value}):
        found = look_at(tmp_path)
    (source,) = found.sources
    (use,) = source.users.values()
    drafted = dict(render.settings_of(use))
    rest = "{user}:{password_in_url}@{host}:{port}/{database}"
    assert drafted == {name: f"{beginning}{rest}" for name, beginning in settings_drafted.items()}
    # A process without a manager stands in the draft as a comment.
    assert ("  settings:" in render.files(found, "host")[render.ESTATE_FILE]) == bool(settings_drafted)


@pytest.mark.promise("discover-counts-unused-files")
def test_a_limit_that_ends_the_search_is_said_and_patterns_leave_files_out(tmp_path: Path) -> None:
    make_database(tmp_path / "a" / "b" / "deep.db")
    make_database(tmp_path / "cache.db")
    found = look_at(tmp_path, tmp_path, depth=1, left_out=[f"{tmp_path}/cache*"])
    assert (found.legacy, found.unfinished) == ([], {str(tmp_path): "depth 1"})
    found = look_at(tmp_path, tmp_path, entries=2)
    assert found.unfinished == {str(tmp_path): "2 entries"}
    (decision,) = [entry for entry in render.summary(found)["decisions"] if "ended at its limit" in entry["what"]]
    assert "discovery_search_entries" in decision["fix"]


@pytest.mark.promise("discover-asks-health")
@pytest.mark.parametrize(("answers", "path"), [("/healthz", "/healthz"), ("/", "/"), ("/nothing", "")])
def test_a_health_address_is_one_that_answered_200(tmp_path: Path, answers: str, path: str) -> None:
    database = make_database(tmp_path / "app.db")
    with holding(database, kind=answers) as (_, port):
        found = look_at(tmp_path)
    (address,) = found.addresses.values()
    assert address.ports == (port,)
    assert address.health_url == (f"http://127.0.0.1:{port}{path}" if path else "")
    decisions = [entry["what"] for entry in render.summary(found)["decisions"] if entry["where"].endswith("health_url")]
    expected = {
        "": f"no health address answered 200 (asked on port {port})",
        "/": "only / answered 200",
        "/healthz": None,
    }
    assert len(decisions) == (expected[path] is not None)
    assert all(str(expected[path]) in what for what in decisions)


@pytest.mark.promise("discover-tells-no-secret")
def test_no_value_of_a_row_or_setting_is_in_what_is_told(tmp_path: Path) -> None:
    path = make_database(tmp_path / "app.db")
    with holding(path, directory=tmp_path, environment={"SERVICE_SECRET": "shh-1618033988", "DB": str(path)}):
        found = look_at(tmp_path)
    written = render.files(found, "here")
    told = json.dumps([render.summary(found), written])
    assert SECRET not in told
    assert "shh-1618033988" not in told
    assert "api_token: {secret: true}" in written[render.ESTATE_FILE]


def test_services_of_one_file_stand_in_one_group_and_a_service_of_two_files_in_one(tmp_path: Path) -> None:
    shared, other = make_database(tmp_path / "shared.db"), make_database(tmp_path / "other.db")
    with holding(shared, other, kind="/health"), holding(shared, kind="/nothing"):
        found = look_at(tmp_path)
    # Both are python3 -c: nobody tells them apart, so they are one service of two processes.
    assert [len(source.users) for source in found.sources] == [1, 1]
    decisions = [entry["what"] for entry in render.summary(found)["decisions"]]
    assert "it uses this source too, and can only move with one group, which is other" in decisions


def test_a_service_that_migrates_itself_is_offered_the_key_as_a_comment(tmp_path: Path) -> None:
    path = make_database(tmp_path / "app.db")
    with holding(path, kind="/health"):
        assert "migrates_itself" not in render.files(look_at(tmp_path), "here")[render.ESTATE_FILE]
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE knex_migrations (id INTEGER PRIMARY KEY, name TEXT)")
        estate = render.files(look_at(tmp_path), "here")[render.ESTATE_FILE]
    assert "# migrates_itself: true  # Knex may go on changing the tables" in estate


def test_a_file_that_cannot_be_drafted_is_a_decision(tmp_path: Path) -> None:
    path = make_database(tmp_path / "app.db")
    with holding(path), closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE users")
        found = look_at(tmp_path)
    assert source_at(found, path).draft is None
    written = render.files(found, "here")
    assert f"# DECIDE: {path} could not be read." in written[render.ESTATE_FILE]
    assert "it holds no table" in json.dumps(render.summary(found)["decisions"])


def test_a_root_service_whose_directory_others_may_change_is_not_read(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be led astray")
    path = make_database(tmp_path / "app" / "app.db")
    os.chown(path.parent, 65534, 65534)
    with holding(path):
        found = look_at(tmp_path)
    assert source_at(found, path).draft is None
    assert any("may be changed by somebody else" in problem.what for problem in found.problems)


def test_the_drafted_inventory_is_yaml_whatever_the_names_are(tmp_path: Path) -> None:
    path = make_database(tmp_path / "it's: {odd}\n#.db", SCRIPT.replace("users", '"a: b #"'))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (id)")
    with holding(path):
        found = look_at(tmp_path)
    inventory = yaml.safe_load(render.files(found, "odd\nhost")[render.ESTATE_FILE])
    (group,) = inventory["estate_cutover_groups"]
    assert group["source"]["path"] == str(path)
    assert [table["source"] for table in group["tables"]] == ["a: b #", "users"]
