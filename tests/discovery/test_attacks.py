"""A service's user puts traps where root looks: nothing of somebody else's is read, and nothing holds root up."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery import (
    files,
    health,
    reader,
    render,
    settings,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery.files import (
    Database,
    Limits,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import programs

from .support import NOBODY_UID, PYTHON, holding, look_at, make_database, source_at

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led where it should not go"),
    pytest.mark.promise("discover-follows-no-trap"),
]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory that anybody may enter: not below pytest's own, which every pytest closes when it starts."""
    with tempfile.TemporaryDirectory(prefix="discovery-") as place:
        Path(place).chmod(0o711)
        yield Path(place)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A directory of the user nobody."""
    directory = tmp_path / "app"
    directory.mkdir()
    make_database(directory / "own.db")
    for path in (directory, directory / "own.db"):
        os.chown(path, NOBODY_UID, NOBODY_UID)
    return directory


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A database of root's that the user nobody may not read."""
    path = make_database(tmp_path / "private" / "private.db")
    path.parent.chmod(0o700)
    path.chmod(0o600)
    return path


def link(path: Path, target: Path) -> None:
    """Make a symlink as the user nobody would."""
    path.symlink_to(target)
    os.lchown(path, NOBODY_UID, NOBODY_UID)


def database_at(path: Path) -> Database:
    """Return a database as root sees it."""
    found = files.look(str(path), follow=False)
    assert found is not None
    return found


@pytest.mark.parametrize("uid", [0, NOBODY_UID])
def test_a_symlink_leads_no_further_than_its_owner_may_read(app: Path, private: Path, uid: int) -> None:
    link(app / "trap.db", private)
    link(app / "trap", private.parent)
    link(app / "alias.db", app / "own.db")
    found = files.search([(str(app), uid)], Limits())
    assert [Path(database.path).name for database in found.databases.values()] == ["own.db"]
    assert list(found.aliases.values()) == [{str(app / "alias.db")}]


def test_a_working_directory_that_leads_to_root_is_not_entered(app: Path, private: Path) -> None:
    link(app / "current", private.parent)
    assert files.search([(str(app / "current"), NOBODY_UID)], Limits()).databases == {}
    # Root itself may look there: what keeps it out is whose directory it is said to be.
    assert len(files.search([(str(app / "current"), 0)], Limits()).databases) == 1


def test_settings_lead_to_nothing_that_the_user_may_not_read(app: Path, private: Path) -> None:
    (private.parent / "secrets").write_text(f"DB={private}\n")
    link(app / ".env", private.parent / "secrets")
    assert settings.read(str(app / ".env"), NOBODY_UID) == {}
    assert settings.read(str(private.parent / "secrets"), NOBODY_UID) == {"DB": str(private)}
    with holding(app / "own.db", uid=NOBODY_UID, environment={"OTHER_DB": str(private)}):
        found = look_at(app.parent)
    assert [source.database.path for source in found.sources] == [str(app / "own.db")]


def test_a_fifo_a_device_and_a_directory_hold_nobody_up(app: Path) -> None:
    os.mkfifo(app / "pipe.db")
    link(app / "link.db", app / "pipe.db")
    os.mknod(app / "device.db", 0o020666, os.makedev(5, 0))
    (app / "directory.db").mkdir()
    os.mkfifo(app / ".env")
    ended = threading.Event()

    def look() -> None:
        for uid in (0, NOBODY_UID):
            assert len(files.search([(str(app), uid)], Limits()).databases) == 1
            assert settings.read(str(app / ".env"), uid) == {}
        ended.set()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    assert ended.wait(60)


def test_a_hard_link_is_named_and_not_read(app: Path, private: Path, tmp_path: Path) -> None:
    os.link(private, app / "hard.db")
    found = look_at(tmp_path, app)
    (problem,) = [entry for entry in found.problems if entry.where == str(app / "hard.db")]
    assert "it has 2 names" in problem.what


