"""Any order of rehearsing, writing, cutting over, going back, crashing and running again keeps every promise.

A walk over a real host, chosen by a seed. After each step: the services of a group use one store, no acknowledged
write is lost, the frozen file is what the ledger says, and a further run changes nothing. While a playbook runs,
clients write through all services; these are away from them once at most. After a cutover the validation runs too.

``RANDOM_ORDER_SEED`` chooses the walk and ``RANDOM_ORDER_STEPS`` its length; the defaults give one that crashes in a
cutover, which the next run finishes, and in a rollback, from a host that is rehearsed. The first walk kills while a
service is stopped. A long search begins before the rehearsal, and goes further walks on the same host, which kill at
any moment of the main task. For one of your own:

    RANDOM_ORDER_SEED=42 RANDOM_ORDER_STEPS=100 pytest -s tests/random_order

``RANDOM_ORDER_KEEP_HOST=1`` leaves the host, and goes on with one that was left. A seed gives the same
steps each time; at which instruction a crash hits depends on the machine.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from scripts.playbooks import ROOT, PlaybookRun, ThrowawayHost, changed_tasks
from tests.playbooks_of_one_command import outputs

SEED = os.environ.get("RANDOM_ORDER_SEED", "514")
STEPS = int(os.environ.get("RANDOM_ORDER_STEPS", "3"))
# Of a long search: the seeds, and how many steps each takes.
FURTHER_WALKS = {"3728": 5, "1": 4, "2": 4, "3": 4}
BEGINS = "infrastructure" if os.environ.get("LONG_SEARCHES") else "rehearsed"
# Requests a second to each service: of each the host's two processors have to do the whole work.
RATE = 4 if os.environ.get("LONG_SEARCHES") else 0.5
HOST = ThrowawayHost(f"{os.environ.get('TEST_HOST_PREFIX', '')}random-order-")
MIGRATE, CUT_OVER, ROLL_BACK, VALIDATE = (
    f"playbooks/{name}.yml" for name in ("3_data_migration", "4_service_cutover", "rollback", "5_validation")
)
# What follows in the same command: nothing is left to do, also while clients write.
FURTHER = {CUT_OVER: (CUT_OVER, VALIDATE), ROLL_BACK: (ROLL_BACK,)}
# The task of each in which everything happens.
TASKS = {
    MIGRATE: r"sqlite_migrate : Synchronise \| Make",
    CUT_OVER: r"service_env : Cut over \| Move",
    ROLL_BACK: r"service_env : Rollback \| Put",
}
# How long such a task takes on an idle machine: a crash comes at any moment of it.
LONGEST_SECONDS = {MIGRATE: 4.0, CUT_OVER: 12.0, ROLL_BACK: 15.0}
# How long after its beginning a window is killed at most, where a walk waits for one: less than any window takes.
LONGEST_SECONDS_IN_A_WINDOW = 1.5
# Far more than a window takes, but less than a service that somebody has to start by hand.
LONGEST_OUTAGE_SECONDS = 120.0
JOURNAL = "/var/lib/load_generator/journal.jsonl"
GROUPS: dict[str, Any] = {
    group["name"]: group
    for group in yaml.safe_load((ROOT / "inventory/group_vars/all/estate.yml").read_text(encoding="utf-8"))[
        "estate_cutover_groups"
    ]
}
# The modules of Ansible and what they started; the clients are written in Python too.
MODULES = 'for p in $(pgrep -x python3); do grep -qa load_generator "/proc/$p/cmdline" || echo "$p"; done'
# Ends at once when a service is stopped, otherwise after some seconds. To ask for four processes costs a hundredth of
# what a look at all of them costs.
IS_A_SERVICE_STOPPED = f"""
services=$(pgrep -f '^node /opt/')
[ "$(echo "$services" | wc -l)" -lt {sum(len(group["services"]) for group in GROUPS.values())} ] && exit 0
for _ in $(seq 40); do
  kill -0 $services 2>/dev/null || exit 0
  sleep 0.1
done
exit 1
"""
# On the host, because each question from here costs as much as ten of these. One that Ansible had just sent when it was
# killed begins a moment later.
WAIT_FOR_MODULES = f"""
quiet=0
for _ in $(seq 360); do
  if [ -n "$({MODULES})" ]; then quiet=0; else quiet=$((quiet + 1)); fi
  [ $quiet -ge 6 ] && exit 0
  sleep 0.5
