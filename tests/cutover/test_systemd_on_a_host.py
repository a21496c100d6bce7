"""A service of Python that systemd starts, by a socket: phases 3 and 4 and the rollback, without pm2 and without Node.

Polling its address would start it again within a second if its socket were left open in the window. Another unit
requires it, which systemd therefore stops with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import unit_settings

from .host import (
    CUTOVER,
    GROUPS,
    REHEARSAL,
    ROLLBACK,
    SharedHost,
    changed,
    group_of,
    is_protected,
    on_host,
    play,
    pm2,
    state_of,
    until,
)

UNIT, BESIDE = "deploy-history", "deploy-history-worker"
GROUP = group_of("deploy")
_OF_PM2 = GROUP["services"][0]
SERVICE: dict[str, Any] = {
    "name": UNIT,
    "manager": "systemd",
    "user": "swarm",
    "directory": "/opt/deploy-history",
    "health_url": "http://127.0.0.1:4022/health",
    **{key: _OF_PM2[key] for key in ("database_role", "schemas")},
}
GROUP["services"] = [SERVICE]
ESTATE = [GROUP if group["name"] == "deploy" else group for group in GROUPS]
PROGRAM = f"""
import http.server, json, os, socket, sqlite3
if "PGHOST" in os.environ:
    import psycopg2
    store = psycopg2.connect("")
    store.autocommit = True
    name, table = "postgresql", "deploy.deployments"
else:
    store = sqlite3.connect("{GROUP["source"]["path"]}", isolation_level=None)
    name, table = "sqlite", "deployments"
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
    "/opt/deploy-history/serve.py": PROGRAM,
    f"/etc/systemd/system/{UNIT}.socket": "[Socket]\nListenStream=127.0.0.1:4022\n[Install]\nWantedBy=sockets.target\n",
    f"/etc/systemd/system/{UNIT}.service": (
        "[Service]\nUser=swarm\nExecStart=/usr/bin/python3 /opt/deploy-history/serve.py\nRestart=always\n"
        "Environment=PGAPPNAME=history\n"
    ),
    f"/etc/systemd/system/{BESIDE}.service": (
        f"[Unit]\nRequires={UNIT}.service\nAfter={UNIT}.service\n[Service]\nExecStart=/usr/bin/sleep infinity\n"
    ),
}
# Starts a unit as a cutover does, and waits until it is well, or nobody waits any more.
WATCH = """
import sys
sys.path.insert(0, "/usr/local/lib/sqlite-to-postgresql.pyz")
from migration.core.estate import Group, Service
from migration.host.managers import key_of, managers_of
from migration.host.service_health import ServicesLogin, Watcher
service = Service(sys.argv[1], "root", "/", "nobody", ("app",), "http://127.0.0.1:9/", manager="systemd")
managers = managers_of([service])
manager = managers[key_of(service)]
manager.start_service(service)
watcher = Watcher(Group("test", "/nowhere.db", (), (service,)), managers, ServicesLogin("127.0.0.1", 5432, "test"), {})
(health,) = watcher.look([service], "postgresql", 300, ends_with_a_loop=True)
print(health.has_given_up, health.shortcoming)
manager.stop_services([service], None)
print(manager.processes()[0].pid)
"""
DROP_IN = f"/etc/systemd/system/{UNIT}.service.d"
OURS = f"/var/lib/sqlite-to-postgresql/units/{UNIT}.service.env"


def of_estate(*services: dict[str, Any]) -> list[str]:
    """Return the arguments for an estate whose group of deployments has these services, by default the one unit."""
    group = {**GROUP, "services": list(services) or [SERVICE]}
    groups = [group if entry["name"] == "deploy" else entry for entry in ESTATE]
    values = {"estate_cutover_groups": groups, "service_env_groups": [group], "sqlite_migrate_groups": [group]}
    return ["-e", json.dumps({**values, "service_env_rollback_groups": "deploy"})]


def answer() -> dict[str, Any]:
    """Return what the service says of itself."""
    code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())"
    said: dict[str, Any] = json.loads(on_host("python3", "-c", code, SERVICE["health_url"]))
    return said


def shown(unit: str, name: str) -> str:
    """Return a property of a unit."""
    return on_host("systemctl", "show", "--value", f"--property={name}", unit).strip()


def is_active(unit: str) -> bool:
    """Return whether a unit runs."""
    return shown(unit, "ActiveState") == "active"


def assert_all_runs(store: str) -> None:
    """See that the service, its socket and what requires it run, on a store."""
    assert answer()["store"] == store
    for unit in (f"{UNIT}.service", f"{UNIT}.socket", f"{BESIDE}.service"):
        until(partial(is_active, unit))
    assert shown(f"{UNIT}.service", "UnitFileState") == "static"
    assert on_host("sh", "-c", "ls /var/lib/sqlite-to-postgresql/units/*.json 2>/dev/null || true") == ""


@pytest.fixture(autouse=True, scope="module")
def host(shared_host: SharedHost) -> None:
    """A host on which the group is rehearsed."""
    shared_host.take("rehearsed", "deploy")