def test_a_huge_file_is_named_and_not_copied(app: Path, tmp_path: Path) -> None:
    with (app / "own.db").open("r+b") as file:
        file.truncate(shutil.disk_usage(tmp_path).free)
    with holding(app / "own.db", uid=NOBODY_UID):
        found = look_at(tmp_path)
    assert source_at(found, app / "own.db").draft is None
    (problem,) = [entry for entry in found.problems if "needed" in entry.what]
    assert "bytes are free" in problem.what


def test_a_file_is_read_with_the_rights_of_its_user_alone(app: Path, private: Path, tmp_path: Path) -> None:
    work = tmp_path / "snapshots"
    work.mkdir()
    # Between the look and the reading the user puts a symlink in the file's place.
    seen = database_at(private)
    link(app / "exchanged.db", private)
    exchanged = Database(seen.inode, str(app / "exchanged.db"), seen.size, 0, NOBODY_UID, 1)
    with pytest.raises(MigrationError, match="another file stands at its name"):
        reader.read_draft(exchanged, NOBODY_UID, "app", False, str(work), 60)
    for read in (
        lambda: reader.read_draft(seen, NOBODY_UID, "app", True, str(work), 60),
        lambda: reader.read_counts(seen, NOBODY_UID, str(work), 60),
    ):
        with pytest.raises(MigrationError, match="Permission denied"):
            read()
    assert list(work.iterdir()) == []


def test_a_directory_that_is_exchanged_all_the_while_leads_nowhere(app: Path, private: Path) -> None:
    (app / "data").mkdir()
    link(app / "trap", private.parent)
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            with suppress(OSError):
                os.rename(app / "data", app / "aside")
                os.rename(app / "trap", app / "data")
                os.rename(app / "data", app / "trap")
                os.rename(app / "aside", app / "data")

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(200):
            found = files.search([(str(app), 0)], Limits())
            assert [Path(database.path).name for database in found.databases.values()] == ["own.db"]
    finally:
        stop.set()
        thread.join()


def test_reading_that_does_not_end_is_given_up(app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "draft", lambda *_, **__: threading.Event().wait())
    (tmp_path / "snapshots").mkdir()
    with pytest.raises(MigrationError, match="did not end within 0 seconds"):
        reader.read_draft(database_at(app / "own.db"), NOBODY_UID, "app", True, str(tmp_path / "snapshots"), 0.2)
    assert list((tmp_path / "snapshots").iterdir()) == []


def test_an_answer_that_drips_or_never_comes_holds_nobody_up() -> None:
    asked = threading.Semaphore(0)

    def drip(listener: socket.socket, text: bytes) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                asked.release()
                with suppress(OSError):
                    for byte in text * 100:
                        connection.sendall(bytes([byte]))
                        time.sleep(0.5)

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as dripping, socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=drip, args=(dripping, b"x"), daemon=True).start()
        ports = [dripping.getsockname()[1], silent.getsockname()[1]]

        def find() -> None:
            assert health.find_health(ports) == ""
            ended.set()

        threading.Thread(target=find, daemon=True).start()
        assert ended.wait(120)
    assert asked.acquire(timeout=60)


def test_only_the_first_ports_of_a_service_are_asked() -> None:
    # Nothing listens on these.
    closed = range(1, 17)
    with holding(kind="/health") as (_, port):
        assert health.find_health([*closed[1:], port]) == f"http://127.0.0.1:{port}/health"
        assert health.find_health([*closed, port]) == ""


# A daemon as pm2 shows itself, but for the program that it says pm2 is.
DAEMON = """
import os, socket, sys
home = sys.argv[1]
os.makedirs(home)
with open(f"{home}/pm2.pid", "w") as file:
    file.write(str(os.getpid()))
socket.socket(socket.AF_UNIX).bind(f"{home}/rpc.sock")
print("up", flush=True)
sys.stdin.read()
"""


