"""What the service's user can do in one certain moment of root's work: each attack comes between two calls of it."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import soak_check
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import steps as cleanup_steps
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import (
    safe_paths,
    write_protection,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine import (
    archive,
    move_in,
    move_out,
    tombstone,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine import (
    place as quarantine_place,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine.entry import (
    COMPANION,
    Move,
)
from tests.validation.support import Estate

from .support import Cleaned, make_legacy, make_ready, release
from .test_attacks import move_of
from .test_crash import carry_out, killed_at


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """Return the directory of a service."""
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "service.db").write_bytes(b"the planned file")
    yield directory
    release(tmp_path)


def before(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, act: Callable[[], Any]) -> None:
    """Do something once, right before a call."""
    call = getattr(module, name)
    waiting = [act]

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if waiting:
            waiting.pop()()
        return call(*arguments, **named)

    monkeypatch.setattr(module, name, wrapped)


def replace_file(path: Path, content: bytes = b"the planned file") -> None:
    """Replace a file by another one, of the same content if nothing else is said."""
    other = path.with_name("other")
    other.write_bytes(content)
    os.rename(other, path)


def replace_by_directory(path: Path) -> None:
    """Replace a file by a directory in which something is."""
    path.unlink()
    path.mkdir()
    (path / "README").write_text("somebody's own")
    (path / "more").write_text("somebody's own")


def replace_by_symlink(path: Path) -> None:
    """Replace a file by a symlink."""
    path.unlink()
    path.symlink_to("/etc/passwd")


@pytest.mark.promise("only-planned-files-move")
@pytest.mark.parametrize("attack", [replace_file, replace_by_directory, replace_by_symlink])
def test_what_is_exchanged_in_the_moment_of_the_move_goes_back(
    data: Path, monkeypatch: pytest.MonkeyPatch, attack: Callable[[Path], None]
) -> None:
    path = data / "service.db"
    move = move_of(path)
    where = data.parent / "quarantine" / "one"
    before(monkeypatch, safe_paths, "exchange", lambda: attack(path))
    with pytest.raises(MigrationError, match="exchanged in the moment"):
        move_in.move_in([move], str(where), "gone\n")
    assert os.listdir(where) == []
    if attack is replace_by_directory:
        assert sorted(os.listdir(path)) == ["README", "more"]
    elif attack is replace_by_symlink:
        assert os.readlink(path) == "/etc/passwd"
    else:
        assert path.read_bytes() == b"the planned file"


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("attack", [replace_file, replace_by_directory, replace_by_symlink])
def test_what_a_killed_run_has_left_in_quarantine_goes_back(
    data: Path, attack: Callable[[Path], None], back: bool
) -> None:
    """Killed after the exchange, before it was looked at: a stranger lies there, and our tombstone where it was."""
    path = data / "service.db"
    move = move_of(path)
    where = data.parent / "quarantine" / "one"
    attack(path)
    quarantine_place.prepare(str(where), str(data), data.stat().st_ino, str(path))
    with safe_paths.open_directory(data) as directory, safe_paths.private_directory(where) as hidden:
        tombstone.make(hidden, "database", "gone\n")
        safe_paths.exchange(hidden, "database", directory, "service.db")
    if back:
        move_out.move_back([move], str(where), None, complete=False)
    else:
        with pytest.raises(MigrationError, match="stands at this path"):
            move_in.move_in([move], str(where), "gone\n")
    assert path.is_symlink() or path.is_file() or sorted(os.listdir(path)) == ["README", "more"]
    assert os.listdir(where) == []


def test_a_stranger_comes_beside_what_stands_in_its_place(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data / "service.db"
    move = move_of(path)
    where = data.parent / "quarantine" / "one"

    def take_the_place() -> None:
        # Renames the tombstone away, and puts another file there.
        os.rename(path, data / "taken")
        path.write_bytes(b"the third file")

    before(monkeypatch, safe_paths, "exchange", lambda: replace_file(path, b"the second file"))
    before(monkeypatch, move_in, "require_moved", take_the_place)
    with pytest.raises(MigrationError, match="exchanged in the moment"):
        move_in.move_in([move], str(where), "gone\n")
    assert path.read_bytes() == b"the third file"
    assert (data / "service.db.put-back-1").read_bytes() == b"the second file"
    assert os.listdir(where) == []


def test_a_file_that_is_opened_in_the_moment_of_its_move_goes_back(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data / "service.db"
    move = move_of(path)
    processes: list[subprocess.Popen[bytes]] = []

    def open_it() -> None:
        processes.append(subprocess.Popen(["sleep", "600"], stdin=path.open("rb")))

    before(monkeypatch, safe_paths, "exchange", open_it)
    try:
        with pytest.raises(MigrationError, match="it is open in process"):
            move_in.move_in([move], str(data.parent / "quarantine" / "one"), "gone\n")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert path.read_bytes() == b"the planned file"


def test_a_file_that_is_written_to_in_the_moment_of_its_move_goes_back(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data / "service.db"
    move = move_of(path)
    before(monkeypatch, safe_paths, "exchange", lambda: path.write_bytes(b"THE PLANNED FILE"))
    with pytest.raises(MigrationError, match="it was written to in the moment"):
        move_in.move_in([move], str(data.parent / "quarantine" / "one"), "gone\n")
    assert path.read_bytes() == b"THE PLANNED FILE"


def test_a_file_that_was_written_to_since_the_plan_is_not_even_moved(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data / "service.db"
    move = move_of(path)
    path.write_bytes(b"THE PLANNED FILE")
    before(monkeypatch, safe_paths, "exchange", lambda: pytest.fail("it was moved"))
    with pytest.raises(MigrationError, match="its content is no longer what the plan names"):
        move_in.move_in([move], str(data.parent / "quarantine" / "one"), "gone\n")


def test_a_file_that_gets_a_further_name_in_the_moment_of_its_move_goes_back(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data / "service.db"
    move = move_of(path)
    before(monkeypatch, safe_paths, "exchange", lambda: os.link(path, data / "further"))
    with pytest.raises(MigrationError, match=r"further name \(hard link\)"):
        move_in.move_in([move], str(data.parent / "quarantine" / "one"), "gone\n")
    assert path.read_bytes() == b"the planned file"


@pytest.mark.parametrize("name", ["exchange", "move"])
def test_a_companion_is_looked_at_as_well(data: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = data / "service.db"
    (data / "service.db-wal").write_bytes(b"its companion")
    companion = replace(move_of(data / "service.db-wal"), kind=COMPANION, place="database-wal")
    moves: list[Move] = [move_of(path), companion]
    where = str(data.parent / "quarantine" / "one")
    # Before the file goes, and in the moment in which the companion goes.
    before(monkeypatch, safe_paths, name, lambda: (data / "service.db-wal").write_bytes(b"ITS COMPANION"))
    with pytest.raises(MigrationError, match=r"no longer what the plan names|it was written to in the moment"):
        move_in.move_in(moves, where, "gone\n")
    assert (data / "service.db-wal").read_bytes() == b"ITS COMPANION"
    move_out.move_back(moves, where, None, complete=False)
    assert path.read_bytes() == b"the planned file"


def test_a_file_that_was_moved_by_a_killed_run_is_looked_at_by_the_next(
    estate: Estate, login: Login, tmp_path: Path
) -> None:
    ready = make_ready(estate)
    plan_id = ready.explain()["plan_id"]
    source = estate.source
    reader = subprocess.Popen(["sleep", "600"], stdin=source.open("rb"))
    try:
        # It was opened after the plan was made and confirmed: nobody has seen it yet.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup.inspect.open_files.find_holders",
                lambda _: [],
            )
            assert killed_at(ready, login, plan_id, 1, carry_out, "require_moved")
        assert source.is_dir()
        with pytest.raises(MigrationError, match="it is open in process"):
            ready.confirm(plan_id)
    finally:
        reader.kill()
        reader.wait()
    assert source.is_file()
    assert (ready.state(), ready.steps()) == ("live", {})


def test_a_tombstone_that_is_exchanged_in_the_moment_of_the_return_goes_back(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data / "service.db"
    move = move_of(path)
    where = str(data.parent / "quarantine" / "one")
    move_in.move_in([move], where, "gone\n")

    def exchange_it() -> None:
        os.rename(path, data / "taken")
        path.write_bytes(b"somebody's own")

    before(monkeypatch, safe_paths, "exchange", exchange_it)
    move_out.move_back([move], where, None, complete=True)
    assert path.read_bytes() == b"the planned file"
    assert (data / "service.db.put-back-1").read_bytes() == b"somebody's own"
    assert os.listdir(where) == []


def test_what_stands_in_the_place_of_a_tombstone_is_not_overwritten(data: Path) -> None:
    path = data / "service.db"
    move = move_of(path)
    where = data.parent / "quarantine" / "one"
    move_in.move_in([move], str(where), "gone\n")
    release(data)
    shutil.rmtree(path)
    path.write_bytes(b"somebody's own")
    with pytest.raises(MigrationError, match="a file that is no tombstone stands where it was"):
        move_out.move_back([move], str(where), None, complete=True)
    assert path.read_bytes() == b"somebody's own"
    assert (where / "database").read_bytes() == b"the planned file"
    path.unlink()
    move_out.move_back([move], str(where), None, complete=True)
    assert path.read_bytes() == b"the planned file"


def test_a_file_that_somebody_took_out_of_the_quarantine_is_not_called_brought_back(estate: Estate) -> None:
    ready = make_ready(estate)
    ready.confirm()
    hidden = ready.quarantine_of(estate.source) / "database"
    release(hidden.parent)
    hidden.rename(hidden.parent.parent.parent / "taken.away")
    with pytest.raises(MigrationError, match="not where it was"):
        ready.restore()
    assert (ready.state(), ready.steps()) == ("archived", {str(estate.source): "quarantined"})
    (entry,) = ready.explain()["entries"]
    assert any("is not there, or another file" in reason for reason in entry["unmet"])


def test_another_file_in_quarantine_is_not_deleted(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = make_ready(estate)
    ready.confirm()
    ready.wait_in_quarantine()
    hidden = ready.quarantine_of(estate.source) / "database"

    def exchange_it() -> None:
        release(hidden.parent)
        replace_file(hidden, b"another file")

    before(monkeypatch, move_out, "delete", exchange_it)
    with pytest.raises(MigrationError, match="it is not what was moved there"):
        ready.confirm()
    assert hidden.read_bytes() == b"another file"
    # Something of it is gone, so it is not called to be in quarantine again.
    assert set(ready.steps().values()) == {"deleting"}


def test_a_file_that_was_written_to_in_quarantine_is_not_deleted(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = make_ready(estate)
    ready.confirm()
    ready.wait_in_quarantine()
    hidden = ready.quarantine_of(estate.source) / "database"

    def write() -> None:
        release(hidden.parent)
        hidden.chmod(0o600)
        hidden.write_bytes(b"another content")

    # After the plan was checked, and once more after the comparison with the archive.
    for module, name, said in (
        (archive, "make", "no longer what the plan names"),
        (move_out, "delete", "no longer what was moved there"),
    ):
        content = hidden.read_bytes()
        with pytest.MonkeyPatch.context() as patch:
            before(patch, module, name, write)
            with pytest.raises(MigrationError, match=said):
                ready.confirm()
        assert hidden.read_bytes() == b"another content"
        assert set(ready.steps().values()) == {"quarantined"}
        hidden.write_bytes(content)


@pytest.mark.promise("archive-compared")
def test_an_archive_that_changes_in_the_moment_of_the_deletion_keeps_the_file(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = make_ready(estate)
    ready.confirm()
    ready.wait_in_quarantine()
    (snapshot,) = tmp_path.glob("archives/*/snapshot.db.gz")

    def spoil() -> None:
        snapshot.write_bytes(b"spoilt")

    plan_id = ready.explain()["plan_id"]
    before(monkeypatch, cleanup_steps, "_compare", spoil)
    with pytest.raises(MigrationError, match=r"An archive does not prove|not the file that its manifest names"):
        ready.confirm(plan_id)
    assert (ready.quarantine_of(estate.source) / "database").is_file()
    assert ready.state() == "archived"


# ---------------------------------------------------------------- what must not hold root up


@pytest.fixture
def impatient() -> Iterator[None]:
    """Fail whatever takes longer than ten seconds."""

    def fail(*_: object) -> None:
        raise AssertionError("it was held up")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def test_a_fifo_in_the_place_of_a_frozen_file_does_not_hold_the_daily_check_up(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setattr(soak_check, "services_failures", lambda *_: [])
    ready = make_ready(estate)
    connection = estate.connection
    assert soak_check.run(connection, [ready.group]) == []
    release(estate.source.parent)
    content = estate.source.read_bytes()
    moved = estate.source.with_name("moved.db")
    os.rename(estate.source, moved)
    os.mkfifo(estate.source)
    (failure,) = soak_check.run(connection, [ready.group])
    assert "it is no regular file" in failure
    estate.source.unlink()
    # One of holes alone, larger than anybody can read.
    with estate.source.open("wb") as file:
        file.truncate(1 << 42)
    failures = "\n".join(soak_check.run(connection, [ready.group]))
    assert "no longer the file that was frozen" in failures
    estate.source.unlink()
    estate.source.write_bytes(content)


def test_a_check_that_could_not_look_does_not_spoil_the_next(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_check, "services_failures", lambda *_: [])
    ready = make_ready(estate)
    connection = estate.connection
    assert soak_check.run(connection, [ready.group]) == []
    directory = estate.source.parent
    away = directory.with_name(f"{directory.name}-away")
    directory.rename(away)
    assert soak_check.run(connection, [ready.group]) != []
    away.rename(directory)
    assert soak_check.run(connection, [ready.group]) == []


@pytest.mark.parametrize("target", ["/dev/zero", "/proc/kmsg"])
def test_a_legacy_file_that_leads_to_something_endless_is_not_read(
    estate: Estate, tmp_path: Path, impatient: None, target: str
) -> None:
    (tmp_path / "old.db").symlink_to(target)
    ready = make_ready(estate, [tmp_path / "old.db"])
    entry = ready.explain()["entries"][1]
    assert entry["action"] == "keep"
    assert entry["sha256"] == ""


def test_a_file_of_holes_that_no_disk_can_hold_is_not_read(estate: Estate, tmp_path: Path, impatient: None) -> None:
    with (tmp_path / "old.db").open("wb") as file:
        file.truncate(1 << 42)
    ready = make_ready(estate, [tmp_path / "old.db"])
    entry = ready.explain()["entries"][1]
    assert any("bytes are needed for private copies" in reason for reason in entry["unmet"])
    assert entry["sha256"] == ""


def test_names_that_are_not_utf_8_are_named(estate: Estate, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/odd-\xff")
    os.mkdir(odd)
    (tmp_path / "alias.db").symlink_to(f"{odd}/../{estate.source.name}")
    other = tmp_path / "other.db"
    other.symlink_to(f"{odd}/file.db")
    Path(f"{odd}/file.db").write_bytes(b"")
    ready = make_ready(estate, [other], [tmp_path / "alias.db"])
    source, legacy = ready.explain()["entries"]
    assert any("by bytes that are not UTF-8" in reason for reason in source["unmet"])
    assert legacy["action"] == "keep"
    assert "odd-\\xff" in legacy["resolved"]


def test_a_database_made_to_confuse_is_kept(estate: Estate, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.execute("CREATE VIRTUAL TABLE texts USING fts5(x)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET name = 'a' || char(0) || 'b' WHERE name = 'texts'")
        connection.commit()
    ready = make_ready(estate, [tmp_path / "old.db"])
    entry = ready.explain()["entries"][1]
    assert entry["action"] == "keep", entry
    assert "its rows cannot be counted" in entry["unmet"][0]


def test_a_further_name_of_a_companion_is_named_in_the_plan(estate: Estate, tmp_path: Path) -> None:
    make_legacy(tmp_path / "old.db")
    os.link(tmp_path / "old.db-wal", tmp_path / "further")
    ready = make_ready(estate, [tmp_path / "old.db"])
    entry = ready.explain()["entries"][1]
    assert any("hard links" in reason for reason in entry["unmet"])


# ---------------------------------------------------------------- what comes between the plan and the move


def spoil_after_the_plan(ready: Cleaned, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Do something after a confirmed plan was made once more and written down, before its first step."""
    before(monkeypatch, cleanup_steps, "go_on", act)


