"""Services that run otherwise than as one process of one user's pm2: one move there and back has all of them.

The registry's rows are served by a unit of systemd, in Python, which a socket starts: polling its address would start
it again within a second if the socket were left open in the window. Another unit requires it, which systemd therefore
stops with it. The deployments run in cluster mode of pm2, and so does the platform, whose group has a service under the
pm2 of another user too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import dotenv_file
from scripts.playbooks import changed_tasks
from tests.playbooks_of_one_command import outputs

from .host import (
    CUTOVER,
    ROLLBACK,
    SharedHost,
    answers_of,
    env_of,
    group_of,
    is_protected,
    on_host,
    original_env_of,
    play,
    pm2,
    sql,
    state_of,
    stores,
    until,
    variables,
)

REGISTRY, DEPLOY, PLATFORM = (group_of(name) for name in ("registry", "deploy", "platform"))
GROUPS = [REGISTRY, DEPLOY, PLATFORM]

# ---------------------------------------------------------------- a unit of systemd

UNIT, BESIDE = "registry-agents", "registry-agents-worker"
_OF_PM2 = REGISTRY["services"][0]
OF_SYSTEMD: dict[str, Any] = {
    "name": UNIT,
    "manager": "systemd",
    "user": "swarm",
    "directory": f"/opt/{UNIT}",
    "health_url": "http://127.0.0.1:4022/health",
    **{key: _OF_PM2[key] for key in ("database_role", "schemas")},
}
REGISTRY["services"] = [OF_SYSTEMD]
PROGRAM = f"""
import http.server, json, os, socket, sqlite3
if "PGHOST" in os.environ:
    import psycopg2
    store = psycopg2.connect("")
    store.autocommit = True
    name, table = "postgresql", "registry.agents"
