"""What the tests on a real host have in common: its playbooks, its database, its services, and how to look at them."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from scripts.playbooks import ROOT, ThrowawayHost

# Two checkouts on one machine tell their hosts apart by TEST_HOST_PREFIX.
HOST = ThrowawayHost(f"{os.environ.get('TEST_HOST_PREFIX', '')}cutover-")
CONTAINER = HOST.container
CUTOVER, ROLLBACK = "playbooks/4_service_cutover.yml", "playbooks/rollback.yml"
REHEARSAL = "playbooks/3_data_migration.yml"

GROUPS: list[dict[str, Any]] = yaml.safe_load(
    (ROOT / "inventory/group_vars/all/estate.yml").read_text(encoding="utf-8")
)["estate_cutover_groups"]
SERVICES: dict[str, dict[str, Any]] = {service["name"]: service for group in GROUPS for service in group["services"]}


class SharedHost:
    """The host that the tests of several files use one after the other.

    To put groups back costs as much as a new host. So a file says which of them it has used up, and the next one that
    needs one of these takes a new host.
    """

    def __init__(self) -> None:
        self._state = ""
        self._groups: set[str] = set()

    def take(self, state: str, *groups: str) -> None:
        """Have groups as they are on a new host.

        :param state: how far the host has come, one of molecule/test_host/ready.py.
        :raises RuntimeError: if a new one is needed and cannot be made.
        """
        if self._state != state or not self._groups.issuperset(groups):
            HOST.begin(state)
            self.note(state)

    def note(self, state: str) -> None:
        """Note that every group is as on a new host of this state."""
        self._state, self._groups = state, {group["name"] for group in GROUPS}

    def use_up(self, *groups: str) -> None:
        """Note that these groups are no longer as on a new host, all of them if none is named."""
        self._groups -= set(groups or self._groups)


# ---------------------------------------------------------------- what the tests look at


def play(*arguments: str, succeeds: bool = True) -> str:
    """Run a playbook and return what it prints."""
    run = HOST.play(*arguments)
    assert run.succeeded is succeeds, run.output
    assert "Traceback" not in run.output
    return run.output


def changed(output: str) -> int:
    """Return how many tasks have changed something."""
    return sum(int(count) for count in re.findall(r"changed=(\d+)", output))


def on_host(*command: str, text: str | None = None) -> str:
    """Run a command on the host and return what it prints."""
    options = ["-i"] if text is not None else []
    result = subprocess.run(
        ["docker", "exec", *options, CONTAINER, *command], input=text, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def sql(statement: str) -> str:
    """Return the answer of the server to its administrator."""
    try:
        return HOST.sql(statement)
    except RuntimeError as error:
        raise AssertionError(str(error)) from None


# Seconds in which a playbook that was told to end, or that may go on, has ended on a busy machine.
PATIENCE = 300.0


def state_of(group: str) -> str:
    """Return the state of a group in the ledger."""
    return sql(f"SELECT state FROM migration.cutover_group WHERE name = '{group}'")


def answers_of(*names: str) -> list[dict[str, Any]]:
    """Return what services say of themselves, asked one after the other by one program: its start takes the time."""
    code = (
        "import sys, urllib.request; "
        "print(*(urllib.request.urlopen(url, timeout=60).read().decode().strip() for url in sys.argv[1:]), sep='\\n')"
    )
    answers = on_host("python3", "-c", code, *(SERVICES[name]["health_url"] for name in names))
    return [json.loads(answer) for answer in answers.splitlines()]


def health_of(name: str) -> dict[str, Any]:
    """Return what a service says of itself."""
    return answers_of(name)[0]


def stores(*names: str) -> dict[str, str]:
    """Return the store of each service by its name, of all if none is named."""
    asked = names or tuple(SERVICES)
    return {name: answer["store"] for name, answer in zip(asked, answers_of(*asked), strict=True)}


def pm2(*arguments: str, user: str = "swarm") -> str:
    """Call pm2 as a services' user and return what it prints."""
    return HOST.pm2(*arguments, user=user)


def pids() -> dict[str, int]:
    """Return each service's process by its name; in a window it has none. pm2 itself takes half a second to say it."""
    listed = on_host("sh", "-c", "pgrep -af '^node /opt/' || true")
    return {name: int(pid) for pid, name in re.findall(r"^(\d+) node /opt/([^/]+)/", listed, re.MULTILINE)}


def env_of(name: str) -> str:
    """Return a service's dotenv file."""
    return on_host("cat", f"{SERVICES[name]['directory']}/.env")


def original_env_of(name: str) -> str:
    """Return the dotenv file that the service came with."""
    return (ROOT / "molecule/sample_estate/services" / name / ".env").read_text(encoding="utf-8")


def is_protected(group: dict[str, Any]) -> bool:
    """Return whether the group's file has the attribute of the write protection."""
    return "i" in on_host("lsattr", group["source"]["path"]).split()[0]


def group_of(name: str) -> dict[str, Any]:
    """Return a copy of a group of the inventory."""
    return copy.deepcopy(next(group for group in GROUPS if group["name"] == name))


def variables(**values: Any) -> list[str]:
    """Return the arguments that set variables of the role."""
    return ["-e", json.dumps({f"service_env_{name}": value for name, value in values.items()})]


@contextmanager
def locked_table(table: str, mode: str = "ACCESS EXCLUSIVE") -> Iterator[None]:
    """Hold a table so that the final sync has to wait, as it does on a large table."""
    statement = f"BEGIN; LOCK TABLE {table} IN {mode} MODE; SELECT pg_sleep(900)"
    sleeps = "FROM pg_stat_activity WHERE query LIKE '%pg_sleep(900)' AND state = 'active'"
    holder = subprocess.Popen(
        ["docker", "exec", CONTAINER, "runuser", "-u", "postgres", "--", "psql", "-d", "swarm", "-c", statement],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: sql(f"SELECT count(*) {sleeps} AND wait_event = 'PgSleep'") == "1")
    try:
        yield
    finally:
        sql(f"SELECT pg_terminate_backend(pid) {sleeps} AND wait_event = 'PgSleep'")
        holder.wait()


def until(condition: Any, seconds: float = 300.0, progress: Callable[[], object] | None = None) -> None:
    """Wait until a condition holds.

    :param seconds: how long, or with ``progress`` how long while that answers the same.
    """
    reached: object = None
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            now = progress() if progress else reached
            assert now != reached, "waited in vain"
            reached, deadline = now, time.monotonic() + seconds
        time.sleep(1)  # Each question starts a program in the container, which takes a tenth of a processor's second.


def active_units() -> str:
    """Return the units that run: a host that boots, however slowly, has more of them each time."""
    return on_host("systemctl", "list-units", "--state=active", "--plain", "--no-legend", "--no-pager")


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a playbook beside the test."""
    process = HOST.start(*arguments)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def module_processes() -> list[str]:
    """Return the ids of the processes of Ansible's modules; with pipelining, Python reads a module from its input."""
    return on_host("sh", "-c", "pgrep -x python3 || true").split()


def signal_module(number: int) -> None:
    """Send a signal to the module that runs on the host."""
    processes = module_processes()
    assert processes
    on_host("kill", f"-{number}", *processes)


def is_as_before(group: dict[str, Any]) -> bool:
    """Return whether a group is on SQLite as if nothing had been tried."""
    names = [service["name"] for service in group["services"]]
    return (
        set(stores(*names).values()) == {"sqlite"}
        and all(env_of(name) == original_env_of(name) for name in names)
        and not is_protected(group)
        and state_of(group["name"]) == "rehearsed"
    )