def test_a_source_that_is_replaced_after_its_confirmation_is_kept(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = make_ready(estate)
    content = estate.source.read_bytes()

    def act() -> None:
        release(tmp_path)
        replace_file(estate.source, content)

    spoil_after_the_plan(ready, monkeypatch, act)
    with pytest.raises(MigrationError, match="another file stands at this path"):
        ready.confirm()
    assert (ready.state(), ready.steps()) == ("live", {})
    assert estate.source.read_bytes() == content
    assert not list(tmp_path.glob("archives/*"))


def test_a_group_that_is_rolled_back_after_its_confirmation_is_kept(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = make_ready(estate)

    def act() -> None:
        ledger.take_step(estate.connection, "zoo", "roll_back", str(estate.source))
        estate.connection.commit()

    spoil_after_the_plan(ready, monkeypatch, act)
    with pytest.raises(MigrationError, match="its group is 'rolled_back'"):
        ready.confirm()
    assert (ready.state(), ready.steps()) == ("rolled_back", {})
    assert estate.source.is_file()


def test_a_disk_error_is_told_and_the_other_files_go_on(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "old.db").write_bytes(b"")
    ready = make_ready(estate, [tmp_path / "old.db"])
    guard = tombstone.guard

    def fail(directory: int, name: str, path: str) -> None:
        if name == "old.db":
            raise OSError(5, os.strerror(5))
        guard(directory, name, path)

    monkeypatch.setattr(tombstone, "guard", fail)
    with pytest.raises(MigrationError, match="the system refuses: Input/output error"):
        ready.confirm()
    assert (tmp_path / "old.db").is_file()
    assert (ready.state(), set(ready.steps())) == ("archived", {str(estate.source)})


def test_the_protection_that_stands_is_not_touched_when_a_plan_fails(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next daily check would say that somebody has taken it away."""
    ready = make_ready(estate)
    release(estate.source.parent)
    estate.source.chmod(0o444)
    # As on a file system without that attribute.
    monkeypatch.setattr(write_protection, "set_immutable", lambda *_: False)
    changed = estate.source.stat().st_ctime_ns
    time.sleep(0.01)

    def refuse(*_: Any, **__: Any) -> None:
        raise MigrationError("no archive today")

    monkeypatch.setattr(archive, "make", refuse)
    with pytest.raises(MigrationError):
        ready.confirm()
    assert estate.source.stat().st_ctime_ns == changed


def test_a_directory_of_somebody_else_is_no_tombstone(data: Path) -> None:
    path = data / "service.db"
    move = move_of(path)
    where = str(data.parent / "quarantine" / "one")
    move_in.move_in([move], where, "gone\n")
    assert move_in.inspect([move], where) == []
    release(data)
    # It looks like one, and its owner could remove it at any moment.
    os.chown(path, 65534, 65534)
    assert move_in.inspect([move], where) == [f"the tombstone at {path} is gone"]
    with pytest.raises(MigrationError, match="a directory that is no tombstone"):
        move_out.move_back([move], where, None, complete=True)


def test_a_tombstone_that_was_taken_away_before_it_stood_fast_brings_the_file_back(
    estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = make_ready(estate)
    before(monkeypatch, tombstone, "guard", lambda: os.rename(estate.source, tmp_path / "taken"))
    with pytest.raises(MigrationError, match="its tombstone is gone"):
        ready.confirm()
    assert estate.source.is_file()
    assert (ready.state(), ready.steps()) == ("live", {})