else:
    store = sqlite3.connect("{REGISTRY["source"]["path"]}", isolation_level=None)
    name, table = "sqlite", "agents"
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        cursor = store.cursor()
        cursor.execute("SELECT count(*) FROM " + table)
        text = json.dumps({{"store": name, "rows": cursor.fetchone()[0]}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
server.serve_forever()
"""
FILES = {
    f"/opt/{UNIT}/serve.py": PROGRAM,
    f"/etc/systemd/system/{UNIT}.socket": "[Socket]\nListenStream=127.0.0.1:4022\n[Install]\nWantedBy=sockets.target\n",
    f"/etc/systemd/system/{UNIT}.service": (
        f"[Service]\nUser=swarm\nExecStart=/usr/bin/python3 /opt/{UNIT}/serve.py\nRestart=always\n"
        "Environment=PGAPPNAME=agents\n"
    ),
    f"/etc/systemd/system/{BESIDE}.service": (
        f"[Unit]\nRequires={UNIT}.service\nAfter={UNIT}.service\n[Service]\nExecStart=/usr/bin/sleep infinity\n"
    ),
}
UNITS = (f"{UNIT}.socket", f"{UNIT}.service", f"{BESIDE}.service")
DROP_IN = f"/etc/systemd/system/{UNIT}.service.d"
OURS = f"/var/lib/sqlite-to-postgresql/units/{UNIT}.service.env"


def answer() -> dict[str, Any]:
    """Return what the service says of itself."""
    code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())"
    said: dict[str, Any] = json.loads(on_host("python3", "-c", code, OF_SYSTEMD["health_url"]))
    return said


def shown(name: str, *units: str) -> list[str]:
    """Return a property of units, by default of the service's."""
    return on_host("systemctl", "show", "--value", f"--property={name}", *(units or [f"{UNIT}.service"])).split()


def assert_all_runs(store: str) -> None:
    """See that the service, its socket and what requires it run, on a store."""
    assert answer()["store"] == store
    until(lambda: shown("ActiveState", *UNITS) == ["active"] * len(UNITS))
    assert shown("UnitFileState") == ["static"]
    assert on_host("sh", "-c", "ls /var/lib/sqlite-to-postgresql/units/*.json 2>/dev/null || true") == ""


# ---------------------------------------------------------------- pm2 in cluster mode

# A service of ECMAScript modules, and one of CommonJS modules: pm2 loads each kind in another way.
IN_CLUSTER_MODE = {"swarm-deploy": "server.mjs", "swarm-platform": "server.js"}


def ecosystem_of(name: str) -> str:
    """Return the path of a service's ecosystem file."""
    return f"/opt/{name}/ecosystem.config.js"


def processes(*names: str) -> dict[str, list[int]]:
    """Return the processes of services by their names, all of them online and in cluster mode."""
    entries = json.loads(pm2("jlist"))
    found: dict[str, list[int]] = {}
    for name in names or IN_CLUSTER_MODE:
        listed = [entry for entry in entries if entry["name"] == name]
        assert {(entry["pm2_env"]["exec_mode"], entry["pm2_env"]["status"]) for entry in listed} == {
            ("cluster_mode", "online")
        }
        assert {entry["pm2_env"]["pm_exec_path"].rpartition("/")[2] for entry in listed} == {IN_CLUSTER_MODE[name]}
        found[name] = [entry["pid"] for entry in listed]
    return found


def set_instances(name: str, instances: int) -> None:
    """Let a service's ecosystem file start so many processes in cluster mode."""
    line = f"      exec_mode: 'cluster', instances: {instances},"
    # One of them with pm2's own measurements, which load code into each process unless a file says otherwise.
    measured = ("-e", "/pmx/d") if name == "swarm-platform" else ()
    on_host("sed", "-i", "-e", "/exec_mode/d", *measured, "-e", f"/kill_timeout/i\\{line}", ecosystem_of(name))


@contextmanager
def instances_of(name: str, instances: int) -> Iterator[None]:
    """Let a service have so many processes for a while, and two afterwards."""

    def start_with(number: int) -> None:
        set_instances(name, number)
        pm2("delete", name)
        pm2("start", ecosystem_of(name))

    start_with(instances)
    try:
        yield
    finally:
        start_with(2)


# ---------------------------------------------------------------- the pm2 of another user

DIRECTORY, DATA = "/opt/swarm-tickets", "/opt/swarm-platform/data"
OF_TWO_USERS = ("swarm-tickets", "swarm-platform")
PLATFORM["services"][0]["user"] = "tickets"


def other_pm2(*arguments: str) -> str:
    """Call pm2 of the other user."""
    return pm2(*arguments, user="tickets")


def record_attempt(branch: str) -> str:
    """Let the service of the other user write a row, and return its id."""
    code = (
        "import json, sys, urllib.request as r; body = json.dumps({'ticket_id': 'T-1', 'branch_name': sys.argv[1]}); "
        "print(r.urlopen(r.Request('http://127.0.0.1:4003/attempts', body.encode(), "
        "{'Content-Type': 'application/json'})).read().decode())"
    )
    return str(json.loads(on_host("python3", "-c", code, branch))["id"])


def in_file(*identifiers: str) -> int:
    """Return how many of these attempts the file holds."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True); "
        "held = {id for id, in c.execute('SELECT id FROM verification_attempts')}; "
        "print(len(held.intersection(sys.argv[2:])))"
    )
    return int(on_host("python3", "-c", code, PLATFORM["source"]["path"], *identifiers))


# ---------------------------------------------------------------- there and back


def of_estate(*groups: dict[str, Any]) -> list[str]:
    """Return the arguments for an estate of these groups, by default of all."""
    return ["-e", json.dumps({"estate_cutover_groups": list(groups) or GROUPS})]


@pytest.fixture(scope="module", autouse=True)
def other_ways(shared_host: SharedHost) -> None:
    """A host whose groups are rehearsed, and whose services run in these ways."""
    shared_host.take("rehearsed", *(group["name"] for group in GROUPS))
    shared_host.use_up()
    pm2("delete", "swarm-registry", "swarm-deploy", *OF_TWO_USERS)
    for name in IN_CLUSTER_MODE:
        set_instances(name, 2)
    on_host("sh", "-ec", f"useradd --create-home --groups swarm tickets; chown -R tickets {DIRECTORY}")
    # What either of them makes there belongs to the group.
    on_host("sh", "-ec", f"chmod 2775 {DATA}; chmod 664 {DATA}/swarm.db*")
    for path, text in FILES.items():
        on_host("install", "-D", "-m", "0644", "/dev/stdin", path, text=text)
    on_host("sh", "-ec", f"systemctl daemon-reload; systemctl start {' '.join(UNITS)}")
    for name in IN_CLUSTER_MODE:
        pm2("start", ecosystem_of(name))
    other_pm2("start", ecosystem_of("swarm-tickets"))
    pm2("save")
    until(lambda: answer()["store"] == "sqlite")


# test_systemd.py has it without a host.
@pytest.mark.long_search
def test_a_wrong_description_is_refused_before_anything_stops() -> None:
    before = shown("MainPID")
    unknown = {**OF_SYSTEMD, "name": "registry-agnets"}
    wrong = {**OF_SYSTEMD, "user": "tickets", "env_file": "my.env"}
    output = play(CUTOVER, *variables(groups=[{**REGISTRY, "services": [wrong, unknown]}]), succeeds=False)
    assert "systemd of this host knows no unit registry-agnets.service" in output
    assert "Did you mean 'registry-agents.service'?" in output
    assert "its unit runs as user swarm, and the inventory says tickets" in output
    assert shown("MainPID") == before


# test_services_gone_wrong.py has it without a host.
@pytest.mark.long_search
def test_more_processes_than_connections_are_refused() -> None:
    with instances_of("swarm-deploy", 6):
        before = processes("swarm-deploy")
        output = play(CUTOVER, *variables(groups=[DEPLOY]), succeeds=False)
        assert "it starts 6 processes, and the service's pool_size is 5" in output
        assert processes("swarm-deploy") == before


# tests/cutover/test_window.py asks the same of a server without a host.
@pytest.mark.long_search
def test_pools_that_do_not_fit_the_server_together_are_refused() -> None:
    before = processes("swarm-deploy")
    estate = {"swarm_deploy": 5, "swarm_registry": 60, "swarm_platform": 60}
    output = play(CUTOVER, *variables(groups=[DEPLOY], estate_connections=estate), succeeds=False)
    assert "the pools of the services together may open 125" in output
    assert "swarm_registry 60" in output
    assert processes("swarm-deploy") == before


# test_services_gone_wrong.py has it without a host.
@pytest.mark.long_search
def test_a_pm2_of_one_user_that_does_not_run_stops_neither() -> None:
    before = sql("SELECT count(*) FROM migration.run")
    other_pm2("kill")
    try:
        output = play(CUTOVER, *variables(groups=[PLATFORM]), succeeds=False)
    finally:
        other_pm2("start", ecosystem_of("swarm-tickets"))
    assert "pm2 of user tickets: its daemon does not run" in output
    assert sql("SELECT count(*) FROM migration.run") == before
    assert state_of("platform") == "rehearsed"


@dataclass(frozen=True)
class Move:
    """A move of all groups.

    :param output: what the run has printed.
    :param processes: of the services in cluster mode, before it.
    :param rows: that the unit counted before it.
    """

    output: str
    processes: dict[str, list[int]]
    rows: int


@pytest.fixture(scope="module")
def moved(other_ways: None) -> Move:
    """Every group on PostgreSQL, moved while nothing starts the pm2 of most services at boot."""
    before, rows = processes(), answer()["rows"]
    on_host("systemctl", "disable", "pm2-swarm")
    try:
        output = play(CUTOVER, "--diff", *of_estate())
    finally:
        on_host("systemctl", "enable", "pm2-swarm")
    assert {state_of(group["name"]) for group in GROUPS} == {"live"}
    assert all(is_protected(group) for group in GROUPS)
    return Move(output, before, rows)


@pytest.mark.promise("unit-of-systemd-moves")
def test_a_unit_of_systemd_moves(moved: Move) -> None:
    assert_all_runs("postgresql")
    assert answer()["rows"] == moved.rows
    assert on_host("stat", "-c", "%U %a", OURS).split() == ["root", "600"]
    password = next(line for line in on_host("cat", OURS).splitlines() if line.startswith("PGPASSWORD="))
    assert "+PGPASSWORD=********" in moved.output
    assert password not in moved.output
    assert on_host("ls", "/etc/systemd/system").count("recovery") == 0


@pytest.mark.promise("service-environment-clean", "every-process-moves", "started-at-boot")
def test_every_process_is_moved_and_shares_the_pool_size(moved: Move) -> None:
    assert moved.output.count("as seen by a client") == len(GROUPS)
    assert "Nothing starts the services of pm2's user swarm at boot" in " ".join(moved.output.split())
    for name, after in processes().items():
        before = moved.processes[name]
        assert len(after) == len(before) == 2
        assert not set(before) & set(after)
        # pm2 hands the requests to one process after the other, and each opens a session if its last was idle too long.
        assert {answer["store"] for answer in answers_of(*[name] * 4)} == {"postgresql"}
        # Five for both of them.
        assert dotenv_file.read_values(env_of(name))["DATABASE_POOL_SIZE"] == "2"
        role = name.replace("-", "_")
        assert int(sql(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'")) >= 2
        environments = on_host("cat", *(f"/proc/{pid}/environ" for pid in after))
        assert "PATH=" in environments
        assert "ANSIBLE" not in environments
        assert "PGPASSWORD" not in environments
        # Of the operator's shell, and of how Ansible has come here.
        assert re.findall(r"(?:^|\0)((?:SUDO_|LS_COLORS|SSH_)[^\0]*)", environments) == []


@pytest.mark.promise("every-process-moves")
def test_services_of_two_users_move_together(moved: Move) -> None:
    assert set(stores(*OF_TWO_USERS).values()) == {"postgresql"}
    assert on_host("stat", "-c", "%a %U", f"{DIRECTORY}/.env").split() == ["600", "tickets"]
    assert on_host("stat", "-c", "%a %U", "/home/tickets/.pm2/dump.pm2").split() == ["600", "tickets"]
    assert "Nothing starts the services of pm2's user tickets at boot" in " ".join(moved.output.split())


@pytest.mark.usefixtures("moved")
@pytest.mark.promise("moved-group-kept-so")
def test_only_what_is_wrong_is_put_right_and_nothing_is_left_to_do() -> None:
    """Settings of a service, another that was stopped, and a write protection that was taken away."""
    before, main = processes(), shown("MainPID")
    on_host("sed", "-i", "s/^PGPORT=.*/PGPORT=1/", f"{DIRECTORY}/.env")
    pm2("stop", "swarm-deploy")
    on_host("chattr", "-i", REGISTRY["source"]["path"])
    output = play(CUTOVER, CUTOVER, *of_estate())
    mending, further = outputs(output)
    assert "started again with the right settings: swarm-tickets." in mending
    assert "started again with the right settings: swarm-deploy." in mending
    assert "registry lives on PostgreSQL; its frozen SQLite file is write-protected again" in mending
    assert changed_tasks(further) == ()
    # It is started at boot again.
    assert "Nothing starts the services of pm2's user swarm at boot" not in " ".join(output.split())
    after = processes()
    assert after["swarm-platform"] == before["swarm-platform"]
    assert len(after["swarm-deploy"]) == 2
    assert not set(after["swarm-deploy"]) & set(before["swarm-deploy"])
    assert shown("MainPID") == main
    assert set(stores("swarm-deploy", *OF_TWO_USERS).values()) == {"postgresql"}
    assert is_protected(REGISTRY)


@pytest.mark.promise("unit-of-systemd-moves", "every-process-moves")
def test_all_go_back_with_what_they_wrote(moved: Move) -> None:
    before = processes()
    written = record_attempt("on postgresql")
    play(ROLLBACK, *of_estate())
    assert {state_of(group["name"]) for group in GROUPS} == {"rolled_back"}
    assert not any(is_protected(group) for group in GROUPS)

    assert_all_runs("sqlite")
    assert answer()["rows"] == moved.rows
    on_host("sh", "-c", f"test ! -e {DROP_IN} && test ! -e {OURS}")
    assert shown("NeedDaemonReload") == ["no"]
    assert "PGPASSWORD" not in on_host("cat", f"/proc/{shown('MainPID')[0]}/environ")

    for name, after in processes().items():
        assert len(after) == 2
        assert not set(before[name]) & set(after)
        assert {answer["store"] for answer in answers_of(*[name] * 4)} == {"sqlite"}
        assert env_of(name) == original_env_of(name)

    assert set(stores(*OF_TWO_USERS).values()) == {"sqlite"}
    assert on_host("cat", f"{DIRECTORY}/.env") == original_env_of("swarm-tickets")
    assert on_host("stat", "-c", "%a %U %G", PLATFORM["source"]["path"]).split() == ["664", "swarm", "swarm"]
    # The other user may write to the file that was put in the place.
    assert in_file(written, record_attempt("on sqlite again")) == 2
