"""What a service's user can put in the place of pm2's dump and of an ecosystem file, while root looks at them."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Service
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import pm2

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be attacked by somebody with fewer rights")

USER = "nobody"
ACCOUNT = pwd.getpwnam(USER)
SECRET = '[{"name": "a", "pm2_env": {"env": {"word": "secret"}}}]'


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of the service's user, which is pm2's and the service's own, beside one of root's."""
    place = Path(tempfile.mkdtemp(prefix="pm2-", dir="/tmp"))
    place.chmod(0o755)
    (place / "home").mkdir()
    (place / "root").mkdir()
    os.chown(place / "home", ACCOUNT.pw_uid, ACCOUNT.pw_gid)
    yield place / "home"
    shutil.rmtree(place)


@pytest.fixture
def victim(home: Path) -> Iterator[Path]:
    """A file of root's, which is not read, and keeps its owner and mode."""
    path = home.parent / "root" / "secret.json"
    path.write_text(SECRET)
    path.chmod(0o640)
    before = path.lstat()
    yield path
    after = path.lstat()
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode), path.read_text()) == (
        before.st_uid,
        before.st_gid,
        stat.S_IMODE(before.st_mode),
        SECRET,
    )


def put_there(place: Path, kind: str, victim: Path) -> None:
    """Put something else in the place of a file."""
    if kind == "symlink":
        place.symlink_to(victim)
    elif kind == "hard link":
        os.link(victim, place)
        return
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "endless":
        place.symlink_to("/dev/zero")
    elif kind == "directory":
        place.mkdir()
    else:
        with place.open("wb") as file:
            file.truncate(1 << 40)
    os.chown(place, ACCOUNT.pw_uid, ACCOUNT.pw_gid, follow_symlinks=False)


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "endless", "directory", "huge"])
def test_what_stands_in_the_place_of_the_dump_is_not_read(home: Path, victim: Path, kind: str) -> None:
    found = pm2.Pm2(USER, str(home))
    put_there(home / "dump.pm2", kind, victim)
    assert found._read_dump() == []
    assert found._make_private(home / "dump.pm2", check_mode=False) is (kind == "huge")


def test_a_directory_of_pm2_that_leads_to_somebody_elses_gives_nothing(home: Path, victim: Path) -> None:
    victim.rename(victim.with_name("dump.pm2"))
    try:
        (home / "pm2").symlink_to(victim.parent)
        found = pm2.Pm2(USER, str(home / "pm2"))
        assert found._read_dump() == []
        assert not found._make_private(home / "pm2" / "dump.pm2", check_mode=False)
    finally:
        victim.with_name("dump.pm2").rename(victim)


def problems_of(home: Path, file: str) -> list[str]:
    """Return what the checks say of a service with this ecosystem file."""
    service = Service("a", USER, str(home), "role", ("app",), "http://127.0.0.1:9/", ecosystem_file=file)
    return [str(problem) for problem in pm2.Pm2(USER, str(home)).check_service(service, True, False).problems]


@pytest.mark.skipif(shutil.which("node") is None, reason="an ecosystem file is read by node")
@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "endless", "directory", "huge"])
def test_what_stands_in_the_place_of_an_ecosystem_file_leads_nobody_astray(home: Path, victim: Path, kind: str) -> None:
    """Only node reads it, with the rights of its user."""
    put_there(home / "ecosystem.json", kind, victim)
    said = "\n".join(problems_of(home, "ecosystem.json"))
    expected = {"symlink": "node cannot load it", "hard link": "node cannot load it", "huge": "is larger than"}
    assert expected.get(kind, "does not exist") in said
    assert "secret" not in said.replace(str(victim), "")


@pytest.mark.skipif(shutil.which("node") is None, reason="an ecosystem file is read by node")
@pytest.mark.parametrize("program", ["for (;;);", "for (;;) console.log('x'.repeat(1 << 16));"])
def test_an_ecosystem_file_without_an_end_is_given_up(
    home: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(pm2, "_ANSWER_SECONDS", 1)
    (home / "ecosystem.js").write_text(program)
    assert "node cannot load it" in "".join(problems_of(home, "ecosystem.js"))


@pytest.mark.skipif(shutil.which("node") is None, reason="an ecosystem file is read by node")
def test_the_command_to_look_at_an_ecosystem_file_runs_it_as_its_user(home: Path) -> None:
    """Root pastes it, and it runs whatever the user has written."""
    (home / "it's.js").write_text("throw new Error(process.getuid())")
    found = pm2.Pm2(USER, str(home))
    with pytest.raises(MigrationError) as refused:
        found.read_ecosystem(str(home / "it's.js"))
    command = refused.value.problems[0].fix.partition(": ")[2]
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert f"Error: {ACCOUNT.pw_uid}" in done.stderr
