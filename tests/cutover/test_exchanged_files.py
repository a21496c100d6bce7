"""What a service's user can exchange while root works on its files: settings, the source, and what stands beside it.

The user acts exactly between a check of ours and the use of what was checked. Whatever it puts there, a file
of somebody else's keeps its content, owner, mode and attributes.
"""

from __future__ import annotations

import ast
import os
import pwd
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group, Service
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import (
    window as cutover_window,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import (
    dotenv_file,
    write_protection,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.service_health import (
    ServicesLogin,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.sqlite import (
    snapshot as sqlite_snapshot,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.sqlite.snapshot import (
    resolve_source,
    snapshot,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window import (
    back_on_sqlite as cutover_undo,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window import frozen_file
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.checks import (
    EnvFile,
    Findings,
    Handles,
    Settings,
    check_source,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.context import WindowContext
from tests.conftest import PROJECT

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be attacked by somebody with fewer rights"),
    pytest.mark.usefixtures("no_older_processes"),
]

USER = "nobody"
ACCOUNT = pwd.getpwnam(USER)
GROUPS = os.getgroups()
SECRET = "root:x:0:0:root:/root:/bin/sh\n"
SETTINGS = "PORT=4001\n"
Facts = tuple[bytes, int, int, int]


@pytest.fixture
def yard() -> Iterator[Path]:
    """A directory that another user can reach, with root's own ``etc`` and the service's own ``service`` in it."""
    directory = Path(tempfile.mkdtemp(prefix="cutover-", dir="/tmp"))
    directory.chmod(0o755)
    (directory / "etc").mkdir()
    (directory / "service").mkdir()
    os.chown(directory / "service", ACCOUNT.pw_uid, ACCOUNT.pw_gid)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def victim(yard: Path) -> Iterator[Path]:
    """A file of root's that has to stay as it is, whatever happens."""
    path = yard / "etc" / "passwd"
    path.write_text(SECRET)
    path.chmod(0o644)
    before = facts_of(path)
    yield path
    assert facts_of(path) == before
    assert os.listdir(path.parent) == ["passwd"]


@pytest.fixture
def env_file(yard: Path) -> Path:
    """The service's settings."""
    return own_file(yard / "service" / ".env", SETTINGS)


def facts_of(path: Path) -> Facts:
    """Return what no attack may change of a file."""
    status = path.lstat()
    return path.read_bytes(), status.st_uid, stat.S_IMODE(status.st_mode), status.st_ino


def own_file(path: Path, content: str = "") -> Path:
    """Write a file of the service's user."""
    path.write_text(content)
    path.chmod(0o600)
    os.chown(path, ACCOUNT.pw_uid, ACCOUNT.pw_gid)
    return path


def before_opening(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], Any]) -> None:
    """Do something once, right before a file of this name is opened."""
    call, waiting = os.open, [act]

    def wrapped(path: Any, *arguments: Any, **named: Any) -> int:
        if waiting and os.path.basename(os.fspath(path)) == name:
            waiting.pop()()
        return call(path, *arguments, **named)

    monkeypatch.setattr(os, "open", wrapped)


def once_before(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, act: Callable[[], Any]) -> None:
    """Do something once, right before a call."""
    call, waiting = getattr(module, name), [act]

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if waiting:
            waiting.pop()()
        return call(*arguments, **named)

    monkeypatch.setattr(module, name, wrapped)


# ---------------------------------------------------------------- settings


def lead_to(path: Path, target: Path) -> None:
    """Put a symlink in the place of a file."""
    path.unlink()
    path.symlink_to(target)


def move_directory(directory: Path, target: Path) -> None:
    """Put a symlink in the place of a directory."""
    directory.rename(directory.with_name("moved"))
    directory.symlink_to(target)


def test_settings_that_lead_elsewhere_after_they_were_read_are_not_written(victim: Path, env_file: Path) -> None:
    text = dotenv_file.read(str(env_file), USER)
    lead_to(env_file, victim)
    with pytest.raises(MigrationError, match=r"belongs to user id 0 and not to nobody.*it leads to .*/etc/passwd"):
        dotenv_file.write(str(env_file), text + "MORE=1\n", USER)


def test_a_directory_that_leads_elsewhere_while_the_new_file_is_made(
    victim: Path, env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_opening(monkeypatch, ".env.new", lambda: move_directory(env_file.parent, victim.parent))
    dotenv_file.write(str(env_file), "MORE=1\n", USER)
    # It was written where it was opened, whatever name that has by now.
    moved = victim.parent.parent / "moved" / ".env"
    assert moved.read_text() == "MORE=1\n"
    assert (moved.stat().st_uid, stat.S_IMODE(moved.stat().st_mode)) == (ACCOUNT.pw_uid, 0o600)


def test_a_directory_that_leads_elsewhere_while_it_is_walked(
    victim: Path, env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_file(victim.parent / ".env", SETTINGS)
    before_opening(monkeypatch, "service", lambda: move_directory(env_file.parent, victim.parent))
    try:
        with pytest.raises(MigrationError, match="service on its way is no directory any more"):
            dotenv_file.write(str(env_file), "MORE=1\n", USER)
        assert (victim.parent / ".env").read_text() == SETTINGS
    finally:
        (victim.parent / ".env").unlink()


def test_settings_that_are_exchanged_right_before_they_are_replaced(
    victim: Path, env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once_before(monkeypatch, os, "fsync", lambda: lead_to(env_file, victim))
    with pytest.raises(MigrationError, match="exchanged it while it was being worked on"):
        dotenv_file.write(str(env_file), "MORE=1\n", USER)
    assert os.listdir(env_file.parent) == [".env"]
    assert env_file.is_symlink()


def test_settings_that_are_changed_right_before_they_are_replaced_are_kept(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once_before(monkeypatch, os, "fsync", lambda: env_file.write_text("PORT=4002 # an operator's\n"))
    with pytest.raises(MigrationError, match="changed it while it was being replaced"):
        dotenv_file.write(str(env_file), "MORE=1\n", USER)
    assert env_file.read_text() == "PORT=4002 # an operator's\n"


def test_a_new_file_that_is_exchanged_in_the_moment_of_the_rename(
    victim: Path, env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once_before(monkeypatch, os, "replace", lambda: lead_to(env_file.with_name(".env.new"), victim))
    with pytest.raises(MigrationError, match="exchanged it while it was being worked on"):
        dotenv_file.write(str(env_file), "MORE=1\n", USER)


def test_a_further_name_of_somebody_elses_file_is_refused(victim: Path, env_file: Path) -> None:
    env_file.unlink()
    os.link(victim, env_file)
    with pytest.raises(MigrationError, match="belongs to user id 0"):
        dotenv_file.read(str(env_file), USER)
    env_file.unlink()


def test_settings_with_a_further_name_are_refused(env_file: Path) -> None:
    os.link(env_file, env_file.with_name("further"))
    for use in (dotenv_file.read, lambda path, user: dotenv_file.write(path, "MORE=1\n", user)):
        with pytest.raises(MigrationError, match=r"it has 2 names \(hard links\)"):
            use(str(env_file), USER)
    assert env_file.read_text() == SETTINGS


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR])
def test_a_fifo_or_a_device_is_refused_and_holds_nobody_up(
    env_file: Path, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_it_there() -> None:
        env_file.unlink()
        # The device that never ends.
        os.mknod(env_file, kind | 0o600, os.makedev(1, 5))
        os.chown(env_file, ACCOUNT.pw_uid, ACCOUNT.pw_gid)

    before_opening(monkeypatch, ".env", put_it_there)
    # A process of its own: without the refusal it would wait, or read, for ever.
    child = os.fork()
    if child == 0:
        import resource
        import signal

        signal.alarm(5)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        try:
            dotenv_file.read(str(env_file), USER)
        except MigrationError as error:
            os._exit(0 if "it is no regular file" in str(error) or "cannot be" in str(error) else 1)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_settings_without_an_end_are_refused(env_file: Path) -> None:
    os.truncate(env_file, 1 << 40)
    with pytest.raises(MigrationError, match=r"larger than 1,048,576 bytes"):
        dotenv_file.read(str(env_file), USER)


def test_settings_in_a_directory_of_everybody_are_refused(env_file: Path) -> None:
    env_file.parent.chmod(0o1777)
    with pytest.raises(MigrationError, match=r"everybody may write to its directory.*chmod o-w"):
        dotenv_file.read(str(env_file), USER)


def test_what_stands_in_the_place_of_the_new_file_is_left_alone(env_file: Path) -> None:
    other = env_file.with_name(".env.new")
    other.write_text("root's own")
    with pytest.raises(MigrationError, match="it is in the way of the new settings"):
        dotenv_file.write(str(env_file), "MORE=1\n", USER)
    assert other.read_text() == "root's own"
    assert env_file.read_text() == SETTINGS


# ---------------------------------------------------------------- the source in a cutover's window


@pytest.fixture
def database(yard: Path) -> Path:
    """The service's database, with a row in its log alone."""
    path = yard / "service" / "data.db"
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('PRAGMA journal_mode = WAL'); c.execute('CREATE TABLE t (a)'); "
        "c.execute('INSERT INTO t VALUES (1)'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    for file in path.parent.iterdir():
        os.chown(file, ACCOUNT.pw_uid, ACCOUNT.pw_gid)
    path.chmod(0o640)
    assert Path(f"{path}-wal").stat().st_size > 0
    return path


@pytest.fixture
def group(database: Path) -> Group:
    """The group of one service of the user's."""
    service = Service("service", USER, str(database.parent), "role", ("app",), "http://127.0.0.1:9/")
    return Group("test", str(database), (), (service,))


def context_of(group: Group, handles: Handles) -> WindowContext:
    """What a run works with, without a server."""
    settings = Settings(ServicesLogin("127.0.0.1", 5432, "swarm"), {}, 1.0, 1.0, 0.0)
    nothing: Any = None
    return WindowContext(nothing, nothing, group, settings, handles)


@pytest.fixture
def window(group: Group) -> Iterator[cutover_window.Window]:
    """A window at the moment when the services have stopped."""
    context = context_of(group, Handles())
    yield cutover_window.Window(context, ledger.unknown_group(group.name, group.source_path))
    for file in Path(group.source_path).parent.rglob("*.db"):
        if not file.is_symlink():
            write_protection.set_immutable(file, False)


def test_the_log_is_brought_into_the_file_with_the_rights_of_its_owner(
    window: cutover_window.Window, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users: list[int] = []
    connect = sqlite3.connect

    def noting(*arguments: Any, **named: Any) -> sqlite3.Connection:
        status = Path("/proc/thread-self/status").read_text()
        users.append(int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[4]))
        opened: sqlite3.Connection = connect(*arguments, **named)
        return opened

    monkeypatch.setattr(sqlite3, "connect", noting)
    window._freeze()
    assert users == [ACCOUNT.pw_uid]
    assert os.getgroups() == GROUPS
    with closing(connect(f"file:{database}?immutable=1", uri=True)) as opened:
        assert opened.execute("SELECT a FROM t").fetchall() == [(1,)]
    assert write_protection.is_protected(database)
    assert database.stat().st_uid == ACCOUNT.pw_uid


def test_sqlite_does_not_complete_a_database_of_roots(
    yard: Path, window: cutover_window.Window, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = yard / "etc" / "data.db"
    with closing(sqlite3.connect(others)) as opened:
        opened.execute("CREATE TABLE secret (a)")
        opened.commit()
    others.chmod(0o600)
    before = facts_of(others)
    once_before(monkeypatch, cutover_window, "checkpoint", lambda: move_directory(database.parent, others.parent))
    with pytest.raises(sqlite3.OperationalError, match="unable to open database file"):
        window._freeze()
    assert facts_of(others) == before
    assert os.listdir(others.parent) == ["data.db"]


@pytest.mark.parametrize("step", ["unprotect", "protect"])
@pytest.mark.parametrize("weak", [False, True])
def test_a_database_that_leads_elsewhere_passes_no_mode_and_no_attribute_on(
    victim: Path,
    window: cutover_window.Window,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    weak: bool,
) -> None:
    if weak:
        # What a file system without attributes answers.
        monkeypatch.setattr(write_protection, "_SET_FLAGS", 0)
    if step == "unprotect":
        window._described = {"mode": "0666"}
        victim.chmod(0o444)
    before = facts_of(victim)
    once_before(monkeypatch, write_protection, step, lambda: lead_to(database, victim))
    try:
        with pytest.raises((MigrationError, sqlite3.Error)):
            window._freeze()
        assert facts_of(victim) == before
        assert not write_protection.is_immutable(victim)
    finally:
        write_protection.set_immutable(victim, False)
        victim.chmod(0o644)


def back_on_sqlite(group: Group, handles: Handles) -> list[str]:
    """Undo a window without a pm2, which has to be refused; return the services that were started."""
    started: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutover_undo, "stop", lambda *_: None)
        patch.setattr(cutover_undo, "start", lambda _, services: started.extend(entry.name for entry in services))
        with pytest.raises(MigrationError, match=r"belongs to user id 0 and not to nobody"):
            cutover_undo.to_sqlite(context_of(group, handles), {"mode": "0666"})
    return started


def test_a_protection_of_roots_is_not_taken_away(victim: Path, group: Group, database: Path) -> None:
    victim.chmod(0o444)
    lead_to(database, victim)
    try:
        # The service itself has no more rights than its user.
        assert back_on_sqlite(group, Handles()) == ["service"]
        assert stat.S_IMODE(victim.stat().st_mode) == 0o444
    finally:
        victim.chmod(0o644)


def test_settings_that_lead_elsewhere_stop_nobody_elses_service(
    victim: Path, group: Group, env_file: Path, yard: Path
) -> None:
    text = dotenv_file.set_keys(SETTINGS, {"PGHOST": "127.0.0.1"})
    other = replace(group.services[0], name="other", env_file="other.env")
    own_file(Path(other.env_path), text)
    both = replace(group, services=(*group.services, other))
    handles = Handles(env_files=[EnvFile(service, 1) for service in both.services])
    lead_to(env_file, victim)
    # The one might still use PostgreSQL, so it is not started.
    assert back_on_sqlite(both, handles) == ["other"]
    assert Path(other.env_path).read_text() == SETTINGS


def test_a_database_with_a_further_name_is_refused_by_the_checks(group: Group, database: Path) -> None:
    os.link(database, database.with_name("further"))
    findings = Findings()
    check_source(group, Handles(), findings)
    assert any("it has 2 names (hard links)" in problem.what for problem in findings.violations)


def test_a_fifo_in_the_place_of_the_database_does_not_hold_the_window_up(
    window: cutover_window.Window, database: Path
) -> None:
    database.unlink()
    os.mkfifo(database)
    os.chown(database, ACCOUNT.pw_uid, ACCOUNT.pw_gid)
    with pytest.raises(MigrationError, match="it is no regular file"):
        window._hash()


JOURNALS = ("-wal", "-shm", "-journal")


def put_a_trap(place: Path, kind: str, target: Path) -> None:
    """Put in the place of a journal what would make SQLite wait, or lead it to somebody else's file."""
    place.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "device":
        os.mknod(place, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    elif kind == "directory":
        place.mkdir()
    elif kind == "symlink":
        place.symlink_to(target)
    else:
        os.link(target, place)
    os.chown(place, ACCOUNT.pw_uid, ACCOUNT.pw_gid, follow_symlinks=False)


def refusal_of(call: Callable[[], Any]) -> str:
    """Return what a call says when it refuses, from a process of its own: without the refusal it may wait for ever."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        import signal

        signal.alarm(10)
        try:
            call()
        except MigrationError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize("suffix", JOURNALS)
@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "symlink", "hard link"])
def test_what_stands_in_the_place_of_a_journal_is_refused_before_and_in_the_window(
    yard: Path, window: cutover_window.Window, group: Group, database: Path, kind: str, suffix: str
) -> None:
    secret = yard / "etc" / "log"
    secret.write_text("rows of somebody else's")
    put_a_trap(Path(f"{database}{suffix}"), kind, secret)
    owner = secret.stat().st_uid
    what = "it has 2 names (hard links)" if kind == "hard link" else "it is not a regular file"

    def check() -> None:
        findings = Findings()
        check_source(group, Handles(), findings)
        findings.require_none("refused")

    def rehearse() -> None:
        with snapshot(str(database), str(yard / "work")):
            pass

    for call in (check, rehearse, window._freeze):
        said = refusal_of(call)
        assert f"{database}{suffix}" in said and what in said, (call, said)
    assert secret.read_text() == "rows of somebody else's"
    assert kind == "hard link" or secret.stat().st_uid == owner


def rows_of(path: Path, work: Path, users: tuple[str, ...] = (USER,)) -> list[tuple[Any, ...]]:
    """Return what a rehearsal reads of a source."""
    with snapshot(str(path), str(work), users=users) as taken, closing(sqlite3.connect(taken.path)) as opened:
        return opened.execute("SELECT a FROM t").fetchall()


@pytest.mark.parametrize("kind", ["symlink", "directory", "hard link"])
def test_a_source_of_roots_is_not_rehearsed_for_a_user(yard: Path, database: Path, kind: str) -> None:
    """It may have the very tables of the service: another instance of the same application."""
    others = yard / "etc" / database.name
    with closing(sqlite3.connect(others)) as opened:
        opened.execute("CREATE TABLE t (a)")
        opened.execute("INSERT INTO t VALUES ('secret')")
        opened.commit()
    assert rows_of(database, yard / "work") == [(1,)]
    for file in database.parent.iterdir():
        file.unlink()
    if kind == "symlink":
        database.symlink_to(others)
    elif kind == "directory":
        move_directory(database.parent, others.parent)
    else:
        os.link(others, database)
    with pytest.raises(MigrationError, match="belongs to user id 0 and not to nobody"):
        rows_of(database, yard / "work")


@pytest.mark.parametrize("closed", ["directory", "file"])
def test_a_source_that_its_own_user_may_not_read_is_refused_with_what_helps(
    yard: Path, database: Path, closed: str
) -> None:
    """Only root could. Most often nobody has exchanged anything."""
    if closed == "directory":
        os.chown(database.parent, 0, 0)
        database.parent.chmod(0o700)
    else:
        database.chmod(0)
    with pytest.raises(MigrationError) as error:
        rows_of(database, yard / "work")
    assert f"{database}: it cannot be read by its own user: Permission denied" in str(error.value)
    assert "Let the service's user read it, and enter every directory above it" in str(error.value)


@pytest.mark.parametrize("opener", ["connect", "open"])
def test_a_source_that_is_exchanged_after_the_look_at_its_owner_is_read_with_the_rights_of_that_user(
    yard: Path, database: Path, monkeypatch: pytest.MonkeyPatch, opener: str
) -> None:
    others = yard / "etc" / "secret.db"
    with closing(sqlite3.connect(others)) as opened:
        opened.execute("CREATE TABLE t (a)")
        opened.execute("INSERT INTO t VALUES ('secret')")
        opened.commit()
    others.chmod(0o600)
    if opener == "open":
        # So that the copy is made file by file.
        Path(f"{database}-shm").unlink(missing_ok=True)
    call, waiting = sqlite_snapshot._take, [True]

    def exchanging(*arguments: Any) -> None:
        if waiting:
            waiting.pop()
            for file in database.parent.iterdir():
                if file.name != f"{database.name}-wal" or opener == "connect":
                    file.unlink()
            database.symlink_to(others)
        call(*arguments)

    monkeypatch.setattr(sqlite_snapshot, "_take", exchanging)
    with pytest.raises(MigrationError, match="cannot be"):
        rows_of(database, yard / "work")


def test_every_snapshot_of_a_groups_source_is_taken_for_its_users() -> None:
    calls = [
        (path.name, call)
        for path in (PROJECT / "plugins" / "module_utils").rglob("*.py")
        if "snapshot(" in (text := path.read_text(encoding="utf-8"))
        for call in ast.walk(ast.parse(text))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "snapshot"
        if call.args and ast.unparse(call.args[0]) == "group.source_path"
    ]
    assert len(calls) > 3
    assert [name for name, call in calls if "users" not in {keyword.arg for keyword in call.keywords}] == []


def test_a_source_that_becomes_a_fifo_after_the_first_look_holds_nobody_up(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_opening(monkeypatch, database.name, lambda: put_a_trap(database, "fifo", database))
    assert "it is not a regular file" in refusal_of(lambda: resolve_source(str(database)))


def test_a_source_that_is_larger_than_the_disk_is_refused_before_it_is_read(yard: Path, database: Path) -> None:
    os.truncate(database, 1 << 42)
    with (
        pytest.raises(MigrationError, match="free"),
        snapshot(str(database), str(yard / "work")),
    ):
        pass


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "symlink"])
def test_what_stands_in_the_place_of_an_alias_is_named_and_never_opened(
    yard: Path, victim: Path, group: Group, database: Path, kind: str
) -> None:
    alias = yard / "service" / "alias.db"
    put_a_trap(alias, kind, victim)
    findings = Findings()
    check_source(replace(group, aliases=(str(alias),)), Handles(), findings)
    (problem,) = (entry for entry in findings.violations if entry.where == str(alias))
    assert f"another file than {database}" in problem.what


def test_an_alias_that_is_a_hard_link_is_a_further_name_of_the_source(group: Group, database: Path) -> None:
    alias = database.with_name("alias.db")
    os.link(database, alias)
    findings = Findings()
    check_source(replace(group, aliases=(str(alias),)), Handles(), findings)
    assert any("it has 2 names (hard links)" in entry.what for entry in findings.violations)


# ---------------------------------------------------------------- the swap of a rollback


@pytest.fixture
def frozen(group: Group, window: cutover_window.Window) -> str:
    """The hash of the frozen database."""
    window._freeze()
    found: str = window._hash()
    return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Root's directory for private copies."""
    with frozen_file.work_place(str(tmp_path / "work")) as path:
        yield path


def exported(group: Group, frozen: str, place: Path) -> Path:
    """Return a copy of the frozen file with one more row."""
    copy: Path = frozen_file.make_copy(frozen_file.copy_frozen(group, frozen, {}, place))
    with closing(sqlite3.connect(copy)) as opened:
        opened.execute("PRAGMA journal_mode = DELETE")
        opened.execute("INSERT INTO t VALUES (2)")
        opened.commit()
    return copy


def test_a_frozen_file_that_leads_to_a_database_of_roots_is_not_copied(
    yard: Path, group: Group, frozen: str, place: Path, database: Path
) -> None:
    write_protection.set_immutable(database, False)
    secret = yard / "etc" / "secret.db"
    shutil.copy(database, secret)
    secret.chmod(0o600)
    lead_to(database, secret)
    with pytest.raises(MigrationError, match="belongs to user id 0"):
        frozen_file.copy_frozen(group, frozen, {}, place)
    assert os.listdir(place) == []


@pytest.mark.parametrize("moment", ["link", "replace"])
def test_a_directory_that_leads_elsewhere_in_the_swap(
    yard: Path,
    victim: Path,
    group: Group,
    frozen: str,
    place: Path,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    inode = database.stat().st_ino
    frozen_file.finish_copy(exported(group, frozen, place), group, {"mode": "0640"})
    old = frozen_file.name_for_old(str(database))
    once_before(monkeypatch, os, moment, lambda: move_directory(database.parent, victim.parent))
    frozen_file.swap(group, old, {"mode": "0640"}, inode)
    moved = yard / "moved"
    with closing(sqlite3.connect(f"file:{moved}/data.db?immutable=1", uri=True)) as opened:
        assert opened.execute("SELECT count(*) FROM t").fetchone() == (2,)
    assert (moved / "data.db").stat().st_uid == ACCOUNT.pw_uid
    assert (moved / "data.db.way-back" / old.name).stat().st_ino == inode


def test_a_frozen_file_that_is_exchanged_in_the_moment_of_its_link_is_not_kept(
    victim: Path, group: Group, frozen: str, place: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = database.stat().st_ino
    frozen_file.finish_copy(exported(group, frozen, place), group, {"mode": "0640"})
    old = frozen_file.name_for_old(str(database))
    hidden = frozen_file.private_directory(str(database))
    once_before(monkeypatch, os, "link", lambda: lead_to(database, victim))
    with pytest.raises(MigrationError, match="exchanged it while it was being worked on"):
        frozen_file.swap(group, old, {"mode": "0640"}, inode)
    assert os.listdir(hidden) == ["exported.db"]


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_journal_of_roots_is_not_removed(
    yard: Path,
    group: Group,
    frozen: str,
    place: Path,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    kept = yard / "etc" / f"data.db{suffix}"
    kept.write_text("rows of root's")
    frozen_file.finish_copy(exported(group, frozen, place), group, {"mode": "0640"})
    once_before(monkeypatch, write_protection, "unprotect", lambda: move_directory(database.parent, kept.parent))
    frozen_file.swap(group, frozen_file.name_for_old(str(database)), {"mode": "0640"}, database.stat().st_ino)
    assert kept.read_text() == "rows of root's"


def test_a_private_directory_that_leads_elsewhere_gets_no_file(
    victim: Path, group: Group, frozen: str, place: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = exported(group, frozen, place)
    hidden = frozen_file.make_directory(str(database))

    def lead_away() -> None:
        hidden.rmdir()
        hidden.symlink_to(victim.parent)

    before_opening(monkeypatch, hidden.name, lead_away)
    with pytest.raises(MigrationError, match="it is not a directory of ours alone"):
        frozen_file.finish_copy(copy, group, {})
    hidden.unlink()


def test_a_private_directory_that_is_another_one_of_roots_keeps_its_files(
    yard: Path, group: Group, frozen: str, database: Path
) -> None:
    hidden = frozen_file.private_directory(str(database))
    hidden.mkdir(mode=0o700)
    (hidden / "precious").touch()
    (hidden / "exported.db").touch()
    frozen_file.remove_old(str(database))
    assert os.listdir(hidden) == ["precious"]


def test_the_frozen_file_is_not_put_back_over_somebody_elses(
    victim: Path, group: Group, frozen: str, place: Path, database: Path
) -> None:
    inode = database.stat().st_ino
    sha256 = frozen_file.finish_copy(exported(group, frozen, place), group, {"mode": "0640"})
    old = frozen_file.name_for_old(str(database))
    entry = {"old_file": str(old), "exported_sha256": sha256}
    frozen_file.swap(group, old, {"mode": "0640"}, inode)
    lead_to(database, victim)
    with pytest.raises(MigrationError, match="belongs to user id 0"):
        frozen_file.undo_swap(group, frozen, entry)
    assert old.stat().st_ino == inode
    database.unlink()
    frozen_file.undo_swap(group, frozen, entry)
    assert (database.stat().st_ino, write_protection.is_protected(database)) == (inode, True)


def test_work_files_in_a_directory_of_somebody_elses_are_refused(yard: Path) -> None:
    with (
        pytest.raises(MigrationError, match="service on its way may be changed by somebody else"),
        frozen_file.work_place(str(yard / "service" / "work")),
    ):
        pass
