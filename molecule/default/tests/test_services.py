"""The services as the playbook leaves them: their settings, their processes, their answers, and no secret in sight."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

from scripts.playbooks import ThrowawayHost

HOST = ThrowawayHost(os.environ.get("TEST_HOST_PREFIX", "molecule-"))
Query = Callable[[str], list[Any]]
PM2_HOME = "/home/swarm/.pm2"


# Prints the settings in the .env of each of these directories, by its directory, as the dotenv there reads them.
READ_SETTINGS = """
const { readFileSync } = require('fs');
const read = (directory) =>
  require(require.resolve('dotenv', { paths: [directory] })).parse(readFileSync(`${directory}/.env`));
const directories = process.argv.slice(1);
console.log(JSON.stringify(Object.fromEntries(directories.map((directory) => [directory, read(directory)]))));
"""

# Prints the JSON that the host reads from each of these addresses on itself.
ASK = """
import json, sys, urllib.request
print(json.dumps([json.load(urllib.request.urlopen(url, timeout=60)) for url in sys.argv[1:]]))
"""


def answers(services: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the health address of each service answers."""
    urls = [service["health_url"] for service in services]
    found: list[dict[str, Any]] = json.loads(HOST.run(["python3", "-c", ASK, *urls]))
    return found


# One program answers for all services, and once for all tests: none of them changes anything.
@pytest.fixture(scope="module")
def settings(services: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the settings in each service's .env by the service's name."""
    directories = {service["name"]: service["directory"] for service in services}
    found = json.loads(HOST.run(["node", "-e", READ_SETTINGS, *directories.values()]))
    return {name: found[directory] for name, directory in directories.items()}


@pytest.fixture(scope="module")
def processes() -> dict[str, dict[str, Any]]:
    """Return pm2's description of each service by the service's name."""
    return {process["name"]: process for process in json.loads(HOST.pm2("jlist"))}


@pytest.fixture(scope="module")
def passwords(settings: dict[str, dict[str, str]], services: list[dict[str, Any]]) -> set[str]:
    """Return the database passwords of all services."""
    found = {values["PGPASSWORD"] for values in settings.values()}
    assert len(found) == len(services)
    assert all(len(password) >= 16 for password in found)
    return found


@pytest.mark.promise("env-private")
def test_env_files_hold_the_connection_and_are_private(
    host: Host, services: list[dict[str, Any]], settings: dict[str, dict[str, str]]
) -> None:
    """Each .env has the PG variables and the same in DATABASE_URL, belongs to the service's user, and is 0600."""
    for service in services:
        file = host.file(f"{service['directory']}/.env")
        assert (file.user, file.mode) == (service["user"], 0o600)
        values = settings[service["name"]]
        role = service["database_role"]
        assert values["PGHOST"] == "127.0.0.1"
        assert values["PGPORT"] == "5432"
        assert values["PGDATABASE"] == "swarm"
        assert values["PGUSER"] == role
        assert values["DATABASE_URL"].startswith(f"postgresql://{role}:{values['PGPASSWORD']}@127.0.0.1:5432/swarm")


@pytest.mark.promise("env-other-lines-kept")
def test_other_lines_of_env_files_are_kept(host: Host, services: list[dict[str, Any]]) -> None:
    """The lines that the service had before are all still there."""
    for service in services:
        before = host.file(f"/opt/sample-estate/services/{service['name']}/.env").content_string.splitlines()
        after = host.file(f"{service['directory']}/.env").content_string.splitlines()
        assert [line for line in before if line not in after] == []


@pytest.mark.promise("service-proven-on-postgresql", "crash-is-finished")
def test_every_service_answers_from_postgresql(services: list[dict[str, Any]]) -> None:
    """The health address names PostgreSQL as the store and counts rows in it, after a run that was killed."""
    for service, health in zip(services, answers(services), strict=True):
        assert (health["status"], health["store"], health["service"]) == ("ok", "postgresql", service["name"])
        assert health["rows"] > 0


@pytest.mark.promise("service-proven-on-postgresql")
def test_processes_are_online_and_hold_no_sqlite_file(
    host: Host,
    services: list[dict[str, Any]],
    estate: list[dict[str, Any]],
    processes: dict[str, dict[str, Any]],
) -> None:
    """pm2 reports each service online and stable; none has a SQLite file of the estate open."""
    for service in services:
        process = processes[service["name"]]
        assert process["pm2_env"]["status"] == "online"
        assert process["pm2_env"]["unstable_restarts"] == 0
        open_files = host.run(f"find /proc/{process['pid']}/fd -printf '%l\\n'").stdout
        for group in estate:
            assert group["source"]["path"] not in open_files


@pytest.mark.promise("service-environment-clean")
def test_processes_have_a_clean_environment(
    host: Host,
    services: list[dict[str, Any]],
    settings: dict[str, dict[str, str]],
    processes: dict[str, dict[str, Any]],
) -> None:
    """A process's real environment agrees with its .env and holds nothing of the operator's shell or of Ansible."""
    for service in services:
        raw = host.run(f"tr '\\0' '\\n' < /proc/{processes[service['name']]['pid']}/environ").stdout
        environment = dict(line.split("=", 1) for line in raw.splitlines() if "=" in line)
        for name, value in settings[service["name"]].items():
            assert environment.get(name, value) == value, (service["name"], name)
        assert environment["HOME"] == "/home/swarm"
        assert [name for name in environment if re.match(r"ANSIBLE|SUDO_|LS_COLORS|SSH_", name)] == []


@pytest.mark.promise("service-proven-on-postgresql")
def test_each_service_logs_in_with_its_own_role(query: Query, services: list[dict[str, Any]]) -> None:
    """pg_stat_activity shows a session of each service's role."""
    answers(services)
    for service in services:
        sessions = query(
            "SELECT usename, application_name FROM pg_stat_activity"
            f" WHERE datname = 'swarm' AND usename = '{service['database_role']}'"
        )
        assert sessions, service["name"]


@pytest.mark.promise("password-nowhere-else")
def test_no_password_is_kept_where_others_can_read_it(host: Host, passwords: set[str]) -> None:
    """No database password stands in pm2's dump, in a log, in the journal, in a world-readable file or in a process."""
    places = {
        "pm2's dump": f"cat {PM2_HOME}/dump.pm2*",
        "pm2's logs": f"cat {PM2_HOME}/pm2.log {PM2_HOME}/logs/*",
        "the server's logs": "cat /var/log/postgresql/*",
        "the journal": "journalctl --no-pager",
        "the system's log": "cat /var/log/syslog /var/log/auth.log 2>/dev/null || true",
        "a command line": "cat /proc/[0-9]*/cmdline | tr '\\0' ' '",
        "a temporary file": "find /tmp /var/tmp /root /home/swarm/.ansible -type f -exec cat {} + 2>/dev/null || true",
    }
    for place, command in places.items():
        content = host.run(command).stdout_bytes
        for password in passwords:
            assert password.encode() not in content, f"{place} holds a password"
    patterns = " ".join(f"-e {shlex.quote(password)}" for password in passwords)
    readable = host.run(f"find /etc /opt /home /var/lib /srv /root -type f -perm /o+r -exec grep -lF {patterns} {{}} +")
    assert readable.stdout == ""


@pytest.mark.promise("started-at-boot")
def test_pm2_starts_the_services_at_boot(host: Host, services: list[dict[str, Any]]) -> None:
    """The boot unit is enabled, and what pm2 would resurrect are the services, readable by nobody else."""
    assert host.service("pm2-swarm").is_enabled
    dump = host.file(f"{PM2_HOME}/dump.pm2")
    assert dump.mode == 0o600
    assert {process["name"] for process in json.loads(dump.content_string)} == {service["name"] for service in services}