@contextmanager
def pm2_of_nobody(app: Path, answer: str) -> Iterator[Path]:
    """Run what calls itself a pm2 of the user nobody, and give the file in which its program says as whom it ran.

    :param answer: what the program says to each question.
    """
    home, ran, program = app / ".pm2", app / "ran", app / "pm2"
    (app / "answer").write_text(answer)
    program.write_text(f"#!/bin/sh\nid -u > {ran}\ncat {app}/answer\n")
    program.chmod(0o755)
    with subprocess.Popen(
        [f"PM2 v5.0.0: God Daemon ({home})", "-c", DAEMON, str(home)],
        executable=PYTHON,
        user=NOBODY_UID,
        group=NOBODY_UID,
        extra_groups=[],
        env={"PATH": str(app)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield ran
        finally:
            process.kill()


# Where pm2 is in a common place, that one is asked.
without_pm2 = pytest.mark.skipif(shutil.which("pm2", path=programs.PATH) is not None, reason="this machine has a pm2")


def test_what_calls_itself_pm2_is_asked_with_the_rights_of_its_user(app: Path) -> None:
    with pm2_of_nobody(app, "[]") as ran:
        found = look_at(app.parent)
    assert not [entry for entry in found.problems if f"{app}/.pm2" in entry.what]
    if shutil.which("pm2", path=programs.PATH) is None:
        assert ran.read_text().strip() == str(NOBODY_UID)
    else:
        assert not ran.exists()


def listed(name: str, pid: Any, directory: Any) -> dict[str, Any]:
    """Return an entry of pm2's list."""
    return {"name": name, "pid": pid, "pm2_env": {"status": "online", "pm_cwd": directory}}


@without_pm2
def test_a_service_claims_no_process_of_somebody_else(app: Path, private: Path) -> None:
    with holding(private) as (roots, _), holding(app / "own.db", uid=NOBODY_UID) as (own, _):
        entries = [listed("thief", pid, str(app)) for pid in (1, roots, -1)]
        entries += [listed("one", own, str(app)), listed("two", own, str(app))]
        with pm2_of_nobody(app, json.dumps(entries)):
            found = look_at(app.parent)
    users = source_at(found, private).users
    assert [(service.manager, service.pids) for service in users] == [("nobody", frozenset([roots]))]
    # Of two that claim one process, none is forgotten.
    assert [service.name for service in source_at(found, app / "own.db").users] == ["one", "two"]
    (problem,) = [entry for entry in found.problems if entry.where == "service one of user nobody"]
    assert f"process {own} is said to be its own and that of service two of user nobody" in problem.what


@without_pm2
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('[{"name": "a", "pm2_env": "text"}]', "an entry of its list is no process"),
        ('[{"name": "a", "pid": "x", "pm2_env": {}}]', "an entry of its list is no process"),
        ('[{"name": "a", "pid": Infinity, "pm2_env": {}}]', "an entry of its list is no process"),
        ('[{"pid": 2, "pm2_env": {}}]', "an entry of its list is no process"),
        ("[" * 100_000, "it did not answer with a list"),
        (json.dumps([listed("a", 0, "/a\0b")]), "whose name is no UTF-8 text"),
        (json.dumps([listed("a", 0, "/\ud800")]), "whose name is no UTF-8 text"),
        (json.dumps([listed("\ud800", 0, "/a")]), "whose name is no UTF-8 text"),
    ],
    ids=lambda value: value[:60],
)
def test_what_pm2_lists_ends_no_discovery(app: Path, answer: str, said: str) -> None:
    with holding(app / "own.db", uid=NOBODY_UID), pm2_of_nobody(app, answer):
        found = look_at(app.parent)
    assert source_at(found, app / "own.db").draft is not None
    (problem,) = [entry for entry in found.problems if "pm2" in entry.where and "user nobody" in entry.where]
    assert said in problem.what
    json.dumps(render.files(found, "host")).encode()


def test_what_a_setting_says_ends_no_discovery(app: Path) -> None:
    environment = {"X": "file://[", "Y": "/\udcff.db", "\udcff": str(app / "own.db")}
    with holding(app / "own.db", uid=NOBODY_UID, environment=environment):
        found = look_at(app.parent)
    (use,) = source_at(found, app / "own.db").users.values()
    assert use.keys == {"? in its environment"}


