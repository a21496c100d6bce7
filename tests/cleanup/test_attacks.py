"""What the service's user can do while root cleans up: real processes of another user swap names in a loop.

Whatever they do, nothing but the planned files may move, and what is not in the plan keeps its content and its name.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import sha256_of_open
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import safe_paths
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine import archive, move_in
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine.entry import (
    FILE,
    SYMLINK,
    Move,
)
from tests.validation.support import Estate, make_estate

from .support import Cleaned, make_ready, release

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be attacked by somebody with fewer rights")

NOBODY = 65534
# Each swaps as fast as it can until it is killed. Its working directory is the service's.
# They never overwrite: a plain rename after one that failed could destroy the very file that the test looks for.
RENAME = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, NOREPLACE, EXCHANGE = -100, 1, 2
def rename(old, new, how=NOREPLACE):
    if libc.renameat2(AT_FDCWD, old.encode(), AT_FDCWD, new.encode(), how) != 0:
        raise OSError(ctypes.get_errno(), "rename")
"""
SWAP_FILE = f"""{RENAME}
while True:
    try:
        rename("service.db", "decoy.db", EXCHANGE)
    except FileNotFoundError:
        pass
"""
SWAP_SYMLINK = f"""{RENAME}
while True:
    try:
        rename("service.db", "hidden.db"); os.symlink(sys.argv[1], "service.db")
        os.unlink("service.db"); rename("hidden.db", "service.db")
    except OSError:
        try:
            if os.path.islink("service.db"):
                os.unlink("service.db")
            rename("hidden.db", "service.db")
        except OSError:
            pass
"""
SWAP_DIRECTORY = """
import os, sys
os.chdir("..")
while True:
    try:
        os.rename("data", "real"); os.symlink(sys.argv[1], "data")
        os.unlink("data"); os.rename("real", "data")
    except OSError:
        try:
            if os.path.islink("data"):
                os.unlink("data")
            os.rename("real", "data")
        except OSError:
            pass
"""
WRITE_AND_LINK = """
import os
number = 0
while True:
    number += 1
    try:
        os.link("service.db", f"link-{number}")
        os.unlink(f"link-{number}")
        with open("service.db", "r+b") as file:
            file.seek(100)
            file.write(b"x")
    except OSError:
        pass
"""


@pytest.fixture
def yard() -> Iterator[Path]:
    """Return a directory that another user can reach: pytest's own are root's alone."""
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="cleanup-", dir="/tmp"))
    directory.chmod(0o755)
    (directory / "service" / "data").mkdir(parents=True)
    for path in (directory / "service", directory / "service" / "data"):
        os.chown(path, NOBODY, NOBODY)
    yield directory
    release(directory)
    shutil.rmtree(directory)


def give(path: Path, content: bytes) -> None:
    """Write a file that belongs to the service's user."""
    path.write_bytes(content)
    os.chown(path, NOBODY, NOBODY)


def move_of(path: Path, kind: str = FILE) -> Move:
    """Return the planned move of a file."""
    status = path.lstat()
    parent = path.parent
    if kind == SYMLINK:
        return Move(
            kind, str(parent), parent.stat().st_ino, path.name, status.st_ino, "symlink", target=os.readlink(path)
        )
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sha256 = sha256_of_open(descriptor)
    finally:
        os.close(descriptor)
    inode = parent.stat().st_ino
    return Move(kind, str(parent), inode, path.name, status.st_ino, "database", status.st_size, sha256)


def as_service_user(script: str, directory: Path, *arguments: str) -> int:
    """Start a script in a child process of the service's user and return its id; its status is 1 if it fails.

    A fork, because this interpreter may lie where that user may not go.
    """
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(directory)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            sys.argv = ["attack", *arguments]
            exec(compile(script, "attack", "exec"), {"__name__": "__main__"})  # noqa: S102 (a constant of ours)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return pid