done
exit 1
"""


def run(*playbooks: str) -> PlaybookRun:
    """Run playbooks, which may fail, but not by a fault of the program."""
    done = HOST.play(*playbooks)
    assert "Traceback" not in done.output, done.output
    return done


def on_host(*command: str, succeeds: bool = True) -> str:
    """Run a command on the host and return what it prints."""
    result = subprocess.run(
        ["docker", "exec", "-w", "/opt", HOST.container, *command], capture_output=True, text=True, check=False
    )
    assert not succeeds or result.returncode == 0, result.stderr
    return result.stdout


def recorded() -> dict[str, tuple[str, str]]:
    """Return the state and the hash of the frozen file of each group in the ledger."""
    lines = HOST.sql("SELECT name, state, '<' || coalesce(frozen_sha256, '') || '>' FROM migration.cutover_group")
    known = {
        name: (state, sha256.strip("<>")) for name, state, sha256 in (line.split("|") for line in lines.splitlines())
    }
    return {name: known.get(name, ("pending", "")) for name in GROUPS}


def entries() -> list[dict[str, Any]]:
    """Return what the clients have noted since the walks began."""
    return [json.loads(line) for line in on_host("cat", JOURNAL).splitlines(keepends=True) if line.endswith("\n")]


def acknowledged(noted: list[dict[str, Any]]) -> int:
    """Return how many writes were acknowledged."""
    return sum(entry["event"] == "acknowledged" for entry in noted)


@contextmanager
def clients() -> Iterator[None]:
    """Let clients write through all services."""
    unit = "load-generator"
    writing = ("python3", "-m", "load_generator", "write", f"--journal={JOURNAL}", f"--seed={SEED}", f"--rate={RATE}")
    on_host("systemd-run", "--quiet", "--collect", f"--unit={unit}", "--working-directory=/opt", *writing)
    try:
        yield
    finally:
        on_host("systemctl", "stop", unit)


class Walk:
    """The walk, and what it has done so far.

    :param kills_in_windows: whether a cutover and a rollback are killed while a service is stopped, if they stop one.
    :param crashed: the playbook that was killed and has not been run again yet.
    """

    def __init__(self, seed: str, kills_in_windows: bool) -> None:
        self.kills_in_windows = kills_in_windows
        self.chance = random.Random(seed)  # noqa: S311
        self.crashed = ""
        self.done: list[str] = []

    def step(self) -> None:
        """Choose and take one step, then check every promise."""
        wanted = None
        possible = [MIGRATE, CUT_OVER, ROLL_BACK, "write", "crash", "crash", "crash"]
        step = self.chance.choice(["run again", "run again", "run again", *possible] if self.crashed else possible)
        if step == "crash":
            self._crash(self.chance.choice([MIGRATE, CUT_OVER, CUT_OVER, ROLL_BACK, ROLL_BACK]))
        elif step == "write":
            self._say("write")
            with clients():
                time.sleep(self.chance.uniform(1.0, 4.0))
        else:
            wanted = self._run(self.crashed if step == "run again" else step)
        self.check(wanted)

    def settle(self) -> None:
        """Run again what was killed last."""
        if self.crashed:
            self.check(self._run(self.crashed))

    def _say(self, text: str) -> list[str]:
        """Note a step that begins, and return the states of the groups."""
        self.done.append(text)
        states = {name: state for name, (state, _) in recorded().items()}
        print(f"{len(self.done):3}. {text}; {states}", flush=True)
        return list(states.values())

    def _crash(self, playbook: str) -> None:
        """Kill a playbook in its main task, with or without what it has started on the host."""
        seconds = self.chance.uniform(0.0, LONGEST_SECONDS[playbook])
        both = self.chance.random() < 0.6
        self._say(f"crash {playbook} after {seconds:.1f} s{' with its module' if both else ''}")
        with clients():
            process = HOST.start(playbook)
            assert process.stdout is not None
            for line in process.stdout:
                if re.match(rf"TASK \[{TASKS[playbook]}", line):
                    break
            if self.kills_in_windows and playbook != MIGRATE and self._stops_a_service(process):
                self._note("a service is stopped")
                seconds *= LONGEST_SECONDS_IN_A_WINDOW / LONGEST_SECONDS[playbook]
            try:
                process.wait(timeout=seconds)
                self._note("it had ended before")
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process.stdout.close()
            if both and (modules := on_host("sh", "-c", MODULES).split()):
                on_host("kill", "-KILL", *modules, succeeds=False)
            on_host("sh", "-c", WAIT_FOR_MODULES)
        self.crashed = playbook

    def _stops_a_service(self, process: subprocess.Popen[str]) -> bool:
        """Wait until a service is stopped, which says nothing of how fast the machine is; return whether one was."""
        while process.poll() is None:
            command = ["docker", "exec", HOST.container, "sh", "-c", IS_A_SERVICE_STOPPED]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return True
        return False

    def _run(self, playbook: str) -> str | None:
        """Run a playbook, and again until it changes nothing; return the store that every group must be on, if one."""
        before = self._say(f"run {playbook}{' again' if playbook == self.crashed else ''}")
        noted = entries()
        with clients():
            # The second run of a rehearsal brings what the clients have written since.
            done = run(playbook) if playbook == MIGRATE else run(playbook, *FURTHER[playbook])
        seen, noted = noted, entries()
        # Otherwise nothing could have been lost.
        assert acknowledged(noted) > acknowledged(seen), "no client has written"
        if self.crashed and playbook != self.crashed:
            # It may refuse to go on with what another was killed in. Services that it needs may be stopped.
            self._note("succeeded" if done.succeeded else "refused")
            return None
        # One that was killed may have left services stopped, and be undone before it begins anew.
        most_outages = 2 if self.crashed else 1
        self.crashed = ""
        refused = playbook == CUT_OVER and any(state in ("pending", "rolled_back") for state in before)
        if playbook == CUT_OVER and "frozen" in before and not done.succeeded and len(outputs(done.output)) == 1:
            # A rehearsal is needed first, if the interrupted cutover had to be undone.
            refused = True
        assert done.succeeded is not refused, done.output
        if not done.succeeded:
            self._note("refused, as it should")
            return None
        outages = [entry for entry in noted[len(seen) :] if entry["event"] == "outage"]
        assert all(outage["until"] and outage["seconds"] < LONGEST_OUTAGE_SECONDS for outage in outages), outages
        times = Counter(outage["service"] for outage in outages)
        assert all(number <= most_outages for number in times.values()), outages
        if playbook == MIGRATE:
            done = run(playbook, playbook)
            assert done.succeeded, done.output
        assert changed_tasks(outputs(done.output)[1]) == (), done.output
        return {CUT_OVER: "postgresql", ROLL_BACK: "sqlite"}.get(playbook)

    def _note(self, text: str) -> None:
        self.done[-1] += f": {text}"
        print(f"     {text}", flush=True)

    def check(self, wanted: str | None = None) -> None:
        """Check what must hold between two steps.

        :param wanted: the store that every group must be on, None if each may be on either.
        """
        found: dict[str, Any] = json.loads(
            on_host("python3", "-m", "load_generator", "check", f"--journal={JOURNAL}", succeeds=False)
        )
        problems = found["problems"]
        if self.crashed:
            # Services may be stopped until the next run; what they have acknowledged may not be denied.
            problems = [problem for problem in problems if not problem.startswith("cannot be checked")]
        assert problems == [], "\n".join(problems)
        if self.crashed:
            return
        assert wanted is None or set(found["stores"].values()) == {wanted}, found["stores"]
        frozen = {}
        for name, (state, sha256) in recorded().items():
            on_postgresql = state == "live"
            assert found["stores"][name] == ("postgresql" if on_postgresql else "sqlite"), (name, state)
            assert state != "frozen", name
            if on_postgresql:
                frozen[GROUPS[name]["source"]["path"]] = sha256
        lines = on_host("sha256sum", *frozen).splitlines() if frozen else []
        sums = {path: sha256 for sha256, path in (line.split() for line in lines)}
        assert sums == frozen, "a file is not the one that was frozen"


@pytest.fixture(scope="module", autouse=True)
def a_host() -> Iterator[None]:
    """A host with the sample estate, PostgreSQL and the schema, and the load generator."""
    running = (
        subprocess.run(["docker", "exec", HOST.container, "true"], capture_output=True, check=False).returncode == 0
    )
    if running and os.environ.get("RANDOM_ORDER_KEEP_HOST"):
        yield
        return
    HOST.begin(BEGINS)
    generator = ROOT / "molecule" / "load_generator"
    subprocess.run(["docker", "cp", "-q", str(generator), f"{HOST.container}:/opt"], check=True, capture_output=True)
    on_host("install", "-d", "-m", "700", JOURNAL.rpartition("/")[0])
    with clients():
        # The first thing that they note is what is there, and the next what they ask for.
        on_host("sh", "-c", f"for _ in $(seq 900); do grep -qs acknowledged {JOURNAL} && exit; sleep 0.2; done; exit 1")
    yield
    if os.environ.get("RANDOM_ORDER_KEEP_HOST"):
        return
    HOST.remove()


@pytest.mark.promise("any-order-keeps-promises")
@pytest.mark.parametrize(
    ("seed", "steps"),
    [
        (SEED, STEPS),
        *(pytest.param(seed, steps, marks=pytest.mark.long_search) for seed, steps in FURTHER_WALKS.items()),
    ],
)
def test_any_order_keeps_every_promise(seed: str, steps: int) -> None:
    walk = Walk(seed, kills_in_windows=(seed, steps) == (SEED, STEPS))
    print(f"\nRANDOM_ORDER_SEED={seed} RANDOM_ORDER_STEPS={steps}")
    for _ in range(steps):
        walk.step()
    walk.settle()
    if "RANDOM_ORDER_SEED" not in os.environ and "RANDOM_ORDER_STEPS" not in os.environ and BEGINS == "rehearsed":
        # What the walk is for.
        assert sum(step.endswith(": a service is stopped") for step in walk.done) == 2, walk.done
