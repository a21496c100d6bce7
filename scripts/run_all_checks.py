#!/usr/bin/env python3
"""Run every check of the project and show in full the output of those that fail.

    run_all_checks.py          what every change must pass
    run_all_checks.py --long   also the long searches, and notes the run in docs/full-test-runs.md

Some checks run at the same time, because each spends much of its time waiting for a service, a server or a container.
They start in the order of CHECKS, where the longest stands first.

When all have ended, those that failed are run once more, one at a time, if they are few. A test that passes then failed
because of what else the machine did, or for a fault that shows now and then. Such a test is named at the end, with the
log of its failure, so that somebody finds out which of the two it was.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import full_test_runs
from scripts.processor_time import ContainerTimes, machine_seconds, wait_for

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".cache" / "checks"
# A check takes a few minutes. One that hangs must not use up the time of all: it is ended and has failed.
LIMIT_MINUTES = 70.0
LIMIT_MINUTES_OF_ALL = 83.0
# What a long search may take: nobody waits for it.
LIMIT_MINUTES_OF_A_LONG_RUN = 360.0
# Settings of a shell that cost each of some thousand Python processes time: with the first they compile the project's
# files anew, with the second they read a module that Ansible hands to them byte by byte.
SLOW_SETTINGS_OF_PYTHON = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
# How long a check may take to put away what it has made, after it was asked to end.
SECONDS_TO_END = 60.0
TEST_HOST_IMAGE = "test host image"
READY_HOSTS = "ready hosts"
# With more failures than these, the tree is at fault and not chance.
MOST_TRIED_AGAIN = 3
SECOND_TRY = ", second try"


@dataclass(frozen=True)
class Check:
    """One command that must succeed.

    :param after: name of the check that has to pass before this one begins.
    :param environment: variables for the command.
    :param fails_by_chance: whether it depends on servers, containers and time, and so may be tried again.
    :param is_long: whether it runs with the long searches only.
    :param grows: whether it is one of the longest where the long searches are among its tests.
    """

    name: str
    command: tuple[str, ...]
    after: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    fails_by_chance: bool = True
    is_long: bool = False
    grows: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a check ended.

    :param problem: why it has failed, empty if it passed.
    :param began: seconds since the start of the run.
    :param processor_seconds: what its processes took of the processors; what runs in containers is no part of it.
    """

    check: Check
    problem: str
    began: float
    seconds: float
    processor_seconds: float = 0.0


def tests(name: str, *paths: str, after: str = "", prefix: str = "", grows: bool = False) -> Check:
    """Return the check that runs the tests of these files and folders.

    :param prefix: tells its test hosts from those of other checks.
    """
    environment = (("TEST_HOST_PREFIX", prefix),) if prefix else ()
    return Check(name, ("pytest", "--durations=15", *paths), after, environment, grows=grows)


def scenario(name: str, after: str = READY_HOSTS, is_long: bool = False) -> Check:
    """Return the check that runs a Molecule scenario, on a host whose name begins with that of the scenario."""
    prefix = (("TEST_HOST_PREFIX", f"{name.replace('_', '-')}-"),)
    command = ("molecule", "test", "--no-command-borders", "-s", name)
    return Check(f"{name.replace('_', ' ')} scenario", command, after, prefix, is_long=is_long)


def tests_of_scenario(name: str) -> Check:
    """Return the check that runs a scenario's tests without Molecule, which would but make and remove their host."""
    return tests(f"{name} scenario", f"molecule/{name}/tests", after=READY_HOSTS, prefix=f"{name}-")


