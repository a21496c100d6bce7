"""The cutover and the rollback on a real host: systemd, PostgreSQL 16, pm2 and four services, in Docker.

The tests build on each other: a group that one test leaves on SQLite is moved by a later one. What has a twin without
a host is a long search here; tests/README.md names the twin of each.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import dotenv_file
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.pm2 import LIST as PM2_LIST

from .host import (
    CONTAINER,
    CUTOVER,
    GROUPS,
    PATIENCE,
    REHEARSAL,
    ROLLBACK,
    SERVICES,
    SharedHost,
    active_units,
    changed,
    env_of,
    group_of,
    health_of,
    is_as_before,
    is_protected,
    locked_table,
    module_processes,
    on_host,
    original_env_of,
    pids,
    play,
    pm2,
    signal_module,
    sql,
    started,
    state_of,
    stores,
    until,
    variables,
)

pytestmark = pytest.mark.usefixtures("moving_host")

PM2_MODULES = "/usr/local/lib/node_modules/pm2/modules"
PLACES_OF_THE_UNIT = ("/etc/systemd/system", "/var/lib/sqlite-migration")


@pytest.fixture(scope="module")
def moving_host(rehearsed_host: None, shared_host: SharedHost) -> Iterator[None]:
    """A host whose groups these tests move; where all of them have moved, those of the rollback go on with it."""
    yield
    shared_host.use_up()
    if set(sql("SELECT state FROM migration.cutover_group").split()) == {"live"}:
        shared_host.note("live")


def require_the_same_after_a_reboot() -> None:
    """Let the host lose its power, and wait until every service runs again on the store that it had."""
    before = what_lasts()
    subprocess.run(["docker", "restart", "--time", "0", CONTAINER], check=True, capture_output=True)

    def is_up_again() -> bool:
        try:
            return what_lasts() == before
        except (AssertionError, ValueError):
            # PostgreSQL, pm2 or a service is not up yet.
            return False

    until(is_up_again, progress=active_units)


def what_lasts() -> dict[str, Any]:
    """Return what a reboot must not change: stores, states, settings, and which files are write-protected."""
    return {
        "stores": stores(),
        "states": sql("SELECT name, state FROM migration.cutover_group ORDER BY name"),
        "settings": [env_of(name) for name in SERVICES],
        "protected": [is_protected(group) for group in GROUPS],
        "units": on_host("find", *PLACES_OF_THE_UNIT, "-name", "*-recovery-*"),
    }


# ---------------------------------------------------------------- before anything stops


# A host that is in the window is rebooted further down, one that is cleaned up in the scenario of the cleanup.
@pytest.mark.long_search
def test_a_reboot_changes_nothing_before_the_cutover() -> None:
    assert set(stores().values()) == {"sqlite"}
    require_the_same_after_a_reboot()


# The default scenario begins with a dry run of all phases on a bare host.
@pytest.mark.long_search
def test_a_dry_run_works_on_a_bare_host(dry_run_on_a_bare_host: str) -> None:
    for group in GROUPS:
        assert f"{group['name']} would be cut over after its rehearsal" in dry_run_on_a_bare_host
        assert f"{group['name']} is on SQLite." in dry_run_on_a_bare_host
    assert "WARNING" not in dry_run_on_a_bare_host


def test_our_reading_of_env_files_is_that_of_dotenv() -> None:
    values = dotenv_file.connection_values("127.0.0.1", 5432, "swarm", "role", "p'w d#1")
    keys = ["PORT", "app.name", "A-B", "PGHOST", "DATABASE_URL"]
    equals = ["=", " = ", "=  ", ": "]
    written = [
        *["", "1", "two words", "it's", "a#b", "a # note", "x=y", "é", "'x' y", "C:\\dir\\new"],
        *["''", "'#'", "'\"'", "'a\nb'", '"a\nb\n"', '"a\\nb"', "`'\"`", "'a' # note", '"a"   '],
    ]
    lines = [f"{key}{sign}{value}" for key in keys for sign in equals for value in written]
    lines += [f"export {line}" for line in lines[::7]] + ["# a comment", "", "   ", "a line that nobody reads"]
    texts = [original_env_of(name) for name in SERVICES]
    for start, step in itertools.product(range(0, 40, 3), range(1, 40, 2)):
        text = "\n".join(lines[(start + step * number) % len(lines)] for number in range(6))
        texts += [text, dotenv_file.set_keys(text, values), f"{text}\n".replace("\n", "\r\n")]
    script = (
        "const dotenv = require('/opt/swarm-registry/node_modules/dotenv');"
        "const texts = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        "console.log(JSON.stringify(texts.map((text) => dotenv.parse(text))));"
    )
    theirs = json.loads(on_host("node", "-e", script, text=json.dumps(texts)))
    for text, read in zip(texts, theirs, strict=True):
        assert dotenv_file.read_values(text) == read, text


@contextmanager
def stranger(path: str) -> Iterator[None]:
    """Let a process that is no service have a file open."""
    code = "import sys, time; f = open(sys.argv[1]); print(1, flush=True); time.sleep(600)"
    process = subprocess.Popen(
        ["docker", "exec", CONTAINER, "runuser", "-u", "swarm", "--", "python3", "-c", code, path],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        on_host("pkill", "-f", "[f] = open.sys.argv")
        process.communicate()


@pytest.mark.promise("checked-before-services-stop", "foreign-process-refused")
def test_wrong_input_and_a_stranger_are_refused_all_at_once_before_anything_stops() -> None:
    before = pids()
    assert set(before) == set(SERVICES)
    group = group_of("platform")
    group["services"][0]["name"] = "swarm-ticket"
    group["services"][1]["env_file"] = "no.env"
    group["services"][1]["health_url"] = "http://127.0.0.1:4004/no-such-address"
    with stranger(group["source"]["aliases"][0]):
        group["source"]["aliases"].append("/opt/swarm-platform/swarm.db")
        output = play(CUTOVER, *variables(groups=[group]), succeeds=False)
    assert "pm2 of user swarm does not know this name; it knows swarm-deploy, swarm-platform" in output
    assert "it starts swarm-tickets, but not swarm-ticket" in output
    assert "/opt/swarm-platform/no.env: the file does not exist" in output
    assert "http://127.0.0.1:4004/no-such-address answers with status 404" in output
    assert "/opt/swarm-platform/swarm.db" in output
    assert re.search(r"process \d+ \(python3 -c\) has \S+ open and is no service of the group", output)
    assert pids() == before
    assert state_of("platform") == "rehearsed"


@pytest.mark.long_search
@pytest.mark.promise("checked-before-services-stop")
def test_a_wrong_password_is_refused_before_anything_stops() -> None:
    before = pids()
    wrong = {service["database_role"]: "not-the-password" for service in SERVICES.values()}
    output = play(CUTOVER, *variables(role_passwords=wrong), succeeds=False)
    assert 'password authentication failed for user "swarm_registry"' in output
    assert "not-the-password" not in output
    assert pids() == before


@pytest.mark.long_search
@pytest.mark.promise("dry-run-changes-nothing")
def test_a_dry_run_changes_nothing_and_shows_no_secret() -> None:
    before = pids(), [env_of(name) for name in SERVICES]
    output = play(CUTOVER, "--check", "--diff")
    assert changed(output) == 1
    assert "+PGUSER=swarm_registry" in output
    assert "+PGPASSWORD=********" in output
    assert (pids(), [env_of(name) for name in SERVICES]) == before
    assert stores() == dict.fromkeys(SERVICES, "sqlite")


# ---------------------------------------------------------------- what fails is undone


@pytest.mark.long_search
@pytest.mark.promise("failed-cutover-back-on-sqlite")
def test_a_service_that_does_not_get_well_puts_the_group_back() -> None:
    group = group_of("platform")
    sql("REVOKE SELECT ON auth.users FROM swarm_platform")
    try:
        output = play(CUTOVER, *variables(groups=[group], health_timeout=20), succeeds=False)
    finally:
        sql("GRANT SELECT ON auth.users TO swarm_platform")
    assert "service swarm-platform: http://127.0.0.1:4004/health answers with status 503" in output
    assert "service swarm-tickets" not in output
    assert "was undone: its services run on SQLite again" in output
    assert is_as_before(group)


@pytest.mark.long_search
@pytest.mark.promise("service-proven-on-postgresql")
def test_a_service_that_cannot_use_postgresql_puts_the_group_back() -> None:
    group = group_of("registry")
    ecosystem = f"{group['services'][0]['directory']}/ecosystem.config.js"
    # It keeps using SQLite whatever its .env says, as a service that was never changed does.
    on_host(
        "sed",
        "-i",
        "s/script: 'server.js',/&\\n      filter_env: ['PG'], node_args: '-r \\/opt\\/stubborn.js',/",
        ecosystem,
    )
    on_host(
        "sh",
        "-c",
        "echo \"const d = require('/opt/swarm-registry/node_modules/dotenv'); const c = d.config; "
        'd.config = (o) => { const r = c(o); delete process.env.PGHOST; delete process.env.DATABASE_URL; return r; };"'
        " > /opt/stubborn.js",
    )
    try:
        output = play(CUTOVER, *variables(groups=[group], health_timeout=20), succeeds=False)
    finally:
        on_host("sed", "-i", "/filter_env/d", ecosystem)
    assert "its process" in output
    assert "has the SQLite file /opt/swarm-registry/registry.db open" in output
    assert "was undone: its services run on SQLite again" in output
    assert is_as_before(group)


@pytest.mark.long_search
def test_a_run_that_is_asked_to_end_puts_the_group_back_first() -> None:
    group = group_of("deploy")
    with started(CUTOVER, *variables(groups=[group], stable_seconds=30)) as process:
        until(lambda: state_of("deploy") == "live")
        signal_module(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "SIGTERM" in output
    assert "was undone: its services run on SQLite again" in output
    assert is_as_before(group)


@pytest.mark.long_search
def test_a_server_that_goes_away_while_the_group_is_frozen_leaves_the_services_on_sqlite() -> None:
    group = group_of("deploy")
    with locked_table("deploy.deployments"), started(CUTOVER, *variables(groups=[group])) as process:
        until(lambda: state_of("deploy") == "frozen" and is_protected(group))
        on_host("systemctl", "stop", "postgresql@16-main")
        try:
            output, _ = process.communicate(timeout=PATIENCE)
            assert health_of("swarm-deploy")["store"] == "sqlite"
        finally:
            on_host("systemctl", "start", "postgresql@16-main")
    assert "The server does not answer, so the ledger does not know yet" in output
    assert "Traceback" not in output
    assert env_of("swarm-deploy") == original_env_of("swarm-deploy")
    play(ROLLBACK, *variables(rollback_groups="deploy"))
    assert is_as_before(group)


@pytest.mark.long_search
def test_a_server_that_goes_away_after_it_leaves_the_services_where_they_may_have_written() -> None:
    group = group_of("registry")
    sql("REVOKE SELECT ON registry.agents FROM swarm_registry")
    with started(CUTOVER, *variables(groups=[group], health_timeout=8)) as process:
        until(lambda: state_of("registry") == "live")
        on_host("systemctl", "stop", "postgresql@16-main")
        try:
            output, _ = process.communicate(timeout=PATIENCE)
            # Nobody can know by now whether it has written a row.
            assert "they stay on PostgreSQL" in output
            assert is_protected(group)
        finally:
            on_host("systemctl", "start", "postgresql@16-main")
    assert "Traceback" not in output
    assert state_of("registry") == "live"
    until(lambda: sql("GRANT SELECT ON registry.agents TO swarm_registry") == "GRANT")
    play(CUTOVER, *variables(groups=[group]))
    assert health_of("swarm-registry")["store"] == "postgresql"
    play(ROLLBACK, *variables(rollback_groups="registry"))
    play(REHEARSAL)


# ---------------------------------------------------------------- a run that dies in its window, and its host


@contextmanager
def frozen_window(group: dict[str, Any], **settings: Any) -> Iterator[None]:
    """Hold a cutover in the middle of its window, with the services stopped.

    The final sync waits for the table as long as for services that stop: longer than a busy machine takes to see it.
    """
    patient = {"stop_timeout": 900, **settings}
    with locked_table(group["tables"][0]["target"]), started(CUTOVER, *variables(groups=[group], **patient)):
        until(lambda: is_protected(group) and state_of(group["name"]) == "frozen")
        yield


def is_undone_by_itself(group: dict[str, Any]) -> bool:
    """Return whether a group is on SQLite as before, and nothing is left of the unit that has brought it there."""
    try:
        return is_as_before(group) and on_host("find", *PLACES_OF_THE_UNIT, "-name", "*-recovery-*") == ""
    except AssertionError:
        # PostgreSQL or a service is not up yet.
        return False


@pytest.mark.promise("dead-window-ended")
def test_a_host_that_dies_in_the_window_comes_up_well_by_itself() -> None:
    group = group_of("deploy")
    with frozen_window(group):
        assert len(on_host("find", *PLACES_OF_THE_UNIT, "-name", "*-recovery-*").split()) == 3
        subprocess.run(["docker", "restart", "--time", "0", CONTAINER], check=True, capture_output=True)
        until(lambda: is_undone_by_itself(group), progress=active_units)
    said = on_host("journalctl", "--boot", "--identifier", "sqlite-to-postgresql-recovery", "--output", "cat")
    assert "deploy: an interrupted cutover was undone; it runs on SQLite." in said


@pytest.mark.long_search
def test_a_window_whose_run_was_killed_is_undone_by_itself() -> None:
    group = group_of("deploy")
    with frozen_window(group):
        signal_module(signal.SIGKILL)
    until(lambda: is_undone_by_itself(group), progress=active_units)


def kill_while_frozen(group: dict[str, Any]) -> None:
    """Kill the module in the middle of its window, with the services stopped and no unit that starts them again."""
    with frozen_window(group, recovery_unit=False):
        time.sleep(0.5)
        signal_module(signal.SIGKILL)
        until(lambda: not module_processes())
    until(lambda: sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "0")
    assert not {service["name"] for service in group["services"]} & set(pids())


@pytest.mark.long_search
def test_a_window_that_was_killed_can_be_undone_by_a_rollback() -> None:
    group = group_of("deploy")
    kill_while_frozen(group)
    output = play(ROLLBACK, *variables(rollback_groups="deploy"))
    assert "an interrupted cutover was undone" in output
    assert is_as_before(group)


@pytest.mark.long_search
def test_a_window_that_was_killed_does_not_leave_services_stopped_if_it_cannot_go_on() -> None:
    group = group_of("deploy")
    kill_while_frozen(group)
    wrong = {service["database_role"]: "not-the-password" for service in SERVICES.values()}
    output = play(CUTOVER, *variables(groups=[group], role_passwords=wrong), succeeds=False)
    assert "was undone: its services run on SQLite again" in output
    assert is_as_before(group)


@pytest.mark.long_search
def test_a_window_that_was_killed_is_finished_by_the_next_run() -> None:
    group = group_of("deploy")
    kill_while_frozen(group)
    output = play(CUTOVER, *variables(groups=[group]))
    assert changed(output) == 1
    assert health_of("swarm-deploy")["store"] == "postgresql"
    assert state_of("deploy") == "live"


def is_gone_from_pm2(name: str) -> bool:
    """Return whether pm2 does not know a service; otherwise let it forget it, to be asked again."""
    if name not in {process["name"] for process in json.loads(pm2("jlist"))}:
        return True
    pm2("delete", name)
    return False


@pytest.mark.long_search
def test_a_run_that_was_killed_before_it_started_the_services_is_finished() -> None:
    group = group_of("registry")
    with started(CUTOVER, *variables(groups=[group], stable_seconds=30, recovery_unit=False)):
        until(lambda: state_of("registry") == "live")
        signal_module(signal.SIGKILL)
    # As if it had been killed a moment earlier; pm2 may not have been asked to start it yet.
    until(lambda: is_gone_from_pm2("swarm-registry"))
    output = play(CUTOVER, *variables(groups=[group]))
    assert "an interrupted cutover was finished" in output
    assert health_of("swarm-registry")["store"] == "postgresql"
    assert int(sql("SELECT count(*) FROM migration.run WHERE group_name = 'registry' AND kind = 'cutover'")) >= 1


def test_the_daemon_of_pm2_lists_the_same_as_its_own_program() -> None:
    entries = {}
    for words in (["pm2", "jlist"], ["node", "-e", PM2_LIST, PM2_MODULES, "/home/swarm/.pm2/rpc.sock"]):
        entries[words[0]] = json.loads(on_host("runuser", "-u", "swarm", "--", *words))
        for entry in entries[words[0]]:
            # What each process uses, and what it measures of itself.
            del entry["monit"]
            entry["pm2_env"] = {key: value for key, value in entry["pm2_env"].items() if not key.startswith("axm_")}
    assert entries["node"] == entries["pm2"]
    assert len(entries["node"]) == 4


# ---------------------------------------------------------------- the whole estate


@pytest.mark.promise("service-proven-on-postgresql", "functional-checks-between-groups")
def test_every_group_moves_and_is_proven() -> None:
    checks = {"registry": "2", "deploy": "1", "platform": "2"}
    # Two of the long searches have each moved a group already.
    waiting = [name for name in checks if state_of(name) != "live"]
    assert waiting == list(checks) or os.environ.get("LONG_SEARCHES")
    output = play(CUTOVER)
    assert changed(output) == 1
    # Of each group, before the next one has moved.
    lines = output.replace("\\n", "\n")
    passed = re.findall(r"(\w+) lives on PostgreSQL; [^\n]*? (\d) functional checks? passed", lines)
    assert list(dict.fromkeys(passed)) == [(name, checks[name]) for name in waiting], output
    assert stores() == dict.fromkeys(SERVICES, "postgresql")
    report = json.loads(
        sql(
            "SELECT report FROM migration.run WHERE group_name = 'platform' AND kind = 'cutover' "
            "ORDER BY id DESC LIMIT 1"
        )
    )
    assert [step["name"] for step in report["steps"]] == [
        "stop",
        "freeze",
        "final sync",
        "hash",
        "go live",
        "settings",
        "start",
        "watch",
        "save",
    ]
    assert report["measured_by"] == "client"
    assert 0 < report["downtime_seconds"] < report["window_seconds"] + 1
    for entry in report["services"]:
        assert 0 < entry["start_seconds"] < entry["downtime_seconds"] <= report["downtime_seconds"]
        assert 0 < entry["requests_failed"] < entry["requests"]
    assert {entry["name"]: entry["pid"] for entry in report["services"]} == {
        name: pid for name, pid in pids().items() if name in ("swarm-tickets", "swarm-platform")
    }
    for name, service in SERVICES.items():
        assert dotenv_file.read_values(env_of(name))["DATABASE_POOL_SIZE"] == str(service.get("pool_size", 5))
    assert all(is_protected(group) for group in GROUPS)
    frozen = sql("SELECT frozen_sha256 || '  ' || source_path FROM migration.cutover_group").splitlines()
    assert sorted(frozen) == sorted(on_host("sha256sum", *(group["source"]["path"] for group in GROUPS)).splitlines())
    assert on_host("stat", "-c", "%a %U", "/home/swarm/.pm2/dump.pm2").strip() == "600 swarm"


# The next run finds nothing to do.
@pytest.mark.long_search
def test_a_reboot_changes_nothing_after_the_cutover() -> None:
    assert set(stores().values()) == {"postgresql"}
    require_the_same_after_a_reboot()


@pytest.mark.long_search
@pytest.mark.promise("no-password-in-output")
def test_a_second_run_changes_nothing_and_no_run_prints_a_password() -> None:
    before = pids()
    output = play(CUTOVER, "-vvvv", "--diff")
    # That a dry run finds nothing to do either is proven of the whole of site.yml, by the default scenario.
    assert changed(output) == 0
    assert pids() == before
    for name in SERVICES:
        values = dotenv_file.read_values(env_of(name))
        assert values["PGPASSWORD"] not in output
        assert values["DATABASE_URL"] not in output


@pytest.mark.long_search
def test_a_live_group_whose_pools_are_full_is_not_refused() -> None:
    group = group_of("deploy")
    group["services"][0]["pool_size"] = 60
    code = (
        "import os, sys, time, psycopg2; password = sys.stdin.readline().strip(); "
        "held = [psycopg2.connect(host='127.0.0.1', dbname='swarm', user='swarm_deploy', password=password) "
        "for _ in range(55)]; print(len(held), flush=True); sys.stdin.read()"
    )
    sql("ALTER ROLE swarm_deploy CONNECTION LIMIT 62")
    holder = subprocess.Popen(
        ["docker", "exec", "-i", CONTAINER, "python3", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        holder.stdin.write(dotenv_file.read_values(env_of("swarm-deploy"))["PGPASSWORD"] + "\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "55\n"
        output = play(CUTOVER, *variables(groups=[group]))
        # Only to tell it the new size of its pool.
        assert "started again with the right settings: swarm-deploy" in output
    finally:
        holder.communicate()
        sql("ALTER ROLE swarm_deploy CONNECTION LIMIT 7")
    assert changed(play(CUTOVER, *variables(groups=[group_of("deploy")]))) == 1


# ---------------------------------------------------------------- the rollback


@contextmanager
def write_of_a_client_that_is_gone() -> Iterator[None]:
    """Let the server work on a statement of a service that was killed; when this ends, the row is committed."""
    code = (
        "import psycopg2, sys; c = psycopg2.connect(host='127.0.0.1', dbname='swarm', user='swarm_registry', "
        "password=sys.stdin.readline().strip(), options='-c lock_timeout=0'); c.autocommit = True; "
        "print('ready', flush=True); "
        "c.cursor().execute(\"INSERT INTO registry.agents (name, version, path) VALUES ('in flight', '1', '/')\")"
    )
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT%in flight%' AND wait_event_type = 'Lock'"
    with locked_table("registry.agents", "SHARE ROW EXCLUSIVE"):
        client = subprocess.Popen(
            ["docker", "exec", "-i", CONTAINER, "python3", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert client.stdin is not None
        client.stdin.write(dotenv_file.read_values(env_of("swarm-registry"))["PGPASSWORD"] + "\n")
        client.stdin.flush()
        until(lambda: sql(waiting) == "1")
        on_host("pkill", "-9", "-f", "[p]ython3 -c import psycopg2, sys")
        client.communicate()
        assert sql(waiting) == "1"
        yield


@pytest.mark.long_search
def test_a_row_that_the_server_still_works_on_is_not_left_behind() -> None:
    with write_of_a_client_that_is_gone():
        output = play(ROLLBACK, *variables(rollback_groups=["registry"], stop_timeout=2), succeeds=False)
    assert "of role swarm_registry: the server still works for it 2 seconds after its service was stopped" in output
    assert "it stays on PostgreSQL" in output
    assert state_of("registry") == "live"
    until(lambda: sql("SELECT count(*) FROM registry.agents WHERE name = 'in flight'") == "1")
    assert health_of("swarm-registry")["store"] == "postgresql"
    sql("DELETE FROM registry.agents WHERE name = 'in flight'")


@pytest.mark.long_search
@pytest.mark.promise("rollback-keeps-untouched-file")
def test_a_group_that_was_not_written_to_goes_back_to_its_untouched_file() -> None:
    group = group_of("registry")
    frozen = on_host("sha256sum", group["source"]["path"]).split()[0]
    assert changed(play(ROLLBACK, "--check", "--diff", *variables(rollback_groups=["registry"]))) == 1
    assert health_of("swarm-registry")["store"] == "postgresql"
    play(ROLLBACK, *variables(rollback_groups=["registry"]))
    assert health_of("swarm-registry")["store"] == "sqlite"
    assert env_of("swarm-registry") == original_env_of("swarm-registry")
    assert not is_protected(group)
    assert on_host("sha256sum", group["source"]["path"]).split()[0] == frozen
    assert state_of("registry") == "rolled_back"
    assert changed(play(ROLLBACK, *variables(rollback_groups=["registry"]))) == 0
    assert changed(play(ROLLBACK, "--check", *variables(rollback_groups=["registry"]))) == 0


@pytest.mark.long_search
def test_a_reboot_changes_nothing_after_a_rollback() -> None:
    assert stores()["swarm-registry"] == "sqlite"
    assert set(stores().values()) == {"sqlite", "postgresql"}
    require_the_same_after_a_reboot()


@pytest.mark.long_search
@pytest.mark.promise("rollback-violations-at-once")
def test_a_file_that_is_not_the_frozen_one_cannot_be_rolled_back_to() -> None:
    path = group_of("deploy")["source"]["path"]
    on_host("chattr", "-i", path)
    on_host("sh", "-c", f"cp -p {path} /root/frozen && printf x >> {path}")
    try:
        output = play(ROLLBACK, *variables(rollback_groups=["deploy"]), succeeds=False)
    finally:
        on_host("sh", "-c", f"cat /root/frozen > {path} && chattr +i {path}")
    assert "it is not the file that was frozen at the cutover" in output
    assert health_of("swarm-deploy")["store"] == "postgresql"


@pytest.mark.long_search
def test_an_unknown_name_is_refused() -> None:
    output = play(ROLLBACK, *variables(rollback_groups="registri"), succeeds=False)
    assert "the estate's cutover groups are registry, deploy, platform" in re.sub(r"\s+", " ", output)


@pytest.mark.promise("password-nowhere-else")
def test_no_password_was_left_anywhere() -> None:
    hidden = {dotenv_file.read_values(env_of(name)).get("PGPASSWORD", "") for name in SERVICES} - {""}
    # A service that a long search has brought back to SQLite has none.
    assert len(hidden) in (3, 4)
    text = on_host(
        "sh",
        "-c",
        "cd /home/swarm/.pm2 && cat dump.pm2* pm2.log logs/* /proc/[0-9]*/cmdline; journalctl --no-pager",
    )
    # Not the passwords themselves: a failing test prints what it compares.
    assert sum(password in text for password in hidden) == 0
