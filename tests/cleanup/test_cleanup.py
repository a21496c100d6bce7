"""From a ready estate to the final deletion, and back: every step, every refusal, and a second run."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import soak_check
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import sha256_of
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import (
    safe_paths,
    write_protection,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine import archive
from tests.validation.support import Estate

from .support import Cleaned, add_backup, make_legacy, make_ready


@pytest.fixture
def ready(estate: Estate, tmp_path: Path) -> Cleaned:
    """Return an estate that may be cleaned up: a source with a symlink, an empty and a filled legacy file."""
    (tmp_path / "alias.db").symlink_to(estate.source)
    (tmp_path / "empty.db").write_bytes(b"")
    make_legacy(tmp_path / "old.db")
    return make_ready(estate, [tmp_path / "empty.db", tmp_path / "old.db"], [tmp_path / "alias.db"])


def rows_of(directory: str) -> dict[str, list[Any]]:
    """Return every row of an archive."""
    base = Path(directory)
    copy = base.parent / "unpacked.db"
    copy.write_bytes(gzip.decompress((base / archive.SNAPSHOT).read_bytes()))
    with closing(sqlite3.connect(copy)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
        rows = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}
    copy.unlink()
    return rows


def archive_of(ready: Cleaned, path: Path) -> dict[str, Any]:
    """Return an archive's description in the ledger."""
    with ready.estate.connection.cursor() as cursor:
        cursor.execute("SELECT facts -> 'archive' FROM migration.cleanup_file WHERE path = %s", (str(path),))
        (found,) = cursor.fetchone() or ({},)
    ready.estate.connection.rollback()
    return dict(found)


@pytest.mark.promise("archive-compared", "quarantine-before-deletion")
def test_the_whole_life(ready: Cleaned, tmp_path: Path) -> None:
    source = ready.estate.source
    original = source.read_bytes()
    alias, empty, old = (tmp_path / name for name in ("alias.db", "empty.db", "old.db"))
    plan = ready.explain()
    assert (plan["changed"], [entry["ready"] for entry in plan["entries"]]) == (False, [True, True, True])
    (command,) = (line for line in plan["lines"] if line.startswith("To do what is ready (3): "))
    assert command.endswith(f"sqlite_cleanup_confirm={plan['plan_id']}")
    assert ready.explain()["plan_id"] == plan["plan_id"]

    dry = ready.confirm(plan["plan_id"], check_mode=True)
    assert dry["changed"] is True
    assert source.read_bytes() == original
    assert ready.state() == "live"
    assert not (tmp_path / "archives").exists()

    result = ready.confirm(plan["plan_id"])
    assert result["changed"] is True
    assert ready.state() == "archived"
    for path in (source, alias, empty, old):
        assert (path.is_dir(), path.is_symlink()) == (True, False)
        assert os.listdir(path) == ["README"]
    assert not Path(f"{old}-wal").exists()
    hidden = ready.quarantine_of(source)
    assert (hidden / "database").read_bytes() == original
    assert stat.S_IMODE(hidden.stat().st_mode) == 0o700
    assert os.readlink(hidden / "symlink-1") == str(source)

    described = archive_of(ready, source)
    rows = rows_of(described["directory"])
    assert [row[0] for row in rows["owners"]] == ["ann", "bob"]
    assert rows["pets"] == [(1, "ann", "Rex"), (2, "bob", "Tom")]
    assert rows_of(archive_of(ready, old)["directory"])["notes"] == [(1,), (2,)]
    manifest = json.loads((Path(described["directory"]) / archive.MANIFEST).read_text())
    assert manifest["source_files"][0]["sha256"] == sha256_of(hidden / "database")
    assert manifest["tables"]["pets"]["rows"] == 2
    assert manifest["ledger"]["frozen_sha256"] == manifest["source_files"][0]["sha256"]
    assert manifest["plan_id"] == plan["plan_id"]
    for path in Path(described["directory"]).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    again = ready.confirm(plan["plan_id"])
    assert (again["changed"], again["done"]) == (False, [])
    assert not any(entry["ready"] for entry in again["entries"])

    ready.wait_in_quarantine()
    last = ready.explain()
    assert [entry["action"] for entry in last["entries"]] == ["delete from quarantine"] * 3
    assert [entry["unmet"] for entry in last["entries"]] == [[], [], []]
    assert last["plan_id"] != plan["plan_id"]
    assert ready.confirm(last["plan_id"])["changed"] is True
    assert ready.state() == "removed"
    assert not (tmp_path / "quarantine").exists()
    assert source.is_dir() and alias.is_dir()
    assert rows_of(described["directory"]) == rows
    assert ready.confirm(last["plan_id"])["changed"] is False
    assert set(ready.steps().values()) == {"deleted"}
    with pytest.raises(MigrationError, match=r"Unpack its archive by hand: \S+/snapshot\.db\.gz"):
        ready.restore()