@contextmanager
def attack(script: str, directory: Path, *arguments: str) -> Iterator[None]:
    """Run a script as the service's user in a directory of theirs, and kill it at the end."""
    pid = as_service_user(script, directory, *arguments)
    try:
        time.sleep(0.3)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the attack does not run"
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def contents(directory: Path) -> set[bytes]:
    """Return the content of every regular file of a directory."""
    return {path.read_bytes() for path in directory.iterdir() if path.is_file() and not path.is_symlink()}


def try_to_move(move: Move, where: str, seconds: float = 4.0) -> None:
    """Try to move again and again, until it succeeds or time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(MigrationError):
            move_in.move_in([move], where, "gone\n")
            return


@pytest.mark.promise("only-planned-files-move")
def test_a_file_that_is_swapped_in_a_loop(yard: Path) -> None:
    data = yard / "service" / "data"
    give(data / "service.db", b"the planned file")
    give(data / "decoy.db", b"the decoy")
    move = move_of(data / "service.db")
    where = str(yard / "quarantine" / "one")
    with attack(SWAP_FILE, data):
        try_to_move(move, where)
    hidden = Path(where) / "database"
    left = contents(data)
    # The decoy is never taken; the planned file is in exactly one place.
    assert b"the decoy" in left
    assert (b"the planned file" in left) != hidden.is_file()
    if hidden.is_file():
        assert hidden.read_bytes() == b"the planned file"


def test_a_file_that_becomes_a_symlink_in_a_loop(yard: Path) -> None:
    data = yard / "service" / "data"
    give(data / "service.db", b"the planned file")
    secret = yard / "roots.db"
    secret.write_bytes(b"root's own")
    before = (secret.stat().st_ino, secret.stat().st_mtime_ns, secret.stat().st_mode)
    move = move_of(data / "service.db")
    where = str(yard / "quarantine" / "one")
    with attack(SWAP_SYMLINK, data, str(secret)):
        try_to_move(move, where)
    assert secret.read_bytes() == b"root's own"
    assert (secret.stat().st_ino, secret.stat().st_mtime_ns, secret.stat().st_mode) == before
    hidden = Path(where) / "database"
    assert (b"the planned file" in contents(data)) != hidden.is_file()
    assert not hidden.is_symlink()


@pytest.mark.promise("only-planned-files-move")
def test_a_directory_that_becomes_a_symlink_in_a_loop(yard: Path) -> None:
    data = yard / "service" / "data"
    give(data / "service.db", b"the planned file")
    other = yard / "other"
    other.mkdir()
    (other / "service.db").write_bytes(b"root's own")
    move = move_of(data / "service.db")
    where = str(yard / "quarantine" / "one")
    with attack(SWAP_DIRECTORY, data, str(other)):
        try_to_move(move, where)
    assert (other / "service.db").read_bytes() == b"root's own"
    assert os.listdir(other) == ["service.db"]
    hidden = Path(where) / "database"
    # Through its descriptor the file leaves the right directory, whatever that is called by now.
    real = next(path for path in (yard / "service" / "real", data) if path.is_dir() and not path.is_symlink())
    assert (b"the planned file" in contents(real)) != hidden.is_file()


def test_a_file_that_is_written_to_and_linked_in_a_loop(yard: Path) -> None:
    data = yard / "service" / "data"
    give(data / "service.db", b"y" * 200)
    move = move_of(data / "service.db")
    where = str(yard / "quarantine" / "one")
    with attack(WRITE_AND_LINK, data), pytest.raises(MigrationError):
        move_in.move_in([move], where, "gone\n")
    assert (data / "service.db").is_file()
    assert not (Path(where) / "database").exists()


@pytest.mark.promise("tombstone-stops-old-programs")
def test_a_tombstone_cannot_be_taken_away_by_the_directorys_owner(yard: Path) -> None:
    data = yard / "service" / "data"
    give(data / "service.db", b"the planned file")
    move = move_of(data / "service.db")
    where = str(yard / "quarantine" / "one")
    move_in.move_in([move], where, "gone\n")
    descriptor = os.open(data / "service.db", os.O_RDONLY)
    immutable = safe_paths.is_immutable(descriptor)
    os.close(descriptor)
    for command in (["rm", "-rf", "service.db"], ["mv", "service.db", "elsewhere"], ["touch", "service.db/file"]):
        result = subprocess.run(
            command, cwd=data, user=NOBODY, group=NOBODY, extra_groups=[], check=False, capture_output=True
        )
        assert result.returncode != 0 or (command[0] == "mv" and not immutable)
    create = "import sqlite3; sqlite3.connect('service.db').execute('CREATE TABLE t (a)')"
    assert os.waitpid(as_service_user(create, data), 0)[1] != 0
    with pytest.raises(sqlite3.OperationalError, match="unable to open database file"):
        sqlite3.connect(data / "service.db")
    if immutable:
        assert move_in.inspect([move], where) == []
    # The owner of the quarantine's parents is root alone.
    result = subprocess.run(["ls", where], user=NOBODY, group=NOBODY, extra_groups=[], check=False, capture_output=True)
    assert result.returncode != 0


@pytest.mark.parametrize("path", ["/srv/../etc/passwd", "relative/path", "/var/lib/../../etc"])
def test_paths_with_dots_are_refused(path: str) -> None:
    with pytest.raises(MigrationError, match="absolute path"), safe_paths.open_directory(path):
        pass


@pytest.mark.promise("only-planned-files-move")
def test_no_symlink_is_followed_even_to_what_is_meant(yard: Path) -> None:
    data = yard / "service" / "data"
    give(data / "service.db", b"the planned file")
    (yard / "link").symlink_to(data)
    (data / "link.db").symlink_to(data / "service.db")
    (yard / "private").mkdir(mode=0o700)
    (yard / "private-link").symlink_to(yard / "private")
    inode = data.stat().st_ino
    with pytest.raises(MigrationError, match="link on its way"), safe_paths.open_directory(yard / "link", inode):
        pass
    for create in (False, True):
        with (
            pytest.raises(MigrationError, match="private-link on its way"),
            safe_paths.private_directory(yard / "private-link", create),
        ):
            pass
    with pytest.raises(MigrationError, match="private-link on its way"):
        safe_paths.require_private(yard / "private-link")
    file_inode = (data / "service.db").stat().st_ino
    with (
        safe_paths.open_directory(data) as directory,
        pytest.raises(MigrationError, match="cannot be opened"),
        safe_paths.open_file(directory, "link.db", data / "link.db", file_inode),
    ):
        pass


@pytest.mark.parametrize("name", ["../service.db", "..", ".", "", "a/b"])
def test_names_that_are_none_are_refused(yard: Path, name: str) -> None:
    with safe_paths.open_directory(yard) as directory, pytest.raises(ValueError, match="is no name"):
        safe_paths.move(directory, name, directory, "other")


def test_a_hard_link_to_somebody_elses_file_is_refused(yard: Path) -> None:
    data = yard / "service" / "data"
    other = yard / "precious.db"
    other.write_bytes(b"precious")
    os.link(other, data / "service.db")
    move = move_of(data / "service.db")
    with pytest.raises(MigrationError, match="hard links"):
        move_in.move_in([move], str(yard / "quarantine" / "one"), "gone\n")
    assert other.stat().st_nlink == 2


def test_a_symlink_that_leads_elsewhere_by_now_is_refused(yard: Path) -> None:
    data = yard / "service" / "data"
    os.symlink("/opt/a.db", data / "alias.db")
    move = move_of(data / "alias.db", SYMLINK)
    (data / "alias.db").unlink()
    os.symlink("/etc/passwd", data / "alias.db")
    with pytest.raises(MigrationError, match="it leads to /etc/passwd, not to"):
        move_in.move_in([move], str(yard / "quarantine" / "one"), "gone\n")
    assert os.readlink(data / "alias.db") == "/etc/passwd"


def test_another_directory_of_the_same_name_is_refused(yard: Path) -> None:
    data = yard / "service" / "data"
    give(data / "service.db", b"the planned file")
    move = move_of(data / "service.db")
    data.rename(yard / "service" / "before")
    data.mkdir()
    give(data / "service.db", b"the planned file")
    with pytest.raises(MigrationError, match="another directory"):
        move_in.move_in([move], str(yard / "quarantine" / "one"), "gone\n")


def test_a_fifo_does_not_hold_the_cleanup_up(yard: Path) -> None:
    data = yard / "service" / "data"
    give(data / "service.db", b"the planned file")
    move = move_of(data / "service.db")
    (data / "service.db").unlink()
    os.mkfifo(data / "service.db")
    with pytest.raises(MigrationError, match="stands at this path"):
        move_in.move_in([move], str(yard / "quarantine" / "one"), "gone\n")


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_quarantine_or_archive_that_others_may_enter_is_refused(yard: Path, mode: int) -> None:
    (yard / "open").mkdir()
    (yard / "open").chmod(mode)
    with pytest.raises(MigrationError, match="not root's alone"), safe_paths.private_directory(yard / "open"):
        pass
    with (
        pytest.raises(MigrationError, match="not root's alone"),
        safe_paths.private_directory(yard / "service" / "data" / "quarantine"),
    ):
        pass


def test_a_source_that_is_swapped_for_another_database_is_not_archived(estate: Estate, tmp_path: Path) -> None:
    cleaned = make_ready(estate)
    plan = cleaned.explain()
    moves = [Move.from_dict(entry) for entry in plan["entries"][0]["moves"]]
    with closing(sqlite3.connect(tmp_path / "foreign.db")) as connection:
        connection.execute("CREATE TABLE secrets (a)")
    release(tmp_path)
    os.rename(tmp_path / "foreign.db", estate.source)
    with safe_paths.open_directory(tmp_path) as directory:
        piece = archive.Piece("", directory, moves[0].name, moves[0].path, moves[0].inode, moves[0].sha256)
        with pytest.raises(MigrationError, match="another file stands at this path"):
            archive.make([piece], "name", {}, str(tmp_path / "archives"), estate.work)
    assert not (tmp_path / "archives" / "name").exists()


def test_a_legacy_path_through_a_symlink_is_kept(estate: Estate, tmp_path: Path) -> None:
    other = tmp_path / "somewhere"
    other.mkdir()
    (other / "other.db").write_bytes(b"")
    (tmp_path / "data").symlink_to(other)
    cleaned = make_ready(estate, [tmp_path / "data" / "other.db"])
    entry = cleaned.explain()["entries"][1]
    assert entry["action"] == "keep"
    assert "reached through a symlink" in entry["unmet"][0]


def test_the_whole_cleanup_under_attack(connection: object, yard: Path) -> None:
    data = yard / "service" / "data"
    estate = make_estate(connection, data)  # type: ignore[arg-type]
    os.chown(estate.source, NOBODY, NOBODY)
    estate = replace(estate, work=str(yard / "work"))
    estate.cut_over()
    give(data / "service.db", b"")
    give(data / "decoy.db", b"")
    with closing(sqlite3.connect(data / "decoy.db")) as database:
        database.execute("CREATE TABLE precious (a)")
    cleaned = Cleaned(estate, estate.group, (str(data / "service.db"),))
    cleaned.base = yard
    cleaned.soak()
    from .support import add_backup

    add_backup(estate.connection)
    plan_id = cleaned.explain()["plan_id"]
    decoy = (data / "decoy.db").read_bytes()
    with attack(SWAP_FILE, data):
        for _ in range(30):
            try:
                cleaned.confirm(plan_id)
            except MigrationError:
                continue
            break
    assert decoy in contents(data) | contents_of_directories(data)
    for path in (yard / "quarantine").rglob("database"):
        assert path.read_bytes() != decoy


def contents_of_directories(directory: Path) -> set[bytes]:
    """Return the content of every file below a directory."""
    return {path.read_bytes() for path in directory.rglob("*") if path.is_file() and not path.is_symlink()}
