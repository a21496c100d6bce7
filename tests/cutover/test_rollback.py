"""The rollback on a real host: what services wrote to PostgreSQL through their HTTP interface is in SQLite again.

It goes on with the host of test_on_a_host.py, or takes a new one that is live. What fails or is killed at each step of
the window, without services, is in tests/engine/test_rollback_window.py. What has a twin without a host is a long
search here: tests/README.md.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import dotenv_file
from scripts.playbooks import PlaybookRun

from .host import (
    CONTAINER,
    CUTOVER,
    GROUPS,
    HOST,
    PATIENCE,
    REHEARSAL,
    ROLLBACK,
    SERVICES,
    SharedHost,
    changed,
    env_of,
    group_of,
    health_of,
    is_protected,
    locked_table,
    module_processes,
    on_host,
    original_env_of,
    pids,
    play,
    signal_module,
    sql,
    started,
    state_of,
    stores,
    until,
    variables,
)

pytestmark = pytest.mark.usefixtures("moved")

REGISTRY = next(group for group in GROUPS if group["name"] == "registry")
PLATFORM = next(group for group in GROUPS if group["name"] == "platform")
PG_DUMP = "/usr/lib/postgresql/16/bin/pg_dump"
_ASK = """
import json, sys, urllib.error, urllib.request
method, address, body = sys.argv[1:]
request = urllib.request.Request(address, body.encode() or None, {"content-type": "application/json"}, method=method)
try:
    print(urllib.request.urlopen(request, timeout=10).read().decode())
except urllib.error.HTTPError as error:
    print(json.dumps({"status": error.code, "error": error.read().decode()}))
except urllib.error.URLError as error:
    print(json.dumps({"error": str(error)}))
"""


def ask(service: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask a service through its HTTP interface."""
    address = SERVICES[service]["health_url"].removesuffix("/health") + path
    return json.loads(on_host("python3", "-c", _ASK, method, address, json.dumps(body) if body else ""))


def new_agent(name: str) -> str:
    """Let the registry write a new agent, and return its id: it is acknowledged."""
    return str(
        ask("swarm-registry", "POST", "/agents", {"name": name, "version": str(uuid.uuid4()), "path": "/"})["id"]
    )


def agents() -> dict[str, str]:
    """Return the name of each agent by its id, as the registry says it on its present store."""
    found = ask("swarm-registry", "GET", "/agents")["agents"]
    assert len({agent["id"] for agent in found}) == len(found)
    return {agent["id"]: agent["name"] for agent in found}


def in_file(group: dict[str, Any], statement: str) -> list[list[Any]]:
    """Return the rows of a statement on a group's SQLite file."""
    code = (
        "import json, sqlite3, sys; c = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True); "
        "print(json.dumps(c.execute(sys.argv[2]).fetchall()))"
    )
    rows: list[list[Any]] = json.loads(on_host("python3", "-c", code, group["source"]["path"], statement))
    return rows


def store_of(service: str) -> str:
    return str(health_of(service)["store"])


def all_answer() -> bool:
    """Return whether every service answers."""
    try:
        return bool(stores())
    except AssertionError:
        return False


def back(*groups: str, succeeds: bool = True, **options: Any) -> str:
    """Bring groups back to SQLite."""
    return play(ROLLBACK, *variables(rollback_groups=list(groups), **options), succeeds=succeeds)


def there(group: dict[str, Any]) -> None:
    """Bring a group to PostgreSQL once more."""
    play(REHEARSAL, CUTOVER, *variables(groups=[group]))
    assert state_of(group["name"]) == "live"


@pytest.fixture(scope="module")
def moved(shared_host: SharedHost) -> Iterator[None]:
    """Every group on PostgreSQL."""
    shared_host.take("live", *(group["name"] for group in GROUPS))
    assert stores() == dict.fromkeys(SERVICES, "postgresql")
    yield
    shared_host.use_up()


