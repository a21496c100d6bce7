"""A whole window with a service that really opens its store, under a small pm2: what it does wrong, what follows."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import commands
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import cutover
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import (
    service_health,
    write_protection,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.manager import Process
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.managers import key_of
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.service_health import (
    Listings,
    look_once,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import dump
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window import checks
from scripts.throwaway_postgres import free_port
from tests import estates
from tests.conftest import Server, fresh_database
from tests.engine.support import execute, make_group
from tests.estates import let_find_programs, make_file_of_notes, make_notes

from .small_pm2 import SmallPm2

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

pytestmark = pytest.mark.usefixtures("no_older_processes")

# Seconds for which a service is watched that ends after two; also after a rollback, so not more than needed.
LONG = 4.0
COMMAND = commands.playbook("rollback", service_env_rollback_groups="test")


class Estate(estates.Estate):
    """One rehearsed group with one service that runs on SQLite.

    :param is_copied: its database is a copy of one in which the group was rehearsed.
    """

    def __init__(self, connection: Connection, login: Login, tmp_path: Path, is_copied: bool) -> None:
        path = tmp_path / "data.db"
        source = make_file_of_notes(path) if is_copied else make_notes(connection, path)
        (tmp_path / ".env").write_text("PORT=1\n")
        (tmp_path / ".env").chmod(0o600)
        (tmp_path / "ecosystem.config.js").write_text("// started by the small pm2\n")
        self.pm2 = SmallPm2(tmp_path, source, free_port())
        super().__init__(connection, login, tmp_path, source)
        if is_copied:
            self.begin_rehearsed()
        else:
            self.rehearse()

    def described(self) -> Group:
        """Return the group, its service with the address that asks the database."""
        return self.with_addresses("/health")

    def with_addresses(self, health: str, more: str = "") -> Group:
        """Return the group, its service with these addresses."""
        base = f"http://127.0.0.1:{self.pm2.port}"
        service = {
            "name": "service",
            "user": self.pm2.user,
            "directory": str(self.pm2.place),
            "database_role": "swarm_registry",
            "schemas": ["app"],
            "health_url": f"{base}{health}",
            **({"query_url": f"{base}{more}"} if more else {}),
        }
        return make_group(self.source, {"source": "notes"}, services=[service])

    def ask(self, path: str) -> None:
        """Ask the service for something."""
        urllib.request.urlopen(f"http://127.0.0.1:{self.pm2.port}{path}", timeout=60).close()

    def start_again(self) -> None:
        """Let pm2 start the service anew, and wait until it listens."""
        self.pm2.delete(["service"])
        self.pm2.start("", "service")
        while service_health.ask(f"http://127.0.0.1:{self.pm2.port}/ping"):
            time.sleep(0.02)


@pytest.fixture
def database(server: Server, rehearsed_notes: str) -> Iterator[str]:
    """The name of a copy of a database whose group was rehearsed."""
    with fresh_database(server, rehearsed_notes) as name:
        yield name


@pytest.fixture
def estate(
    connection: Connection,
    login: Login,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Estate]:
    let_find_programs(monkeypatch)
    # Who takes this fixture with a database of another kind has it rehearsed there.
    made = Estate(connection, login, tmp_path, is_copied="rehearsed_notes" in request.fixturenames)
    for module in (checks, service_health):
        monkeypatch.setattr(module, "managers_of", lambda *_: {key_of(made.group.services[0]): made.pm2})
    with closing(made.pm2):
        made.start_again()
        yield made
    write_protection.unprotect(made.source, {"mode": "0644"})


# ---------------------------------------------------------------- an address that does not ask the database


@pytest.mark.promise("moved-group-kept-so")
def test_a_service_without_a_session_is_left_running_with_a_warning(estate: Estate, server: Server) -> None:
    group = estate.with_addresses("/ping")
    moved = estate.move(group)
    (said,) = moved["warnings"]
    assert "its 'health_url'" in said
    assert "answers without asking PostgreSQL, so its answer proves nothing of the database" in said
    # As an idle pool does: its last session is closed, and what is asked opens none.
    estate.pm2.behave("lazy")
    estate.start_again()
    starts = estate.pm2.starts
    kept = estate.move(group)
    assert (kept["changed"], estate.pm2.starts) == (False, starts)
    (said,) = kept["warnings"]
    assert "no session of role swarm_registry" in said
    assert "It was left running" in said
    dry = cutover.cut_over(estate.login, group, estate.settings, check_mode=True)
    assert (dry["changed"], dry["warnings"]) == (False, kept["warnings"])
    # With an address that asks the database nothing is left to say, and the daily look finds it well too.
    named = estate.with_addresses("/ping", "/query")
    with closing(connect(replace(server.superuser, database=estate.login.database))) as administrator:
        (idle,) = look_once(administrator, group).values()
        assert "(see 'query_url')" in idle.shortcoming
        assert idle.lacks_session
        assert look_once(administrator, named)["service"].shortcoming == ""
    kept = estate.move(named)
    assert (kept["changed"], kept["warnings"], estate.pm2.starts) == (False, [], starts)


def test_groups_that_are_looked_at_together_ask_pm2_once(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    times_asked = 0

    def processes() -> list[Process]:
        nonlocal times_asked
        times_asked += 1
        return []

    monkeypatch.setattr(estate.pm2, "processes", processes)
    group = estate.with_addresses("/ping")
    listings = Listings()
    with closing(connect(estate.login)) as connection:
        for _ in range(2):
            assert look_once(connection, group, listings)["service"].shortcoming == "pm2 reports it as unknown"
        assert times_asked == 1
        # What was said a while ago is asked anew.
        monkeypatch.setattr(service_health, "_LISTED_LATELY_SECONDS", -1.0)
        look_once(connection, group, listings)
        assert times_asked == 2
        # Where pm2 is slow to answer, all the rest is slow too, and what it said is kept longer.
        monkeypatch.setattr(service_health, "_TIMES_THE_ANSWER", 1e9)
        look_once(connection, group, listings)
        assert times_asked == 2
        # But not for as long as pm2 likes.
        monkeypatch.setattr(service_health, "_MOST_SECONDS_SHARED", -1.0)
        look_once(connection, group, listings)
        assert times_asked == 3
    # So do dry runs of the cutover of one group after the other, and a run of its own asks anew.
    monkeypatch.undo()
    monkeypatch.setattr(checks, "managers_of", lambda *_: {key_of(group.services[0]): estate.pm2})
    monkeypatch.setattr(estate.pm2, "processes", processes)
    together = replace(estate.settings, listings=Listings())
    for settings, times in ((together, 4), (together, 4), (estate.settings, 5)):
        checks.check_services(group, settings, checks.Findings(), may_be_missing=True)
        assert times_asked == times


def test_pm2_is_asked_anew_where_a_process_of_its_list_has_ended(estate: Estate) -> None:
    """A person may have started the service on another store meanwhile: nothing is said of a process that is gone."""
    listings = Listings()
    before = listings.processes_of(estate.pm2)
    assert listings.processes_of(estate.pm2) is before
    estate.start_again()
    (now,) = listings.processes_of(estate.pm2)
    assert now.pid not in (0, before[0].pid)


def test_an_address_that_asks_the_database_is_not_warned_of(estate: Estate) -> None:
    assert estate.move()["warnings"] == []
    assert estate.state() == "live"


def test_a_cutover_that_was_killed_does_not_take_a_service_without_a_session_for_proven(estate: Estate) -> None:
    group = estate.with_addresses("/ping")
    estate.move(group)
    execute(
        estate.connection,
        "UPDATE migration.cutover_group SET detail = jsonb_set(detail, '{proven}', 'false')",
    )
    estate.pm2.behave("lazy")
    estate.start_again()
    estate.pm2.behave("")
    assert "an interrupted cutover was finished" in estate.move(group)["msg"]
    assert estate.pm2.starts == 4


@pytest.mark.promise("checked-before-services-stop")
def test_an_address_that_does_not_answer_is_refused_before_the_stop(estate: Estate) -> None:
    group = estate.with_addresses("/ping", "/query")
    service = replace(group.services[0], query_url="http://127.0.0.1:9/")
    with pytest.raises(MigrationError, match=r"nothing was stopped[\s\S]*127.0.0.1:9"):
        estate.move(replace(group, services=(service,)))
    assert estate.pm2.starts == 1


# ---------------------------------------------------------------- a service that ends


@pytest.mark.promise("failed-cutover-back-on-sqlite")
@pytest.mark.parametrize(("most_restarts", "said"), [(15, "pm2 has already started it"), (1, "does not start it any")])
def test_a_crash_loop_ends_the_wait_at_once(estate: Estate, most_restarts: int, said: str) -> None:
    estate.pm2.most_restarts = most_restarts
    estate.pm2.behave("crash")
    # Far behind everything that the test takes: it must not end by its time limit.
    with pytest.raises(MigrationError) as failed:
        estate.move(health_timeout=3600.0)
    assert "service service: " in str(failed.value)
    assert said in str(failed.value)
    assert "was undone: its services run on SQLite again" in str(failed.value)
    assert estate.state() == "rehearsed"
    estate.ask("/health")


@pytest.mark.promise("failed-cutover-back-on-sqlite")
def test_a_service_that_ends_while_it_is_watched_has_failed(estate: Estate) -> None:
    estate.pm2.behave("end")
    with pytest.raises(MigrationError) as failed:
        estate.move(stable_seconds=LONG)
    assert "it came up, answered, and was restarted soon after" in str(failed.value)
    assert estate.state() == "rehearsed"


@pytest.mark.promise("written-group-stays")
@pytest.mark.parametrize("behaviour", ["write end", "write crash"])
def test_rows_of_a_service_that_failed_come_back_by_the_policy(estate: Estate, behaviour: str) -> None:
    estate.pm2.behave(behaviour)
    with pytest.raises(MigrationError) as failed:
        estate.move(roll_back_on_failure=True, stable_seconds=LONG)
    assert "Its services have already written to PostgreSQL" in str(failed.value)
    assert "so it was rolled back with these rows" in str(failed.value)
    assert estate.state() == "rolled_back"
    estate.ask("/health")
    assert estate.notes() == ["a", "on postgresql"]


@pytest.mark.promise("written-group-stays")
def test_rows_of_a_service_that_failed_stay_by_the_policy(estate: Estate) -> None:
    estate.pm2.behave("write end")
    with pytest.raises(MigrationError) as failed:
        estate.move(health_timeout=5.0, stable_seconds=LONG)
    assert "Its services have already written to PostgreSQL, so it stays there" in str(failed.value)
    assert f"return to SQLite with every row: {COMMAND}" in str(failed.value)
    assert estate.state() == "live"


@pytest.mark.promise("written-group-stays")
def test_a_rollback_that_is_refused_is_said_with_its_command(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    estate.pm2.behave("write end")
    # This host has no program that could keep a dump.
    monkeypatch.setattr(dump, "_PATH", "/nowhere")
    monkeypatch.setattr(dump, "_PROGRAM_DIRECTORIES", "/nowhere")
    with pytest.raises(MigrationError) as failed:
        estate.move(roll_back_on_failure=True, stable_seconds=LONG)
    assert "the rollback did not succeed" in str(failed.value)
    assert f"then: {COMMAND}" in str(failed.value)
    assert estate.state() == "live"


def test_a_rollback_tells_pm2_only_once_to_delete_what_it_has_listed(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told again, the real pm2 fails, is given time and is asked for its list, all in the outage."""
    estate.move()
    told: list[list[str]] = []
    delete = estate.pm2.delete

    def note(names: Iterable[str], known: Sequence[str] = ()) -> None:
        told.append(list(known))
        delete(names, known)

    monkeypatch.setattr(estate.pm2, "delete", note)
    estate.roll_back()
    assert estate.state() == "rolled_back"
    assert [known for known in told if known] == [[estate.pm2.name]]
    # What was started by somebody meanwhile is stopped all the same.
    assert len(told) > 1