# The tests of one check have a server of their own, so that folders run beside each other.
_FOLDERS = ("engine", "cleanup", "backup", "validation", "shared_library", "sample_estate", "crash", "random_order")
# The second file goes on with the host of the first.
_CUTOVER_ON_A_HOST = tuple(f"tests/cutover/test_{name}.py" for name in ("on_a_host", "rollback"))
# In an order in which one host serves all of them: the last uses up its groups.
_CUTOVER_FAULTS = tuple(
    f"tests/cutover/test_{name}.py" for name in ("faults", "systemd_on_a_host", "other_ways_to_run")
)
# In folders whose other tests need no host, and so need not wait for one.
_OTHERS_ON_A_HOST = (
    "tests/applications/test_three_commands.py",
    "tests/cutover/test_compose.py",
    "tests/discovery/test_on_a_host.py",
    "tests/foundation/test_readme_on_a_host.py",
    "tests/postgres/test_distribution_host.py",
    "tests/postgres/test_existing_host.py",
)
CHECKS: tuple[Check, ...] = (
    # First, because most others wait for it. On a new machine it takes minutes, and downloads for much of them: what
    # needs no host runs beside it.
    Check(TEST_HOST_IMAGE, (sys.executable, "molecule/test_host/build.py")),
    Check(READY_HOSTS, (sys.executable, "molecule/test_host/ready.py", "finished"), TEST_HOST_IMAGE),
    scenario("default"),
    tests("engine tests", "tests/engine"),
    # Whatever is new in tests/ and named in no other check.
    tests(
        "other tests",
        "tests",
        *(f"--ignore=tests/{name}" for name in _FOLDERS),
        *(f"--ignore={path}" for path in (*_CUTOVER_ON_A_HOST, *_CUTOVER_FAULTS, *_OTHERS_ON_A_HOST)),
        grows=True,
    ),
    # Then by the time that they take. What runs alone at the end leaves a processor idle.
    tests_of_scenario("cleanup"),
    tests_of_scenario("backup"),
    tests("cutover fault tests", *_CUTOVER_FAULTS, after=READY_HOSTS, prefix="faults-", grows=True),
    tests("crash tests", "tests/crash", after=READY_HOSTS, grows=True),
    # What it proves of the gate is in tests/promotion too, without hosts.
    scenario("two_hosts", is_long=True),
    # The walk in random order moves the services under load too, there and back.
    scenario("under_load", is_long=True),
    # Each manager is in tests/cutover and tests/discovery too.
    scenario("three_managers", after=TEST_HOST_IMAGE, is_long=True),
    tests("random order", "-s", "tests/random_order", after=READY_HOSTS, grows=True),
    tests("cutover tests", *_CUTOVER_ON_A_HOST, after=READY_HOSTS, grows=True),
    # One container with the library serves both.
    tests("library and service tests", "tests/shared_library", "tests/sample_estate", after=TEST_HOST_IMAGE),
    tests("other host tests", *_OTHERS_ON_A_HOST, after=READY_HOSTS, grows=True),
    tests("cleanup and validation tests", "tests/cleanup", "tests/validation"),
    tests("backup tests", "tests/backup"),
    Check("linters", ("scripts/lint.sh",), fails_by_chance=False),
)


def chosen(has_time: bool) -> list[Check]:
    """Return the checks of a run, in the order in which they begin.

    :param has_time: whether the long ones are among them. Those that have grown begin as soon as they may.
    """
    checks = [check for check in CHECKS if has_time or not check.is_long]
    first = (TEST_HOST_IMAGE, READY_HOSTS)
    return sorted(checks, key=lambda check: check.name not in first and not check.grows) if has_time else checks


class Queue:
    """The checks that are still to be run, and how the others ended."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._waiting = list(checks)
        self._ended: dict[str, Outcome] = {}
        self._changed = Condition()

    def take(self) -> Check | None:
        """Return the next check that may begin, waiting for it if need be; None when there is none left."""
        with self._changed:
            while self._waiting:
                for check in self._waiting:
                    if not check.after or check.after in self._ended:
                        self._waiting.remove(check)
                        return check
                self._changed.wait()
        return None

    def end(self, outcome: Outcome) -> None:
        """Note how a check ended, so that others may begin."""
        with self._changed:
            self._ended[outcome.check.name] = outcome
            self._changed.notify_all()

    def has_failed(self, name: str) -> bool:
        """Return whether the check of this name has ended and failed."""
        with self._changed:
            return name in self._ended and bool(self._ended[name].problem)

    @property
    def outcomes(self) -> list[Outcome]:
        """Return how the checks ended, in the order in which they did."""
        with self._changed:
            return list(self._ended.values())


class Run:
    """One run of checks.

    :param limit_minutes: after which what still runs is ended, and what has not begun has failed.
    :param started: when the time began to count, on the monotonic clock; now by default.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        limit_minutes: float,
        limit_minutes_of_each: float,
        started: float | None = None,
    ) -> None:
        self.queue = Queue(checks)
        self.started = time.monotonic() if started is None else started
        self._limit = limit_minutes * 60
        self._limit_of_each = limit_minutes_of_each * 60

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started

    def work(self) -> None:
        """Run one check after the other until none is left."""
        while check := self.queue.take():
            began = self.seconds
            seconds_left = min(self._limit_of_each, self._limit - began)
            problem, text, processor_seconds = "", "", 0.0
            if check.after and self.queue.has_failed(check.after):
                problem = f"it was not begun, because this failed: {check.after}"
            elif seconds_left <= 0:
                problem = f"it was not begun within {self._limit / 60:.0f} minutes"
            else:
                problem, text, processor_seconds = run_command(check, seconds_left)
            outcome = Outcome(check, problem, began, self.seconds - began, processor_seconds)
            # In one piece: others print as well.
            print(told(outcome, text), flush=True)
            self.queue.end(outcome)