def test_a_file_whose_name_is_not_utf8_is_named_and_left_out(app: Path) -> None:
    odd = app / "\udcff.db"
    make_database(odd)
    (app / "\udcfe.db").symlink_to(app / "own.db")
    deleted = make_database(app / "\udcfd.db")
    with holding(app / "own.db", uid=NOBODY_UID), holding(odd, directory=app), holding(deleted):
        deleted.unlink()
        found = look_at(app.parent, app)
    assert [source.aliases for source in found.sources] == [()]
    assert {entry.where for entry in found.problems} >= {f"{app}/?.db", f"{app}/?.db (deleted)"}
    told = [render.summary(found), render.files(found, "host")]
    json.dumps(told, ensure_ascii=False).encode()
    yaml.safe_load(told[1][render.ESTATE_FILE])


@pytest.mark.parametrize(
    "schema", ["CREATE TABLE ooo (a)", "CREATE TABLE t (a, ooo)", "CREATE TABLE t (a DEFAULT 'ooo')"]
)
def test_a_database_that_names_what_is_not_utf8_is_named(app: Path, schema: str) -> None:
    odd = make_database(app / "odd.db", schema)
    odd.write_bytes(odd.read_bytes().replace(b"ooo", b"o\xffo"))
    os.chown(odd, NOBODY_UID, NOBODY_UID)
    with holding(app / "own.db", uid=NOBODY_UID, environment={"DB": str(odd)}):
        found = look_at(app.parent)
    drafted = {source.database.path: source.draft is not None for source in found.sources}
    assert drafted == {str(odd): False, str(app / "own.db"): True}
    (problem,) = [entry for entry in found.problems if entry.where == str(odd)]
    assert problem.what == "the name or default of a table or column in it is not UTF-8"
    json.dumps([render.summary(found), render.files(found, "host")], ensure_ascii=False).encode()


def test_a_mount_point_of_any_name_is_known() -> None:
    lines = [b"1 2 8:1 / /a\\040b\\134c rw - ext4 /dev/a rw\n", b"2 2 8:1 / /\xff rw - ext4 /dev/a rw\n"]
    assert files.mount_points_in([*lines, "3 2 8:1 / /ä rw - ext4 /dev/a rw\n".encode()]) == {
        "/a b\\c",
        "/\udcff",
        "/ä",
    }


@without_pm2
def test_a_pm2_that_never_stops_to_answer_is_killed(app: Path) -> None:
    with pm2_of_nobody(app, "") as ran, holding(app / "own.db", uid=NOBODY_UID):
        (app / "answer").unlink()
        (app / "answer").symlink_to("/dev/zero")
        found = look_at(app.parent)
        assert ran.read_text().strip() == str(NOBODY_UID)
    assert source_at(found, app / "own.db").draft is not None
    (problem,) = [entry for entry in found.problems if "pm2" in entry.where and "user nobody" in entry.where]
    assert problem.what == "it printed more than 16,777,216 bytes"


def test_more_files_than_are_read_are_counted(app: Path) -> None:
    for number in range(3):
        os.chown(make_database(app / f"{number}.db"), NOBODY_UID, NOBODY_UID)
    with holding(app / "own.db", uid=NOBODY_UID):
        found = look_at(app.parent, app, unused_files=1)
        late = look_at(app.parent, app, total_seconds=0)
    assert [entry.rows for entry in found.legacy] == [{"users": 2}, None, None]
    (problem,) = found.problems
    assert problem.what == "2 of them were not read: the limit is 1 files"
    assert source_at(late, app / "own.db").draft is None
    assert [entry.where for entry in late.problems] == [str(app / "own.db"), "files that nobody uses"]
    assert all("reading all files ended at its limit, 0 seconds" in entry.what for entry in late.problems)


def test_more_than_is_told_of_one_database_is_refused(app: Path, tmp_path: Path) -> None:
    script = ";".join(f'CREATE TABLE "{number}{"x" * 9_000_000}" (id)' for number in range(2))
    os.chown(make_database(app / "wide.db", script), NOBODY_UID, NOBODY_UID)
    (tmp_path / "snapshots").mkdir()
    with pytest.raises(MigrationError, match="takes more than 16,777,216 bytes"):
        reader.read_counts(database_at(app / "wide.db"), NOBODY_UID, str(tmp_path / "snapshots"), 60)