# The next move below begins on such a host, and ends with a run of phases 1 and 4 that changes nothing.
@pytest.mark.long_search
def test_a_host_that_starts_live_is_as_one_that_was_built_step_by_step() -> None:
    """An image loses attributes and times of files; no phase finds anything to put right."""
    playbooks = ("playbooks/1_infrastructure.yml", "playbooks/2_shared_library.yml", REHEARSAL, CUTOVER)
    found = HOST.play(*playbooks, "--diff")
    assert (found.succeeded, found.changed_tasks) == (True, ()), found.output


# ---------------------------------------------------------------- every row


@pytest.mark.long_search
def test_a_dry_run_says_what_comes_back_and_changes_nothing() -> None:
    late = new_agent("before a dry run")
    before = pids()
    output = play(ROLLBACK, "--check", "--diff", *variables(rollback_groups=["registry"]))
    assert changed(output) == 1
    assert "with every row written to PostgreSQL since its cutover" in output
    assert (pids(), state_of("registry")) == (before, "live")
    ask("swarm-registry", "DELETE", f"/agents/{late}")


@pytest.mark.promise("rollback-keeps-every-row", "no-password-in-output")
def test_what_the_services_wrote_is_there_again_and_nothing_else_has_changed() -> None:
    """Two groups go back, and pm2 is started again in the window of the first."""
    text_ids = in_file(REGISTRY, "SELECT id FROM agents WHERE id NOT LIKE '%-%-%-%-%' ORDER BY id")
    assert text_ids
    written = [new_agent(f"after the cutover {number}") for number in range(3)]
    ask("swarm-registry", "DELETE", f"/agents/{written[1]}")
    branch = str(uuid.uuid4())
    attempt = ask("swarm-tickets", "POST", "/attempts", {"ticket_id": "T-77", "branch_name": branch})
    assert attempt["ticket_id"] == "T-77"
    sql("UPDATE auth.users SET last_login = '2026-03-04 05:06:07.891+00' WHERE email = 'admin@example.org'")
    passwords = {dotenv_file.read_values(env_of(name))["PGPASSWORD"] for name in SERVICES}
    late = {"name": "while pm2 was back", "version": str(uuid.uuid4()), "path": "/"}
    answer: list[Any] = []
    with held_in_the_window("-vvvv", "--diff", groups=("registry", "platform")) as go_on:
        # The services come up on PostgreSQL, as its list says.
        on_host("systemctl", "restart", "pm2-swarm")
        until(all_answer)
        assert stores() == dict.fromkeys(SERVICES, "postgresql")
        writing = threading.Thread(target=lambda: answer.append(ask("swarm-registry", "POST", "/agents", late)))
        writing.start()
        run = go_on()
        writing.join()
    output = run.output
    assert run.succeeded, output
    assert "Traceback" not in output
    assert "registry runs on SQLite again" in output
    assert "platform runs on SQLite again" in output
    # Not the passwords themselves: a failing test prints what it compares.
    assert sum(password in output for password in passwords) == 0
    assert stores() == {**dict.fromkeys(SERVICES, "sqlite"), "swarm-deploy": "postgresql"}
    known = agents()
    assert {known[written[0]], known[written[2]]} == {"after the cutover 0", "after the cutover 2"}
    assert written[1] not in known
    assert "id" not in answer[0] or answer[0]["id"] in known
    # Through the symlink, which leads to the new file.
    assert [one["branch_name"] for one in ask("swarm-tickets", "GET", "/attempts")["attempts"]].count(branch) == 1
    assert in_file(REGISTRY, "SELECT id FROM agents WHERE id NOT LIKE '%-%-%-%-%' ORDER BY id") == text_ids
    assert in_file(PLATFORM, "SELECT last_login FROM users WHERE email = 'admin@example.org'")[0][0].startswith(
        "2026-03-04"
    )
    for service in ("swarm-registry", "swarm-tickets", "swarm-platform"):
        assert env_of(service) == original_env_of(service)
    for group in (REGISTRY, PLATFORM):
        path = group["source"]["path"]
        assert not is_protected(group)
        assert on_host("stat", "-c", "%U %G", path).split() == ["swarm", "swarm"]
        # Its directory hands down its set-group-ID bit where it has one, as for two users who share a file.
        assert on_host("stat", "-c", "%a %U", f"{path}.way-back").strip() in ("700 root", "2700 root")
    dumps = set(re.findall(r"kept in (\S+\.dump) \(SHA-256 (\w{64})\)", output))
    assert len(dumps) == 2
    for path, digest in dumps:
        assert on_host("sha256sum", path).split()[0] == digest
        assert on_host("stat", "-c", "%a %U", path).strip() == "600 root"


