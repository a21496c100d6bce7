"""What a service's user can put in the place of pm2's dump and of an ecosystem file, while root looks at them."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group, Service
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


def looked_at_together(home: Path, files: dict[str, str], *, twice: str = "") -> tuple[list[str], int]:
    """Return what the checks say of a service with each of these files, and how often node was started for them.

    :param twice: the file of which a second service is.
    """
    started = home / "started"
    started.touch()
    (home / "node").write_text(f'#!/bin/sh\necho >> {started}\nexec {shutil.which("node")} "$@"\n')
    (home / "node").chmod(0o755)
    services = []
    for number, (name, text) in enumerate(files.items()):
        # Each in a directory of its own, as services are.
        directory = home / str(number)
        directory.mkdir(exist_ok=True)
        (directory / name).write_text(text)
        service = Service("a", USER, str(directory), "role", ("app",), "http://127.0.0.1:9/", ecosystem_file=name)
        services += [replace(service, pm2_home=str(home), pm2_path=str(home))] * (2 if name == twice else 1)
    for path in home.rglob("*"):
        os.chown(path, ACCOUNT.pw_uid, ACCOUNT.pw_gid)
    known: dict[tuple[str, ...], pm2.Pm2] = {}
    pm2.share((Group("g", "/srv/a.db", (), (service,)) for service in services), known)
    (manager,) = known.values()
    said = ["".join(map(str, manager.check_service(service, True, False).problems)) for service in services]
    said = [text.replace(service.directory, "") for text, service in zip(said, services, strict=True)]
    return said, len(started.read_text().splitlines())


ONE = "module.exports = {apps: [{name: 'a'}]}"


@pytest.mark.skipif(shutil.which("node") is None, reason="an ecosystem file is read by node")
def test_the_files_of_groups_that_are_looked_at_together_are_read_by_one_start_of_node(home: Path) -> None:
    files = {
        # What a file does to its own process reaches no other one.
        "one.js": f"process.env.NAME = 'b'; process.chdir('/'); require('./shared').name = 'b'; {ONE}",
        "two.js": """
            const own = process.cwd() === __dirname && process.argv[1] === __filename;
            const name = process.env.NAME || require('../0/shared').name;
            module.exports = [{name: own ? name : 'elsewhere', instances: 99}];
        """,
        "both.json": '{"apps": [{"name": "a"}]}',
        "other.cjs": "module.exports = {name: 'c'}",
        "only_pm2_reads_it.yml": "",
    }
    (home / "0").mkdir()
    (home / "0" / "shared.js").write_text("exports.name = 'a'")
    said, starts = looked_at_together(home, files, twice="both.json")
    assert "it starts 99 processes" in said[1]
    assert "it starts c, but not a" in said[4]
    assert (said[0], *said[2:4], said[5], starts) == ("", "", "", "", 1)


@pytest.mark.skipif(shutil.which("node") is None, reason="an ecosystem file is read by node")
@pytest.mark.parametrize("program", ["throw new Error()", "console.log('what')"])
def test_a_file_that_cannot_be_loaded_spoils_no_other(home: Path, program: str) -> None:
    said, starts = looked_at_together(home, {"one.js": ONE, "bad.js": f"{program}; {ONE}", "two.js": ONE})
    assert [text == "" for text in said] == [True, False, True]
    assert "node cannot load it" in said[1]
    # Together, then each by itself.
    assert starts == 4


@pytest.mark.skipif(shutil.which("node") is None, reason="an ecosystem file is read by node")
def test_a_huge_file_is_not_read_with_others(home: Path) -> None:
    said, starts = looked_at_together(home, {"one.js": ONE, "huge.js": f"throw 1;{' ' * (2 << 20)}", "two.js": ONE})
    assert (said[0], said[2], starts) == ("", "", 1)
    assert "is larger than" in said[1]