@pytest.mark.promise("file-comes-back")
def test_a_file_comes_back_with_its_protection(ready: Cleaned, tmp_path: Path) -> None:
    source = ready.estate.source
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.db*")}
    inode = source.stat().st_ino
    ready.confirm()
    assert ready.restore(check_mode=True)["changed"] is True
    assert source.is_dir()
    assert ready.restore("zoo", "legacy")["changed"] is True
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.db*")} == before
    assert source.stat().st_ino == inode
    assert (tmp_path / "alias.db").is_symlink()
    assert ready.state() == "live"
    assert not (tmp_path / "quarantine").exists()
    assert ready.steps() == {}
    assert ready.restore("zoo", "legacy")["changed"] is False
    descriptor = os.open(source, os.O_RDONLY)
    assert safe_paths.is_immutable(descriptor) or stat.S_IMODE(source.stat().st_mode) == 0o400
    os.close(descriptor)
    # Whoever brings a file back has a doubt: the soak begins anew.
    (entry, *_) = ready.explain()["entries"]
    assert any("0.0 hours of 7 days" in reason for reason in entry["unmet"])
    ready.soak()
    ready.confirm()
    assert ready.state() == "archived"


@pytest.mark.promise("tombstone-stops-old-programs")
def test_the_tombstone_stops_old_programs(ready: Cleaned) -> None:
    ready.confirm()
    for path in (ready.estate.source, Path(ready.group.aliases[0])):
        for mode in ("rwc", "rw", "ro"):
            with (
                pytest.raises(sqlite3.OperationalError),
                closing(sqlite3.connect(f"file:{path}?mode={mode}", uri=True)) as connection,
            ):
                connection.execute("CREATE TABLE t (a)")
        assert os.listdir(path) == ["README"]


@pytest.mark.promise("plan-id-required")
@pytest.mark.parametrize("attempt", ["000000000000", "", "../../etc"])
def test_an_id_that_was_never_shown_is_refused(ready: Cleaned, attempt: str) -> None:
    with pytest.raises(MigrationError, match="was ever shown"):
        ready.confirm(attempt)
    assert ready.state() == "live"


@pytest.mark.promise("plan-id-required")
def test_an_outdated_id_is_refused_with_the_difference(ready: Cleaned, tmp_path: Path) -> None:
    plan_id = ready.explain()["plan_id"]
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.execute("INSERT INTO notes VALUES (3)")
        connection.commit()
    (tmp_path / "alias.db").unlink()
    with pytest.raises(MigrationError) as caught:
        ready.confirm(plan_id)
    text = str(caught.value)
    assert "is not the present cleanup plan" in text
    assert 'rows: then {"notes": 2}, now {"notes": 3}' in text
    assert "symlinks: then" in text
    assert ready.estate.source.is_file()
    assert ready.steps() == {}


def test_nothing_is_done_before_anything_is_ready(estate: Estate, tmp_path: Path) -> None:
    cleaned = Cleaned(estate, estate.group)
    with pytest.raises(MigrationError, match="Nothing of cleanup plan"):
        cleaned.confirm()
    assert estate.source.is_file()


@pytest.mark.promise("every-condition-needed")
def test_only_what_is_ready_goes(ready: Cleaned, tmp_path: Path) -> None:
    with (tmp_path / "old.db").open("rb"):
        process = subprocess.Popen(["sleep", "600"], stdin=(tmp_path / "old.db").open("rb"))
        try:
            plan = ready.explain()
            assert [entry["ready"] for entry in plan["entries"]] == [True, True, False]
            ready.confirm(plan["plan_id"])
        finally:
            process.kill()
            process.wait()
    assert (tmp_path / "old.db").is_file()
    assert ready.estate.source.is_dir()


def test_a_group_that_was_rolled_back_is_never_touched(ready: Cleaned) -> None:
    plan_id = ready.explain()["plan_id"]
    ledger.take_step(ready.estate.connection, "zoo", "roll_back", str(ready.estate.source))
    ready.estate.connection.commit()
    with pytest.raises(MigrationError, match="is not the present cleanup plan"):
        ready.confirm(plan_id)
    with pytest.raises(MigrationError, match="is 'rolled_back', not 'live'"):
        ready.confirm()
    assert ready.estate.source.is_file()
    assert str(ready.estate.source) not in ready.steps()


@pytest.mark.promise("quarantine-before-deletion")
def test_the_deletion_waits_for_the_second_period(ready: Cleaned) -> None:
    ready.confirm()
    (entry, *_) = ready.explain()["entries"]
    assert any("it has been in quarantine for 0.0 hours of 7 days" in reason for reason in entry["unmet"])
    with pytest.raises(MigrationError, match="Nothing of cleanup plan"):
        ready.confirm()


