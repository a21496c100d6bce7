"""A fault in each step of a cutover window, by error and by kill -9: one store in use, and no acknowledged row lost.

The faults come from outside: a pm2 that fails or hangs, a trigger in the ledger, a file that nobody may replace, a
process in the way, a session that is ended. What fails before the group is live is undone at once; what is killed
is undone by a rollback, or finished by the next cutover. All but one are long searches here, because test_window.py,
test_services.py and test_services_gone_wrong.py have them without a host.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from .host import (
    CONTAINER,
    CUTOVER,
    HOST,
    PATIENCE,
    REHEARSAL,
    ROLLBACK,
    SERVICES,
    SharedHost,
    answers_of,
    group_of,
    health_of,
    is_as_before,
    locked_table,
    module_processes,
    on_host,
    pids,
    play,
    pm2,
    signal_module,
    sql,
    started,
    state_of,
    until,
    variables,
)

GROUP = group_of("deploy")
SOURCE = GROUP["source"]["path"]
ENV_FILE = "/opt/swarm-deploy/.env"
Fault = AbstractContextManager[None]

# Found before the real pm2. A fault is a file of this name: it happens once, unless it is of the kind "refuse".
FAULTS = "/run/pm2-faults"
PM2 = f"""#!/bin/sh
for word; do
  test -e {FAULTS}/refuse-$word && echo "[PM2][ERROR] refused on purpose" >&2 && exit 1
  mv {FAULTS}/fail-$word {FAULTS}/happened 2>/dev/null && echo "[PM2][ERROR] failed on purpose" >&2 && exit 1
  if mv {FAULTS}/hang-$word {FAULTS}/hanging 2>/dev/null; then
    /usr/local/bin/pm2 "$@"
    mv {FAULTS}/hanging {FAULTS}/happened
    exec sleep 600
  fi
  mv {FAULTS}/linger-$word {FAULTS}/happened 2>/dev/null && /usr/local/bin/pm2 "$@" && exec sleep 3
done
exec /usr/local/bin/pm2 "$@"
"""
STRANGER = """
import socket, sys, time
while True:
    try:
        socket.create_connection(("127.0.0.1", 4002)).close()
    except OSError:
        break
held = open(sys.argv[1], "r+")
time.sleep(600)
"""
FILL = """
import os, socket, sqlite3, sys, time
while True:
    try:
        socket.create_connection(("127.0.0.1", 4002)).close()
    except OSError:
        break
    time.sleep(0.01)