@pytest.mark.long_search
@pytest.mark.promise("there-and-back-again")
def test_it_can_be_moved_again_with_the_same_ids_and_what_was_written_meanwhile() -> None:
    uuids = dict(line.split("|") for line in sql("SELECT name || version, id FROM registry.agents").splitlines())
    meanwhile = new_agent("on sqlite again")
    assert "permission denied" in refused_write("swarm_registry", "INSERT INTO registry.agents (name) VALUES ('x')")
    there(REGISTRY)
    assert store_of("swarm-registry") == "postgresql"
    now = dict(line.split("|") for line in sql("SELECT name || version, id FROM registry.agents").splitlines())
    assert set(now.values()) == {*uuids.values(), meanwhile}
    assert uuids.items() <= now.items()


@pytest.mark.long_search
def test_nothing_is_left_to_do_after_the_second_move() -> None:
    there(PLATFORM)
    output = play("playbooks/1_infrastructure.yml", CUTOVER)
    assert changed(output) == 0, output


# tests/engine/test_rollback_window.py goes there and back as often as one likes, without services.
@pytest.mark.long_search
def test_it_goes_back_once_more_with_rows_of_both_times() -> None:
    late = new_agent("the second time")
    back("registry")
    assert {"the second time", "on sqlite again"} <= set(agents().values())
    there(REGISTRY)
    assert late in agents()