@pytest.fixture(scope="module")
def unit(host: None) -> Iterator[None]:
    """The history of deployments as a unit of systemd in place of the service under pm2."""
    pm2("delete", "swarm-deploy")
    for path, text in FILES.items():
        on_host("install", "-D", "-m", "0644", "/dev/stdin", path, text=text)
    on_host("systemctl", "daemon-reload")
    on_host("systemctl", "start", f"{UNIT}.socket", f"{UNIT}.service", f"{BESIDE}.service")
    until(lambda: answer()["store"] == "sqlite")
    yield
    if state_of("deploy") == "live":
        play(ROLLBACK, *of_estate())
    on_host("systemctl", "stop", f"{UNIT}.socket", f"{UNIT}.service", f"{BESIDE}.service")
    on_host("rm", *(path for path in FILES))
    on_host("systemctl", "daemon-reload")
    pm2("start", "/opt/swarm-deploy/ecosystem.config.js")
    play(REHEARSAL, "-e", json.dumps({"sqlite_migrate_groups": [group_of("deploy")]}))


def test_systemd_reads_what_is_written_for_it() -> None:
    values = {
        "A": 'it\'s $HOME ${HOME} %h `id` "x"',
        "B": "ends in a backslash \\",
        "C": " # no comment ; neither ",
        "D": "\\n\\\\t'\\'",
        "E": "'quoted'",
        "F": '"quoted"',
        "G": "é ü – 漢",
        "H": "",
        "I": "plain_./:@%+,=-",
    }
    text = "".join(f"{key}={unit_settings.quote_value(value)}\n" for key, value in values.items())
    on_host("install", "-m", "0600", "/dev/stdin", "/run/values.env", text=text)
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    options = ["--wait", "--pipe", "--quiet", "--property=EnvironmentFile=/run/values.env"]
    read = json.loads(on_host("systemd-run", *options, "/usr/bin/python3", "-c", code))
    assert {key: read.get(key) for key in values} == values
    assert unit_settings.read_values(text) == values


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (
            "StartLimitIntervalSec=1h\nStartLimitBurst=3",
            "True systemd does not start it any more, because it ended soon after each start",
        ),
        ("StartLimitIntervalSec=0", "True it ends soon after each start: systemd has already started it"),
    ],
)
def test_a_unit_that_ends_again_and_again_ends_the_wait(limit: str, said: str) -> None:
    path = "/run/systemd/system/ends-at-once.service"
    service = "[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=200ms\n"
    on_host("install", "-D", "-m", "0644", "/dev/stdin", path, text=f"[Unit]\n{limit}\n{service}")
    on_host("systemctl", "daemon-reload")
    output = on_host("python3", "-I", "-c", WATCH, "ends-at-once")
    assert output.startswith(said)
    assert output.splitlines()[1:] == ["0"]
    on_host("rm", path)
    on_host("systemctl", "daemon-reload")


# test_systemd.py has it without a host.
@pytest.mark.usefixtures("unit")
@pytest.mark.long_search
def test_a_wrong_description_is_refused_before_anything_stops() -> None:
    before = shown(f"{UNIT}.service", "MainPID")
    unknown = {**SERVICE, "name": "deploy-histry"}
    wrong = {**SERVICE, "user": "tickets", "env_file": "my.env"}
    output = play(CUTOVER, *of_estate(wrong, unknown), succeeds=False)
    assert "systemd of this host knows no unit deploy-histry.service" in output
    assert "Did you mean 'deploy-history.service'?" in output
    assert "its unit runs as user swarm, and the inventory says tickets" in output
    assert shown(f"{UNIT}.service", "MainPID") == before


@pytest.mark.usefixtures("unit")
@pytest.mark.promise("unit-of-systemd-moves")
def test_a_unit_of_systemd_moves_stays_and_goes_back() -> None:
    rows = answer()["rows"]
    output = play(REHEARSAL, CUTOVER, "--diff", *of_estate())
    assert "+PGPASSWORD=********" in output
    assert_all_runs("postgresql")
    assert (answer()["rows"], state_of("deploy"), is_protected(GROUP)) == (rows, "live", True)
    assert on_host("stat", "-c", "%U %a", OURS).split() == ["root", "600"]
    password = next(line for line in on_host("cat", OURS).splitlines() if line.startswith("PGPASSWORD="))
    assert password not in output
    assert on_host("ls", "/etc/systemd/system").count("recovery") == 0

    pid = shown(f"{UNIT}.service", "MainPID")
    assert changed(play(CUTOVER, *of_estate())) == 0
    assert shown(f"{UNIT}.service", "MainPID") == pid

    play(ROLLBACK, *of_estate())
    assert_all_runs("sqlite")
    assert (answer()["rows"], state_of("deploy"), is_protected(GROUP)) == (rows, "rolled_back", False)
    on_host("sh", "-c", f"test ! -e {DROP_IN} && test ! -e {OURS}")
    assert shown(f"{UNIT}.service", "NeedDaemonReload") == "no"
    assert "PGPASSWORD" not in on_host("cat", f"/proc/{shown(f'{UNIT}.service', 'MainPID')}/environ")