def second_tries(outcomes: Sequence[Outcome]) -> list[Check]:
    """Return the checks that are worth a second try after these outcomes: all that failed, or none.

    Of pytest only the files in which a test failed are run again: as a whole, because tests of a file share a host.
    """
    failed = [outcome.check for outcome in outcomes if outcome.problem]
    if len(failed) > MOST_TRIED_AGAIN or not all(check.fails_by_chance for check in failed):
        return []
    names = {check.name for check in failed}
    return [
        replace(
            check,
            name=check.name + SECOND_TRY,
            command=again(check.command, failed_tests(check)),
            after=check.after + SECOND_TRY if check.after in names else "",
        )
        for check in failed
    ]


def again(command: tuple[str, ...], tests: Sequence[str]) -> tuple[str, ...]:
    """Return the command that runs the files of these tests instead of everything, or the same if there are none."""
    files = dict.fromkeys(test.partition("::")[0] for test in tests)
    if command[0] != "pytest" or not files:
        return command
    return (*(part for part in command if not part.startswith(("tests", "--ignore="))), *files)


def failed_tests(check: Check) -> list[str]:
    """Return the tests that failed by the summary of the pytest session in the log of a check."""
    log = log_of(check)
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return re.findall(r"^(?:FAILED|ERROR) (tests/\S+)", text, re.MULTILINE)


