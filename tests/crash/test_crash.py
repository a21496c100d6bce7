"""A playbook that is killed at any task is finished by the next run, and leaves no service stopped.

Kills phase 1 while packages are installed; in a long search the whole of site.yml, at more tasks. Phase 4
and a rollback are killed by tests/random_order.
A crash is SIGKILL to ansible-playbook with its process group: what already runs on the host goes on there. So does
the worker of a task, which has a session of its own, to the end of the task with its loop. A second kind also kills the
module on the host.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from scripts.playbooks import ROOT, PlaybookRun, ThrowawayHost

HOST = ThrowawayHost(f"{os.environ.get('TEST_HOST_PREFIX', '')}crash-")
WHOLE_SITE = bool(os.environ.get("LONG_SEARCHES"))
# What is killed, and run again.
WHOLE_RUN = ("site.yml",) if WHOLE_SITE else ("playbooks/1_infrastructure.yml", "--tags", "postgres_install")

SERVICES: list[dict[str, Any]] = [
    service
    for group in yaml.safe_load((ROOT / "inventory/group_vars/all/estate.yml").read_text(encoding="utf-8"))[
        "estate_cutover_groups"
    ]
    for service in group["services"]
]
# What runs Ansible's modules on a host, where nothing else is written in Python.
MODULE_PROCESS = "python3"
READ_HEALTH = """
import json, sys, urllib.request
print(json.dumps([json.load(urllib.request.urlopen(address, timeout=60)) for address in sys.argv[1:]]))
"""


@dataclass(frozen=True)
class Crash:
    """Where a run is killed."""

    task: str
    """Regular expression for the heading of the task, from its beginning."""

    item: str = ""
    """The item of the task's loop that must be done by then."""

    seconds: float = 0.0
    """How long the run goes on after that, or after the module has started on the host if that is stopped as well."""

    on_the_host_too: bool = False
    """Whether what Ansible started on the host is killed as well."""

    live_group: str = ""
    """The cutover group that must be live by then, but not yet proven to be well."""


CUT_OVER = r"service_env : Cut over \| Move"
LONG_SEARCH = pytest.mark.long_search
# In the order of site.yml: each run gets past the place where the one before it was killed.
CRASHES = [
    pytest.param(Crash(r"postgres_install : packages \| Install", seconds=2.0), id="while packages are installed"),
    pytest.param(
        Crash(r"postgres_config : access \| Write"),
        id="between settings and access rules",
        marks=LONG_SEARCH,
    ),
    pytest.param(
        Crash(r"schema_apply : Apply \|", seconds=0.2, on_the_host_too=True),
        id="while the schema is applied",
        marks=LONG_SEARCH,
    ),
    pytest.param(
        Crash(r"sqlite_migrate : Synchronise \|", on_the_host_too=True),
        id="in the rehearsal",
        marks=LONG_SEARCH,
    ),
    pytest.param(
        Crash(CUT_OVER, seconds=1.5, on_the_host_too=True),
        id="in the first cutover window",
        marks=LONG_SEARCH,
    ),
    pytest.param(
        Crash(CUT_OVER, item="registry", seconds=1.0),
        id="in the second window, and the host goes on",
        marks=LONG_SEARCH,
    ),
    pytest.param(
        Crash(CUT_OVER, item="deploy", seconds=0.5, on_the_host_too=True),
        id="early in the last window",
        marks=LONG_SEARCH,
    ),
    pytest.param(
        Crash(CUT_OVER, item="deploy", live_group="platform", on_the_host_too=True),
        id="late in the last window",
        marks=LONG_SEARCH,
    ),
    pytest.param(Crash(r"validation : Compare"), id="before the validation", marks=LONG_SEARCH),
]


def run_playbooks(*playbooks: str) -> PlaybookRun:
    """Run playbooks on the host of the crash tests, which must succeed."""
    done = HOST.play(*playbooks)
    assert done.succeeded, done.output
    return done


