"""Runs our playbooks on a throwaway host in Docker: for the demo, the benchmark and the tests."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible_runner
import yaml

from scripts.loaded_ansible import LoadedAnsible

ROOT = Path(__file__).resolve().parent.parent
# The real inventory, whose host molecule/inventory turns into a container.
INVENTORY = ("-i", "inventory", "-i", "molecule/inventory")


@dataclass(frozen=True)
class PlaybookRun:
    """The outcome of one run of ansible-playbook.

    :param output: what it printed, errors included.
    :param changed_tasks: names of the tasks that changed something, with their roles as in the output, each time that
        one did.
    """

    status: int
    output: str
    changed_tasks: tuple[str, ...]

    @property
    def succeeded(self) -> bool:
        """Return whether it ended well."""
        return self.status == 0

    @property
    def changed(self) -> int:
        """Return how many tasks changed something."""
        return len(self.changed_tasks)

    @property
    def warnings(self) -> list[str]:
        """Return the lines in which Ansible warns or announces a deprecation."""
        return [line for line in self.output.splitlines() if re.match(r"\[(WARNING|DEPRECATION WARNING)\]", line)]


def changed_tasks(output: str) -> tuple[str, ...]:
    """Return the tasks that changed something, from what Ansible's own callback printed: see ``PlaybookRun``.

    :raises ValueError: if none of them is found, and the recap counts some.
    """
    changed: list[str] = []
    task, is_counted = "", True
    for line in output.splitlines():
        if heading := re.match(r"(?:TASK|RUNNING HANDLER) \[(.*)\] \*", line):
            task, is_counted = heading[1], False
        # A loop prints a line for each item.
        elif line.startswith("changed: [") and not is_counted:
            changed.append(task)
            is_counted = True
        elif line.startswith(("failed: [", "fatal: [")) and is_counted and task:
            # An item of it did, and another failed.
            changed.pop()
            task = ""
    if not changed and re.search(r"^\S+ +: ok=\d+ +changed=[1-9].* failed=0", output, re.MULTILINE):
        raise ValueError(f"Which tasks changed something cannot be read from this output:\n{output}")
    return tuple(changed)


@functools.cache
def _ansible_with(configuration: tuple[tuple[str, str], ...]) -> LoadedAnsible:
    """Return Ansible, loaded once for all runs with a configuration of this process, and ended with it.

    :param configuration: the variables of the environment that Ansible reads.
    """
    others = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE")}
    loaded = LoadedAnsible(ROOT, {**others, **dict(configuration)}, collections_are_final=True)
    atexit.register(loaded.close)
    return loaded


@dataclass(frozen=True)
class ThrowawayHost:
    """A host that molecule/test_host/host.py makes, and whoever made it removes.

    :param prefix: tells the hosts of one machine apart.
    """

    prefix: str

    @property
    def container(self) -> str:
        """Return the name of its container."""
        return f"{self.prefix}swarm-dev"

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the variables with which ansible-playbook finds it, and writes every result as text, unfolded."""
        return {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
            # Ansible's own output, with what is searched for in it on one line. These runs are nobody's record.
            "ANSIBLE_STDOUT_CALLBACK": "default",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "SQLITE_TO_POSTGRESQL_RUN_RECORD": "false",
            "TEST_HOST_PREFIX": self.prefix,
        }

    def begin(self, state: str, capabilities: Sequence[str] = ()) -> None:
        """Make it anew, as far as a state of molecule/test_host/ready.py.

        :param capabilities: of the kernel, that it has besides those of every host.
        :raises RuntimeError: with the output, if that fails.
        """
        self.remove()
        self._host("create", f"--state={state}", *(f"--capability={name}" for name in capabilities))

    @contextlib.contextmanager
    def of_scenario(self, name: str) -> Iterator[None]:
        """Have it as the tests of a Molecule scenario need it. If Molecule runs them, it makes and removes it itself.

        Molecule takes 5 s of processor time for that.

        :raises RuntimeError: with the output, if it cannot be made or removed.
        """
        if "MOLECULE_SCENARIO_NAME" in os.environ:
            yield
            return
        scenario = yaml.safe_load((ROOT / "molecule" / name / "molecule.yml").read_text(encoding="utf-8"))
        self.begin(scenario["ansible"]["env"]["TEST_HOST_STATE"])
        try:
            yield
        finally:
            self.remove()

    def remove(self) -> None:
        """Remove it, with what was made for it.

        :raises RuntimeError: with the output, if that fails.
        """
        self._host("remove")

    def _host(self, action: str, *options: str) -> None:
        """Call the program that molecule/create.yml and molecule/destroy.yml call, without Ansible."""
        # As molecule/inventory has them.
        cache = ROOT / ".cache" / "test_host"
        places = (f"--key={cache / 'keys' / self.container}", f"--secrets={cache / 'secrets' / f'{self.prefix}dev'}")
        done = subprocess.run(
            [sys.executable, str(ROOT / "molecule/test_host/host.py"), action, self.container, *places, *options],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stdout + done.stderr)

    def play(self, *arguments: str, shown: bool = False, readable: bool = False, state: str = "bare") -> PlaybookRun:
        """Run playbooks on it.

        What nobody reads but the caller is a copy of a process that has loaded Ansible already.

        :param arguments: of ansible-playbook: the playbooks, and options.
        :param shown: show the output as it comes too, as a person gets it, in colour on a terminal, and keep a record.
        :param readable: the output is what a person gets.
        :param state: how far a host has come that molecule/create.yml makes.
        """
        environment = {**self.environment, "TEST_HOST_STATE": state}
        if not (shown or readable):
            whole = {**os.environ, **environment}
            configuration = tuple(sorted((name, value) for name, value in whole.items() if name.startswith("ANSIBLE")))
            loaded = _ansible_with(configuration)
            status, output, _ = loaded.run(self.command(*arguments), whole, merges_errors=True)
            return PlaybookRun(status, output, changed_tasks(output))
        # What the console prints does not hold every task; the runner is told of each, and takes half a second for it.
        changed: list[str] = []

        def note(event: dict[str, Any]) -> bool:
            if event.get("event") == "runner_on_ok" and event["event_data"]["res"].get("changed"):
                role = event["event_data"].get("role")
                changed.append(f"{role} : {event['event_data']['task']}" if role else event["event_data"]["task"])
            return False  # it need not be kept

        environment["ANSIBLE_STDOUT_CALLBACK"] = "swarm.sqlite_to_postgresql.console"
        del environment["ANSIBLE_CALLBACK_RESULT_FORMAT"]
        if shown and sys.stdout.isatty():
            del environment["ANSIBLE_NOCOLOR"], environment["ANSIBLE_FORCE_COLOR"]
        if shown:
            del environment["SQLITE_TO_POSTGRESQL_RUN_RECORD"]
        options: dict[str, Any] = {}
        if not shown:
            options = {"runner_mode": "subprocess", "input_fd": subprocess.DEVNULL, "error_fd": subprocess.STDOUT}
        with tempfile.TemporaryDirectory() as directory:
            output, _, status = ansible_runner.run_command(
                "ansible-playbook",
                self.command(*arguments)[1:],
                host_cwd=str(ROOT),
                private_data_dir=directory,
                envvars=environment,
                event_handler=note,
                quiet=not shown,
                **options,
            )
        return PlaybookRun(status, output, tuple(changed))

    def command(self, *arguments: str) -> list[str]:
        """Return the same as a command."""
        return ["ansible-playbook", *INVENTORY, *arguments, "--limit", "dev"]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start playbooks on it as an operator does, and do not wait.

        :return: ansible-playbook in a session of its own, whose process group may be killed; its output is text.
        """
        return subprocess.Popen(
            self.command(*arguments),
            cwd=ROOT,
            env={**os.environ, **self.environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, command: Sequence[str], user: str = "root", text: str | None = None) -> str:
        """Run a command on it, which must succeed, and return what it prints."""
        options = ["--user", user, *(["--interactive"] if text is not None else [])]
        done = subprocess.run(
            ["docker", "exec", *options, self.container, *command],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}{done.stdout}")
        return done.stdout

    def sql(self, statement: str) -> str:
        """Return the answer of its PostgreSQL to the administrator, a row to a line, the values between bars."""
        return self.run(["psql", "--no-psqlrc", "-d", "swarm", "-Atc", statement], user="postgres").strip()

    def pm2(self, *arguments: str, user: str = "swarm") -> str:
        """Call pm2 of a user and return what it prints.

        A busy pm2 fails now and then without a word: it is asked again where that does no harm.

        :raises RuntimeError: if it fails, at last.
        """
        environment = ("env", "-i", f"HOME=/home/{user}", "PATH=/usr/local/bin:/usr/bin:/bin")
        command = ["runuser", "-u", user, "--", *environment, "pm2", "-s", *arguments]
        for _ in range(4 if arguments[0] in ("jlist", "delete", "start", "stop", "save") else 0):
            try:
                return self.run(command)
            except RuntimeError:
                time.sleep(1)
                if arguments[0] == "delete" and not self._pm2_knows(arguments[1], user):
                    return ""
        return self.run(command)

    def _pm2_knows(self, name: str, user: str) -> bool:
        """Return whether pm2 of a user lists a service."""
        return name in {process["name"] for process in json.loads(self.pm2("jlist", user=user))}
