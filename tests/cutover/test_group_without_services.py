"""A group that has a file and no services: it moves once nobody has the file open, and a person switches the rest."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import cutover
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import write_protection
from tests.engine.support import execute, make_group, query
from tests.estates import Estate, let_find_programs, make_notes

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

pytestmark = pytest.mark.usefixtures("no_older_processes")

HOLD_THE_FILE = "import sys; f = open(sys.argv[1], 'r+'); print('ready', flush=True); sys.stdin.read()"


def owned(estate: Estate, **owner: str) -> Group:
    """Return the group, its file of an owner that the inventory names."""
    entry = {"name": "test", "source": {"path": str(estate.source), **owner}}
    return make_group(estate.source, {"source": "notes"}, **entry, services=[])


@pytest.fixture
def estate(connection: Connection, login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Estate]:
    let_find_programs(monkeypatch)
    source = make_notes(connection, tmp_path / "data.db", "PRAGMA journal_mode = WAL; ")
    made = Estate(connection, login, tmp_path, source, role_passwords={})
    made.rehearse()
    yield made
    with suppress(FileNotFoundError):
        write_protection.unprotect(made.source, {"mode": "0644"})


@contextmanager
def holding(path: Path) -> Iterator[int]:
    """Have a file open in another process, and give its id."""
    command = [sys.executable, "-c", HOLD_THE_FILE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.mark.promise("group-without-services-moves")
def test_a_file_moves_is_kept_and_comes_back_with_what_was_written(estate: Estate) -> None:
    dry = cutover.cut_over(estate.login, estate.group, estate.settings, check_mode=True)
    assert (dry["changed"], dry["msg"]) == (True, "test would be cut over: no services.")
    with closing(sqlite3.connect(estate.source)) as opened:
        opened.execute("INSERT INTO notes VALUES ('since')")
        opened.commit()
    moved = estate.move()
    assert "its file was frozen and proven within" in moved["msg"]
    (said,) = moved["warnings"]
    assert f"let the programs that used {estate.source} use PostgreSQL" in said
    assert (estate.state(), write_protection.is_protected(estate.source)) == ("live", True)
    assert query(estate.connection, "SELECT text FROM app.notes ORDER BY text") == [("a",), ("since",)]
    kept = estate.move()
    assert (kept["changed"], kept["warnings"]) == (False, [])

    execute(estate.connection, "INSERT INTO app.notes VALUES ('on postgresql')")
    result = estate.roll_back()
    assert (result["changed"], estate.state()) == (True, "rolled_back")
    assert not write_protection.is_protected(estate.source)
    assert estate.notes() == ["a", "on postgresql", "since"]


@pytest.mark.promise("group-without-services-moves")
def test_a_file_that_somebody_has_open_stays(estate: Estate) -> None:
    with holding(estate.source) as pid, pytest.raises(MigrationError, match="nothing was stopped") as refused:
        estate.move()
    assert f"process {pid}" in str(refused.value)
    assert "Stop it, or add its service to this cutover group" in str(refused.value)
    assert (estate.state(), write_protection.is_protected(estate.source)) == ("rehearsed", False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of others")
@pytest.mark.promise("group-without-services-moves")
def test_a_file_of_somebody_else_needs_its_owner_named(estate: Estate) -> None:
    os.chown(estate.source, 65534, 65534)
    estate.source.parent.chmod(0o755)
    with pytest.raises(MigrationError, match="Name its owner as 'owner' of the source"):
        estate.move()
    estate.group = owned(estate, owner="daemon")
    with pytest.raises(MigrationError, match="it belongs to user id 65534 and not to daemon"):
        estate.move()
    assert estate.state() == "rehearsed"
    estate.group = owned(estate, owner="nobody")
    assert estate.group.users == ("nobody",)


def test_an_owner_is_not_named_beside_services() -> None:
    service = {"name": "s", "user": "u", "directory": "/", "database_role": "r", "schemas": ["app"]}
    entry = {"source": {"path": "/g.db", "owner": "u"}, "services": [{**service, "health_url": "http://127.0.0.1/"}]}
    with pytest.raises(MigrationError, match="'owner' is for a group without services"):
        make_group(Path("/g.db"), {"source": "notes"}, **entry)
