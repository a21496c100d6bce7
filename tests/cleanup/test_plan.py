"""The cleanup plan: what it says of every kind of file, and that it changes none."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import entry as cleanup_entry
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import plan as cleanup_plan
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import (
    MigrationError,
    Problem,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import open_files
from tests.validation.support import Estate, make_estate

from .support import Cleaned, add_backup, settings_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
print("ready", flush=True)
sys.stdin.readline()
"""


def plan(estate: Estate, *legacy: Path, connection: bool = True, **group: Any) -> dict[str, Any]:
    """Return the plan for an estate."""
    result: dict[str, Any] = cleanup_plan.make_plan(
        estate.connection if connection else None,
        [replace(estate.group, **group)],
        [str(path) for path in legacy],
        settings_of(estate),
        unreachable="" if connection else "there is no server yet",
    )
    return result


def legacy_entry(estate: Estate, path: Path) -> dict[str, Any]:
    """Return the entry of one legacy file."""
    entry: dict[str, Any] = plan(estate, path)["entries"][1]
    return entry


def contents(directory: Path) -> dict[str, tuple[str, int]]:
    """Return hash and time of every file in a directory, the private work directory aside."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in directory.iterdir()
        if path.is_file()
    }


def make_unchecked_wal(path: Path) -> None:
    """Create a database whose rows lie in its ``-wal`` alone, as after a crash."""
    origin = path.with_name("origin.db")
    with closing(sqlite3.connect(origin)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.executescript("CREATE TABLE notes (id INTEGER PRIMARY KEY); INSERT INTO notes VALUES (1), (2), (3)")
        shutil.copy(origin, path)
        shutil.copy(f"{origin}-wal", f"{path}-wal")
    origin.unlink()


@pytest.mark.promise("every-condition-needed")
def test_a_live_source_waits_for_its_soak_time(estate: Estate) -> None:
    result = plan(estate)
    (entry,) = result["entries"]
    assert entry["action"] == cleanup_entry.ARCHIVE
    assert entry["rows"] == {"owners": 2, "pets": 2}
    assert entry["sha256"] == hashlib.sha256(estate.source.read_bytes()).hexdigest()
    assert entry["may_go_at"]
    reasons = "\n".join(entry["unmet"])
    assert "0.0 hours of 7 days" in reasons
    assert "no verified backup" in reasons
    assert len(entry["unmet"]) == 2
    assert not entry["ready"]


def test_after_the_soak_time_only_the_backup_is_missing(estate: Estate) -> None:
    Cleaned(estate, estate.group).soak()
    (entry,) = plan(estate)["entries"]
    assert entry["unmet"] == ["there is no verified backup of PostgreSQL that is newer than the cutover"]
    add_backup(estate.connection)
    (entry,) = plan(estate)["entries"]
    assert entry["ready"]


@pytest.mark.promise("every-condition-needed")
def test_a_backup_that_is_older_than_the_cutover_or_not_verified_does_not_count(estate: Estate) -> None:
    Cleaned(estate, estate.group).soak()
    estate.on_target("INSERT INTO migration.backup VALUES ('old', now() - interval '1 day', now(), 'sha', '{}')")
    estate.on_target("INSERT INTO migration.backup VALUES ('new', clock_timestamp(), NULL, 'sha', '{}')")
    (entry,) = plan(estate)["entries"]
    assert entry["unmet"] == ["there is no verified backup of PostgreSQL that is newer than the cutover"]


@pytest.mark.promise("every-condition-needed")
def test_services_that_are_not_well_keep_the_file(estate: Estate) -> None:
    settings = replace(settings_of(estate), check_services=lambda _connection, group: [f"{group.name} is ill"])
    (entry,) = cleanup_plan.make_plan(estate.connection, [estate.group], [], settings)["entries"]
    assert "zoo is ill" in entry["unmet"]


@pytest.mark.promise("every-condition-needed")
def test_every_unmet_condition_is_named_at_once(estate: Estate, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    elsewhere.write_bytes(b"")
    good, bad, own, gone = (tmp_path / name for name in ("good", "bad", "own", "gone"))
    good.symlink_to(estate.source)
    bad.symlink_to(elsewhere)
    own.write_bytes(b"")
    estate.on_source("INSERT INTO pets (name) VALUES ('late')")
    (entry,) = plan(estate, aliases=tuple(str(path) for path in (good, bad, own, gone)))["entries"]
    reasons = "\n".join(entry["unmet"])
    assert f"{bad} leads to {elsewhere} instead" in reasons
    assert f"{own} is no symlink to it but a file of its own" in reasons
    assert "no longer the one recorded at the cutover" in reasons
    assert [link["leads_to"] for link in entry["links"]] == [
        str(estate.source),
        str(elsewhere),
        "a file of its own",
        cleanup_entry.ABSENT,
    ]


def test_a_group_that_is_not_live_keeps_its_source(connection: Connection, tmp_path: Path) -> None:
    estate = make_estate(connection, tmp_path)
    estate.rehearse()
    (entry,) = plan(estate)["entries"]
    assert any("'rehearsed', not 'live'" in reason for reason in entry["unmet"])


@pytest.mark.promise("every-condition-needed")
def test_a_source_in_use_is_named_with_the_process(estate: Estate) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(estate.source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline() == "ready\n"
        (entry,) = plan(estate)["entries"]
    finally:
        process.communicate("\n", timeout=120)
    assert any("it is open in" in reason and str(process.pid) in reason for reason in entry["unmet"])
    assert entry["rows"] == {"owners": 2, "pets": 2}


def test_a_process_that_cannot_be_looked_into_is_no_proof(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> list[Any]:
        raise MigrationError("Nobody may look.", [Problem("process 7", "its files cannot be listed", "Run as root")])

    monkeypatch.setattr(open_files, "find_holders", refuse)
    (entry,) = plan(estate)["entries"]
    assert any("nobody can tell whether it is open: process 7" in reason for reason in entry["unmet"])
    assert entry["total_rows"] == 4


@pytest.mark.promise("legacy-file-counted")
def test_rows_in_the_wal_alone_are_counted_and_nothing_changes(estate: Estate, tmp_path: Path) -> None:
    directory = tmp_path / "legacy"
    directory.mkdir()
    path = directory / "old.db"
    make_unchecked_wal(path)
    before = contents(directory)
    assert set(before) == {"old.db", "old.db-wal"}
    entry = legacy_entry(estate, path)
    assert entry["rows"] == {"notes": 3}
    assert entry["notes"] == ["holds 3 rows that no mapping moves (notes 3): the archive alone will have them"]
    assert contents(directory) == before


def test_an_empty_legacy_file_was_opened_before_it_is_called_empty(estate: Estate, tmp_path: Path) -> None:
    path = tmp_path / "platform.db"
    path.write_bytes(b"")
    result = plan(estate, path)
    entry = result["entries"][1]
    assert (entry["rows"], entry["total_rows"], entry["notes"]) == ({}, 0, [])
    assert "  holds: 0 rows, no table" in result["lines"]


def test_absent_files_are_called_absent(estate: Estate, tmp_path: Path) -> None:
    dangling = tmp_path / "dangling.db"
    dangling.symlink_to("/nonexistent/file.db")
    result = plan(estate, tmp_path / "none.db", dangling)
    assert [entry["action"] for entry in result["entries"][1:]] == [cleanup_entry.ABSENT] * 2
    assert f"legacy file: {tmp_path / 'none.db'}: absent" in result["lines"]
    assert "a symlink that leads nowhere: /nonexistent/file.db" in result["entries"][2]["notes"]


@pytest.mark.parametrize("content", [b"this is no database at all", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_file_that_cannot_be_counted_is_kept(estate: Estate, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.db"
    path.write_bytes(content)
    entry = legacy_entry(estate, path)
    assert entry["action"] == cleanup_entry.KEEP
    assert entry["rows"] is None
    assert any("its rows cannot be counted" in reason for reason in entry["unmet"])


def test_a_directory_is_kept(estate: Estate, tmp_path: Path) -> None:
    (tmp_path / "directory.db").mkdir()
    entry = legacy_entry(estate, tmp_path / "directory.db")
    assert (entry["action"], entry["unmet"][0]) == (cleanup_entry.KEEP, "it is not a regular file")


def test_a_legacy_path_that_leads_to_a_source_is_kept(estate: Estate, tmp_path: Path) -> None:
    link = tmp_path / "legacy.db"
    link.symlink_to(estate.source)
    entry = legacy_entry(estate, link)
    assert entry["action"] == cleanup_entry.KEEP
    assert "source of cutover group zoo" in entry["unmet"][0]


@pytest.mark.promise("plan-id-required")
def test_the_plan_id_stands_for_what_would_be_done(estate: Estate, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    path.write_bytes(b"")
    first = plan(estate, path)["plan_id"]
    assert plan(estate, path)["plan_id"] == first
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    assert plan(estate, path)["plan_id"] != first


@pytest.mark.promise("plan-id-required")
def test_nothing_is_changed_or_left_behind(estate: Estate, tmp_path: Path) -> None:
    before = contents(tmp_path)
    plan(estate)
    assert contents(tmp_path) == before
    assert list(Path(estate.work).iterdir()) == []


def test_without_a_ledger_the_plan_says_so(estate: Estate) -> None:
    (entry,) = plan(estate, connection=False)["entries"]
    assert "the ledger cannot be read: there is no server yet" in entry["unmet"]


def test_the_driver_in_a_package_is_named(estate: Estate, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"dependencies": {"better-sqlite3": "^11.0.0"}}')
    services = tuple(replace(service, directory=str(tmp_path)) for service in estate.group.services)
    result = plan(estate, services=services)
    assert result["packages"][0]["driver"] == "^11.0.0"
    assert any("better-sqlite3 ^11.0.0 of zoo-web" in line for line in result["lines"])
    (tmp_path / "package.json").write_text("[")
    assert "cannot be read" in plan(estate, services=services)["packages"][0]["note"]


def test_the_first_line_says_that_nothing_was_deleted(estate: Estate) -> None:
    result = plan(estate)
    assert result["lines"][0].startswith(f"Cleanup plan {result['plan_id']}: an explanation only.")