# ---------------------------------------------------------------- what is found before the stop


@pytest.mark.promise("checked-before-services-stop")
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("INSERT INTO app.notes VALUES ('foreign')", "app.notes: it holds 2 rows, and our last run left 1 rows"),
        ("UPDATE app.notes SET text = 'changed'", "app.notes: it holds 1 rows"),
    ],
)
def test_a_foreign_write_to_the_target_is_found_before_the_stop(estate: Estate, statement: str, said: str) -> None:
    execute(estate.connection, statement)
    for check_mode in (True, False):
        with pytest.raises(MigrationError) as failed:
            cutover.cut_over(estate.login, estate.group, estate.settings, check_mode)
        assert "cannot be cut over; nothing was stopped" in str(failed.value)
        assert said in str(failed.value)
    assert (estate.pm2.starts, estate.state()) == (1, "rehearsed")


def test_a_target_that_was_restored_from_a_dump_is_no_foreign_write(estate: Estate) -> None:
    execute(estate.connection, "DELETE FROM app.notes; INSERT INTO app.notes VALUES ('a')")
    estate.move()
    assert estate.state() == "live"


@pytest.mark.promise("checked-before-services-stop")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_work_directory_without_room_is_found_before_the_stop(estate: Estate, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", small], check=True)
    try:
        (small / "filler").write_bytes(bytes(60_000))
        with pytest.raises(MigrationError) as failed:
            estate.move(work_directory=str(small))
    finally:
        subprocess.run(["umount", small], check=True)
    assert "cannot be cut over; nothing was stopped" in str(failed.value)
    assert f"{small}: " in str(failed.value)
    assert "bytes are free and" in str(failed.value)
    assert (estate.pm2.starts, estate.state()) == (1, "rehearsed")


@pytest.mark.promise("checked-before-services-stop")
def test_a_server_that_is_stopped_before_the_cutover_stops_no_service(estate: Estate) -> None:
    estate.ask("/health")
    estate.login = replace(estate.login, port=free_port())
    with pytest.raises(MigrationError, match="Cannot connect to PostgreSQL"):
        estate.move()
    estate.ask("/health")
    assert (estate.pm2.starts, estate.state(), estate.notes()) == (1, "rehearsed", ["a"])