def refused_write(role: str, statement: str) -> str:
    """Return why the server refuses a statement of a service's role."""
    result = subprocess.run(
        ["docker", "exec", "-i", CONTAINER, "runuser", "-u", "postgres", "--", "psql", "-d", "swarm"],
        input=f"\\set ON_ERROR_STOP 1\nSET ROLE {role};\n{statement};\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    return result.stderr


# ---------------------------------------------------------------- what is refused before anything stops


@pytest.mark.long_search
@pytest.mark.promise("rollback-loses-by-exact-number")
def test_what_the_file_cannot_say_is_refused_and_lost_only_by_its_exact_number() -> None:
    kept = new_agent("kept in the dump alone")
    sql("ALTER TABLE registry.agents ADD COLUMN badge text; UPDATE registry.agents SET badge = 'x' WHERE name = 'echo'")
    try:
        before = pids()
        output = back("registry", succeeds=False)
        assert "nothing was stopped" in output
        assert "agents ← registry.agents.badge: holds data, and the file has no such column (2 rows" in output
        # Ansible prints the message, and the problems in it.
        (number,) = set(re.findall(r"rollback_groups=registry -e service_env_rollback_lose_rows=(\d+)", output))
        assert number == "3"
        output = back("registry", rollback_lose_rows=int(number) + 1, succeeds=False)
        assert "it is 4, and going back to the frozen file of registry would lose 3 rows of PostgreSQL" in output, (
            output
        )
        output = back("registry", "deploy", rollback_lose_rows=int(number), succeeds=False)
        assert "name that group alone" in output
        assert (pids(), state_of("registry")) == (before, "live")
        output = back("registry", rollback_lose_rows=int(number))
        assert "3 rows were given up, as asked for" in output
        assert kept not in agents()
        (dump,) = re.findall(r"kept in (\S+\.dump)", output)
        restored = on_host("/usr/lib/postgresql/16/bin/pg_restore", "--data-only", "--table=agents", "--file=-", dump)
        assert kept in restored
    finally:
        sql("ALTER TABLE registry.agents DROP COLUMN badge")
    there(REGISTRY)
    assert kept not in agents()


@pytest.mark.long_search
def test_a_host_that_cannot_dump_is_told_so_with_all_else_that_is_missing() -> None:
    new_agent("not dumped")
    before = pids()
    on_host("sh", "-c", f"mv {PG_DUMP} {PG_DUMP}.away; mkdir -p /mnt/full; mount -t tmpfs -o size=64k tmpfs /mnt/full")
    try:
        output = back("registry", rollback_directory="/mnt/full", succeeds=False)
    finally:
        on_host("sh", "-c", f"mv {PG_DUMP}.away {PG_DUMP}; umount /mnt/full")
    assert "pg_dump is not installed" in output
    assert "/mnt/full: 0 MiB are free" in output
    assert (pids(), state_of("registry")) == (before, "live")


# ---------------------------------------------------------------- what fails in the window


def assert_registry_stays_on_postgresql(name: str) -> None:
    """See that the services were started again on PostgreSQL, which still holds an agent."""
    assert state_of("registry") == "live"
    assert store_of("swarm-registry") == "postgresql"
    assert name in agents().values()
    assert is_protected(REGISTRY)
    new_agent(f"{name}, and more")


@contextmanager
def failing_dump() -> Iterator[None]:
    """Let pg_dump fail, and say its version as before."""
    script = (
        f'#!/bin/sh\\n[ "$1" = --version ] && exec {PG_DUMP}.away --version\\necho the disk is on fire >&2; exit 1\\n'
    )
    on_host("sh", "-c", f"mv {PG_DUMP} {PG_DUMP}.away; printf '{script}' > {PG_DUMP}; chmod 755 {PG_DUMP}")
    try:
        yield
    finally:
        on_host("mv", f"{PG_DUMP}.away", PG_DUMP)


@pytest.mark.long_search
@pytest.mark.promise("failed-rollback-stays-on-postgresql")
def test_a_dump_that_fails_leaves_the_group_on_postgresql() -> None:
    new_agent("failing dump")
    with failing_dump():
        output = back("registry", succeeds=False)
    assert "the disk is on fire" in output
    assert "it stays on PostgreSQL, and its services were started again and are well" in output
    assert_registry_stays_on_postgresql("failing dump")
    assert on_host("sh", "-c", "ls /var/lib/sqlite-migration/rollback | grep -c partial || true").strip() == "0"


# tests/engine/test_rollback_window.py has it without a host; on it, a service that does not come up is started below.
@pytest.mark.long_search
def test_services_that_do_not_come_up_again_are_named() -> None:
    new_agent("deaf service")
    script = f"{REGISTRY['services'][0]['directory']}/server.js"
    on_host("sh", "-c", f"cp -p {script} {script}.away; echo 'process.exit(1);' > {script}")
    try:
        with failing_dump():
            output = back("registry", health_timeout=4, succeeds=False)
    finally:
        on_host("mv", f"{script}.away", script)
    assert "its services were started again, and not all of them are proven well" in output
    assert "service swarm-registry: " in output
    assert state_of("registry") == "live"
    play(CUTOVER)
    assert_registry_stays_on_postgresql("deaf service")


@contextmanager
def straggler() -> Iterator[None]:
    """Keep a session of the registry's role that has written and not committed; it commits when this ends."""
    code = (
        "import psycopg2, sys; c = psycopg2.connect(host='127.0.0.1', dbname='swarm', user='swarm_registry', "
        'password=sys.stdin.readline().strip()); c.cursor().execute("INSERT INTO registry.agents (name, version, '
        "path) VALUES ('straggler', now()::text, '/')\"); print('ready', flush=True); sys.stdin.readline(); c.commit()"
    )
    client = subprocess.Popen(
        ["docker", "exec", "-i", CONTAINER, "python3", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(dotenv_file.read_values(env_of("swarm-registry"))["PGPASSWORD"] + "\n")
    client.stdin.flush()
    assert client.stdout.readline() == "ready\n"
    try:
        yield
    finally:
        client.communicate("now\n", timeout=PATIENCE)


@pytest.mark.long_search
def test_a_session_that_has_written_and_not_committed_is_named_and_nothing_of_it_is_lost() -> None:
    with straggler():
        output = back("registry", stop_timeout=2, succeeds=False)
    assert "of role swarm_registry: it has written to registry.agents and not yet committed, 2 seconds after" in output
    assert_registry_stays_on_postgresql("straggler")


def kill_in_the_window() -> None:
    """Kill the module while it waits for a lock, with the services stopped and no unit that starts them again."""
    settings = variables(rollback_groups=["registry"], recovery_unit=False)
    with locked_table("registry.agents", "ROW EXCLUSIVE"), started(ROLLBACK, *settings):
        until(lambda: sql("SELECT count(*) FROM pg_locks WHERE mode = 'ShareRowExclusiveLock' AND NOT granted") != "0")
        signal_module(signal.SIGKILL)
        until(lambda: not module_processes())
    until(lambda: sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "0")
    assert pids().get("swarm-registry", 0) == 0
    assert state_of("registry") == "live"


@contextmanager
def held_in_the_window(*options: str, groups: Sequence[str] = ("registry",)) -> Iterator[Callable[[], PlaybookRun]]:
    """Let a rollback wait for a lock, with the services stopped; what is given lets it go on, and returns its run.

    :param groups: the registry's first.
    """
    settings = variables(rollback_groups=list(groups), stop_timeout=300)
    # What fails in between gives the table free, and then waits for the run.
    with ThreadPoolExecutor(1) as pool, locked_table("registry.agents", "ROW EXCLUSIVE"):
        run = pool.submit(HOST.play, ROLLBACK, *options, *settings)
        until(lambda: sql("SELECT count(*) FROM pg_locks WHERE mode = 'ShareRowExclusiveLock' AND NOT granted") != "0")

        def go_on() -> PlaybookRun:
            sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
            return run.result(PATIENCE)

        yield go_on


@pytest.mark.long_search
def test_a_rollback_that_is_asked_to_end_leaves_the_group_on_postgresql() -> None:
    new_agent("asked to end")
    with held_in_the_window() as go_on:
        signal_module(signal.SIGTERM)
        output = go_on().output
    assert "it received SIGTERM" in output
    assert "its services were started again and are well" in output
    assert_registry_stays_on_postgresql("asked to end")


@pytest.mark.long_search
def test_a_full_disk_of_the_file_leaves_the_group_on_postgresql() -> None:
    new_agent("full disk")
    path = REGISTRY["source"]["path"]
    beside = f"{path}.way-back"
    # The exported file must come to lie there.
    on_host("sh", "-ec", f"mkdir -m 700 {beside}; mount -t tmpfs -o size=3m,mode=700 tmpfs {beside}")
    try:
        with held_in_the_window() as go_on:
            on_host("sh", "-c", f"dd if=/dev/zero of={beside}/trial-1-filler bs=4096; true")
            output = go_on().output
    finally:
        on_host("sh", "-ec", f"umount {beside}; rmdir {beside}")
    assert f"{beside}: the disk is full. Free some disk, then run again" in output
    assert "(the step 'swap' failed): it stays on PostgreSQL" in output
    assert "its services were started again and are well" in output
    assert_registry_stays_on_postgresql("full disk")


@contextmanager
def small_tablespace(table: str) -> Iterator[str]:
    """Let a table lie on a small file system of its own, and give its directory."""
    space = "/mnt/small"
    on_host(
        "sh",
        "-ec",
        f"mkdir -p {space}; mount -t tmpfs -o size=2m tmpfs {space}; "
        f"install -d -o postgres -g postgres -m 700 {space}/data",
    )
    sql(f"CREATE TABLESPACE small LOCATION '{space}/data'")
    sql(f"ALTER TABLE {table} SET TABLESPACE small")
    sql(f"VACUUM FULL {table}")
    try:
        yield space
    finally:
        on_host("rm", "-f", f"{space}/filler")
        sql(f"ALTER TABLE {table} SET TABLESPACE pg_default")
        sql("DROP TABLESPACE small")
        on_host("umount", space)


@pytest.mark.long_search
def test_a_full_disk_of_the_server_leaves_the_group_on_postgresql() -> None:
    new_agent("full server")
    with small_tablespace("migration.cutover_group") as space, held_in_the_window() as go_on:
        on_host("sh", "-c", f"dd if=/dev/zero of={space}/filler bs=4096; true")
        output = go_on().output
        on_host("rm", f"{space}/filler")
    assert "No space left on device" in output
    assert "it stays on PostgreSQL" in output
    # Nobody could write that this rollback is none.
    play(CUTOVER)
    assert_registry_stays_on_postgresql("full server")


@pytest.mark.long_search
def test_a_killed_rollback_is_undone_by_the_next_cutover() -> None:
    new_agent("killed once")
    kill_in_the_window()
    assert changed(play(CUTOVER, "--check")) == 1
    output = play(CUTOVER)
    assert "an interrupted rollback was undone" in output
    assert_registry_stays_on_postgresql("killed once")


@pytest.mark.long_search
def test_a_killed_rollback_does_not_leave_services_stopped_if_it_cannot_go_on() -> None:
    kill_in_the_window()
    on_host("mv", PG_DUMP, f"{PG_DUMP}.away")
    try:
        output = back("registry", succeeds=False)
    finally:
        on_host("mv", f"{PG_DUMP}.away", PG_DUMP)
    assert "pg_dump is not installed" in output
    assert_registry_stays_on_postgresql("killed once")


@pytest.mark.long_search
def test_a_killed_rollback_is_gone_through_again_by_the_next() -> None:
    written = new_agent("killed twice")
    kill_in_the_window()
    back("registry")
    assert store_of("swarm-registry") == "sqlite"
    assert agents()[written] == "killed twice"
    there(REGISTRY)


@pytest.mark.long_search
def test_a_server_that_goes_away_in_the_window_leaves_the_group_on_postgresql() -> None:
    new_agent("before the server went")
    with (
        locked_table("registry.agents", "ROW EXCLUSIVE"),
        started(ROLLBACK, *variables(rollback_groups=["registry"], stop_timeout=300)) as process,
    ):
        until(lambda: sql("SELECT count(*) FROM pg_locks WHERE mode = 'ShareRowExclusiveLock' AND NOT granted") != "0")
        on_host("systemctl", "stop", "postgresql@16-main")
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        finally:
            on_host("systemctl", "start", "postgresql@16-main")
            until(lambda: sql("SELECT 1") == "1")
    assert "Traceback" not in output
    play(CUTOVER)
    assert_registry_stays_on_postgresql("before the server went")


@pytest.mark.long_search
def test_a_service_that_does_not_come_up_on_sqlite_is_started_by_the_next_run() -> None:
    written = new_agent("broken service")
    script = f"{REGISTRY['services'][0]['directory']}/server.js"
    on_host("sh", "-c", f"cp -p {script} {script}.away; echo 'process.exit(1);' > {script}")
    try:
        output = back("registry", health_timeout=4, succeeds=False)
        assert "is rolled back, but its services are not all well on SQLite" in output
        assert state_of("registry") == "rolled_back"
    finally:
        on_host("mv", f"{script}.away", script)
    time.sleep(0.5)
    output = play(CUTOVER, *variables(groups=[group_of("registry")]), succeeds=False)
    # SQLite is the store, so it is brought up there before the cutover refuses what was not rehearsed.
    assert "Rehearse it again" in output
    assert store_of("swarm-registry") == "sqlite"
    assert agents()[written] == "broken service"
    assert changed(back("registry")) == 0
    there(REGISTRY)
    assert agents()[written] == "broken service"


def test_no_password_was_left_on_the_host() -> None:
    hidden = {dotenv_file.read_values(env_of(name)).get("PGPASSWORD", "") for name in SERVICES} - {""}
    assert hidden
    text = on_host("sh", "-c", "cat /proc/[0-9]*/cmdline; journalctl --no-pager; ls -R /var/lib/sqlite-migration")
    assert sum(password in text for password in hidden) == 0