@pytest.mark.promise("archive-compared")
def test_a_changed_archive_keeps_the_file(ready: Cleaned) -> None:
    ready.confirm()
    ready.wait_in_quarantine()
    directory = Path(archive_of(ready, ready.estate.source)["directory"])
    with (directory / archive.SNAPSHOT).open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-9, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    (entry, *_) = ready.explain()["entries"]
    assert any("archive cannot be relied on" in reason for reason in entry["unmet"])
    ready.confirm()
    assert (ready.quarantine_of(ready.estate.source) / "database").is_file()
    assert ready.state() == "archived"


@pytest.mark.promise("archive-compared")
def test_an_archive_that_lacks_a_row_is_found_before_anything_moves(
    ready: Cleaned, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress = archive._compress

    def lose_a_row(source: Path, target: Path) -> str:
        with closing(sqlite3.connect(source)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
            if "pets" in names:
                connection.execute("DELETE FROM pets WHERE id = 2")
                connection.commit()
        digest: str = compress(source, target)
        return digest

    monkeypatch.setattr(archive, "_compress", lose_a_row)
    with pytest.raises(MigrationError, match="row 2 of table pets"):
        ready.confirm()
    assert ready.estate.source.is_file()
    assert ready.state() == "live"
    # The bad archive is in the way, and nobody relies on it.
    monkeypatch.undo()
    with pytest.raises(MigrationError, match="Move this archive away"):
        ready.confirm()
    assert ready.estate.source.is_file()


@pytest.mark.promise("archive-compared")
def test_values_of_every_kind_are_compared(tmp_path: Path) -> None:
    one, other = tmp_path / "one.db", tmp_path / "other.db"
    pairs = [("1", "1.0"), ("'a'", "x'61'"), ("NULL", "''"), ("'1'", "1"), ("0.1", "0.10000000000000002")]
    for left, right in pairs:
        for path, value in ((one, left), (other, right)):
            path.unlink(missing_ok=True)
            with closing(sqlite3.connect(path)) as connection:
                connection.executescript(f"CREATE TABLE t (a); INSERT INTO t VALUES ({value});")
        with closing(archive._open(one)) as first, closing(archive._open(other)) as second:
            assert archive.compare(first, second) == "row 1 of table t"
            assert archive.compare(first, first) == ""


@pytest.mark.promise("daily-check-sees-every-touch")
def test_the_daily_check_passes_and_fails(ready: Cleaned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_check, "services_failures", lambda *_: [])
    connection = ready.estate.connection
    assert soak_check.run(connection, [ready.group]) == []
    assert soak_check.run(connection, [ready.group]) == []
    process = subprocess.Popen(["sleep", "600"], stdin=ready.estate.source.open("rb"))
    try:
        assert any("is open in process" in failure for failure in soak_check.run(connection, [ready.group]))
    finally:
        process.kill()
        process.wait()
    (entry, *_) = ready.explain()["entries"]
    assert any("0.0 hours of 7 days" in reason for reason in entry["unmet"])
    assert any("a daily check failed" in note for note in entry["notes"])
    ready.soak()
    ready.confirm()
    assert soak_check.run(connection, [ready.group]) == []
    hidden = ready.quarantine_of(ready.estate.source) / "database"
    descriptor = os.open(hidden, os.O_RDONLY)
    safe_paths.set_immutable(descriptor, False)
    os.close(descriptor)
    hidden.chmod(0o600)
    with hidden.open("ab") as file:
        file.write(b"more")
    assert any("no longer what was moved there" in failure for failure in soak_check.run(connection, [ready.group]))


@pytest.mark.promise("daily-check-sees-every-touch")
def test_a_file_that_loses_its_protection_or_is_touched_fails_the_check(
    ready: Cleaned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak_check, "services_failures", lambda *_: [])
    connection = ready.estate.connection
    source = ready.estate.source
    assert soak_check.run(connection, [ready.group]) == []
    write_protection.unprotect(source, {"mode": "0644"})
    failures = "\n".join(soak_check.run(connection, [ready.group]))
    assert "is not write-protected any more" in failures
    source.write_bytes(source.read_bytes())
    failures = "\n".join(soak_check.run(connection, [ready.group]))
    assert "was written to, replaced" in failures


def test_a_new_backup_is_needed_for_a_new_cutover(ready: Cleaned) -> None:
    ready.estate.on_target("UPDATE migration.cutover_group SET cutover_at = clock_timestamp()")
    (entry, *_) = ready.explain()["entries"]
    assert any("verified backup" in reason for reason in entry["unmet"])
    # The checks of the earlier cutover count for nothing.
    assert any("0.0 hours of 7 days" in reason for reason in entry["unmet"])
    add_backup(ready.estate.connection)
    ready.soak()
    assert ready.explain()["entries"][0]["ready"]