def run_command(check: Check, limit: float) -> tuple[str, str, float]:
    """Run a check with its output in a log; return why it failed, the output, and the processor time in seconds.

    :param limit: seconds after which it is ended with all its children.
    """
    log = log_of(check)
    problem = ""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            check.command,
            cwd=ROOT,
            env={**os.environ, **dict(check.environment)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            processor_seconds = wait_for(process, limit)
            problem = f"exit code {process.returncode}" if process.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"it was ended after {limit / 60:.0f} minutes"
            processor_seconds = end(process)
    return problem, log.read_text(encoding="utf-8", errors="replace"), processor_seconds


def end(process: subprocess.Popen[bytes]) -> float:
    """End a process and all its descendants: asked first, so that pytest says where it was, then by force.

    :return: the processor time that it took, in seconds.
    """
    # Some children have a session of their own, and are orphans when the process is gone.
    descendants = descendants_of(process.pid)
    process.send_signal(signal.SIGINT)
    try:
        processor_seconds = wait_for(process, SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        descendants |= descendants_of(process.pid)
        process.kill()
        processor_seconds = wait_for(process, SECONDS_TO_END)
    for pid in descendants:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return processor_seconds


def descendants_of(ancestor: int) -> set[int]:
    """Return the ids of all processes that a process has started, directly or not, and that are still there."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in listed.splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    unseen = [ancestor]
    while unseen:
        unseen += (new := set(children.get(unseen.pop(), ())) - found)
        found |= new
    return found


def log_of(check: Check) -> Path:
    """Return the file that holds the output of a check."""
    return LOGS / f"{check.name.replace(',', '').replace(' ', '_')}.log"


def told(outcome: Outcome, text: str) -> str:
    """Return what is printed when a check has ended."""
    check = outcome.check
    lines = [f"\n===== {check.name}: the output =====\n{text}"] if outcome.problem and text else []
    verdict = f"FAILED ({outcome.problem})" if outcome.problem else "passed"
    lines.append(f"{check.name}: {verdict} in {outcome.seconds:.0f} s, {log_of(check).relative_to(ROOT)}")
    lines += [f"  {summary}" for summary in test_summaries(text)]
    return "\n".join(lines)


def test_summaries(text: str) -> list[str]:
    """Return the last line of every pytest session in this output, such as `12 passed in 3.4s`."""
    return re.findall(r"^=* ?(\d+ (?:passed|failed|error)[^=]* in \d[^=]*?) ?=*$", text, re.MULTILINE)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return when each check began, how long it took, in minutes, and its processor time; the longest stands first."""
    width = max(len(outcome.check.name) for outcome in outcomes)
    lines = [f"{'check':<{width}}  began  minutes  CPU s"]
    for outcome in sorted(outcomes, key=lambda outcome: -outcome.seconds):
        mark = "  FAILED" if outcome.problem else ""
        times = f"{outcome.began / 60:5.1f}  {outcome.seconds / 60:7.1f}  {outcome.processor_seconds:5.0f}"
        lines.append(f"{outcome.check.name:<{width}}  {times}{mark}")
    return "\n".join(lines)


def told_of_processors(outcomes: Sequence[Outcome], containers: Mapping[str, float], busy: float, idle: float) -> str:
    """Return what the processors did during a run, and what each container took.

    :param containers: processor seconds of each container by its name.
    :param busy: seconds that all processors of the machine worked.
    :param idle: seconds that they did not.
    """
    of_checks, of_containers = sum(outcome.processor_seconds for outcome in outcomes), sum(containers.values())
    listed = sorted(containers.items(), key=lambda entry: -entry[1])
    return (
        f"The processors worked {busy:.0f} s and were idle {idle / max(busy + idle, 1.0):.0%} of the time: "
        f"{of_checks:.0f} s for the checks' own processes, {of_containers:.0f} s in containers, "
        f"{busy - of_checks - of_containers:.0f} s for Docker and whatever else ran.\n"
        f"Containers, CPU s: {', '.join(f'{name} {seconds:.0f}' for name, seconds in listed) or 'none'}"
    )


def main() -> int:
    """Run all checks, some at the same time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="run the long searches too")
    # One more than there are processors: a check waits more than it computes.
    parser.add_argument("--workers", type=int, default=(os.cpu_count() or 2) + 1, help="checks at the same time")
    options = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    for old in LOGS.glob("*.log"):
        old.unlink()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    for name in SLOW_SETTINGS_OF_PYTHON:
        os.environ.pop(name, None)
    # The hosts are on this machine, and most have the Python of the controller.
    os.environ["SQLITE_TO_POSTGRESQL_COMPILED_PAYLOADS"] = "true"
    # The logs are for reading.
    os.environ.update(NO_COLOR="1", ANSIBLE_NOCOLOR="1")
    limit, limit_of_each = LIMIT_MINUTES_OF_ALL, LIMIT_MINUTES
    if options.long:
        os.environ["LONG_SEARCHES"] = "1"
        limit = limit_of_each = LIMIT_MINUTES_OF_A_LONG_RUN
    checks = chosen(options.long)
    print(f"Running {len(checks)} checks; their output grows in {LOGS.relative_to(ROOT)}/", flush=True)
    run = Run(checks, limit, limit_of_each)
    busy, idle = machine_seconds()
    with ContainerTimes() as containers:
        with ThreadPoolExecutor(options.workers) as executor:
            for worker in [executor.submit(run.work) for _ in range(options.workers)]:
                worker.result()
        outcomes = run.queue.outcomes
        tries = second_tries(outcomes)
        if tries:
            names = ", ".join(check.name.removesuffix(SECOND_TRY) for check in tries)
            print(f"\nRunning once more, one at a time: {names}")
        second = Run(tries, limit, limit_of_each, run.started)
        second.work()
    busy, idle = (now - before for now, before in zip(machine_seconds(), (busy, idle), strict=True))
    everything = [*outcomes, *second.queue.outcomes]
    failed, by_chance = verdicts(outcomes, second.queue.outcomes)
    minutes = run.seconds / 60
    print(f"\n{table(everything)}\n{told_of_processors(everything, containers.seconds, busy, idle)}")
    print(f"All together: {minutes:.1f} minutes")
    if options.long:
        full_test_runs.note(minutes, failed)
    print(full_test_runs.age())
    for check in by_chance:
        names = ", ".join(failed_tests(check)) or "no single test"
        print(
            f"{check.name} FAILED AT FIRST and passed at the second try: {names}. "
            f"Find out why before somebody relies on it: {log_of(check).relative_to(ROOT)}"
        )
    if failed:
        print(f"These checks failed: {', '.join(failed)}. Their output is above.")
    print(
        f"Checks: {len(outcomes) - len(failed)} passed, {len(failed)} failed, {len(by_chance)} at the second try only"
    )
    return 1 if failed else 0


def verdicts(first: Sequence[Outcome], second: Sequence[Outcome]) -> tuple[list[str], list[Check]]:
    """Return the names of the checks that have failed, and the checks that passed at the second try only."""
    passed = {outcome.check.name.removesuffix(SECOND_TRY) for outcome in second if not outcome.problem}
    failed = [outcome.check for outcome in first if outcome.problem]
    return (
        [check.name for check in failed if check.name not in passed],
        [check for check in failed if check.name in passed],
    )


if __name__ == "__main__":
    sys.exit(main())