path = sys.argv[1]
connection = sqlite3.connect(path, isolation_level=None)
assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
newest = "(SELECT max(rowid) FROM deployments WHERE service = 'fault')"
connection.execute(f"UPDATE deployments SET build_log = ? WHERE rowid = {newest}", ("x" * 100_000,))
try:
    with open(path + ".filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
except OSError:
    os._exit(0)
"""


@pytest.fixture(autouse=True, scope="module")
def host(shared_host: SharedHost) -> None:
    """A host on which the group is rehearsed, as it is again after each test."""
    shared_host.take("rehearsed", "deploy")


@contextmanager
def broken_pm2(kind: str, command: str) -> Iterator[None]:
    """Let one command of pm2 ``fail`` once, ``hang`` or ``linger`` once it has worked, or ``refuse`` for good."""
    on_host("install", "-d", "-m", "777", FAULTS)
    on_host("sh", "-c", "cat > /usr/local/sbin/pm2 && chmod 755 /usr/local/sbin/pm2", text=PM2)
    if command == "save":
        # Else there is nothing to save.
        on_host("sh", "-c", "echo '[]' > /home/swarm/.pm2/dump.pm2")
    on_host("touch", f"{FAULTS}/{kind}-{command}")
    on_host("chmod", "666", f"{FAULTS}/{kind}-{command}")
    try:
        yield
    finally:
        on_host("rm", "-rf", "/usr/local/sbin/pm2", FAULTS)
        on_host("sh", "-c", "pkill -x sleep; true")


@contextmanager
def trigger(table: str, condition: str, action: str) -> Iterator[None]:
    """Let the ledger refuse, or keep waiting, whoever writes such a row."""
    sql(
        "CREATE FUNCTION public.fault() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF {condition} THEN {action}; END IF; RETURN NEW; END $$"
    )
    sql(f"CREATE TRIGGER fault BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION public.fault()")
    try:
        yield
    finally:
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        sql("DROP FUNCTION public.fault() CASCADE")


@contextmanager
def unwritable(path: str) -> Iterator[None]:
    """Let nobody replace a file."""
    on_host("chattr", "+i", path)
    try:
        yield
    finally:
        on_host("chattr", "-i", path)


@contextmanager
def refused_row() -> Iterator[None]:
    """Let PostgreSQL refuse what the final sync brings."""
    sql("ALTER TABLE deploy.deployments ADD CONSTRAINT fault CHECK (service <> 'fault') NOT VALID")
    try:
        yield
    finally:
        sql("ALTER TABLE deploy.deployments DROP CONSTRAINT fault")


@contextmanager
def stranger_after_the_stop() -> Iterator[None]:
    """Open the file when the service has closed its port: after the checks, and before the write protection."""
    process = subprocess.Popen(
        ["docker", "exec", CONTAINER, "runuser", "-u", "swarm", "--", "/usr/bin/python3.11", "-c", STRANGER, SOURCE]
    )
    try:
        # The window would be shut before a busy machine lets the stranger in.
        with broken_pm2("linger", "delete"):
            yield
    finally:
        on_host("sh", "-c", "pkill -f 'impor[t] socket, sys, time'; true")
        process.wait()


@contextmanager
def small_disk() -> Iterator[None]:
    """Let the service's data lie on a small file system of its own."""
    data = "/opt/swarm-deploy/data"

    def move(*commands: str) -> None:
        pm2("stop", "swarm-deploy")
        on_host("sh", "-ec", "; ".join(commands))
        pm2("start", "swarm-deploy")
        until(answers)

    move(f"cp -a {data} /root/data", f"mount -t tmpfs -o size=2m tmpfs {data}", f"cp -a /root/data/. {data}")
    on_host("chown", "swarm:swarm", data)
    try:
        yield
    finally:
        back = f"find {data} -mindepth 1 -delete; cp -a /root/last/. {data}; rm -rf /root/data /root/last"
        move(f"cp -a {data} /root/last", f"umount {data}", back)


@contextmanager
def full_disk_after_the_stop() -> Iterator[None]:
    """Let somebody leave rows in the log of the file, and fill its disk, when the service has closed its port."""
    with small_disk():
        process = subprocess.Popen(
            ["docker", "exec", CONTAINER, "runuser", "-u", "swarm", "--", "/usr/bin/python3.11", "-c", FILL, SOURCE]
        )
        try:
            with broken_pm2("linger", "delete"):
                yield
        finally:
            on_host("rm", "-f", f"{SOURCE}.filler")
            process.wait()


def is_waiting_in_the_server() -> bool:
    """Return whether a session of ours is held up by the trigger."""
    return sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1"


def pm2_hangs() -> bool:
    """Return whether a command of pm2 has done its work and does not return."""
    return on_host("sh", "-c", f"ls {FAULTS}").split() == ["happened"]


def answers() -> bool:
    """Return whether the service answers."""
    try:
        return bool(health_of("swarm-deploy"))
    except AssertionError:
        return False


def is_found_well() -> bool:
    """Return whether the window has found a session of the service: the last question that it asks about a service."""
    question = "usename = 'swarm_deploy' AND state = 'idle' AND query LIKE 'SELECT session_user%'"
    found = (
        f"SELECT count(*) FROM pg_stat_activity WHERE {question} AND state_change < clock_timestamp() - interval '2 s'"
    )
    return sql(found) == "1"


def write_row() -> str:
    """Write a deployment through the service, and return the id that it has acknowledged."""
    code = (
        "import json, urllib.request as r; body = json.dumps({'service': 'fault', 'commit_sha': 'c', "
        "'triggered_by': 'test'}).encode(); print(r.urlopen(r.Request('http://127.0.0.1:4002/deployments', body, "
        "{'Content-Type': 'application/json'})).read().decode())"
    )
    answer: dict[str, Any] = json.loads(on_host("python3", "-c", code))
    return str(answer["id"])


def require_row(identifier: str) -> None:
    """Fail unless the service still knows the row, with all that was written with it."""
    code = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
    answer = json.loads(on_host("python3", "-c", code, f"http://127.0.0.1:4002/deployments/{identifier}"))
    assert (answer["id"], answer["status"], len(answer["events"])) == (identifier, "success", 4)


@pytest.mark.promise("failed-cutover-back-on-sqlite")
@pytest.mark.parametrize(
    ("fault", "settings", "said"),
    [
        pytest.param(
            stranger_after_the_stop,
            {"stop_timeout": 2},
            "(/usr/bin/python3.11 -c) has it open",
            id="wait",
            marks=pytest.mark.long_search,
        ),
        pytest.param(
            full_disk_after_the_stop, {}, "failed in the step 'freeze'", id="checkpoint", marks=pytest.mark.long_search
        ),
        pytest.param(
            refused_row, {}, "failed in the step 'final sync'", id="final sync", marks=pytest.mark.long_search
        ),
        pytest.param(
            lambda: unwritable(ENV_FILE),
            {},
            "failed in the step 'settings'",
            id="settings",
            marks=pytest.mark.long_search,
        ),
        pytest.param(
            lambda: trigger("migration.cutover_group", "NEW.state = 'live'", "RAISE EXCEPTION 'on purpose'"),
            {},
            "failed in the step 'go live'",
            id="go live",
            marks=pytest.mark.long_search,
        ),
        pytest.param(
            lambda: broken_pm2("fail", "start"),
            {},
            "failed in the step 'start'",
            id="start",
            marks=pytest.mark.long_search,
        ),
        pytest.param(
            lambda: broken_pm2("fail", "save"),
            {},
            "failed in the step 'save'",
            id="save",
            marks=pytest.mark.long_search,
        ),
    ],
)
def test_an_error_is_undone_at_once(fault: Callable[[], Fault], settings: dict[str, Any], said: str) -> None:
    row = write_row()
    with fault():
        output = play(CUTOVER, *variables(groups=[GROUP], **settings), succeeds=False)
    assert said in output
    assert "was undone: its services run on SQLite again" in output
    assert is_as_before(GROUP)
    require_row(row)


@pytest.mark.long_search
def test_a_ledger_that_does_not_open_the_window_stops_nothing() -> None:
    before = pids()
    with trigger("migration.cutover_group", "NEW.state = 'frozen'", "RAISE EXCEPTION 'on purpose'"):
        output = play(CUTOVER, *variables(groups=[GROUP]), succeeds=False)
    assert "failed in the step 'stop'; nothing was stopped" in output
    assert pids() == before
    assert is_as_before(GROUP)


# tests/cutover/test_services.py has it without a host.
@pytest.mark.long_search
def test_a_service_that_dies_while_it_is_watched_is_undone() -> None:
    row = write_row()
    with started(CUTOVER, *variables(groups=[GROUP], stable_seconds=60)) as process:
        until(lambda: state_of("deploy") == "live" and is_found_well())
        on_host("kill", "-9", str(pids()["swarm-deploy"]))
        output, _ = process.communicate(timeout=PATIENCE)
    assert "it came up, answered, and was restarted soon after" in output
    assert is_as_before(GROUP)
    require_row(row)


@pytest.mark.promise("acknowledged-write-kept")
def test_a_pm2_that_is_started_again_in_the_window_writes_to_neither_store() -> None:
    row = write_row()
    # So long the final sync waits for the table: longer than a busy machine takes to start pm2 again.
    patient = variables(groups=[GROUP], stop_timeout=300)
    with ThreadPoolExecutor(1) as pool, locked_table("deploy.deployments"):
        run = pool.submit(HOST.play, CUTOVER, *patient)
        waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'swarm_migrator'"
        # Within the window: the checks before it wait for the table too, for a moment.
        until(lambda: state_of("deploy") == "frozen" and sql(f"SELECT count(*) {waiting}") == "1")
        # It starts all services of its list, this one among them.
        on_host("systemctl", "restart", "pm2-swarm")
        until(answers)
        with pytest.raises(AssertionError, match="500"):
            write_row()
        # The table is free again.
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        done = run.result(PATIENCE)
    assert not done.succeeded
    assert "has opened it since" in done.output
    assert is_as_before(GROUP)
    require_row(row)
    assert all(answers_of(*SERVICES))


@pytest.mark.long_search
def test_a_session_that_the_server_ends_is_undone() -> None:
    row = write_row()
    with locked_table("deploy.deployments"), started(CUTOVER, *variables(groups=[GROUP])) as process:
        waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'swarm_migrator'"
        # Within the window: the checks before it wait for the table too, for a moment.
        until(lambda: state_of("deploy") == "frozen" and sql(f"SELECT count(*) {waiting}") == "1")
        sql(f"SELECT pg_terminate_backend(pid) {waiting}")
        output, _ = process.communicate(timeout=PATIENCE)
    assert "was undone: its services run on SQLite again" in output
    assert is_as_before(GROUP)
    require_row(row)


@pytest.mark.long_search
def test_a_pm2_that_does_not_stop_a_service_leaves_it_running() -> None:
    row = write_row()
    with broken_pm2("refuse", "delete"):
        output = play(CUTOVER, *variables(groups=[GROUP]), succeeds=False)
        assert "putting it back on SQLite failed too" in output
        assert health_of("swarm-deploy")["store"] == "sqlite"
    play(ROLLBACK, *variables(rollback_groups="deploy"))
    assert is_as_before(GROUP)
    require_row(row)


@contextmanager
def killed(fault: Fault, reached: Callable[[], bool], **settings: Any) -> Iterator[None]:
    """Kill the module at a step of its window, with no unit that ends it, and yield when nothing of it is left."""
    with fault, started(CUTOVER, *variables(groups=[GROUP], recovery_unit=False, **settings)):
        until(reached)
        signal_module(signal.SIGKILL)
        until(lambda: not module_processes())
    until(lambda: sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "0")
    yield


@pytest.mark.long_search
@pytest.mark.promise("killed-cutover-healed")
@pytest.mark.parametrize(
    ("fault", "reached"),
    [
        pytest.param(lambda: broken_pm2("hang", "delete"), pm2_hangs, id="stop"),
        pytest.param(
            stranger_after_the_stop,
            lambda: state_of("deploy") == "frozen" and "swarm-deploy" not in pids(),
            id="wait",
        ),
        pytest.param(
            lambda: trigger("migration.cutover_group", "NEW.state = 'live'", "PERFORM pg_sleep(600)"),
            is_waiting_in_the_server,
            id="go live",
        ),
    ],
)
def test_a_kill_before_the_group_is_live_is_undone_by_a_rollback(
    fault: Callable[[], Fault], reached: Callable[[], bool]
) -> None:
    row = write_row()
    with killed(fault(), reached):
        assert state_of("deploy") == "frozen"
    output = play(ROLLBACK, *variables(rollback_groups="deploy"))
    assert "an interrupted cutover was undone" in output
    assert is_as_before(GROUP)
    require_row(row)


@pytest.mark.promise("killed-cutover-healed")
@pytest.mark.parametrize(
    ("fault", "reached"),
    [
        pytest.param(lambda: broken_pm2("hang", "start"), pm2_hangs, id="start", marks=pytest.mark.long_search),
        pytest.param(lambda: broken_pm2("hang", "save"), pm2_hangs, id="save", marks=pytest.mark.long_search),
        pytest.param(
            lambda: trigger("migration.run", "NEW.kind = 'cutover'", "PERFORM pg_sleep(600)"),
            is_waiting_in_the_server,
            id="record",
            marks=pytest.mark.long_search,
        ),
    ],
)
def test_a_kill_after_that_is_finished_by_the_next_run(fault: Callable[[], Fault], reached: Callable[[], bool]) -> None:
    row = write_row()
    with killed(fault(), reached):
        assert state_of("deploy") == "live"
    output = play(CUTOVER, *variables(groups=[GROUP]))
    assert "an interrupted cutover was finished; it lives on PostgreSQL" in output
    assert health_of("swarm-deploy")["store"] == "postgresql"
    require_row(row)
    play(ROLLBACK, *variables(rollback_groups="deploy"))
    require_row(row)
    play(REHEARSAL)