def run_and_kill(crash: Crash) -> list[str]:
    """Run what leads to the given place, kill it there, and return its output until then."""
    process = HOST.start(*WHOLE_RUN)
    assert process.stdout is not None
    lines: list[str] = []
    in_task = reached = False
    for line in process.stdout:
        lines.append(line)
        if line.startswith("TASK ["):
            in_task = re.match(rf"TASK \[{crash.task}", line) is not None
            # What was left to itself by the crash before may have ended well, and is then no item any more.
            reached = in_task and (not crash.item or is_live(crash.item))
        elif in_task:
            reached = f"(item={crash.item})" in line
        if reached:
            if crash.live_group:
                wait_until_live(crash.live_group)
            if crash.on_the_host_too:
                hold_module(crash.seconds)
            else:
                time.sleep(crash.seconds)
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert reached, "".join(lines)
    if crash.on_the_host_too:
        killed = subprocess.run(["docker", "exec", HOST.container, "pkill", "-KILL", "-x", MODULE_PROCESS], check=False)
        assert killed.returncode == 0, "the module had ended before it could be killed"
    return lines


def hold_module(seconds: float) -> None:
    """Wait until a module runs on the host, and hold it there, so that it does not end before it is killed.

    One that ends before it can be held is not the one that is meant: that of the item before may still be at its end.

    :param seconds: how long it runs before it is held.
    """
    hold = f"pgrep -x {MODULE_PROCESS} >/dev/null && sleep {seconds} && pkill -STOP -x {MODULE_PROCESS}"
    until_held = f"for n in $(seq 6000); do {hold} && exit; sleep 0.05; done; exit 1"
    held = subprocess.run(["docker", "exec", HOST.container, "sh", "-c", until_held], check=False)
    assert held.returncode == 0, "no module ran on the host long enough to be held"


def is_live(group: str) -> bool:
    """Return whether the ledger says that a group lives on PostgreSQL."""
    return HOST.sql(f"SELECT state = 'live' FROM migration.cutover_group WHERE name = '{group}'") == "t"


def wait_until_live(group: str) -> None:
    """Wait until a group lives on PostgreSQL."""
    for _ in range(2000):
        if is_live(group):
            return
        time.sleep(0.05)
    raise AssertionError(f"{group} never became live")


def health_answers() -> list[dict[str, Any]]:
    """Return what every service says about itself; fail if one does not answer."""
    addresses = [service["health_url"] for service in SERVICES]
    result = subprocess.run(
        ["docker", "exec", HOST.container, "python3", "-c", READ_HEALTH, *addresses],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers: list[dict[str, Any]] = json.loads(result.stdout)
    return answers


def pm2_states() -> dict[str, str]:
    """Return the state of each service by its name, as pm2 reports it."""
    return {process["name"]: process["pm2_env"]["status"] for process in json.loads(HOST.pm2("jlist"))}


@pytest.fixture(scope="module", autouse=True)
def _crash_host() -> Iterator[None]:
    """Provide a fresh host, for the whole of site.yml with the sample estate, and remove it at the end."""
    HOST.begin("installed" if WHOLE_SITE else "bare")
    yield
    HOST.remove()


@pytest.mark.parametrize("crash", CRASHES)
def test_a_run_is_killed(crash: Crash) -> None:
    """The run reaches the place where it is to be killed: it got past the crash before this one."""
    run_and_kill(crash)


@pytest.mark.promise("crash-is-finished")
def test_the_next_run_finishes(request: pytest.FixtureRequest) -> None:
    """After all those crashes one more run ends well; after site.yml every service is online and on PostgreSQL."""
    assert request.session.testsfailed == 0, "a run was not killed where it should have been"
    run_playbooks(*WHOLE_RUN)
    if not WHOLE_SITE:
        assert HOST.sql("SELECT current_database()") == "swarm"
        return
    assert pm2_states() == {service["name"]: "online" for service in SERVICES}
    assert [answer["store"] for answer in health_answers()] == ["postgresql"] * len(SERVICES)


# After a killed first phase, on a server that others use: postgres/test_existing_host.py.
@pytest.mark.long_search
@pytest.mark.promise("second-run-changes-nothing")
def test_nothing_is_left_to_do() -> None:
    """The run after that changes nothing."""
    assert run_playbooks(*WHOLE_RUN).changed_tasks == ()
